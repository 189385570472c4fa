"""Does each precision compute and store in the dtypes that it names? Asserted on real tensors, not on the request."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.config import LossScaleConfig, ModelConfig, Precision, TrainConfig
from common.experiment.weights import draw_weights
from tests.conftest import on_host
from tests.late import Late

torch, tf = Late("torch"), Late("tensorflow")

CONFIG = ModelConfig(image_shape=(5, 7, 3), filters=4)

# precision, what the layers compute in, what variables and loss are kept in
DTYPES = [
    ("float64", "float64", "float64"),
    ("float32", "float32", "float32"),
    ("tf32", "float32", "float32"),
    ("mixed_float16", "float16", "float32"),
    ("mixed_bfloat16", "bfloat16", "float32"),
]


def dtype_name(tensor: Any) -> str:
    return str(getattr(tensor.dtype, "name", tensor.dtype)).removeprefix("torch.")


def make(impl: SimpleNamespace, precision: str) -> tuple[Any, Any, Any, Any]:
    """Model, optimizer, images and labels; weights and images are no multiples of 2**-10."""
    precision = Precision(precision)
    model = impl.model.build_model(CONFIG, precision, impl.cpu)
    impl.model.load_weights(model, draw_weights(CONFIG, seed=12))
    optimizer = impl.optimizer.make_optimizer(model, TrainConfig(), LossScaleConfig(), precision)
    images = np.random.default_rng(12).random((3, 5, 7, 3), dtype=np.float32)
    labels = np.float32([[0], [1], [1]])
    return model, optimizer, *impl.device.to_device(images, labels, impl.cpu, impl.precision.variable_dtype(precision))


@pytest.mark.parametrize(("precision", "compute", "variable"), DTYPES)
def test_variables(impl: SimpleNamespace, precision: str, compute: str, variable: str) -> None:
    model, *_ = make(impl, precision)
    assert {array.dtype.name for array in impl.model.export_weights(model).values()} == {variable}


@pytest.mark.parametrize(("precision", "compute", "variable"), DTYPES)
def test_activations(impl: SimpleNamespace, precision: str, compute: str, variable: str) -> None:
    """The Dense layer's own output, before it is cast for the loss."""
    model, _, images, _ = make(impl, precision)
    if impl.framework == "torch":
        seen = []
        model.logits.dense.register_forward_hook(lambda module, inputs, output: seen.append(output))
        model(images)
        (output,) = seen
    else:
        output = images
        for layer in model.logits.layers[:-1]:
            output = layer(output)
    assert dtype_name(output) == compute


@pytest.mark.parametrize(("precision", "compute", "variable"), DTYPES)
def test_logits_probabilities_loss_and_gradients(
    impl: SimpleNamespace, precision: str, compute: str, variable: str
) -> None:
    model, optimizer, images, labels = make(impl, precision)
    loss, logits, gradients = impl.train.loss_and_gradients(model, optimizer, images, labels)
    assert {dtype_name(tensor) for tensor in (model(images), loss, logits, *gradients)} == {variable}


@pytest.mark.parametrize("rows", [1, 512])
def test_products_in_bfloat16_are_rounded(impl: SimpleNamespace, rows: int) -> None:
    """1 + 0.75 * 2**-7 lies nearer to 1 + 2**-7 than to 1, the numbers of bfloat16 on either side."""
    left, right = np.tile(np.float32([1, 0.75 * 2**-7]), (rows, 1)), np.ones((2, 8), np.float32)
    if impl.framework == "torch":
        product = torch.from_numpy(left).bfloat16() @ torch.from_numpy(right).bfloat16()
    else:
        multiply = impl.precision.rounded_product(Precision.MIXED_BFLOAT16, impl.cpu)
        product = multiply(tf.constant(left, tf.bfloat16), tf.constant(right, tf.bfloat16))
    assert dtype_name(product) == "bfloat16"
    assert np.array_equal(on_host(product), np.full((rows, 8), 1 + 2**-7))


@pytest.mark.parametrize(("precision", "fits"), [("mixed_float16", True), ("float32", False)])
def test_logits_fit_into_half(impl: SimpleNamespace, precision: str, fits: bool) -> None:
    """A mixed row that ran in float32 by mistake would have logits that float16 can't hold."""
    model, _, images, _ = make(impl, precision)
    logits = on_host(model.logits(images))
    assert np.array_equal(logits, logits.astype(np.float16)) == fits
