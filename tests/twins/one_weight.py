"""A model whose weights are all 0 but one, which is driven by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from common.config import LossScaleConfig, ModelConfig, Precision, TrainConfig
from tests.conftest import on_host

CONFIG = ModelConfig(image_shape=(3, 4, 1), filters=2)
ZEROS = {
    "conv1/kernel": (2, 2, 1, 2), "conv1/bias": (2,), "conv2/kernel": (1, 1, 2, 2), "conv2/bias": (2,),
    "conv3/kernel": (1, 1, 2, 2), "conv3/bias": (2,), "dense/kernel": (12, 1), "dense/bias": (1,),
}  # fmt: skip


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
