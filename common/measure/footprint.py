"""The memory model: how much memory a row takes, and the largest batch that would fit.

Alive at once, at most, in the backward pass of a convolution that is not fused with its neighbours: its input, the
input of the layer before, the gradient that arrives and the one that leaves, so four activations of B H' W' F values;
the first convolution's patches, kept for the gradient of its kernel; of each weight the value, the gradient and Adam's
two moments, and in 16 bits the rounded value and its gradient; and the data, which lie on the device as a whole. In
results/h100 the uncompiled rows take 1 to 3 % more, which workspaces and the like account for.
"""

import math
from dataclasses import replace

from common.config import RunConfig
from common.measure.hardware import TENSOR_CORE_WIDTH
from common.measure.limits import BYTES, layers_of

ACTIVATIONS_ALIVE = 4
WEIGHT_COPIES = 4
# Of the free memory, for workspaces, the device's context and what lies between two blocks: where a batch fills the
# card, that is a few blocks of an activation each. By max-batch (results/h200, results/cpu) the largest that trains
# takes 0.76 to 0.80 of what is free, but for PyTorch's on a CPU, which take 0.97.
MARGIN = 0.24


def fixed_bytes(config: RunConfig) -> float:
    """What the row takes whatever its batch: data, weights, gradients and moments."""
    compute, variable = config.precision.compute_dtype, config.precision.variable_dtype
    weights = sum((layer.inner + 1) * layer.columns for layer in layers_of(config.model, 1))
    rounded = 0 if compute == variable else 2 * BYTES[compute]
    pixels = math.prod(config.data.image_shape) + 1  # and the label
    images = config.data.images / config.execution.replicas
    return weights * (WEIGHT_COPIES * BYTES[variable] + rounded) + images * pixels * BYTES[variable]


def sample_bytes(config: RunConfig) -> float:
    """What each sample of a batch adds: activations and patches."""
    first = layers_of(config.model, 1)[0]
    patch = math.ceil((first.inner + 1) / TENSOR_CORE_WIDTH) * TENSOR_CORE_WIDTH
    return first.rows * (ACTIVATIONS_ALIVE * first.columns + patch) * BYTES[config.precision.compute_dtype]


def largest_batch(config: RunConfig, free_bytes: float) -> int:
    """The largest batch size, up to all images, at which the row fits into free_bytes; 0 where none does.

    Of several replicas, each of which has as much: the batch of all.
    """
    room = free_bytes * (1 - MARGIN) - fixed_bytes(config)
    return min(config.data.images, config.execution.replicas * max(0, int(room / sample_bytes(config))))


def largest_single_batch(config: RunConfig, free_bytes: float) -> int:
    """The largest batch that would train where it is all the data there is; at least 1."""
    alone = replace(config, data=replace(config.data, images=1), train=replace(config.train, batch_size=1))
    sample = sample_bytes(config) + fixed_bytes(replace(alone, data=replace(alone.data, images=2))) - fixed_bytes(alone)
    return max(1, int((free_bytes * (1 - MARGIN) - fixed_bytes(alone)) / sample))
