"""Is the NumPy reference right: gradients by finite differences, Adam and loss scale by hand, rounding by value?"""

import numpy as np
import pytest

from common.config import LossScaleConfig, ModelConfig, Precision, TrainConfig
from common.experiment.weights import Weights
from common.proof.probe import draw_cases
from common.proof.reference import (
    State,
    apply_gradients,
    binary_crossentropy,
    loss_and_gradients,
    make_state,
    round_to_bfloat16,
    round_to_float16,
    round_to_tf32,
    train_steps,
)

# Two convolutions larger than 1x1, so that the gradient of a patch is tested where patches overlap.
MODEL = ModelConfig(image_shape=(6, 5, 2), filters=3, kernel_sizes=(2, 3, 1))
CASES = {case.name: case for case in draw_cases(MODEL, batch=5)}


@pytest.mark.parametrize("case", ["ordinary", "wrong", "right"])
@pytest.mark.parametrize("name", CASES["ordinary"].weights)
def test_gradients_are_those_of_finite_differences(case: str, name: str) -> None:
    """Along a random direction; the central difference leaves about eight digits."""
    weights = {key: array.astype(np.float64) for key, array in CASES[case].weights.items()}
    images, labels = CASES[case].images, CASES[case].labels
    direction = np.random.default_rng(1).normal(size=weights[name].shape)
    losses = [
        loss_and_gradients({**weights, name: weights[name] + step * direction}, images, labels).loss
        for step in (1e-6, -1e-6)
    ]
    expected = (losses[0] - losses[1]) / 2e-6
    gradient = loss_and_gradients(weights, images, labels).gradients[name]
    assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("logit", "label", "loss"),
    [(0.0, 1, np.log(2)), (-200.0, 1, 200.0), (200.0, 0, 200.0), (16.0, 1, 1.1253516207787584e-07)],
)
def test_loss(logit: float, label: int, loss: float) -> None:
    assert binary_crossentropy(np.array([[label]]), np.array([[logit]])) == pytest.approx(loss, rel=1e-14)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_come_unscaled(scale: float) -> None:
    case = CASES["ordinary"]
    scaled = loss_and_gradients(case.weights, case.images, case.labels, loss_scale=scale)
    plain = loss_and_gradients(case.weights, case.images, case.labels)
    assert scaled.loss == plain.loss
    assert all(np.array_equal(scaled.gradients[name], plain.gradients[name]) for name in plain.gradients)


def one_weight(loss_scale: LossScaleConfig, precision: Precision) -> State:
    return make_state({"w": np.zeros(1)}, loss_scale, precision)


def gradient(value: float) -> Weights:
    return {"w": np.array([value])}


def test_adam_by_hand() -> None:
    """Two steps of gradient 1 and epsilon 0 move by the learning rate each: m-hat = 1 and v-hat = 1."""
    state = one_weight(LossScaleConfig(), Precision.FLOAT32)
    for _ in range(2):
        apply_gradients(state, gradient(1.0), TrainConfig(learning_rate=0.5, epsilon=0.0), None)
    assert state.weights["w"][0] == pytest.approx(-1.0, rel=1e-12)


def test_epsilon_joins_before_the_bias_correction() -> None:
    """First step, gradient g: alpha = lr sqrt(0.001) / 0.1, m = 0.1 g, sqrt(v) = sqrt(0.001) g; epsilon equal to it."""
    state = one_weight(LossScaleConfig(), Precision.FLOAT32)
    apply_gradients(state, gradient(1.0), TrainConfig(learning_rate=0.5, epsilon=np.sqrt(0.001)), None)
    assert state.weights["w"][0] == pytest.approx(-0.25, rel=1e-12)


def test_scale_halves_doubles_and_skips() -> None:
    loss_scale = LossScaleConfig(initial_scale=1024, growth_interval=2)
    state = one_weight(loss_scale, Precision.MIXED_FLOAT16)
    trace = []
    for value in (1.0, np.inf, 1.0, 1.0, np.nan, 1.0, 1.0, 1.0):
        trace.append((state.loss_scale, state.applied_steps))
        apply_gradients(state, gradient(value), TrainConfig(), loss_scale)
    assert trace == [(1024, 0), (1024, 1), (512, 1), (512, 2), (1024, 3), (512, 3), (512, 4), (1024, 5)]


def test_a_skipped_step_changes_no_weight() -> None:
    state = one_weight(LossScaleConfig(), Precision.MIXED_FLOAT16)
    apply_gradients(state, gradient(np.inf), TrainConfig(), LossScaleConfig())
    assert (state.weights["w"][0], state.first_moments["w"][0], state.applied_steps) == (0, 0, 0)


@pytest.mark.parametrize(
    ("round_to", "value", "rounded"),
    [
        (round_to_float16, 1 + 2**-11, 1.0),  # a tie goes to even
        (round_to_float16, 1 + 3 * 2**-11, 1 + 2**-9),
        (round_to_float16, 65519.0, 65504.0),
        (round_to_float16, 65520.0, np.inf),
        (round_to_float16, 2.0**-24, 2.0**-24),  # the smallest
        (round_to_float16, 2.0**-25, 0.0),
        (round_to_bfloat16, 1 + 2**-8, 1.0),
        (round_to_bfloat16, 1 + 3 * 2**-8, 1 + 2**-6),
        (round_to_bfloat16, 1e30, 1.0000026e30),  # float32's range
        (round_to_bfloat16, np.inf, np.inf),
        (round_to_bfloat16, -1 - 2**-7, -1 - 2**-7),
        (round_to_tf32, 1 + 2**-11, 1.0),
        (round_to_tf32, 1 + 2**-10, 1 + 2**-10),
    ],
)
def test_rounding(round_to, value: float, rounded: float) -> None:  # type: ignore[no-untyped-def]
    assert round_to(np.array([value]))[0] == pytest.approx(rounded, rel=1e-2 if value == 1e30 else 0)


def test_training_skips_what_overflows() -> None:
    """A scale of 2**22 overflows float16 until it has halved often enough; the scale tells how often."""
    case = CASES["ordinary"]
    loss_scale = LossScaleConfig(initial_scale=2.0**22)
    batches = [(case.images, case.labels)]
    arguments = (TrainConfig(epochs=12, batch_size=5), loss_scale, Precision.MIXED_FLOAT16, round_to_float16)
    steps, weights = train_steps(case.weights, batches, *arguments)
    skipped = 12 - steps[-1].applied_steps
    assert 0 < skipped < 12
    assert steps[-1].loss_scale == 2.0 ** (22 - skipped)
    assert steps[skipped - 1].loss == steps[0].loss  # no weight had changed yet
    assert steps[-1].loss < steps[0].loss
    assert all(np.isfinite(array).all() for array in weights.values())
