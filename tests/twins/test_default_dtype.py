"""What does a default dtype of float16 change besides the layers: is it mixed precision?

It is keras.config.set_floatx("float16"), and torch.set_default_dtype(torch.float16).
"""

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.conftest import needs_tensorflow, on_host
from tests.late import Late

torch, keras = map(Late, ("torch", "keras"))


@pytest.fixture(autouse=True)
def float32_again() -> Iterator[None]:
    """The next test finds the defaults as they are at first."""
    yield
    if "torch" in sys.modules:
        torch.set_default_dtype(torch.float32)
    if "keras" in sys.modules:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


@pytest.fixture
def default_of_float16(impl: SimpleNamespace) -> None:
    if impl.framework == "torch":
        torch.set_default_dtype(torch.float16)
    else:
        keras.utils.clear_session()  # the first layer after it makes the global policy
        keras.config.set_floatx("float16")


@pytest.mark.usefixtures("default_of_float16")
def test_weights_are_kept_in_float16(impl: SimpleNamespace) -> None:
    """So it is not mixed precision. Float32 stays where a layer of Keras has a policy, one of PyTorch a `dtype=`."""
    if impl.framework == "torch":
        kernels = torch.nn.Linear(1, 1).weight, torch.nn.Linear(1, 1, dtype=torch.float32).weight
    else:
        layers = keras.layers.Dense(1), keras.layers.Dense(1, dtype=keras.DTypePolicy("mixed_float16"))
        for layer in layers:
            layer.build((1, 1))
        kernels = tuple(layer.kernel for layer in layers)
    assert [str(kernel.dtype).removeprefix("torch.") for kernel in kernels] == ["float16", "float32"]


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_the_first_layer_fixes_what_floatx_means() -> None:
    """It makes the global policy, and set_floatx() after it changes no layer's weights."""
    keras.utils.clear_session()
    layers = []
    for floatx in ("float32", "float16"):
        keras.config.set_floatx(floatx)
        layers.append(keras.layers.Dense(1))
    assert [layer.variable_dtype for layer in layers] == ["float32", "float32"]


@pytest.mark.usefixtures("default_of_float16")
def test_the_learning_rate(impl: SimpleNamespace) -> None:
    """Keras keeps it in floatx, also for float32 weights: 0.001 becomes 0.0010004."""
    if impl.framework == "torch":
        adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1, dtype=torch.float32))], lr=1e-3)
        rate, expected = adam.param_groups[0]["lr"], 1e-3
    else:
        rate, expected = on_host(keras.optimizers.Adam(1e-3).learning_rate).item(), 1.0004e-3
    assert rate == pytest.approx(expected, rel=1e-5)


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_what_a_model_is_given() -> None:
    """Model.fit and Model.predict cast it to floatx, whatever the dtype of input and layers: 2049 becomes 2048."""
    keras.config.set_floatx("float16")
    model = keras.Sequential([keras.Input((1,), dtype="float32"), keras.layers.Activation("linear", dtype="float32")])
    given = keras.ops.convert_to_tensor([[2049.0]], dtype="float32")
    assert model.predict(given, verbose=0).item() == 2048
    assert on_host(model(given)).item() == 2049


@pytest.mark.usefixtures("default_of_float16")
def test_a_loss_of_2049(impl: SimpleNamespace) -> None:
    """Keras computes it in floatx, whatever the outputs' dtype: it is 2048, for float16 has 11 bits."""
    if impl.framework == "torch":
        logits, labels = torch.tensor([[2049.0]], dtype=torch.float32), torch.zeros(1, 1, dtype=torch.float32)
        loss, expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels), 2049.0
    else:
        logits, labels = (keras.ops.convert_to_tensor([[value]], dtype="float32") for value in (2049.0, 0.0))
        loss, expected = keras.losses.BinaryCrossentropy(from_logits=True)(labels, logits), 2048
    assert on_host(loss).item() == expected
