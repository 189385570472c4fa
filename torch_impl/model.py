"""The network: Conv2D 2x2, Conv2D 1x1, Conv2D 1x1, Flatten, Dense(1), sigmoid.

Shapes: B batch, H and W height and width, C input channels, F filters. Images are (B, C, H, W) in channels_last memory,
so that the bytes lie as in TensorFlow's (B, H, W, C).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common.config import ModelConfig, Precision
from common.weights import Weights
from torch_impl.precision import autocast, variable_dtype


class Flatten(nn.Module):
    """Flattens in the order H, W, F, which is Keras' order, so that the Dense kernel needs no permutation.

    For channels_last features this is a view; nothing is copied.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.permute(0, 2, 3, 1).flatten(1)  # (B, F, H, W) -> (B, H*W*F)


class Convolution(nn.Conv2d):
    """A valid convolution (B, C, H, W) -> (B, F, H', W') with a bias, computed as one product over the patches.

    The same weights and the same sums as nn.Conv2d's, but on a GPU cuBLAS adds the bias in the product's own kernel,
    and cuDNN leaves it to a second one that takes as long.
    Differs from tf_impl: there the convolution is one operation and the bias another.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        products = functional.linear(_patches(features, self.kernel_size), self.weight.flatten(1), self.bias)
        return products.permute(0, 3, 1, 2)  # (B, H', W', F) -> (B, F, H', W')


class Logits(nn.Sequential):
    """The layers up to the logits, cast as the precision says; logits (B, 1) are float32 (float64 in float64).

    Differs from tf_impl: one autocast region around all layers stands for the dtype policy of each.
    """

    def __init__(self, config: ModelConfig, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.precision = precision
        self.device = device
        channels = config.image_shape[2]
        for number, size in enumerate(config.kernel_sizes, start=1):
            self.add_module(f"conv{number}", Convolution(channels, config.filters, size))
            channels = config.filters
        self.add_module("flatten", Flatten())
        self.add_module("dense", nn.Linear(math.prod(config.feature_shape), 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with autocast(self.precision, self.device):
            logits = super().forward(images)
        return logits.to(variable_dtype(self.precision))


class ConvNet(nn.Module):
    """`model.logits(images)` for training, `model(images)` for probabilities."""

    def __init__(self, config: ModelConfig, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.logits = Logits(config, precision, device)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, H, W) to probabilities (B, 1) in float32, never in half: see the loss in train.py."""
        return torch.sigmoid(self.logits(images))


def build_model(config: ModelConfig, precision: Precision, device: torch.device) -> ConvNet:
    """Build the network on the device, with PyTorch's own random weights until load_weights."""
    with device:
        model = ConvNet(config, precision, device)
    return model.to(dtype=variable_dtype(precision), memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def load_weights(model: ConvNet, weights: Weights) -> None:
    """Copy every named weight into the model; KeyError for a missing name, ValueError for a wrong shape."""
    for name, parameter in _parameters(model).items():
        array = _transpose(weights[name], (3, 2, 0, 1))  # (k, k, C, F) -> (F, C, k, k); (D, 1) -> (1, D)
        if array.shape != tuple(parameter.shape):
            raise ValueError(f"{name} is {array.shape} in PyTorch's layout; the model takes {tuple(parameter.shape)}")
        parameter.copy_(torch.from_numpy(array))


@torch.no_grad()
def export_weights(model: ConvNet) -> Weights:
    """Copy every weight to NumPy, in Keras' names and layouts, in the variables' own dtype."""
    return {
        name: _transpose(parameter.cpu().numpy(), (2, 3, 1, 0)).copy() for name, parameter in _parameters(model).items()
    }


@torch.no_grad()
def load_gradients(model: ConvNet, gradients: Weights) -> list[torch.Tensor]:
    """Turn named gradients, in Keras' layouts, into tensors in the parameters' order and memory layout."""
    return [
        torch.empty_like(parameter).copy_(torch.from_numpy(_transpose(gradients[name], (3, 2, 0, 1))))
        for name, parameter in _parameters(model).items()
    ]


def export_gradients(model: ConvNet, gradients: Sequence[torch.Tensor]) -> Weights:
    """Copy gradients, given in the order of the parameters, to NumPy in Keras' names and layouts."""
    return {
        name: _transpose(gradient.cpu().numpy(), (2, 3, 1, 0)).copy()
        for name, gradient in zip(_parameters(model), gradients, strict=True)
    }


def _patches(features: torch.Tensor, kernel_size: tuple[int, ...]) -> torch.Tensor:
    """What the kernel sees at each position: (B, C, H, W) -> (B, H', W', C k k). For k = 1 this is a view."""
    patches = features.permute(0, 2, 3, 1)
    if kernel_size != (1, 1):
        for axis, size in enumerate(kernel_size, start=1):
            patches = patches.unfold(axis, size, 1)  # appends an axis of that size
    return patches.flatten(3)


def _parameters(model: ConvNet) -> dict[str, torch.Tensor]:
    keras_names = {"weight": "kernel", "bias": "bias"}
    return {
        f"{layer}/{keras_names[kind]}": parameter
        for layer, module in model.logits.named_children()
        for kind, parameter in module.named_parameters()
    }


def _transpose(array: np.ndarray, convolution_axes: tuple[int, ...]) -> np.ndarray:
    """Convolution kernels by the given axes, Dense kernels by swapping both, biases not at all."""
    return array.transpose(convolution_axes) if array.ndim == 4 else array.T
