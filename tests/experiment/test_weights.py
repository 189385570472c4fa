"""Are the starting weights Keras' defaults, and does each implementation hold exactly their bits?"""

from types import SimpleNamespace

import numpy as np
import pytest

from common.config import ModelConfig, Precision
from common.experiment.weights import draw_weights
from tests.conftest import on_host

CONFIG = ModelConfig(image_shape=(4, 6, 3), filters=5)  # height and width differ, so that a swap shows
SHAPES = {
    "conv1/kernel": (2, 2, 3, 5),
    "conv1/bias": (5,),
    "conv2/kernel": (1, 1, 5, 5),
    "conv2/bias": (5,),
    "conv3/kernel": (1, 1, 5, 5),
    "conv3/bias": (5,),
    "dense/kernel": (3 * 5 * 5, 1),
    "dense/bias": (1,),
}


def test_names_and_shapes() -> None:
    assert {name: array.shape for name, array in draw_weights(CONFIG, seed=12).items()} == SHAPES


def test_biases_are_zero() -> None:
    weights = draw_weights(CONFIG, seed=12)
    assert all(not weights[name].any() for name in SHAPES if name.endswith("bias"))


@pytest.mark.parametrize(
    ("name", "fan_in", "fan_out"),
    [("conv1/kernel", 2 * 2 * 3, 2 * 2 * 128), ("conv2/kernel", 128, 128), ("dense/kernel", 15 * 15 * 128, 1)],
)
def test_kernels_fill_glorots_interval(name: str, fan_in: int, fan_out: int) -> None:
    kernel = draw_weights(ModelConfig(image_shape=(16, 16, 3), filters=128), seed=12)[name]
    limit = np.sqrt(6 / (fan_in + fan_out))
    assert 0.99 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize("precision", Precision)
def test_load_then_export_returns_the_same_bits(impl: SimpleNamespace, precision: Precision) -> None:
    weights = draw_weights(CONFIG, seed=12)
    model = impl.model.build_model(CONFIG, precision, impl.cpu)
    impl.model.load_weights(model, weights)
    exported = impl.model.export_weights(model)
    assert list(exported) == list(weights)
    assert all(np.array_equal(exported[name], weights[name]) for name in weights)


def test_exported_weights_are_a_copy(impl: SimpleNamespace) -> None:
    model = impl.model.build_model(CONFIG, Precision.FLOAT32, impl.cpu)
    exported = impl.model.export_weights(model)
    before = exported["dense/bias"].copy()
    impl.model.load_weights(model, {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    assert np.array_equal(exported["dense/bias"], before)


def test_a_wrong_shape_is_refused(impl: SimpleNamespace) -> None:
    model = impl.model.build_model(CONFIG, Precision.FLOAT32, impl.cpu)
    with pytest.raises(ValueError, match=r"shape|layout"):
        impl.model.load_weights(model, {**draw_weights(CONFIG, 12), "dense/kernel": np.zeros((7, 1), np.float32)})


def test_probabilities_are_the_sigmoid_of_the_logits(impl: SimpleNamespace) -> None:
    model = impl.model.build_model(CONFIG, Precision.FLOAT32, impl.cpu)
    float32 = impl.precision.variable_dtype(Precision.FLOAT32)
    data = np.ones((2, 4, 6, 3), np.float32), np.ones((2, 1), np.float32)
    images, _ = impl.device.to_device(*data, impl.cpu, float32)
    logits, probabilities = on_host(model.logits(images)), on_host(model(images))
    assert np.allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-6)
