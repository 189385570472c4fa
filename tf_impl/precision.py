"""Which dtype computes, which dtype stores, and how Keras is told so."""

import keras
import tensorflow as tf

from common.config import Precision


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
