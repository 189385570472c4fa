"""Does weight_decay shrink the weight, or is it added to the gradient, where Adam hides its size?

One step from a weight of 1, with a gradient of 1 and a rate of 0.001. Adam moves the weight by the rate; decoupled
decay moves it by 0.001 * 0.2 more.
"""

from types import SimpleNamespace

import pytest

from tests.conftest import on_host
from tests.late import Late

torch, keras = map(Late, ("torch", "keras"))


def moved_in_keras(optimizer: str, **settings: float) -> float:
    """By how much the weight falls."""
    weight = keras.Variable([1.0])
    getattr(keras.optimizers, optimizer)(1e-3, **settings).apply([keras.ops.ones(1)], [weight])
    return 1 - on_host(weight).item()


def moved_in_torch(optimizer: str, **settings: float) -> float:
    """The same."""
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    getattr(torch.optim, optimizer)([weight], 1e-3, **settings).step()
    return 1 - weight.item()


MOVED = {"tensorflow": moved_in_keras, "torch": moved_in_torch}


@pytest.mark.parametrize(("optimizer", "in_keras", "in_torch"), [("Adam", 1.2e-3, 1.0e-3), ("AdamW", 1.2e-3, 1.2e-3)])
def test_decay_of_a_fifth(impl: SimpleNamespace, optimizer: str, in_keras: float, in_torch: float) -> None:
    expected = {"tensorflow": in_keras, "torch": in_torch}[impl.framework]
    # the weight is rounded to float32's spacing below 1, 6e-8
    assert MOVED[impl.framework](optimizer, weight_decay=0.2) == pytest.approx(expected, abs=1e-7)


def test_the_default_of_adamw(impl: SimpleNamespace) -> None:
    """0.004 and 0.01: a weight of 1 falls by 4e-6 and 1e-5 beyond the rate."""
    expected = {"tensorflow": 1.004e-3, "torch": 1.01e-3}[impl.framework]
    assert MOVED[impl.framework]("AdamW") == pytest.approx(expected, abs=1e-7)
