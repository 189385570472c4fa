"""The network: Conv2D 2x2, Conv2D 1x1, Conv2D 1x1, Flatten, Dense(1), sigmoid.

Shapes: B batch, H and W height and width, C input channels, F filters. Images are (B, C, H, W) in channels_last memory,
so that the bytes lie as in TensorFlow's (B, H, W, C).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from common.config import ModelConfig, Precision
from common.experiment.weights import Weights
from common.measure.hardware import TENSOR_CORE_WIDTH
from torch_impl.precision import autocast, variable_dtype


class Flatten(nn.Module):
    """Flattens in the order H, W, F, which is Keras' order, so that the Dense kernel needs no permutation.

    For channels_last features this is a view; nothing is copied.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.permute(0, 2, 3, 1).flatten(1)  # (B, F, H, W) -> (B, H*W*F)


class Convolution(nn.Conv2d):
    """A valid convolution (B, C, H, W) -> (B, F, H', W') with a bias, computed as one product over the patches.

    The same weights and the same sums as nn.Conv2d's, but no second pass over the activations: cuBLAS adds the bias in
    the product's own kernel. Patches that are copied anyway get columns of ones, and the bias is one more row of the
    kernel, so that its gradient comes with the kernel's.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = _autocast(features.permute(0, 2, 3, 1))
        kernel = self.weight.to(features.dtype).permute(2, 3, 1, 0).flatten(0, 2)  # (F, C, k, k) -> (k k C, F)
        bias = self.bias.to(features.dtype)  # type: ignore[union-attr]
        if self.kernel_size == (1, 1):
            patches = features
            products = _linear(patches.flatten(0, 2), kernel, bias)
        else:
            ones = TENSOR_CORE_WIDTH - len(kernel) % TENSOR_CORE_WIDTH
            rows = torch.cat([kernel, bias[None], kernel.new_zeros((ones - 1, self.out_channels))])
            patches = _patches(features, self.kernel_size, ones)
            products = patches.flatten(0, 2) @ rows
        return products.unflatten(0, patches.shape[:3]).permute(0, 3, 1, 2)  # (N, F) -> (B, F, H', W')


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
        self.precision = precision
        self.logits: nn.Module = Logits(config, precision, device)
        self.replicas = 1  # distributed.replicated sets it

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


def _linear(rows: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Rows (N, C) times a kernel (C, F), plus bias (F,).

    Inductor sums up the gradient of the bias together with what surrounds it, and keeps an activation less for it.
    """
    return torch.addmm(bias, rows, kernel) if torch.compiler.is_compiling() else _Linear.apply(rows, kernel, bias)


class _Linear(torch.autograd.Function):
    """torch.addmm, but the gradient of the bias is a product with ones.

    A product runs at the speed of a GPU's memory. The sum that eager PyTorch takes is half as fast in 16 bits, and
    holds a quarter of the rows' bytes.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows, kernel)
        return torch.addmm(bias, rows, kernel)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, kernel = ctx.saved_tensors
        ones = upstream.new_ones((len(upstream), TENSOR_CORE_WIDTH))
        return upstream @ kernel.T, rows.T @ upstream, (ones.T @ upstream)[0]


def _autocast(features: torch.Tensor) -> torch.Tensor:
    """Cast as the surrounding autocast would cast the patches, but while they are still a quarter of the bytes.

    Differs from tf_impl: there a layer's policy has cast its input before the layer sees it.
    """
    device = features.device.type
    return features.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else features


def _patches(features: torch.Tensor, kernel_size: tuple[int, ...], ones: int) -> torch.Tensor:
    """What the kernel sees at each position, and ones: (B, H, W, C) -> (B, H', W', k k C + ones)."""
    height, width = (size - k + 1 for size, k in zip(features.shape[1:3], kernel_size, strict=True))
    shifted = [
        features[:, row : row + height, column : column + width]
        for row, column in itertools.product(*map(range, kernel_size))
    ]
    return torch.cat([*shifted, features.new_ones((len(features), height, width, ones))], dim=-1)


def _parameters(model: ConvNet) -> dict[str, torch.Tensor]:
    keras_names = {"weight": "kernel", "bias": "bias"}
    return {
        f"{layer}/{keras_names[kind]}": parameter
        for layer, module in getattr(model.logits, "module", model.logits).named_children()  # inside of its replicas
        for kind, parameter in module.named_parameters()
    }


def _transpose(array: np.ndarray, convolution_axes: tuple[int, ...]) -> np.ndarray:
    """Convolution kernels by the given axes, Dense kernels by swapping both, biases not at all."""
    return array.transpose(convolution_axes) if array.ndim == 4 else array.T
