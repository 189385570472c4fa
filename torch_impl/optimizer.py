"""Adam as Keras defines it, with dynamic loss scaling where the precision needs it."""

import math
from typing import Any, NamedTuple

import torch

from common.config import LOSS_SCALE_BACKOFF, LOSS_SCALE_GROWTH, LossScaleConfig, Precision, TrainConfig
from torch_impl.model import ConvNet


class Optimizer(NamedTuple):
    """Adam and the loss scaler beside it.

    Differs from tf_impl: Keras wraps one optimizer in the other; PyTorch keeps two objects that are stepped together.
    """

    adam: torch.optim.Adam
    scaler: torch.amp.GradScaler


def make_optimizer(model: ConvNet, train: TrainConfig, loss_scale: LossScaleConfig, precision: Precision) -> Optimizer:
    """Adam over the model's parameters. Without loss scaling the scaler is there, but passes everything through."""
    adam = torch.optim.Adam(model.parameters(), lr=train.learning_rate, betas=(train.beta_1, train.beta_2), fused=True)
    _use_keras_epsilon(adam, train.epsilon)
    scaler = torch.amp.GradScaler(
        next(model.parameters()).device.type,
        init_scale=loss_scale.initial_scale,
        growth_factor=LOSS_SCALE_GROWTH,
        backoff_factor=LOSS_SCALE_BACKOFF,
        growth_interval=loss_scale.growth_interval,
        enabled=precision.scales_loss,
    )
    if scaler.is_enabled() != precision.scales_loss:
        raise RuntimeError(f"GradScaler disabled itself; {precision} cannot be trained without loss scaling")
    return Optimizer(adam, scaler)


def scale_loss(optimizer: Optimizer, loss: torch.Tensor) -> torch.Tensor:
    """The loss, or another tensor, times the factor; without loss scaling as it is."""
    return optimizer.scaler.scale(loss)


def loss_scale(optimizer: Optimizer) -> torch.Tensor:
    """The factor on the loss, float32 scalar on the device; 1 without loss scaling."""
    device = optimizer.adam.param_groups[0]["params"][0].device
    one = torch.ones((), dtype=torch.float32, device=device)
    return scale_loss(optimizer, one)  # GradScaler.get_scale() would wait for the device


def set_loss_scale(optimizer: Optimizer, scale: float) -> None:
    """Go on with this factor on the loss; without loss scaling it stays 1."""
    optimizer.scaler.update(scale)


def applied_steps(optimizer: Optimizer) -> torch.Tensor:
    """How many steps changed the weights, scalar on the device: steps that overflowed do not count."""
    parameter = optimizer.adam.param_groups[0]["params"][0]
    state = optimizer.adam.state.get(parameter)
    return state["step"].clone() if state else torch.zeros((), dtype=torch.float32, device=parameter.device)


def second_moments(optimizer: Optimizer) -> list[torch.Tensor]:
    """Adam's running means of the squared gradients, in the order of the parameters."""
    adam = optimizer.adam
    return [adam.state[parameter]["exp_avg_sq"] for group in adam.param_groups for parameter in group["params"]]


def _use_keras_epsilon(adam: torch.optim.Adam, epsilon: float) -> None:
    """Set the epsilon of step t to epsilon / sqrt(1 - beta_2**t).

    Keras adds epsilon to sqrt(v), PyTorch to sqrt(v / (1 - beta_2**t)); with this epsilon both take the same step.
    Only the device knows t, since it decides which steps overflowed. Reading it at once would wait until the device has
    nothing left to do; copied after a step and read before the next, it has long arrived.
    """
    parameter = adam.param_groups[0]["params"][0]
    applied = torch.zeros((), dtype=torch.float32, device="cpu", pin_memory=parameter.is_cuda)
    arrival = torch.cuda.Event() if parameter.is_cuda else None

    def set_epsilon(adam: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if arrival:
            arrival.synchronize()
        t = 1 + int(applied)
        for group in adam.param_groups:
            group["eps"] = epsilon / math.sqrt(1 - group["betas"][1] ** t)

    def copy_applied_steps(adam: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        applied.copy_(adam.state[parameter]["step"], non_blocking=True)
        if arrival:
            arrival.record()

    adam.register_step_pre_hook(set_epsilon)
    adam.register_step_post_hook(copy_applied_steps)
