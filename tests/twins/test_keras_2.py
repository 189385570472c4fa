"""What became of Keras 2's calls for loss scaling, and which of them still run but mean something else?

Gradient descent with a rate of 1 takes a weight of 0 to minus its gradient, which is 1.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import needs_tensorflow, needs_torch, on_host
from tests.late import Late

torch, keras = map(Late, ("torch", "keras"))


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_two_calls_are_gone() -> None:
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1024.0)
    assert [hasattr(optimizer, name) for name in ("get_scaled_loss", "get_unscaled_gradients")] == [False, False]
    assert optimizer.scale_loss(1.0) == 1024  # the first; apply() does what the second did
    optimizer.apply([keras.ops.array(1024.0)], [weight := keras.Variable(0.0)])
    assert on_host(weight) == -1


def unscaled_first_in_keras() -> float:
    """apply_gradients() divided by no scale in Keras 2."""
    weight = keras.Variable(0.0)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1024.0)
    scaled = keras.ops.array(1024.0)
    optimizer.apply_gradients([(scaled / 1024.0, weight)])
    return on_host(weight).item()


def unscaled_first_in_torch() -> float:
    weight = torch.nn.Parameter(torch.tensor(0.0))
    sgd, scaler = torch.optim.SGD([weight], 1.0), torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(1.0 * weight).backward()
    scaler.unscale_(sgd)
    scaler.step(sgd)
    return weight.item()


UNSCALED_FIRST = {"tensorflow": (unscaled_first_in_keras, -1 / 1024), "torch": (unscaled_first_in_torch, -1)}


def test_unscaled_by_hand_first(impl: SimpleNamespace) -> None:
    """PyTorch's scaler remembers; Keras 3 divides again."""
    train, weight = UNSCALED_FIRST[impl.framework]
    assert train() == weight


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
@pytest.mark.parametrize(("gradient", "weight"), [(1.0, -1.0), (np.inf, -np.inf)])
def test_a_fixed_scale(gradient: float, weight: float) -> None:
    """It belongs to the inner optimizer alone, which tests nothing: an overflow is not skipped."""
    with pytest.raises(ValueError, match="no longer supports `dynamic=False`"):
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), dynamic=False, initial_scale=128.0)
    optimizer = keras.optimizers.SGD(1.0, loss_scale_factor=128.0)
    optimizer.apply([optimizer.scale_loss(keras.ops.array(gradient))], [value := keras.Variable(0.0)])
    assert on_host(value).item() == weight


@needs_torch
@pytest.mark.usefixtures("torch_impl")
def test_torch_has_no_fixed_scale() -> None:
    with pytest.raises(AssertionError, match="backoff factor must be < 1"):
        torch.amp.GradScaler("cpu", init_scale=128.0, backoff_factor=1.0)
