"""Do logits, loss and gradients agree with the same model written in float64 NumPy?

Height and width differ and biases are random, so that no slip in a layout can hide.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from common.config import LossScaleConfig, ModelConfig, Precision, TrainConfig
from common.experiment.weights import Weights, draw_weights
from common.proof.bounds import DOT_PRODUCT, ROUNDOFF
from tests.conftest import on_host

CONFIG = ModelConfig(image_shape=(5, 7, 3), filters=4)
GENERATOR = np.random.default_rng(12)
IMAGES = GENERATOR.random((6, 5, 7, 3), dtype=np.float32)
LABELS = np.float32([[0], [1], [1], [0], [1], [0]])
WEIGHTS = {
    name: array if name.endswith("kernel") else GENERATOR.normal(0, 0.1, array.shape).astype(np.float32)
    for name, array in draw_weights(CONFIG, seed=12).items()
}
FULL = (Precision.FLOAT32, Precision.FLOAT64)


def numpy_logits(weights: Weights, images: np.ndarray) -> np.ndarray:
    """(B, H, W, C) to (B, 1) in float64."""
    hidden = images.astype(np.float64)
    for layer in ("conv1", "conv2", "conv3"):
        kernel = weights[f"{layer}/kernel"].astype(np.float64)
        size = kernel.shape[0]
        windows = np.lib.stride_tricks.sliding_window_view(hidden, (size, size), axis=(1, 2))  # (B, H, W, C, k, k)
        hidden = np.einsum("bhwcij,ijcf->bhwf", windows, kernel) + weights[f"{layer}/bias"]
    return hidden.reshape(len(hidden), -1) @ weights["dense/kernel"].astype(np.float64) + weights["dense/bias"]


def numpy_loss(weights: Weights) -> float:
    logits = numpy_logits(weights, IMAGES)
    return float(np.mean(np.logaddexp(0, np.where(LABELS == 1, -logits, logits))))


def numpy_gradient(name: str) -> np.ndarray:
    """Central differences: the model is smooth, and 1e-5 leaves about ten digits in float64."""
    gradient = np.zeros(WEIGHTS[name].shape)
    for index in np.ndindex(gradient.shape):
        shifted = {key: array.astype(np.float64) for key, array in WEIGHTS.items()}
        shifted[name][index] += 1e-5
        above = numpy_loss(shifted)
        shifted[name][index] -= 2e-5
        gradient[index] = (above - numpy_loss(shifted)) / 2e-5
    return gradient


def loss_logits_gradients(impl: SimpleNamespace, precision: Precision) -> tuple[float, np.ndarray, Weights]:
    """The gradients in Keras' names and layouts, float64."""
    model = impl.model.build_model(CONFIG, precision, impl.cpu)
    impl.model.load_weights(model, WEIGHTS)
    optimizer = impl.optimizer.make_optimizer(model, TrainConfig(), LossScaleConfig(), precision)
    batch = impl.device.to_device(IMAGES, LABELS, impl.cpu, impl.precision.variable_dtype(precision))
    loss, logits, gradients = impl.train.loss_and_gradients(model, optimizer, *batch)
    arrays = {}
    for name, gradient in zip(WEIGHTS, gradients, strict=True):
        array = on_host(gradient)
        if impl.framework == "torch":  # to Keras' layouts
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        arrays[name] = array
    return float(on_host(loss)), on_host(logits), arrays


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("precision", FULL)
def test_logits(impl: SimpleNamespace, precision: Precision) -> None:
    _, logits, _ = loss_logits_gradients(impl, precision)
    inputs = WEIGHTS["dense/kernel"].size
    bound = DOT_PRODUCT * ROUNDOFF[precision] * np.sqrt(inputs)
    assert relative_error(logits, numpy_logits(WEIGHTS, IMAGES)) <= bound


@pytest.mark.parametrize("precision", FULL)
def test_loss(impl: SimpleNamespace, precision: Precision) -> None:
    loss, logits, _ = loss_logits_gradients(impl, precision)
    of_own_logits = np.mean(np.logaddexp(0, np.where(LABELS == 1, -logits, logits)))
    assert loss == pytest.approx(of_own_logits, rel=DOT_PRODUCT * ROUNDOFF[precision])


@pytest.mark.parametrize("name", WEIGHTS)
def test_gradients(impl: SimpleNamespace, name: str) -> None:
    """Float64 against central differences, whose own error is about 1e-9."""
    _, _, gradients = loss_logits_gradients(impl, Precision.FLOAT64)
    assert relative_error(gradients[name], numpy_gradient(name)) <= 1e-8


@pytest.mark.parametrize(
    ("logit", "label", "loss", "slope"),
    [
        (0.0, 1.0, 0.6931471805599453, -0.5),  # log 2
        (-200.0, 1.0, 200.0, -1.0),  # confidently wrong: not clipped to 100 (BCELoss) or 16.1 (probabilities)
        (200.0, 0.0, 200.0, 1.0),
        (16.0, 1.0, 1.12535162e-07, -1.12535162e-07),  # confidently right: exp(-16), not 0 and not 1.2e-7
        (-16.0, 0.0, 1.12535162e-07, 1.12535162e-07),
    ],
)
def test_loss_of_one_logit(impl: SimpleNamespace, logit: float, label: float, loss: float, slope: float) -> None:
    value, gradient = loss_and_slope(impl, logit, label)
    assert value == pytest.approx(loss, rel=1e-6)
    assert gradient == pytest.approx(slope, rel=1e-6)


def test_accuracy(impl: SimpleNamespace) -> None:
    """Probability above 0.5 is logit above 0: two of these four are right."""
    logits, labels = np.float32([[-2], [-0.1], [0.1], [2]]), np.float32([[0], [1], [1], [0]])
    float32 = impl.precision.variable_dtype(Precision.FLOAT32)
    no_images = np.zeros((4, 1, 1, 1), np.float32)
    _, both = impl.device.to_device(no_images, np.hstack([logits, labels]), impl.cpu, float32)
    assert float(on_host(impl.train.binary_accuracy(both[:, 1:], both[:, :1]))) == 0.5


def loss_and_slope(impl: SimpleNamespace, logit: float, label: float) -> tuple[float, float]:
    """The loss of one logit and its derivative, in float32."""
    if impl.framework == "torch":
        import torch

        logits = torch.tensor([[logit]], requires_grad=True)
        loss = impl.train.binary_crossentropy(torch.tensor([[label]]), logits)
        (gradient,) = torch.autograd.grad(loss, logits)
    else:
        import tensorflow as tf

        logits = tf.constant([[logit]])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = impl.train.binary_crossentropy(tf.constant([[label]]), logits)
        gradient = tape.gradient(loss, logits)
    return float(on_host(loss)), float(on_host(gradient).item())
