"""Adam as Keras defines it, with dynamic loss scaling where the precision needs it."""

from typing import TypeAlias

import keras
import tensorflow as tf

from common.config import LossScaleConfig, Precision, TrainConfig
from tf_impl.model import ConvNet

Optimizer: TypeAlias = keras.optimizers.Optimizer  # Adam, or a LossScaleOptimizer around it


class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, by its own formula, but in one kernel for each variable instead of ten.

    Differs from torch_impl: torch.optim.Adam has such a kernel built in.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        dtype, index = variable.dtype, self._get_variable_index(variable)
        t = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.cast(self.beta_1, dtype) ** t,  # by way of float32, as in Keras
            beta2_power=tf.cast(self.beta_2, dtype) ** t,
            lr=tf.cast(learning_rate, dtype),
            beta1=tf.constant(self.beta_1, dtype),
            beta2=tf.constant(self.beta_2, dtype),
            epsilon=tf.constant(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )


def make_optimizer(model: ConvNet, train: TrainConfig, loss_scale: LossScaleConfig, precision: Precision) -> Optimizer:
    """Adam over the model's variables, wrapped in a LossScaleOptimizer where the precision scales the loss.

    Differs from torch_impl: one optimizer wraps the other. Wrapped here and not by Model.compile, which does so only if
    the *model's* policy is mixed_float16, and says nothing if it is not.
    """
    optimizer: Optimizer = FusedAdam(train.learning_rate, train.beta_1, train.beta_2, train.epsilon)
    if precision.scales_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=loss_scale.initial_scale, dynamic_growth_steps=loss_scale.growth_interval
        )
    optimizer.build(model.trainable_variables)
    return optimizer


def loss_scale(optimizer: Optimizer) -> tf.Tensor:
    """The factor on the loss, float32 scalar on the device; 1 without loss scaling."""
    return optimizer.scale_loss(tf.ones(()))


def applied_steps(optimizer: Optimizer) -> tf.Tensor:
    """How many steps changed the weights, scalar on the device: steps that overflowed do not count."""
    return tf.identity(optimizer.iterations)
