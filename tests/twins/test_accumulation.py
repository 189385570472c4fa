"""Is an accumulated gradient divided by the micro-batches, unscaled once, and skipped as a whole?

Gradient descent with a rate of 1 takes a weight of 0 to minus its gradient. The micro-batches have gradients of 1, 2, 3
and 6, whose mean is 3.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import needs_tensorflow, needs_torch, on_host
from tests.late import Late

torch, keras, tf = map(Late, ("torch", "keras", "tensorflow"))

MICRO_BATCHES = (1.0, 2.0, 3.0, 6.0)
ONE_OVERFLOWS = (1.0, np.inf, 3.0, 6.0)


def in_keras(gradients: Sequence[float], divisor: int) -> tuple[float, float]:
    """The weight and the loss scale after one step."""
    weight = keras.Variable(0.0)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1024.0)
    optimizer.build([weight])
    total = 0.0
    for gradient in gradients:
        with tf.GradientTape() as tape:
            scaled = optimizer.scale_loss(gradient * weight / divisor)
        total += tape.gradient(scaled, weight.value)
    optimizer.apply([total], [weight])
    return on_host(weight).item(), on_host(optimizer.dynamic_scale).item()


def in_torch(gradients: Sequence[float], divisor: int) -> tuple[float, float]:
    """The same."""
    weight = torch.nn.Parameter(torch.tensor(0.0))
    sgd, scaler = torch.optim.SGD([weight], 1.0), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for gradient in gradients:
        scaler.scale(gradient * weight / divisor).backward()
    scaler.step(sgd)
    scaler.update()
    return weight.item(), scaler.get_scale()


ACCUMULATE = {"tensorflow": in_keras, "torch": in_torch}


@pytest.mark.parametrize(
    ("gradients", "divisor", "weight", "scale"),
    [
        pytest.param(MICRO_BATCHES, 4, -3.0, 1024.0, id="divided"),
        pytest.param(MICRO_BATCHES, 1, -12.0, 1024.0, id="not divided, a mistake"),
        pytest.param(ONE_OVERFLOWS, 4, 0.0, 512.0, id="one overflows"),
    ],
)
def test_micro_batches_are_one_step(
    impl: SimpleNamespace, gradients: Sequence[float], divisor: int, weight: float, scale: float
) -> None:
    assert ACCUMULATE[impl.framework](gradients, divisor) == (weight, scale)


class OfKeras:
    """gradient_accumulation_steps=4, where every micro-batch is an apply()."""

    def __init__(self, growth_interval: int) -> None:
        self.weight = keras.Variable(0.0)
        self.optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(1.0, gradient_accumulation_steps=4),
            initial_scale=1024.0,
            dynamic_growth_steps=growth_interval,
        )
        self.optimizer.build([self.weight])

    def apply(self, gradient: float) -> tuple[float, float]:
        """The weight and the loss scale after this micro-batch."""
        self.optimizer.apply([self.optimizer.scale_loss(tf.constant(gradient))], [self.weight])
        return on_host(self.weight).item(), on_host(self.optimizer.dynamic_scale).item()


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_keras_own_accumulation_skips_one_micro_batch() -> None:
    """The next step's first micro-batch, of 5, takes its place: (1 + 3 + 6 + 5) / 4."""
    own = OfKeras(growth_interval=2000)
    assert [own.apply(gradient) for gradient in (*ONE_OVERFLOWS, 5.0)] == [
        (0.0, 1024.0), (0.0, 512.0), (0.0, 512.0), (0.0, 512.0), (-3.75, 512.0),
    ]  # fmt: skip


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_keras_own_accumulation_grows_by_micro_batches() -> None:
    """Four of them are one update, and an interval of four."""
    own = OfKeras(growth_interval=4)
    assert [own.apply(gradient) for gradient in MICRO_BATCHES][-1] == (-3.0, 2048.0)


@needs_torch
@pytest.mark.usefixtures("torch_impl")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda scaler, sgd: scaler.unscale_(sgd), RuntimeError, "already been called"),
        (lambda scaler, sgd: scaler.update(), AssertionError, "No inf checks"),
    ],
    ids=["unscale_", "update"],
)
def test_torch_refuses_it_after_each_micro_batch(call: Any, error: type[Exception], message: str) -> None:
    weight = torch.nn.Parameter(torch.tensor(0.0))
    sgd, scaler = torch.optim.SGD([weight], 1.0), torch.amp.GradScaler("cpu")

    def accumulate() -> None:
        for gradient in MICRO_BATCHES:
            scaler.scale(gradient * weight / 4).backward()
            call(scaler, sgd)

    with pytest.raises(error, match=message):
        accumulate()
