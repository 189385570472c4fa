"""Does the loss scale halve on an overflow, skip the step, and double after N finite steps, in both frameworks?"""

from types import SimpleNamespace

import numpy as np
import pytest

from common.config import LossScaleConfig, Precision
from tests.conftest import on_host
from tests.twins.one_weight import OneWeight

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


def test_clipping_sees_unscaled_gradients(impl: SimpleNamespace) -> None:
    """A gradient of 3, clipped to 1: gradient descent with a rate of 1 moves by 1, not by 1/1024."""
    if impl.framework == "tensorflow":
        import keras

        weight = keras.Variable([0.0])
        inner = keras.optimizers.SGD(1.0, clipnorm=1.0)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0)
        optimizer.apply([keras.ops.array([3.0 * 1024])], [weight])
        with pytest.raises(ValueError, match="clip"):
            keras.optimizers.LossScaleOptimizer(inner, clipnorm=1.0)
    else:
        import torch

        weight = torch.nn.Parameter(torch.zeros(1))
        sgd, scaler = torch.optim.SGD([weight], 1.0), torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(3 * weight.sum()).backward()
        scaler.unscale_(sgd)
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        scaler.step(sgd)
    assert on_host(weight).item() == pytest.approx(-1.0, rel=1e-5)  # clip_grad_norm_ adds 1e-6 to the norm


@pytest.mark.parametrize("scale", [2.0, 1024.0])
def test_gradients_come_scaled(impl: SimpleNamespace, scale: float) -> None:
    """The output bias of a model of zeros: its gradient is the mean of sigmoid(0) - y = -0.5, times the scale."""
    one = OneWeight(impl, SCALED, LossScaleConfig(initial_scale=scale))
    float32 = impl.precision.variable_dtype(SCALED)
    batch = impl.device.to_device(np.ones((2, 3, 4, 1), np.float32), np.ones((2, 1), np.float32), impl.cpu, float32)
    loss, _, gradients = impl.train.loss_and_gradients(one.model, one.optimizer, *batch)
    assert float(on_host(loss)) == pytest.approx(np.log(2), rel=1e-6)  # the loss itself is reported unscaled
    assert on_host(gradients[-1]).item() == -0.5 * scale
