"""Does a schedule of the learning rate wait while steps are skipped?

The rate starts at 1 and halves with each step. Two steps overflow and the third, with a gradient of 1, is taken.
"""

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import needs_torch, on_host
from tests.late import Late

torch, keras, tf = map(Late, ("torch", "keras", "tensorflow"))

GRADIENTS = (np.inf, np.inf, 1.0)


def in_keras() -> tuple[float, float]:
    """The weight, and the rate of the next step."""
    weight = keras.Variable(0.0)
    halving = keras.optimizers.schedules.ExponentialDecay(1.0, decay_steps=1, decay_rate=0.5)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(halving), initial_scale=1024.0)
    optimizer.build([weight])
    for gradient in GRADIENTS:
        optimizer.apply([optimizer.scale_loss(tf.constant(gradient))], [weight])
    return on_host(weight).item(), on_host(optimizer.learning_rate).item()


def in_torch(at_each_step: bool = False, fused: bool = False) -> tuple[float, float]:
    """The same; at_each_step is the mistake."""
    weight = torch.nn.Parameter(torch.tensor(0.0))
    sgd, scaler = torch.optim.SGD([weight], 1.0, fused=fused), torch.amp.GradScaler("cpu", init_scale=1024.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(sgd, gamma=0.5)
    for gradient in GRADIENTS:
        sgd.zero_grad()
        scaler.scale(gradient * weight).backward()
        scale = scaler.get_scale()
        scaler.step(sgd)
        scaler.update()
        if at_each_step or scaler.get_scale() >= scale:
            scheduler.step()
    return weight.item(), scheduler.get_last_lr()[0]


SCHEDULE = {"tensorflow": in_keras, "torch": in_torch}


def test_a_schedule_counts_updates(impl: SimpleNamespace) -> None:
    assert SCHEDULE[impl.framework]() == (-1.0, 0.5)


@needs_torch
@pytest.mark.usefixtures("torch_impl")
@pytest.mark.parametrize("fused", [False, True])
def test_a_scheduler_stepped_each_time_counts_skipped_steps(fused: bool) -> None:
    """PyTorch warns if the first step is skipped, but a fused optimizer is called and skips by itself: no warning."""
    warned: AbstractContextManager[Any] = (
        nullcontext() if fused else pytest.warns(UserWarning, match=r"before `optimizer.step\(\)`")
    )
    with warned:
        assert in_torch(at_each_step=True, fused=fused) == (-0.25, 0.125)
