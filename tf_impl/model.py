"""The network: Conv2D 2x2, Conv2D 1x1, Conv2D 1x1, Flatten, Dense(1), sigmoid.

Shapes: B batch, H and W height and width, C input channels, F filters. Images are (B, H, W, C).
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras import layers

from common.config import ModelConfig, Precision
from common.weights import Weights
from tf_impl.precision import autocast

PRODUCT_WIDTH = 8  # columns of ones that sum up a gradient; with fewer, cuBLAS takes no tensor cores and twice as long


class Convolution(layers.Conv2D):
    """A valid convolution (B, H, W, C) -> (B, H', W', F) with a bias, Keras' own but for the gradient of the bias.

    Differs from torch_impl: the bias is added by a kernel of its own, in both directions; no documented operation fuses
    it with the convolution.
    """

    def call(self, features: tf.Tensor) -> tf.Tensor:
        products = self.convolution_op(features, self.kernel)
        return _add_bias(products, tf.cast(self.bias, products.dtype))


class Logits(keras.Sequential):
    """The layers up to the logits, cast as the precision says; logits (B, 1) are float32 (float64 in float64).

    Differs from torch_impl: every layer carries the dtype policy itself.
    """

    def __init__(self, config: ModelConfig, precision: Precision, device: str) -> None:
        policy = autocast(precision, device)
        super().__init__([keras.Input(config.image_shape, dtype=precision.variable_dtype)])
        for number, size in enumerate(config.kernel_sizes, start=1):
            self.add(Convolution(config.filters, size, data_format="channels_last", dtype=policy, name=f"conv{number}"))
        self.add(layers.Flatten(data_format="channels_last", dtype=policy, name="flatten"))
        self.add(layers.Dense(1, dtype=policy, name="dense"))
        self.add(layers.Activation("linear", dtype=precision.variable_dtype, name="uncast"))


class ConvNet(keras.Model):
    """`model.logits(images)` for training, `model(images)` for probabilities."""

    def __init__(self, config: ModelConfig, precision: Precision, device: str) -> None:
        super().__init__(dtype=precision.variable_dtype)
        self.logits = Logits(config, precision, device)
        self.sigmoid = layers.Activation("sigmoid", dtype=precision.variable_dtype)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Map images (B, H, W, C) to probabilities (B, 1) in float32, never in half: see the loss in train.py."""
        return self.sigmoid(self.logits(images))


def build_model(config: ModelConfig, precision: Precision, device: str) -> ConvNet:
    """Build the network on the device, with Keras' own random weights until load_weights."""
    with tf.device(device):
        return ConvNet(config, precision, device)


def load_weights(model: ConvNet, weights: Weights) -> None:
    """Copy every named weight into the model; KeyError for a missing name, ValueError for a wrong shape."""
    for name, variable in _variables(model).items():
        variable.assign(weights[name])


def export_weights(model: ConvNet) -> Weights:
    """Copy every weight to NumPy, in Keras' names and layouts, in the variables' own dtype."""
    return {name: variable.numpy().copy() for name, variable in _variables(model).items()}


def load_gradients(model: ConvNet, gradients: Weights) -> list[tf.Tensor]:
    """Turn named gradients, in Keras' layouts, into tensors in the order of the variables."""
    return [tf.constant(gradients[name], variable.dtype) for name, variable in _variables(model).items()]


def export_gradients(model: ConvNet, gradients: Sequence[tf.Tensor]) -> Weights:
    """Copy gradients, given in the order of the variables, to NumPy in Keras' names and layouts."""
    return {name: gradient.numpy() for name, gradient in zip(_variables(model), gradients, strict=True)}


@tf.custom_gradient
def _add_bias(
    features: tf.Tensor, bias: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """Add bias (F,) to features (B, H, W, F); the gradient of the bias is a product with ones.

    A product keeps 16-bit sums in float32 and runs at the speed of a GPU's memory. The gradient of tf.nn.bias_add does
    neither: it adds in the 16-bit type, and takes six times as long.
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.reshape(upstream, (-1, tf.size(bias)))
        ones = tf.ones((tf.shape(rows)[0], PRODUCT_WIDTH), rows.dtype)
        return upstream, tf.matmul(ones, rows, transpose_a=True)[0]

    return tf.nn.bias_add(features, bias), gradient


def _variables(model: ConvNet) -> dict[str, keras.Variable]:
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in model.logits.layers
        for variable in layer.trainable_variables
    }
