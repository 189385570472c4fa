"""Is Adam Keras' Adam in both frameworks, also where epsilon matters, and does it count only real steps?

Only the output bias (one number) is given a gradient that is not zero, so that every step can be followed by hand.
"""

from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import LossScaleConfig, Precision, TrainConfig
from common.proof.bounds import ADAM_UPDATE
from tests.conftest import needs_tensorflow
from tests.twins.one_weight import OneWeight


def keras_adam(gradients: list[float], train: TrainConfig) -> float:
    """Where a weight that starts at 0 ends: Kingma & Ba 2015, the form at the end of section 2."""
    weight = m = v = 0.0
    for t, gradient in enumerate(gradients, start=1):
        m = train.beta_1 * m + (1 - train.beta_1) * gradient
        v = train.beta_2 * v + (1 - train.beta_2) * gradient**2
        alpha = train.learning_rate * np.sqrt(1 - train.beta_2**t) / (1 - train.beta_1**t)
        weight -= alpha * m / (np.sqrt(v) + train.epsilon)
    return float(weight)


@pytest.mark.parametrize(
    "gradients",
    [
        [1e-3],  # ordinary: the step is the learning rate
        [1e-6],  # epsilon is three quarters of the first step's denominator; 2.8 off without Keras' epsilon
        [1e-3, -2e-3, 5e-4, 1e-3] * 10,
        [1e-6, 2e-6, -1e-6] * 10,
        [1e-8] * 50,
    ],
    ids=["1e-3", "1e-6", "1e-3 varying", "1e-6 varying", "1e-8"],
)
def test_update_is_keras(impl: SimpleNamespace, gradients: list[float]) -> None:
    one = OneWeight(impl, Precision.FLOAT32, LossScaleConfig())
    for gradient in gradients:
        one.step(gradient)
    assert one.weight == pytest.approx(keras_adam(gradients, TrainConfig()), rel=ADAM_UPDATE)


def test_a_skipped_step_does_not_count_as_t(impl: SimpleNamespace) -> None:
    one = OneWeight(impl, Precision.MIXED_FLOAT16, LossScaleConfig())
    for gradient in (1e-6, np.inf, np.nan, 2e-6):
        one.step(gradient)
    assert one.applied_steps == 2
    assert one.weight == pytest.approx(keras_adam([1e-6, 2e-6], TrainConfig()), rel=ADAM_UPDATE)


# Of Keras' own Adam, each at a value that changes an update.
NOT_IMPLEMENTED = {
    "amsgrad": True, "weight_decay": 0.004, "clipnorm": 0.01, "clipvalue": 0.01, "global_clipnorm": 0.01,
    "use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2, "loss_scale_factor": 2.0,
    "gradient_accumulation_steps": 2,
}  # fmt: skip
IMPLEMENTED = {"learning_rate", "beta_1", "beta_2", "epsilon", "name"}


@needs_tensorflow
@pytest.mark.parametrize("option", NOT_IMPLEMENTED)
def test_an_option_that_would_be_dropped_is_refused_by_name(tensorflow_impl: SimpleNamespace, option: str) -> None:
    with pytest.raises(ValueError, match=rf"^FusedAdam has no {option}; take keras\.optimizers\.Adam$"):
        tensorflow_impl.optimizer.FusedAdam(1e-3, **{option: NOT_IMPLEMENTED[option]})


@needs_tensorflow
def test_every_option_of_keras_is_implemented_or_refused(tensorflow_impl: SimpleNamespace) -> None:
    """A later Keras may add one: then it belongs to one of the two lists."""
    known = set(signature(tensorflow_impl.optimizer.keras.optimizers.Adam.__init__).parameters) - {"self", "kwargs"}
    assert known == IMPLEMENTED | set(NOT_IMPLEMENTED)


@needs_tensorflow
def test_an_optimizer_is_made_again_from_its_config(tensorflow_impl: SimpleNamespace) -> None:
    """Which names every option of Keras, at its default."""
    adam = tensorflow_impl.optimizer.FusedAdam(2e-3, beta_1=0.8, name="mine")
    again = tensorflow_impl.optimizer.FusedAdam.from_config(adam.get_config())
    assert again.get_config() == adam.get_config()


@needs_tensorflow
def test_a_constraint_that_would_be_dropped_is_refused(tensorflow_impl: SimpleNamespace) -> None:
    keras = tensorflow_impl.optimizer.keras
    dense = keras.layers.Dense(1, kernel_constraint=keras.constraints.NonNeg(), name="positive")
    dense.build((None, 2))
    with pytest.raises(ValueError, match=r"^FusedAdam applies no constraint, as of positive/kernel; take"):
        tensorflow_impl.optimizer.FusedAdam().build(dense.trainable_variables)


@needs_tensorflow
def test_loss_scaling_around_another_optimizer_is_refused(tensorflow_impl: SimpleNamespace) -> None:
    other = tensorflow_impl.optimizer.keras.optimizers.SGD()
    with pytest.raises(TypeError, match=r"^LossScale is for FusedAdam and not for SGD; take keras\.optimizers\.Loss"):
        tensorflow_impl.optimizer.LossScale(other)
