"""Does the loss scale halve on an overflow, skip the step, and double after N finite steps, in both frameworks?"""

from types import SimpleNamespace

import numpy as np
import pytest

from common.config import LossScaleConfig, Precision
from tests.test_optimizer import OneWeight

SCALED = Precision.MIXED_FLOAT16


def test_finite_step(impl: SimpleNamespace) -> None:
    one = OneWeight(impl, SCALED, LossScaleConfig(initial_scale=1024))
    one.step(1.0)
    assert (one.scale, one.applied_steps) == (1024, 1)
    assert one.weight != 0


@pytest.mark.parametrize("gradient", [np.inf, -np.inf, np.nan])
def test_infinite_step(impl: SimpleNamespace, gradient: float) -> None:
    one = OneWeight(impl, SCALED, LossScaleConfig(initial_scale=1024))
    one.step(gradient)
    assert (one.scale, one.applied_steps, one.weight) == (512, 0, 0.0)


def test_scale_grows_after_exactly_n_finite_steps(impl: SimpleNamespace) -> None:
    one = OneWeight(impl, SCALED, LossScaleConfig(initial_scale=1024, growth_interval=3))
    scales = []
    for _ in range(7):
        scales.append(one.scale)
        one.step(1.0)
    assert scales == [1024, 1024, 1024, 2048, 2048, 2048, 4096]


def test_an_overflow_restarts_the_count(impl: SimpleNamespace) -> None:
    one = OneWeight(impl, SCALED, LossScaleConfig(initial_scale=1024, growth_interval=3))
    scales = []
    for gradient in (1.0, 1.0, np.inf, 1.0, 1.0, 1.0, 1.0):
        scales.append(one.scale)
        one.step(gradient)
    assert scales == [1024, 1024, 1024, 512, 512, 512, 1024]


def test_the_scale_starts_at_2_to_the_15_in_both(impl: SimpleNamespace) -> None:
    assert OneWeight(impl, SCALED, LossScaleConfig()).scale == 32768


@pytest.mark.parametrize("precision", [precision for precision in Precision if precision is not SCALED])
def test_other_precisions_do_not_scale(impl: SimpleNamespace, precision: Precision) -> None:
    assert OneWeight(impl, precision, LossScaleConfig()).scale == 1
