"""The small problem on which every row proves, in its own process, that it computes what its label says.

Three cases share one shape, so that one compiled function serves all: an ordinary one, and two whose logits are large,
where a wrong loss, a clipped probability or a gradient that underflows shows. Biases are random and height differs from
width, so that no slip in a layout can hide. The gradients for the optimizer come in three sizes, some overflow.
"""

from typing import NamedTuple

import numpy as np

from common.config import LossScaleConfig, ModelConfig, Precision
from common.reference import loss_and_gradients
from common.weights import Weights, draw_weights

# 16 samples average the luck out of a relative error; 16 filters make the matrices wide enough for matrix units.
PROBE_MODEL = ModelConfig(image_shape=(10, 8, 3), filters=16)
PROBE_BATCH = 16

# A small scale, so that even gradients of confidently wrong samples stay below 65504, and a short interval, so that the
# scale grows within the probe. Neither is a default of Keras or torch, so a value that was not passed on shows.
PROBE_LOSS_SCALE = LossScaleConfig(initial_scale=256.0, growth_interval=4)

PROBE_STEPS = 50
OVERFLOWING_STEPS = {3: np.inf, 4: -np.inf, 5: np.nan, 11: np.inf, 17: np.inf, 29: np.nan, 30: np.inf}

# From where epsilon (1e-7) hardly matters to where it is most of the first steps' denominator.
GRADIENT_SIZES = (1e-3, 1e-5, 1e-6)


class Case(NamedTuple):
    """One forward and backward pass: weights, images (B, H, W, C) and labels (B, 1) in {0, 1}, all float32."""

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


def gradient_sizes(shape: tuple[int, ...]) -> np.ndarray:
    """The size of each entry of a gradient of this shape."""
    return np.resize(GRADIENT_SIZES, shape)


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
