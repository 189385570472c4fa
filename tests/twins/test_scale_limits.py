"""How far does the loss scale fall and grow, and what becomes of the training there?"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.conftest import on_host
from tests.late import Late

torch, keras, tf = map(Late, ("torch", "keras", "tensorflow"))


class InKeras:
    """One weight of 0 under a loss scaler whose scale grows with each finite step."""

    def __init__(self, initial_scale: float) -> None:
        self.weight = keras.Variable(0.0)
        self.optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(1.0), initial_scale=initial_scale, dynamic_growth_steps=1
        )
        self.optimizer.build([self.weight])

    def step(self, gradient: float) -> float:
        """The loss scale after a step."""
        with tf.GradientTape() as tape:
            scaled = self.optimizer.scale_loss(gradient * self.weight)
        self.optimizer.apply([tape.gradient(scaled, self.weight.value)], [self.weight])
        return on_host(self.optimizer.dynamic_scale).item()


class InTorch:
    """The same."""

    def __init__(self, initial_scale: float) -> None:
        self.weight = torch.nn.Parameter(torch.tensor(0.0))
        self.sgd = torch.optim.SGD([self.weight], 1.0)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=initial_scale, growth_interval=1)

    def step(self, gradient: float) -> float:
        self.sgd.zero_grad()
        self.scaler.scale(gradient * self.weight).backward()
        self.scaler.step(self.sgd)
        self.scaler.update()
        return self.scaler.get_scale()


SCALED: dict[str, Any] = {"tensorflow": InKeras, "torch": InTorch}


def test_the_scale_falls_below_1(impl: SimpleNamespace) -> None:
    """Keras 2 stopped at 1."""
    one = SCALED[impl.framework](initial_scale=4.0)
    assert [one.step(np.inf) for _ in range(4)] == [2, 1, 0.5, 0.25]


def test_a_scale_of_0_trains_to_no_number(impl: SimpleNamespace) -> None:
    """Some 150 overflows in a row lead there from 2**15; the next finite step divides 0 by 0."""
    one = SCALED[impl.framework](initial_scale=2.0**-120)
    assert [one.step(np.inf) for _ in range(30)][-1] == 0
    one.step(1.0)
    assert np.isnan(on_host(one.weight).item())


LARGEST = {"tensorflow": [2.0**127, np.inf, np.inf, np.inf], "torch": [2.0**127, 2.0**127, 2.0**127, 2.0**126]}


def test_the_largest_scale(impl: SimpleNamespace) -> None:
    """Gradients of 0, and at last an overflow. At infinity even 0 overflows: every step is skipped, for good."""
    one = SCALED[impl.framework](initial_scale=2.0**126)
    assert [one.step(gradient) for gradient in (0.0, 0.0, 0.0, np.inf)] == LARGEST[impl.framework]
