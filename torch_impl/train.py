"""One training step: forward, loss, gradients, update."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch.nn import functional

from common.measure.hardware import Unsupported
from common.process.recorder import Recorder
from torch_impl.distributed import Replicas, global_loss, mean, sum_gradients
from torch_impl.model import ConvNet
from torch_impl.optimizer import Optimizer, applied_steps, loss_scale

T = TypeVar("T")


# Options of torch.compile. Round to 16 bits between fused operations, as eager PyTorch and Keras do: without it float16
# overflows at other steps; tf_impl/__init__.py tells XLA the same. On a GPU also choose kernels by measuring them, as
# XLA does (the mode max-autotune-no-cudagraphs); on a CPU that compiles C++ for minutes and gains nothing.
ROUND_AS_EAGER = {"emulate_precision_casts": True}
INDUCTOR = {
    "cpu": ROUND_AS_EAGER,
    "cuda": {"max_autotune": True, "coordinate_descent_tuning": True, **ROUND_AS_EAGER},
}

EXECUTION = {False: "eager PyTorch", True: "torch.compile"}  # by the compile mode


class Step(NamedTuple):
    """What one step reports, as scalars that stay on the device until the epoch ends.

    Differs from tf_impl: on a CPU they are numbers at once. Tensors that are kept would lie between activations that
    are freed, and glibc's heap would grow by 4 to 6 MB in each step of the cpu preset.
    """

    loss: torch.Tensor | float  # mean over the replica's share of the batch, before the update, unscaled
    accuracy: torch.Tensor | float  # portion of that share on the right side of 0.5, before the update
    loss_scale: torch.Tensor | float  # the scale this step used
    applied_steps: torch.Tensor | float  # updates so far; unchanged where this step was skipped


def binary_crossentropy(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean of y softplus(-z) + (1 - y) softplus(z), scalar; labels and logits (B, 1), in the logits' dtype.

    Not binary_cross_entropy_with_logits, which cancels in float32 once a sample is confidently right (all of a loss of
    1e-7), and not BCELoss, which clamps a confidently wrong one.
    """
    softplus = partial(functional.softplus, threshold=40)  # above it linear; the default of 20 shows in float64
    return (labels * softplus(-logits) + (1 - labels) * softplus(logits)).mean()


def binary_accuracy(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Share of the batch whose probability is above 0.5 exactly where the label is 1, scalar."""
    return ((logits > 0) == (labels > 0)).to(logits.dtype).mean()


def loss_and_gradients(
    model: ConvNet, optimizer: Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Sequence[torch.Tensor]]:
    """Return loss (), logits (B, 1) and the gradients of the *scaled* loss, in the order of the parameters.

    images (B, C, H, W), labels (B, 1) in {0, 1}: one replica's share of the batch. Loss and logits are of that share,
    gradients of the whole batch.
    Differs from tf_impl: gradients also stay on the parameters, where the optimizer looks for them.
    """
    optimizer.adam.zero_grad()
    logits = model.logits(images)
    loss = binary_crossentropy(labels, logits)
    optimizer.scaler.scale(global_loss(loss, model)).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return loss.detach(), logits.detach(), sum_gradients(gradients, model)


def apply_gradients(model: ConvNet, optimizer: Optimizer, gradients: Sequence[torch.Tensor]) -> None:
    """Update the weights from gradients of the scaled loss; if one is not finite, skip it and halve the scale.

    gradients: in the order of the parameters, and in their memory layout, on which the fused Adam relies.
    """
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.scaler.step(optimizer.adam)
    optimizer.scaler.update()


def train_step(model: ConvNet, optimizer: Optimizer, images: torch.Tensor, labels: torch.Tensor) -> Step:
    """Take one step, or skip it where a scaled gradient is not finite; arguments as in loss_and_gradients."""
    scale = loss_scale(optimizer)
    loss, logits, gradients = loss_and_gradients(model, optimizer, images, labels)
    apply_gradients(model, optimizer, gradients)
    report = (loss, binary_accuracy(labels, logits), scale, applied_steps(optimizer))
    return Step(*(value.item() for value in report)) if loss.is_cpu else Step(*report)


def compiled(function: Callable[..., T], model: ConvNet, optimizer: Optimizer, compile: bool) -> Callable[..., T]:
    """Return train_step, or another function of this file, bound to model and optimizer: eager, or with fused passes.

    Raises Unsupported without a C++ compiler.
    Differs from tf_impl: only the model's forward and backward pass are compiled; loss, scaler and Adam stay eager.
    """
    if compile:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise Unsupported(f"torch.compile needs a C++ compiler, and there is no {compiler}; install it or set CXX")
        model.logits.compile(dynamic=False, options=INDUCTOR[next(model.parameters()).device.type])
    return partial(function, model, optimizer)


def calls_of_epoch(
    step: Callable[[torch.Tensor, torch.Tensor], Step],
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    replicas: Replicas,
) -> list[Callable[[], list[Step]]]:
    """The calls that step through the batches in their order.

    Differs from tf_impl: a step is a call, however many replicas there are; it returns before its work is done.
    """

    def steps(batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[Step]:
        return [step(images, labels) for images, labels in batches]

    return [partial(steps, [batch]) for batch in batches]


def train_epochs(calls: Sequence[Callable[[], list[Step]]], epochs: int, recorder: Recorder) -> None:
    """Make the calls of an epoch, epoch after epoch; what the steps report is fetched when the epoch is over."""
    for _ in range(epochs):
        recorder.start_epoch()
        steps = []
        for call in calls:
            steps += call()
            recorder.end_step()
        recorder.end_epoch(steps)


def execution_of(train: Callable[[], object], model: ConvNet, images: torch.Tensor) -> str:
    """Call train, and tell what has carried out its steps: one of EXECUTION, or in words what else.

    Differs from tf_impl: the backward pass of one more call tells it, since a compiled one is a single function.
    """
    train()
    logits = model.logits(images)  # kept, since its functions end with it
    names = _functions_of(logits.grad_fn)
    if not any("CompiledFunction" in name for name in names):
        return EXECUTION[False]
    return EXECUTION[True] if names <= {"CompiledFunctionBackward", "AccumulateGrad"} else "torch.compile in part"


def _functions_of(last: torch.autograd.graph.Node | None) -> set[str]:
    """The names of all functions of a backward pass."""
    found, ahead = set(), [last]
    while ahead:
        function = ahead.pop()
        if function is not None and function not in found:
            found.add(function)
            ahead += [before for before, _ in function.next_functions]
    return {type(function).__name__ for function in found}


def fetch(steps: Sequence[Step], replicas: Replicas) -> list[list[float]]:
    """Bring steps to the host: one list for each field of Step, the mean over the replicas. This waits for all."""
    columns = [torch.stack([_double(value) for value in column]) for column in zip(*steps, strict=True)]
    return mean(torch.stack(columns), replicas).tolist()


def _double(value: torch.Tensor | float) -> torch.Tensor:
    return value.double() if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")
