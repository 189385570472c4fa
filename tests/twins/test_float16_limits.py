"""What can float16 not hold, and how does loss scaling save the gradient, in both frameworks?

Every weight is one number, and 0 unless a test sets it, so that a test chooses its logit z. The gradient of dense/bias
is sigmoid(z) - label.
"""

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.config import LossScaleConfig, ModelConfig, Precision, TrainConfig
from common.experiment.weights import draw_weights
from common.proof.bounds import ROUNDOFF
from tests.conftest import on_host

CONFIG = ModelConfig(image_shape=(2, 2, 1), filters=1)
BLACK = np.zeros((1, 2, 2, 1), np.float32)
FLOAT32, FLOAT16, BFLOAT16 = Precision.FLOAT32, Precision.MIXED_FLOAT16, Precision.MIXED_BFLOAT16


def cast(impl: SimpleNamespace, value: float, precision: Precision) -> Any:
    """The value as a tensor of the dtype that the precision computes in, rounded by the framework."""
    dtype = impl.precision.compute_dtype(precision)
    _, tensor = impl.device.to_device(BLACK, np.float32([[value]]), impl.cpu, dtype)
    return tensor


class OneSample:
    """Training on one black image, from weights of 0 but for those given."""

    def __init__(
        self,
        impl: SimpleNamespace,
        precision: Precision,
        weights: dict[str, float],
        label: float,
        initial_scale: float = 1,
        learning_rate: float = 1e-3,
    ) -> None:
        self.impl = impl
        self.model = impl.model.build_model(CONFIG, precision, impl.cpu)
        zeros = {name: np.zeros_like(array) for name, array in draw_weights(CONFIG, seed=0).items()}
        given = {name: np.full_like(zeros[name], value) for name, value in weights.items()}
        impl.model.load_weights(self.model, zeros | given)
        loss_scale = LossScaleConfig(initial_scale)
        self.optimizer = impl.optimizer.make_optimizer(
            self.model, TrainConfig(learning_rate=learning_rate), loss_scale, precision
        )
        dtype = impl.precision.variable_dtype(precision)
        self.batch = impl.device.to_device(BLACK, np.float32([[label]]), impl.cpu, dtype)

    def step(self) -> tuple[float, int]:
        """Take one step; return the loss scale it used and how many steps have been applied so far."""
        step = self.impl.train.train_step(self.model, self.optimizer, *self.batch)
        return float(on_host(step.loss_scale)), int(on_host(step.applied_steps))

    @property
    def gradient(self) -> float:
        """Of dense/bias, from the scaled loss."""
        _, _, gradients = self.impl.train.loss_and_gradients(self.model, self.optimizer, *self.batch)
        return on_host(gradients[-1]).item()

    @property
    def logit(self) -> float:
        return on_host(self.model.logits(self.batch[0])).item()

    @property
    def bias(self) -> float:
        return self.impl.model.export_weights(self.model)["dense/bias"].item()


@pytest.mark.parametrize(
    ("value", "in_float16", "in_bfloat16"),
    [
        # range: float16 has 5 bits of exponent; bfloat16 has float32's 8
        (65504, 65504, 65536),
        (65519, 65504, 65536),
        (65520, np.inf, 65536),
        (-65520, -np.inf, -65536),
        (2.0**127, np.inf, 2.0**127),  # 1.7e38
        (2**-24, 2**-24, 2**-24),  # 6e-8
        (2**-25, 0, 2**-25),
        (2**-126, 0, 2**-126),  # 1.2e-38
        # precision: float16 has 11 bits, bfloat16 8; half way rounds to even
        (1 + 2**-10, 1 + 2**-10, 1),
        (1 + 2**-11, 1, 1),
        (1 + 2**-7, 1 + 2**-7, 1 + 2**-7),
        (1 + 2**-8, 1 + 2**-8, 1),
    ],
)
def test_numbers(impl: SimpleNamespace, value: float, in_float16: float, in_bfloat16: float) -> None:
    assert on_host(cast(impl, value, FLOAT16)).item() == in_float16
    assert on_host(cast(impl, value, BFLOAT16)).item() == in_bfloat16


@pytest.mark.parametrize(
    ("function", "a", "b", "in_float16", "in_bfloat16"),
    [
        (operator.mul, 256, 256, np.inf, 65536),
        (operator.mul, 2**-12, 2**-13, 0, 2**-25),
        (operator.add, 2048, 1, 2048, 2048),
        (operator.add, 256, 1, 257, 256),
        (operator.sub, 1, 1e-4, 1, 1),
    ],
)
def test_arithmetic(
    impl: SimpleNamespace,
    function: Callable[[Any, Any], Any],
    a: float,
    b: float,
    in_float16: float,
    in_bfloat16: float,
) -> None:
    for precision, result in ((FLOAT16, in_float16), (BFLOAT16, in_bfloat16)):
        assert on_host(function(cast(impl, a, precision), cast(impl, b, precision))).item() == result


@pytest.mark.parametrize(
    ("precision", "initial_scale", "logit", "gradient"),
    [
        (FLOAT32, 1, 17, -4.1399375e-08),  # -exp(-17), nearly
        (FLOAT32, 1, 18, -1.5229979e-08),
        (BFLOAT16, 1, 17, -4.1399375e-08),
        (BFLOAT16, 1, 18, -1.5229979e-08),
        (FLOAT16, 1, 17, -(2**-24)),  # -6.0e-08, 44 % off
        (FLOAT16, 1, 18, 0),
        (FLOAT16, 2**15, 17, -4.1399375e-08),
        (FLOAT16, 2**15, 18, -1.5229979e-08),
    ],
)
def test_the_gradient_of_a_confidently_right_sample(
    impl: SimpleNamespace, precision: Precision, initial_scale: float, logit: float, gradient: float
) -> None:
    one = OneSample(impl, precision, {"dense/bias": logit}, label=1, initial_scale=initial_scale)
    # two roundings: the exponential's own, in float32, and that to the precision's dtype
    assert one.gradient / initial_scale == pytest.approx(gradient, rel=2 * ROUNDOFF[precision], abs=0)


@pytest.mark.parametrize(
    ("precision", "initial_scale", "moves"),
    [(FLOAT32, 1, True), (BFLOAT16, 1, True), (FLOAT16, 1, False), (FLOAT16, 2**15, True)],
)
def test_underflow_stops_the_training_silently(
    impl: SimpleNamespace, precision: Precision, initial_scale: float, moves: bool
) -> None:
    """A gradient of 0 is finite: the step counts as applied, and the scale stays."""
    one = OneSample(impl, precision, {"dense/bias": 18}, label=1, initial_scale=initial_scale)
    assert [one.step(), one.step()] == [(initial_scale, 1), (initial_scale, 2)]
    assert (one.bias > 18) == moves


@pytest.mark.parametrize(
    ("initial_scale", "gradient"), [(131008, -65504), (131038, -65504), (131040, -np.inf), (2**17, -np.inf)]
)
def test_the_largest_scale_that_fits(impl: SimpleNamespace, initial_scale: float, gradient: float) -> None:
    """The gradient is -0.5 times the scale: -65504, -65519, -65520 and -65536."""
    assert OneSample(impl, FLOAT16, {}, label=1, initial_scale=initial_scale).gradient == gradient


@pytest.mark.parametrize(
    ("precision", "steps"),
    [
        # scale and applied steps of each step: -0.5 * 2**18 and -0.5 * 2**17 overflow, -0.5 * 2**16 fits
        (FLOAT16, [(2**18, 0), (2**17, 0), (2**16, 1), (2**16, 2), (2**16, 3)]),
        (BFLOAT16, [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]),
    ],
)
def test_the_scale_halves_until_the_gradient_fits(
    impl: SimpleNamespace, precision: Precision, steps: list[tuple[float, int]]
) -> None:
    one = OneSample(impl, precision, {}, label=1, initial_scale=2**18)
    for scale, applied_steps in steps:
        assert one.step() == (scale, applied_steps)
        # Adam steps by the learning rate while the gradient is constant; here it falls by 0.2 percent
        assert one.bias == pytest.approx(applied_steps * 1e-3, rel=2e-3, abs=0)


@pytest.mark.parametrize(
    ("precision", "logit", "steps"),
    [
        (FLOAT16, np.inf, [(2**15, 0), (2**14, 0), (2**13, 0)]),
        (BFLOAT16, 65536, [(1, 1), (1, 2), (1, 3)]),
    ],
)
def test_no_loss_scale_saves_an_overflow_of_the_forward_pass(
    impl: SimpleNamespace, precision: Precision, logit: float, steps: list[tuple[float, int]]
) -> None:
    """A feature of 256 * 256, by which the gradient of the Dense kernel is multiplied, whatever the scale."""
    weights = {"conv2/bias": 256, "conv3/kernel": 256, "dense/kernel": 1}
    one = OneSample(impl, precision, weights, label=0, initial_scale=2**15)
    assert one.logit == logit
    assert [one.step() for _ in steps] == steps


@pytest.mark.parametrize(("precision", "needed"), [(FLOAT32, 1), (FLOAT16, 3), (BFLOAT16, 20)])
def test_small_updates_add_up_in_float32(impl: SimpleNamespace, precision: Precision, needed: int) -> None:
    """1 - 1e-4 is 1 in 16 bits, so a weight of 1 that is kept in them never moves; kept in float32 it does.

    The logit is that weight in 16 bits: it follows once the updates exceed half the spacing below 1, 2**-12 or 2**-9.
    """
    one = OneSample(impl, precision, {"dense/bias": 1}, label=0, initial_scale=2**15, learning_rate=1e-4)
    logits = [one.logit]
    for _ in range(needed):
        one.step()
        logits.append(one.logit)
    assert [logit < 1 for logit in logits] == [False] * needed + [True]
    # each update rounds the weight to float32's spacing below 1
    assert one.bias == pytest.approx(1 - needed * 1e-4, rel=0, abs=needed * 2**-24)
