"""How do LSTM and GRU keep their gates and biases: which go where in a port?

One unit reads 1 at each step and starts at 0. All weights are 0 except those of the input, which set the gates to round
numbers.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import needs_tensorflow, needs_torch, on_host
from tests.late import Late

torch, keras, tf = map(Late, ("torch", "keras", "tensorflow"))

THREE_QUARTERS, QUARTER = np.log(3), -np.log(3)  # of a sigmoid
HALF = np.arctanh(0.5)  # of a tanh
LSTM = {"input": THREE_QUARTERS, "forget": 0.0, "candidate": HALF, "output": QUARTER}  # sigmoid(0) is 1/2
GRU = {"update": THREE_QUARTERS, "reset": QUARTER, "candidate": HALF}


def keras_layer(kind: str, kernel: Sequence[float], **settings: Any) -> Any:
    """A layer of one unit with this row as its kernel, and all else 0."""
    layer = getattr(keras.layers, kind)(1, **settings)
    layer.build((1, None, 1))
    for weight in layer.weights:
        weight.assign(0 * weight)
    layer.cell.kernel.assign([kernel])
    return layer


def torch_layer(kind: str, kernel: Sequence[float]) -> Any:
    """The same: the kernel is a column."""
    layer = getattr(torch.nn, kind)(1, 1, batch_first=True)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.weight_ih_l0.copy_(torch.tensor(kernel).reshape(-1, 1))
    return layer


def output(layer: Any, steps: int) -> Any:
    """The unit after so many steps."""
    if hasattr(layer, "parameters"):
        return layer(torch.ones(1, steps, 1))[0][0, -1, 0]
    return layer(tf.ones((1, steps, 1)))[0, 0]


LAYER = {"tensorflow": keras_layer, "torch": torch_layer}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        # the cell: 3/4 * 1/2 = 0.375, then 1/2 * 0.375 + 0.375 = 0.5625
        pytest.param(("input", "forget", "candidate", "output"), 0.25 * np.tanh(0.5625), id="right"),
        # the mistake: the candidate is tanh(-log(3)) = -0.8, the output gate sigmoid(arctanh(0.5)) = 0.634
        pytest.param(("input", "forget", "output", "candidate"), 0.633975 * np.tanh(-0.9), id="last two swapped"),
    ],
)
def test_the_gates_of_an_lstm(impl: SimpleNamespace, order: tuple[str, ...], expected: float) -> None:
    layer = LAYER[impl.framework]("LSTM", [LSTM[gate] for gate in order])
    assert on_host(output(layer, steps=2)) == pytest.approx(expected, rel=1e-5)


def moved_in_keras() -> float:
    """By how much the output gate's bias falls in a step of gradient descent with a rate of 1."""
    layer = keras_layer("LSTM", list(LSTM.values()))
    with tf.GradientTape() as tape:
        loss = output(layer, steps=1)
    keras.optimizers.SGD(1.0).apply([tape.gradient(loss, layer.cell.bias.value)], [layer.cell.bias])
    return -on_host(layer.cell.bias)[-1]


def moved_in_torch(second_trains: bool = False) -> float:
    """The same of the sum of its two biases."""
    layer = torch_layer("LSTM", list(LSTM.values()))
    layer.bias_hh_l0.requires_grad_(second_trains)
    output(layer, steps=1).backward()
    torch.optim.SGD(layer.parameters(), 1.0).step()
    return -on_host(layer.bias_ih_l0 + layer.bias_hh_l0)[-1]


MOVED = {"tensorflow": moved_in_keras, "torch": moved_in_torch}
SLOPE = 0.25 * 0.75 * np.tanh(0.375)  # of the output gate's sigmoid, times what it lets through


def test_the_bias_of_an_lstm(impl: SimpleNamespace) -> None:
    assert MOVED[impl.framework]() == pytest.approx(SLOPE, rel=1e-5)


@needs_torch
@pytest.mark.usefixtures("torch_impl")
def test_two_biases_learn_twice_as_fast() -> None:
    """The mistake: nn.LSTM trains a second one, which Keras does not have."""
    assert moved_in_torch(second_trains=True) == pytest.approx(2 * SLOPE, rel=1e-5)


ORDER = {"tensorflow": ("update", "reset", "candidate"), "torch": ("reset", "update", "candidate")}


def test_the_gates_of_a_gru(impl: SimpleNamespace) -> None:
    """After one step 1/4 * 1/2, after two 3/4 of that more."""
    layer = LAYER[impl.framework]("GRU", [GRU[gate] for gate in ORDER[impl.framework]])
    assert on_host(output(layer, steps=2)) == pytest.approx(0.21875, rel=1e-5)


def test_the_gates_of_a_gru_in_the_other_frameworks_order(impl: SimpleNamespace) -> None:
    """The mistake: 3/4 * 1/2, then 1/4 of that more."""
    (other,) = set(ORDER) - {impl.framework}
    layer = LAYER[impl.framework]("GRU", [GRU[gate] for gate in ORDER[other]])
    assert on_host(output(layer, steps=2)) == pytest.approx(0.46875, rel=1e-5)


def biased_gru_in_keras(**settings: bool) -> float:
    """The unit after one step whose candidate has a recurrent bias of 1, and no input."""
    layer = keras_layer("GRU", [GRU["update"], GRU["reset"], 0.0], **settings)
    bias = np.zeros(layer.cell.bias.shape, np.float32)
    bias.flat[-1] = 1
    layer.cell.bias.assign(bias)
    return on_host(output(layer, steps=1))


def biased_gru_in_torch() -> float:
    """The same."""
    layer = torch_layer("GRU", [GRU["reset"], GRU["update"], 0.0])
    with torch.no_grad():
        layer.bias_hh_l0[-1] = 1
    return on_host(output(layer, steps=1))


BIASED_GRU = {"tensorflow": biased_gru_in_keras, "torch": biased_gru_in_torch}


def test_the_reset_gate_scales_the_recurrent_bias(impl: SimpleNamespace) -> None:
    """By 1/4, where it is applied after the product with the recurrent kernel."""
    assert BIASED_GRU[impl.framework]() == pytest.approx(0.25 * np.tanh(0.25), rel=1e-5)


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_before_the_product_it_does_not() -> None:
    """The mistake, reset_after=False: one row of biases, outside the gate."""
    assert biased_gru_in_keras(reset_after=False) == pytest.approx(0.25 * np.tanh(1), rel=1e-5)
