"""The hardware's limit: the least time that one training step can take, from its arithmetic and its memory traffic.

A layer is as many operations as are computed one after the other: its product, and in the backward pass the product for
the gradient of its kernel and the one for the gradient of its input. Each reads its operands once and writes its result
once; biases, casts and activations ride along for nothing. An operation takes at least

    max(FLOPs / rate of a large matrix product, bytes / bandwidth of a large copy)

and a step the sum over its operations: the roofline, layer by layer (Williams, Waterman and Patterson, "Roofline: an
insightful visual performance model for multicore architectures", CACM 52(4), 2009). Both ceilings are measured where
the row runs. Only a program that fuses a layer with the next, so that activations never reach the memory, could be
below it; neither framework does. Where activations fit into a cache, the copies that are measured do as well.

With P = B H' W' positions, C channels in and F out, a k x k convolution is a product of P rows of C k k values with F
columns: 2 P C k k F FLOPs in the forward pass, and as many for either gradient. The images need no gradient, so that
the first layer has one product less in the backward pass. Dense is one row of H' W' F values for each of B samples.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.config import ModelConfig, RunConfig
from common.measure.timing import StepTimes

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

# What Adam touches of every weight: it reads weight, gradient and both moments, and writes all but the gradient.
ADAM_ACCESSES = 7

# A copy as large as an activation is cached where an activation would be; beyond any cache size no longer matters.
SMALLEST_COPY_BYTES, LARGEST_COPY_BYTES = 4 * 2**20, 256 * 2**20

COPIES_AT_ONCE = 10  # timed together, since launching one takes a tenth of the copy on a fast GPU

# Products grow until one takes long enough for any clock, or is as large as matrix units need to be busy.
SMALLEST_PRODUCT, LARGEST_PRODUCT, LONG_ENOUGH_S = 256, 8192, 0.005
LEAST_TRIES, TRY_FOR_S = 5, 0.03


class Layer(NamedTuple):
    """One layer as a product of (rows, inner) with (inner, columns); inputs: the values that it reads, each once."""

    name: str
    rows: float
    inner: int
    columns: int
    inputs: float

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.inner * self.columns


class Operation(NamedTuple):
    """One product or one update: arithmetic on the matrix units, and bytes read and written."""

    name: str
    flops: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reaches: bytes read and written in a large copy, and FLOPs in a large product."""

    copy_bytes_per_s: float
    matmul_flops_per_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """One step held to the hardware: floor_s is the least time it can take, times_floor how often that it took.

    Of several replicas, what one has to do; what they have to tell each other is left out.
    """

    flops_per_step: float
    bytes_per_step: float
    floor_s: float
    times_floor: float | None
    ceilings: Ceilings


def best_ceilings(measured: Iterable[Ceilings]) -> Ceilings:
    """The best of each: a limit is the hardware's, and no framework's or process's."""
    copies, products = zip(*((each.copy_bytes_per_s, each.matmul_flops_per_s) for each in measured), strict=True)
    return Ceilings(max(copies), max(products))


def layers_of(model: ModelConfig, batch_size: float) -> list[Layer]:
    """The layers that multiply, in order."""
    height, width, channels = model.image_shape
    layers = []
    for number, size in enumerate(model.kernel_sizes, start=1):
        inputs = batch_size * height * width * channels
        height, width = height - size + 1, width - size + 1
        layers.append(Layer(f"conv{number}", batch_size * height * width, channels * size**2, model.filters, inputs))
        channels = model.filters
    features = height * width * channels
    return [*layers, Layer("dense", batch_size, features, 1, batch_size * features)]


def operations(config: RunConfig) -> list[Operation]:
    """Everything that a replica has to compute in one step, in order: of its share of the mean batch of an epoch."""
    compute, variable = BYTES[config.precision.compute_dtype], BYTES[config.precision.variable_dtype]
    layers = layers_of(config.model, config.data.images / config.steps_per_epoch / config.execution.replicas)
    forward, backward = [], []
    for number, layer in enumerate(layers):
        # Each operation touches these three; which of them it writes does not matter.
        input_bytes = layer.inputs * (compute if number else variable)  # the images lie there in the variables' dtype
        weight_bytes, output_bytes = layer.inner * layer.columns * compute, layer.rows * layer.columns * compute
        touched = input_bytes + weight_bytes + output_bytes
        forward.append(Operation(f"{layer.name} forward", layer.flops, touched))
        if number:
            backward.append(Operation(f"{layer.name} input gradient", layer.flops, touched))
        backward.append(Operation(f"{layer.name} kernel gradient", layer.flops, touched))
    weights = sum((layer.inner + 1) * layer.columns for layer in layers)
    return [*forward, *reversed(backward), Operation("Adam", 0.0, ADAM_ACCESSES * variable * weights)]


def step_flops(config: RunConfig) -> float:
    """FLOPs of one step of the mean batch on all replicas, in its products alone."""
    return config.execution.replicas * sum(operation.flops for operation in operations(config))


def measure_ceilings(
    config: RunConfig, copy_seconds: Callable[[int], float], matmul_seconds: Sequence[Callable[[int], float]]
) -> Ceilings:
    """Find the fastest copies and products of this device.

    A copy is as large as an activation of a replica's share of a batch. copy_seconds(n) gives the seconds for a copy of
    n bytes; each of matmul_seconds those for a product of two n x n matrices, in one of the dtypes that may do the
    work: what is not native is better done in the variables' dtype.
    """
    activation_bytes = math.prod(config.model.feature_shape) * config.train.batch_size // config.execution.replicas
    activation_bytes *= BYTES[config.precision.compute_dtype]
    copy_bytes = int(np.clip(activation_bytes, SMALLEST_COPY_BYTES, LARGEST_COPY_BYTES))
    return Ceilings(
        copy_bytes_per_s=2 * copy_bytes / _least(copy_seconds, copy_bytes),
        matmul_flops_per_s=max(_matmul_rate(seconds) for seconds in matmul_seconds),
    )


def find_limits(config: RunConfig, ceilings: Ceilings, step_s: StepTimes | None) -> Limits:
    """Hold the measured steps to what the ceilings allow."""
    parts = operations(config)
    floor_s = sum(
        max(part.flops / ceilings.matmul_flops_per_s, part.bytes / ceilings.copy_bytes_per_s) for part in parts
    )
    return Limits(
        flops_per_step=sum(part.flops for part in parts),
        bytes_per_step=sum(part.bytes for part in parts),
        floor_s=floor_s,
        times_floor=step_s.median / floor_s if step_s else None,
        ceilings=ceilings,
    )


def _matmul_rate(matmul_seconds: Callable[[int], float]) -> float:
    size, seconds = SMALLEST_PRODUCT, _least(matmul_seconds, SMALLEST_PRODUCT)
    rate = 2.0 * size**3 / seconds
    while seconds < LONG_ENOUGH_S and size < LARGEST_PRODUCT:
        size *= 2
        seconds = _least(matmul_seconds, size)
        rate = max(rate, 2.0 * size**3 / seconds)
    return rate


def _least(seconds: Callable[[int], float], size: int) -> float:
    """The fastest of several tries, after one to warm up: a ceiling is what the device can do. Short ones are many."""
    seconds(size)
    tries: list[float] = []
    while len(tries) < LEAST_TRIES or sum(tries) < TRY_FOR_S:
        tries.append(seconds(size))
    return min(tries)
