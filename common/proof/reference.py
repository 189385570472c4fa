"""The experiment in float64 NumPy: what both frameworks are held against.

The same names as in tf_impl/train.py and torch_impl/train.py: loss_and_gradients, apply_gradients, train_step. With a
rounding other than `exact` this is an emulator: it rounds to 16 bits exactly where Keras stores a 16-bit tensor, so its
distance to the exact reference is what the dtype costs on these data, whoever computes it.

Shapes: B batch, H and W height and width, C input channels, F filters. Images are (B, H, W, C).
"""

from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat
from typing import NamedTuple

import numpy as np

from common.config import LOSS_SCALE_BACKOFF, LOSS_SCALE_GROWTH, LossScaleConfig, Precision, TrainConfig
from common.experiment.data import split_batches
from common.experiment.weights import Weights
from common.measure.hardware import available_cores

# Entries of the largest tensor in one part of a batch: 64 MB.
PART_ENTRIES = 2**23

# Whose gradient overflows is decided by a rounding only where it is as close as this to 65504.
CLOSE_TO_OVERFLOW = 1.25

Rounding = Callable[[np.ndarray], np.ndarray]


def exact(values: np.ndarray) -> np.ndarray:
    """No rounding at all."""
    return values


def round_to_float16(values: np.ndarray) -> np.ndarray:
    """To the nearest float16, ties to even: above 65504 to infinity, below 3e-8 to 0."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(values.dtype)


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """To the nearest bfloat16: float32 with 8 instead of 24 bits of precision."""
    return _drop_bits(values, 16)


def round_to_tf32(values: np.ndarray) -> np.ndarray:
    """To the nearest TF32: float32 with 11 instead of 24 bits of precision."""
    return _drop_bits(values, 13)


ROUNDINGS: dict[Precision, Rounding] = {
    Precision.FLOAT64: exact,
    Precision.FLOAT32: exact,
    Precision.TF32: round_to_tf32,
    Precision.MIXED_FLOAT16: round_to_float16,
    Precision.MIXED_BFLOAT16: round_to_bfloat16,
}


def on_grid(rounding: Rounding, factor: float) -> Rounding:
    """The rounding to a grid that is moved by the factor: other roundings, of the same size."""
    return rounding if factor == 1 else lambda values: rounding(values * factor) / factor


# Where a run overflows, so does its reference, and inf - inf is as it should be.
_overflowing = np.errstate(over="ignore", invalid="ignore")


class Evaluation(NamedTuple):
    """One forward and backward pass: mean loss, logits (B, 1), and the gradients of the *unscaled* loss."""

    loss: float
    logits: np.ndarray
    gradients: Weights


class ReferenceStep(NamedTuple):
    """One training step; all but applied_steps are taken before the update.

    contradicted: the run that is followed skipped the step although nothing comes close to overflowing, or took it
    although something does by far.
    """

    loss: float
    logits: np.ndarray
    loss_scale: float
    applied_steps: int
    contradicted: bool = False


@dataclass
class State:
    """Weights, Adam's moments and the loss scaler. applied_steps is Adam's t: steps that overflowed do not count."""

    weights: Weights
    first_moments: Weights
    second_moments: Weights
    loss_scale: float
    applied_steps: int = 0
    finite_steps: int = 0


def make_state(weights: Weights, loss_scale: LossScaleConfig, precision: Precision) -> State:
    """The state before the first step; without loss scaling the scale is 1."""
    zeros = {name: np.zeros(array.shape) for name, array in weights.items()}
    return State(
        weights={name: array.astype(np.float64) for name, array in weights.items()},
        first_moments=zeros,
        second_moments=dict(zeros),
        loss_scale=loss_scale.initial_scale if precision.scales_loss else 1.0,
    )


def binary_crossentropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean of y softplus(-z) + (1 - y) softplus(z), which neither overflows nor cancels."""
    return float(np.mean(labels * np.logaddexp(0, -logits) + (1 - labels) * np.logaddexp(0, logits)))


def binary_accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Share of the batch whose probability is above 0.5 exactly where the label is 1."""
    return float(np.mean((logits > 0) == (labels > 0)))


@_overflowing
def loss_and_gradients(
    weights: Weights,
    images: np.ndarray,
    labels: np.ndarray,
    rounding: Rounding = exact,
    loss_scale: float = 1.0,
    replicas: int = 1,
) -> Evaluation:
    """Forward and backward pass of the model; images (B, H, W, C), labels (B, 1) in {0, 1}.

    Every stored tensor goes through `rounding`, and so does the gradient of the scaled loss on its way back through it.
    What is rounded to 16 bits is computed in float32, whose own roundings are nothing beside those. The batch is worked
    off in parts, whose gradients add up in float64 before they are stored: no part outgrows memory. Of several replicas
    each stores the gradients of its own block, and their sums are stored too.
    """
    dtype = np.float64 if rounding is exact else np.float32
    rounded = {name: rounding(array.astype(dtype)) for name, array in weights.items()}
    _, height, width, _ = images.shape
    samples = max(1, PART_ENTRIES // (height * width * len(weights["conv1/bias"])))
    cut = [
        part
        for block in split_batches(images, labels, len(images) // replicas)
        for part in split_batches(*block, samples)
    ]
    one_part = partial(_pass, rounded, rounding=rounding, loss_scale=loss_scale, batch=len(images))
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        parts = list(pool.map(one_part, *zip(*cut, strict=True)))
    logits = np.concatenate([part_logits for part_logits, _ in parts]).astype(np.float64)
    of_block = len(parts) // replicas
    unscaled = {}
    for name in weights:
        gradients = (part[name].astype(np.float64) for _, part in parts)
        stored = (rounding(_sum(islice(gradients, of_block))) for _ in range(replicas))
        unscaled[name] = rounding(_sum(stored)) / loss_scale
    return Evaluation(binary_crossentropy(labels, logits), logits, unscaled)


@_overflowing
def _pass(
    rounded: Weights, images: np.ndarray, labels: np.ndarray, rounding: Rounding, loss_scale: float, batch: int
) -> tuple[np.ndarray, Weights]:
    """Logits and the unrounded gradients of the scaled loss for a part of the batch.

    Each layer is a product of patches and kernel: a (B, h, w, k*k*C) by (k*k*C, F) one, by the chain rule for matrix
    products dK = patches^T d and dpatches = d K^T.
    """
    *convolutions, _ = dict.fromkeys(name.partition("/")[0] for name in rounded)

    dtype = rounded["dense/kernel"].dtype
    features, patches = rounding(images.astype(dtype)), {}
    for layer in convolutions:
        kernel = rounded[f"{layer}/kernel"]
        patches[layer] = _patches(features, kernel.shape[0])
        features = rounding(patches[layer] @ kernel.reshape(-1, kernel.shape[-1]))
        features += rounded[f"{layer}/bias"]
        features = rounding(features)
    flat = features.reshape(len(features), -1)
    logits = rounding(rounding(flat @ rounded["dense/kernel"]) + rounded["dense/bias"])

    slope = (1 - labels) * _sigmoid(logits) - labels * _sigmoid(-logits)  # sigmoid(z) - y, without cancelling
    d_logits = rounding((loss_scale * slope / batch).astype(dtype))
    gradients = {"dense/bias": d_logits.sum(axis=0), "dense/kernel": flat.T @ d_logits}
    d_features = (d_logits @ rounded["dense/kernel"].T).reshape(features.shape)
    for layer in reversed(convolutions):
        d_products = rounding(d_features)
        kernel = rounded[f"{layer}/kernel"]
        columns = patches[layer].reshape(-1, patches[layer].shape[-1])
        gradients[f"{layer}/bias"] = d_products.sum(axis=(0, 1, 2))
        gradients[f"{layer}/kernel"] = (columns.T @ d_products.reshape(len(columns), -1)).reshape(kernel.shape)
        if layer != convolutions[0]:
            d_features = _fold(d_products @ kernel.reshape(-1, kernel.shape[-1]).T, kernel.shape[0])
    return logits, gradients


def apply_gradients(state: State, gradients: Weights, train: TrainConfig, loss_scale: LossScaleConfig | None) -> None:
    """Take Adam's step with unscaled gradients; with loss scaling, skip it where one is not finite and halve the scale.

    Adam as Keras defines it: Kingma & Ba 2015, the form at the end of section 2, where epsilon joins sqrt(v) before the
    bias correction. The scale doubles after growth_interval finite steps in a row. loss_scale None: no loss scaling.
    """
    if loss_scale:
        if not _finite(gradients):
            skip_step(state)
            return
        state.finite_steps += 1
        if state.finite_steps == loss_scale.growth_interval:
            state.loss_scale *= LOSS_SCALE_GROWTH
            state.finite_steps = 0
    state.applied_steps += 1
    t = state.applied_steps
    alpha = train.learning_rate * np.sqrt(1 - train.beta_2**t) / (1 - train.beta_1**t)
    for name, gradient in gradients.items():
        m = train.beta_1 * state.first_moments[name] + (1 - train.beta_1) * gradient
        v = train.beta_2 * state.second_moments[name] + (1 - train.beta_2) * gradient**2
        state.first_moments[name], state.second_moments[name] = m, v
        state.weights[name] = state.weights[name] - alpha * m / (np.sqrt(v) + train.epsilon)


def skip_step(state: State) -> None:
    """What an overflow does: halve the scale and change no weight."""
    state.loss_scale *= LOSS_SCALE_BACKOFF
    state.finite_steps = 0


def train_step(
    state: State,
    images: np.ndarray,
    labels: np.ndarray,
    train: TrainConfig,
    loss_scale: LossScaleConfig,
    precision: Precision,
    rounding: Rounding,
) -> ReferenceStep:
    """One step, or a skipped one where the precision scales the loss and a gradient overflows."""
    scale = state.loss_scale
    loss, logits, gradients = loss_and_gradients(state.weights, images, labels, rounding, scale)
    apply_gradients(state, gradients, train, loss_scale if precision.scales_loss else None)
    return ReferenceStep(loss, logits, scale, state.applied_steps)


def train_steps(
    weights: Weights,
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    train: TrainConfig,
    loss_scale: LossScaleConfig,
    precision: Precision,
    rounding: Rounding,
) -> tuple[list[ReferenceStep], Weights]:
    """Train from the weights for train.epochs over the batches; returns every step and the final weights."""
    state = make_state(weights, loss_scale, precision)
    steps = [
        train_step(state, images, labels, train, loss_scale, precision, rounding)
        for _ in range(train.epochs)
        for images, labels in batches
    ]
    return steps, state.weights


def follow_steps(
    weights: Weights,
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    train: TrainConfig,
    loss_scale: LossScaleConfig,
    precision: Precision,
    rounding: Rounding,
    skipped: Container[int],
    replicas: int = 1,
) -> tuple[list[ReferenceStep], State]:
    """As train_steps, but skip the steps of these indices and no others, as the run did that is followed.

    So a step whose gradient is within a rounding of 65504 does not part the two. Returns every step and the last state.
    """
    state, steps = make_state(weights, loss_scale, precision), []
    for number, batch in enumerate(chain.from_iterable(repeat(batches, train.epochs))):
        scale, skips = state.loss_scale, number in skipped
        loss, logits, gradients = loss_and_gradients(state.weights, *batch, rounding, scale, replicas)
        contradicted = skips and not precision.scales_loss
        if precision.scales_loss and skips == _finite(gradients):
            at = scale * (CLOSE_TO_OVERFLOW if skips else 1 / CLOSE_TO_OVERFLOW)
            gradients = loss_and_gradients(state.weights, *batch, rounding, at, replicas).gradients
            contradicted = skips == _finite(gradients)
        if skips or contradicted:
            skip_step(state)
        else:
            apply_gradients(state, gradients, train, loss_scale if precision.scales_loss else None)
        steps.append(ReferenceStep(loss, logits, scale, state.applied_steps, contradicted))
    return steps, state


def _sum(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.asarray(sum(arrays))


def _finite(gradients: Weights) -> bool:
    return all(bool(np.isfinite(gradient).all()) for gradient in gradients.values())


def _patches(features: np.ndarray, size: int) -> np.ndarray:
    """(B, H, W, C) to (B, h, w, size*size*C): what each output pixel of a valid convolution sees."""
    if size == 1:
        return features
    height, width = features.shape[1] - size + 1, features.shape[2] - size + 1
    offsets = [(row, column) for row in range(size) for column in range(size)]
    return np.concatenate([features[:, r : r + height, c : c + width] for r, c in offsets], axis=-1)


def _fold(patches: np.ndarray, size: int) -> np.ndarray:
    """Undo _patches by adding up what overlaps: the gradient of it."""
    if size == 1:
        return patches
    batch, height, width, _ = patches.shape
    blocks = np.split(patches, size * size, axis=-1)
    features = np.zeros((batch, height + size - 1, width + size - 1, blocks[0].shape[-1]), patches.dtype)
    for number, block in enumerate(blocks):
        row, column = divmod(number, size)
        features[:, row : row + height, column : column + width] += block
    return features


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))


def _drop_bits(values: np.ndarray, count: int) -> np.ndarray:
    """Round float32 to `count` bits less, ties to even: add half of the last kept place (less one for ties), cut."""
    bits = values.astype(np.float32).view(np.uint32)
    tie = bits >> np.uint32(count)
    tie &= np.uint32(1)
    bits += tie
    bits += np.uint32(2 ** (count - 1) - 1)
    bits &= np.uint32(2**32 - 2**count)
    return np.asarray(bits.view(np.float32), values.dtype)
