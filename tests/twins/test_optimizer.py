"""Is Adam Keras' Adam in both frameworks, also where epsilon matters, and does it count only real steps?

Only the output bias (one number) is given a gradient that is not zero, so that every step can be followed by hand.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from common.config import LossScaleConfig, Precision, TrainConfig
from common.proof.bounds import ADAM_UPDATE
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
