"""Is Adam Keras' Adam in both frameworks, also where epsilon matters, and does it count only real steps?

Only the output bias (one number) is given a gradient that is not zero, so that every step can be followed by hand.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.config import LossScaleConfig, ModelConfig, Precision, TrainConfig
from common.proof.bounds import ADAM_UPDATE
from tests.conftest import on_host

CONFIG = ModelConfig(image_shape=(3, 4, 1), filters=2)
ZEROS = {
    "conv1/kernel": (2, 2, 1, 2), "conv1/bias": (2,), "conv2/kernel": (1, 1, 2, 2), "conv2/bias": (2,),
    "conv3/kernel": (1, 1, 2, 2), "conv3/bias": (2,), "dense/kernel": (12, 1), "dense/bias": (1,),
}  # fmt: skip


def keras_adam(gradients: list[float], train: TrainConfig) -> float:
    """Where a weight that starts at 0 ends: Kingma & Ba 2015, the form at the end of section 2."""
    weight = m = v = 0.0
    for t, gradient in enumerate(gradients, start=1):
        m = train.beta_1 * m + (1 - train.beta_1) * gradient
        v = train.beta_2 * v + (1 - train.beta_2) * gradient**2
        alpha = train.learning_rate * np.sqrt(1 - train.beta_2**t) / (1 - train.beta_1**t)
        weight -= alpha * m / (np.sqrt(v) + train.epsilon)
    return float(weight)


class OneWeight:
    """A model whose output bias is driven by hand."""

    def __init__(self, impl: SimpleNamespace, precision: Precision, loss_scale: LossScaleConfig) -> None:
        self.impl = impl
        self.model = impl.model.build_model(CONFIG, precision, impl.cpu)
        impl.model.load_weights(self.model, {name: np.zeros(shape, np.float32) for name, shape in ZEROS.items()})
        self.optimizer = impl.optimizer.make_optimizer(self.model, TrainConfig(), loss_scale, precision)

    def step(self, gradient: float) -> None:
        """Take a step whose gradient, before loss scaling, is the one given."""
        scaled = float(np.float32(gradient)) * self.scale
        arrays = [np.zeros(shape, np.float32) for shape in ZEROS.values()]
        arrays[-1] += np.float32(scaled)
        self.impl.train.apply_gradients(self.model, self.optimizer, [self._tensor(array) for array in arrays])

    @property
    def weight(self) -> float:
        return float(self.impl.model.export_weights(self.model)["dense/bias"][0])

    @property
    def scale(self) -> float:
        return float(on_host(self.impl.optimizer.loss_scale(self.optimizer)))

    @property
    def applied_steps(self) -> int:
        return int(on_host(self.impl.optimizer.applied_steps(self.optimizer)))

    def _tensor(self, array: np.ndarray) -> Any:
        if self.impl.framework == "tensorflow":
            import tensorflow as tf

            return tf.constant(array)
        import torch

        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        return torch.from_numpy(np.ascontiguousarray(array))


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
