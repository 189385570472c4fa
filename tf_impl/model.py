"""The network: Conv2D 2x2, Conv2D 1x1, Conv2D 1x1, Flatten, Dense(1), sigmoid.

Shapes: B batch, H and W height and width, C input channels, F filters. Images are (B, H, W, C).
"""

import itertools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras import layers

from common.config import ModelConfig, Precision
from common.experiment.weights import Weights
from common.measure.hardware import TENSOR_CORE_WIDTH
from tf_impl.precision import MatMul, autocast, rounded_product


class Convolution(layers.Conv2D):
    """A valid convolution (B, H, W, C) -> (B, H', W', F) with a bias, computed as one product over the patches.

    The same weights and the same sums as Keras' own Conv2D, but no second pass over the activations: cuBLAS adds the
    bias in the product's own kernel. Patches that are copied anyway get columns of ones, and the bias is one more row
    of the kernel, so that its gradient comes with the kernel's.
    """

    product = staticmethod(tf.matmul)  # Logits sets it
    in_xla = False  # train.compiled sets it

    def call(self, features: tf.Tensor) -> tf.Tensor:
        kernel = tf.reshape(tf.cast(self.kernel, features.dtype), (-1, self.filters))  # (k, k, C, F) -> (k k C, F)
        bias = tf.cast(self.bias, features.dtype)
        if self.kernel_size == (1, 1) and features.dtype.size == 2 and self.in_xla:
            # XLA adds the bias in cuDNN's kernels alone, which are as fast as cuBLAS' in 16 bits, and half as in more.
            return _add_bias(self.product)(self.convolution_op(features, self.kernel), bias)
        if self.kernel_size == (1, 1):
            patches = features
            products = _linear(self.product)(_flatten(patches), kernel, bias)
        else:
            ones = TENSOR_CORE_WIDTH - kernel.shape[0] % TENSOR_CORE_WIDTH
            rows = tf.concat([kernel, bias[None], tf.zeros((ones - 1, self.filters), kernel.dtype)], axis=0)
            patches = _patches(features, self.kernel_size, ones)
            products = self.product(_flatten(patches), rows)
        return tf.reshape(products, (-1, *patches.shape[1:3], self.filters))  # (N, F) -> (B, H', W', F)


class Dense(layers.Dense):
    """Keras' own Dense, (B, N) -> (B, units), with a product that rounds."""

    product = staticmethod(tf.matmul)  # Logits sets it

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return self.product(features, tf.cast(self.kernel, features.dtype)) + tf.cast(self.bias, features.dtype)


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
        self.add(Dense(1, dtype=policy, name="dense"))
        self.add(layers.Activation("linear", dtype=precision.variable_dtype, name="uncast"))
        for layer in self.layers:
            if isinstance(layer, (Convolution, Dense)):
                layer.product = rounded_product(precision, device)


class ConvNet(keras.Model):
    """`model.logits(images)` for training, `model(images)` for probabilities."""

    def __init__(self, config: ModelConfig, precision: Precision, device: str) -> None:
        super().__init__(dtype=precision.variable_dtype)
        self.precision = precision
        self.logits = Logits(config, precision, device)
        self.in_xla = False  # train.compiled sets it
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


def _linear(product: MatMul) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Rows (N, C) times a kernel (C, F), plus bias (F,), in one function, or TensorFlow would not fuse the two."""

    @tf.custom_gradient
    def linear(
        rows: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return (
                product(upstream, kernel, transpose_b=True),
                product(rows, upstream, transpose_a=True),
                _sum_rows(upstream, product),
            )

        return tf.nn.bias_add(product(rows, kernel), bias), gradient

    return linear


def _add_bias(product: MatMul) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Features (B, H, W, F) plus bias (F,)."""

    @tf.custom_gradient
    def add_bias(
        features: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        return tf.nn.bias_add(features, bias), lambda upstream: (upstream, _sum_rows(_flatten(upstream), product))

    return add_bias


def _sum_rows(rows: tf.Tensor, product: MatMul) -> tf.Tensor:
    """The gradient of a bias, (N, F) -> (F,), as a product with ones.

    A product keeps 16-bit sums in float32 and runs at the speed of a GPU's memory. The gradient of tf.nn.bias_add does
    neither: it adds in the 16-bit type, and takes six times as long.
    """
    ones = tf.ones((tf.shape(rows)[0], TENSOR_CORE_WIDTH), rows.dtype)
    return product(ones, rows, transpose_a=True)[0]


def _flatten(features: tf.Tensor) -> tf.Tensor:
    """(B, H, W, C) -> (B H W, C)."""
    return tf.reshape(features, (-1, features.shape[-1]))


def _patches(features: tf.Tensor, kernel_size: tuple[int, int], ones: int) -> tf.Tensor:
    """What the kernel sees at each position, and ones: (B, H, W, C) -> (B, H', W', k k C + ones)."""
    height, width = (size - k + 1 for size, k in zip(features.shape[1:3], kernel_size, strict=True))
    shifted = [
        features[:, row : row + height, column : column + width]
        for row, column in itertools.product(*map(range, kernel_size))
    ]
    return tf.concat([*shifted, tf.ones((tf.shape(features)[0], height, width, ones), features.dtype)], axis=-1)


def _variables(model: ConvNet) -> dict[str, keras.Variable]:
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in model.logits.layers
        for variable in layer.trainable_variables
    }
