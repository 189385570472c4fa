"""The starting weights, drawn once in NumPy for both frameworks, in Keras' names, layouts and initialisation."""

import math

import numpy as np

from common.config import ModelConfig

# "conv1/kernel" (k, k, C, F), "conv1/bias" (F,), ..., "dense/kernel" (H*W*F, 1), "dense/bias" (1,).
Weights = dict[str, np.ndarray]

_WEIGHTS_STREAM = 1  # data.py draws from stream 0 of the same seed


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of the model, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = config.image_shape[2]
    for number, size in enumerate(config.kernel_sizes, start=1):
        shapes[f"conv{number}/kernel"] = (size, size, channels, config.filters)
        shapes[f"conv{number}/bias"] = (config.filters,)
        channels = config.filters
    return {**shapes, "dense/kernel": (math.prod(config.feature_shape), 1), "dense/bias": (1,)}


def draw_weights(config: ModelConfig, seed: int) -> Weights:
    """Draw every weight of the model, float32: glorot-uniform kernels and zero biases, as Keras does by default."""
    generator = np.random.default_rng([seed, _WEIGHTS_STREAM])
    return {
        name: np.zeros(shape, np.float32) if name.endswith("bias") else _glorot_uniform(generator, shape)
        for name, shape in weight_shapes(config).items()
    }


def _glorot_uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """U(-l, l) with l = sqrt(6 / (fan_in + fan_out)), Glorot & Bengio 2010, equation 16.

    The last two axes are input and output channels; the axes before them are the kernel's window.
    """
    window = math.prod(shape[:-2])
    limit = math.sqrt(6.0 / (window * (shape[-2] + shape[-1])))
    return generator.uniform(-limit, limit, shape).astype(np.float32)
