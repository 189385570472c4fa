"""The small problem on which every row proves, in its own process, that it computes what its label says.

Three cases share one shape, so that one compiled function serves all: an ordinary one, and two whose logits are large,
where a wrong loss, a clipped probability or a gradient that underflows shows. Biases are random and height differs from
width, so that no slip in a layout can hide. The gradients for the optimizer come in three sizes, some overflow.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.config import LossScaleConfig, ModelConfig, Precision
from common.experiment.weights import Weights, draw_weights
from common.proof.reference import loss_and_gradients

# 16 samples average the luck out of a relative error; 16 filters make the matrices wide enough for matrix units.
PROBE_MODEL = ModelConfig(image_shape=(10, 8, 3), filters=16)
PROBE_BATCH = 16

# A small scale, so that even gradients of confidently wrong samples stay below 65504, and a short interval, so that the
# scale grows within the probe. Neither is a default of Keras or torch, so a value that was not passed on shows.
PROBE_LOSS_SCALE = LossScaleConfig(initial_scale=256.0, growth_interval=4)

# The scale falls from 256 to 1/8 and grows to 4 again: a scaler that stops at 1, as Keras 2 does, shows. Overflows come
# one by one and in a row; they interrupt one finite step, and three, which then must not count towards the next growth.
PROBE_STEPS = 50
OVERFLOWING_STEPS = {
    **dict.fromkeys((3, 11, *range(17, 24)), np.inf),
    4: -np.inf,
    **dict.fromkeys((5, 24, 28), np.nan),
}

# From where epsilon (1e-7) hardly matters to where it is most of the first steps' denominator.
GRADIENT_SIZES = (1e-3, 1e-5, 1e-6)


# Its last bit is kept by float64 alone, the one before by float32 as well, then by float16 and TF32, then by bfloat16.
LABEL_VALUE = 1 + 2.0**-7 + 2.0**-10 + 2.0**-23 + 2.0**-40
LABEL_SMALL_VALUE = 2.0**-30  # below float16's least number, 2**-24, by which it differs from TF32

_SEEN = {
    (LABEL_VALUE, LABEL_SMALL_VALUE): "float64",
    (LABEL_VALUE - 2.0**-40, LABEL_SMALL_VALUE): "float32",
    (1 + 2.0**-7 + 2.0**-10, LABEL_SMALL_VALUE): "tf32",
    (1 + 2.0**-7 + 2.0**-10, 0.0): "float16",
    (1 + 2.0**-7, LABEL_SMALL_VALUE): "bfloat16",
}


class Case(NamedTuple):
    """One forward and backward pass: weights, images (B, H, W, C) and labels (B, 1) in {0, 1}."""

    name: str
    weights: Weights
    images: np.ndarray
    labels: np.ndarray


class Updates(NamedTuple):
    """What the optimizer did: the scale before each step, the updates after each step, the weights at the end."""

    loss_scale: list[float]
    applied_steps: list[float]
    weights: Weights


def draw_cases(model: ModelConfig = PROBE_MODEL, batch: int = PROBE_BATCH, seed: int = 12) -> list[Case]:
    """Ordinary; confidently wrong (logits about +-150, where BCELoss clamps); confidently right (about +-14)."""
    generator = np.random.default_rng(seed)
    signs = np.where(np.arange(batch) % 3, 1.0, -1.0).reshape(batch, 1)  # not balanced: bias gradients would cancel
    images = generator.random((batch, *model.image_shape), dtype=np.float32)
    mirrored = images * signs.reshape(batch, 1, 1, 1).astype(np.float32)
    weights = {
        name: array if name.endswith("kernel") else generator.normal(0, 0.1, array.shape).astype(np.float32)
        for name, array in draw_weights(model, seed).items()
    }
    labels = (np.arange(batch) % 3 == 1).astype(np.float32).reshape(batch, 1)
    return [
        Case("ordinary", weights, images, labels),
        Case("wrong", _confident(weights, mirrored, signs, 150.0), mirrored, (signs < 0).astype(np.float32)),
        Case("right", _confident(weights, mirrored, signs, 14.0), mirrored, (signs > 0).astype(np.float32)),
    ]


def draw_updates(
    precision: Precision, model: ModelConfig = PROBE_MODEL, steps: int = PROBE_STEPS, seed: int = 12
) -> list[Weights]:
    """Unscaled gradients for each step, in float32, whose values change sign; they overflow where a scaler can see it.

    Entries of one tensor take the sizes of GRADIENT_SIZES in turn. Half way all fall to a hundredth, so that Adam's
    second moment falls as well, which AMSGrad would not allow.
    """
    generator = np.random.default_rng(seed)
    shapes = {name: array.shape for name, array in draw_weights(model, seed).items()}
    plan = []
    for step in range(steps):
        fall = 1.0 if step < steps // 2 else 0.01
        gradients = {
            name: (gradient_sizes(shape) * generator.uniform(-1, 2, shape) * fall).astype(np.float32)
            for name, shape in shapes.items()
        }
        if precision.scales_loss and step in OVERFLOWING_STEPS:
            gradients["conv3/bias"][0] = OVERFLOWING_STEPS[step]  # one value of one tensor, neither first nor last
        plan.append(gradients)
    return plan


def label_cases(model: ModelConfig, batch: int) -> list[Case]:
    """Cases of the run's own shape whose logits show the precision that computed them.

    One value goes through each layer unchanged, so that the logit is that value, as often rounded as there are layers.
    In turn each kernel holds LABEL_VALUE where the others hold 1: what comes out has the bits that the coarsest layer
    from that one on has kept. The last case sends a value through that is 0 in float16 alone.
    """
    shapes = {name: array.shape for name, array in draw_weights(model, seed=0).items()}
    through = {name: _first_entry(shape, 1.0 if name.endswith("kernel") else 0.0) for name, shape in shapes.items()}
    one, small = (_first_pixels(model, batch, value) for value in (1.0, LABEL_SMALL_VALUE))
    labels = np.zeros((batch, 1), np.float32)
    kernels = [name for name in shapes if name.endswith("kernel")]
    return [
        *(Case(name, {**through, name: _first_entry(shapes[name], LABEL_VALUE)}, one, labels) for name in kernels),
        Case("a small value", through, small, labels),
    ]


def see_precision(cases: Sequence[Case], logits: Sequence[np.ndarray]) -> dict[str, str]:
    """For each kernel of label_cases, the precision that its case's logits (B, 1) were computed in."""
    *products, small = (float(array[0, 0]) for array in logits)
    return {
        case.name: _SEEN.get((value, small), f"unknown ({value!r})")
        for case, value in zip(cases, products, strict=False)
    }


def is_label_true(precision: Precision, seen: Mapping[str, str]) -> bool:
    """Whether the row computed in what its label says.

    TF32 is a permission: products that gain nothing from it stay in float32, but not all of them.
    """
    if precision is Precision.TF32:
        return set(seen.values()) <= {"tf32", "float32"} and "tf32" in seen.values()
    return set(seen.values()) == {precision.compute_dtype}


def gradient_sizes(shape: tuple[int, ...]) -> np.ndarray:
    """The size of each entry of a gradient of this shape."""
    return np.resize(GRADIENT_SIZES, shape)


def _first_entry(shape: tuple[int, ...], value: float) -> np.ndarray:
    array = np.zeros(shape)
    array.flat[0] = value
    return array


def _first_pixels(model: ModelConfig, batch: int, value: float) -> np.ndarray:
    images = np.zeros((batch, *model.image_shape), np.float32)
    images[:, 0, 0, 0] = value
    return images


def _confident(weights: Weights, images: np.ndarray, signs: np.ndarray, size: float) -> Weights:
    """Change the Dense kernel so that sample i has a logit of about signs[i] * size.

    The network is linear in the Dense kernel, and that kernel's gradient is the mean of the features, each weighted
    with sigmoid(z) - y: at z = 0 the difference of the two classes' mean features, on which the signs project alike.
    """
    flat = {**weights, "dense/kernel": np.zeros_like(weights["dense/kernel"]), "dense/bias": np.zeros(1, np.float32)}
    direction = -loss_and_gradients(flat, images, (signs > 0).astype(np.float64)).gradients["dense/kernel"]
    aligned = loss_and_gradients({**flat, "dense/kernel": direction}, images, signs > 0).logits
    scale = size / np.abs(aligned).mean()
    return {**weights, "dense/kernel": (scale * direction + 0.1 * weights["dense/kernel"]).astype(np.float32)}
