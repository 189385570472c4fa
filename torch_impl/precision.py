"""Which dtype computes, which dtype stores, and how PyTorch is told so."""

import torch

from common.config import Precision


def compute_dtype(precision: Precision) -> torch.dtype:
    """The dtype of matrix products and activations."""
    return getattr(torch, precision.compute_dtype)


def variable_dtype(precision: Precision) -> torch.dtype:
    """The dtype of weights, of the optimizer's state and of the loss."""
    return getattr(torch, precision.variable_dtype)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The casting rule of one forward pass: enter it around the layers, leave it before the loss.

    Differs from tf_impl: the rule covers a region of the program and casts what each operation reads; Keras attaches
    it to every layer. The dtype is always named, since its default is bfloat16 on a CPU and float16 on a GPU.
    """
    mixed = compute_dtype(precision) != variable_dtype(precision)
    return torch.autocast(device.type, compute_dtype(precision) if mixed else None, enabled=mixed)
