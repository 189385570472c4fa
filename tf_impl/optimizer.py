"""Adam as Keras defines it, with dynamic loss scaling where the precision needs it."""

from collections.abc import Sequence
from inspect import signature
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from common.config import LOSS_SCALE_BACKOFF, LOSS_SCALE_GROWTH, LossScaleConfig, Precision, TrainConfig
from tf_impl.model import ConvNet
from tf_impl.precision import float32_by_default

Optimizer: TypeAlias = keras.optimizers.Optimizer  # Adam, or a LossScaleOptimizer around it


class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, by its own formula, but in one kernel for each variable instead of ten.

    Raises ValueError for what that kernel leaves out: clipping, weight decay and the other options of Keras'
    optimizers, and the constraints of variables.
    Differs from torch_impl: torch.optim.Adam has such a kernel built in.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str | None = None,
        **options: Any,
    ) -> None:
        keras_own = signature(keras.optimizers.Adam.__init__).parameters
        defaults = {option: keras_own[option].default for option in options if option in keras_own}
        if dropped := [option for option, default in defaults.items() if options[option] != default]:
            raise ValueError(f"FusedAdam has no {', '.join(dropped)}; take keras.optimizers.Adam")
        with float32_by_default():  # else a user's floatx would round the learning rate
            super().__init__(learning_rate, beta_1, beta_2, epsilon, name=name, **options)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make the moments of the variables."""
        if constrained := [variable.path for variable in variables if variable.constraint is not None]:
            raise ValueError(f"FusedAdam applies no constraint, as of {constrained[0]}; take keras.optimizers.Adam")
        super().build(variables)

    def apply_where(
        self, finite: tf.Tensor, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> None:
        """Update the variables where finite, a boolean scalar on the device, is true; otherwise change nothing.

        Decayed by 1, moments keep their value; at a learning rate of 0, so do the variables.
        """
        dtype = variables[0].value.dtype
        t = tf.cast(self.iterations + 1, dtype)
        # Once for all variables: of several replicas the device waits while the host calls these operations.
        scalars = {
            "beta1_power": tf.cast(self.beta_1, dtype) ** t,  # by way of float32, as in Keras
            "beta2_power": tf.cast(self.beta_2, dtype) ** t,
            "lr": tf.where(finite, tf.cast(self.learning_rate, dtype), 0),
            "beta1": tf.where(finite, tf.constant(self.beta_1, dtype), 1),
            "beta2": tf.where(finite, tf.constant(self.beta_2, dtype), 1),
            "epsilon": tf.constant(self.epsilon, dtype),
        }
        for gradient, variable in zip(gradients, variables, strict=True):
            index = self._get_variable_index(variable.value)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                grad=tf.where(finite, tf.cast(gradient, dtype), 0),
                **scalars,
            )
        _assign(self.iterations, self.iterations + tf.cast(finite, self.iterations.dtype))

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable]) -> None:
        self.apply_where(tf.constant(True), grads, trainable_variables)


class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras' loss scaling around a FusedAdam, but the device decides whether to skip, without the host.

    Keras branches: the host waits until the device has tested the gradients, and the device then waits for the host.
    Raises TypeError around another optimizer, which could not be told to skip.
    Differs from torch_impl: GradScaler and the fused Adam work this way of themselves.
    """

    def __init__(self, inner_optimizer: FusedAdam, *arguments: Any, **options: Any) -> None:
        if not isinstance(inner_optimizer, FusedAdam):
            kind = type(inner_optimizer).__name__
            raise TypeError(f"LossScale is for FusedAdam and not for {kind}; take keras.optimizers.LossScaleOptimizer")
        super().__init__(inner_optimizer, *arguments, **options)

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable]) -> None:
        finite = self.check_finite(grads)
        scale = tf.convert_to_tensor(self.dynamic_scale)
        unscaled = [gradient / tf.cast(scale, gradient.dtype) for gradient in grads]
        self.inner_optimizer.apply_where(finite, unscaled, trainable_variables)
        finite_steps = tf.where(finite, self.step_counter + 1, 0)
        growth = tf.where(finite_steps == self.dynamic_growth_steps, LOSS_SCALE_GROWTH, 1.0)
        _assign(self.step_counter, finite_steps % self.dynamic_growth_steps)
        _assign(self.dynamic_scale, scale * tf.where(finite, growth, LOSS_SCALE_BACKOFF))


def _assign(variable: keras.Variable, value: tf.Tensor) -> None:
    """Set this replica's copy; all get the same, which by its own assign Keras could not know."""
    tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=value)


def make_optimizer(model: ConvNet, train: TrainConfig, loss_scale: LossScaleConfig, precision: Precision) -> Optimizer:
    """Adam over the model's variables, wrapped in a LossScaleOptimizer where the precision scales the loss.

    Differs from torch_impl: one optimizer wraps the other. Wrapped here and not by Model.compile, which does so only if
    the *model's* policy is mixed_float16, and says nothing if it is not.
    """
    optimizer: Optimizer = FusedAdam(train.learning_rate, train.beta_1, train.beta_2, train.epsilon)
    if precision.scales_loss:
        optimizer = LossScale(
            optimizer, initial_scale=loss_scale.initial_scale, dynamic_growth_steps=loss_scale.growth_interval
        )
    optimizer.build(model.trainable_variables)
    return optimizer


def scale_loss(optimizer: Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """The loss, or another tensor, times the factor; without loss scaling as it is."""
    return optimizer.scale_loss(loss)


def loss_scale(optimizer: Optimizer) -> tf.Tensor:
    """The factor on the loss, float32 scalar on the device; 1 without loss scaling."""
    return scale_loss(optimizer, tf.ones(()))


def set_loss_scale(optimizer: Optimizer, scale: float) -> None:
    """Go on with this factor on the loss; without loss scaling it stays 1."""
    if isinstance(optimizer, LossScale):
        optimizer.dynamic_scale.assign(scale)


def applied_steps(optimizer: Optimizer) -> tf.Tensor:
    """How many steps changed the weights, scalar on the device: steps that overflowed do not count."""
    return tf.identity(optimizer.iterations)


def second_moments(optimizer: Optimizer) -> list[tf.Tensor]:
    """Adam's running means of the squared gradients, in the order of the variables."""
    adam = optimizer.inner_optimizer if isinstance(optimizer, LossScale) else optimizer
    return [velocity.value for velocity in adam._velocities]
