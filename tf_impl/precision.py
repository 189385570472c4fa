"""Which dtype computes, which dtype stores, and how Keras is told so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from common.config import Precision

if keras.config.backend() != "tensorflow":
    raise ImportError(
        f"Keras runs on {keras.config.backend()} in this process, and tf_impl needs TensorFlow; import tf_impl before "
        "Keras, with KERAS_BACKEND=tensorflow or not set"
    )

MatMul = Callable[..., tf.Tensor]  # of two matrices, with tf.matmul's transpose_a and transpose_b


def compute_dtype(precision: Precision) -> tf.DType:
    """The dtype of matrix products and activations."""
    return tf.as_dtype(precision.compute_dtype)


def variable_dtype(precision: Precision) -> tf.DType:
    """The dtype of weights, of the optimizer's state and of the loss."""
    return tf.as_dtype(precision.variable_dtype)


def autocast(precision: Precision, device: str) -> keras.DTypePolicy:
    """The casting rule of one layer: give it to every layer but the last.

    Differs from torch_impl: the rule is part of a layer, wherever it is called and on whatever device. The global
    policy is left alone: it belongs to a thread, and keras.backend.clear_session() resets it to float32 silently.
    """
    mixed = compute_dtype(precision) != variable_dtype(precision)
    return keras.DTypePolicy(f"mixed_{precision.compute_dtype}" if mixed else precision.compute_dtype)


@contextmanager
def float32_by_default() -> Iterator[None]:
    """In the block, let Keras choose float32 where no dtype is given, whatever floatx the user has set.

    Has no twin in torch_impl: what chooses a dtype there can be given one.
    """
    floatx = keras.config.floatx()
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)


def rounded_product(precision: Precision, device: str) -> MatMul:
    """tf.matmul, or, where that cuts bits off, the same product in float32 whose result is rounded.

    Differs from torch_impl: on a CPU without AVX-512 TensorFlow multiplies bfloat16 in float32 too, but truncates what
    comes out, so that each entry is up to a unit in the last place too small, layer after layer.
    """
    dtype = compute_dtype(precision)
    if dtype != tf.bfloat16 or device.startswith("GPU"):
        return tf.matmul
    with tf.init_scope(), tf.device(device):  # at once, also while a graph is made
        last_place = 2**-7  # of 1 in bfloat16
        total = tf.matmul(tf.constant([[1, 0.75 * last_place]], dtype), tf.ones((2, 1), dtype))[0, 0]
    return tf.matmul if float(total) > 1 else _product_in_float32


def _product_in_float32(left: tf.Tensor, right: tf.Tensor, **transposed: bool) -> tf.Tensor:
    product = tf.matmul(tf.cast(left, tf.float32), tf.cast(right, tf.float32), **transposed)
    return tf.cast(product, left.dtype)
