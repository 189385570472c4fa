"""One row in PyTorch: train the model that the config describes, and report what it took.

The program is common/process/row.py, the same for both frameworks; here is what this one brings to it.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial

import torch

from common.config import RunConfig
from common.process import row
from common.process.manifest import describe_fixed_choices
from common.process.monitor import NO_MONITORS, TRACED_STEPS, Monitors, ignore
from common.process.recorder import OnArrays, OnEvent, Recorder
from common.proof.implementation import Implementation
from common.results.rows import RowResult
from torch_impl import device, distributed, model, monitor, optimizer, precision
from torch_impl import train as steps
from torch_impl.distributed import Replicas
from torch_impl.model import ConvNet
from torch_impl.optimizer import Optimizer
from torch_impl.train import INDUCTOR, calls_of_epoch, compiled, train_epochs, train_step


def run(
    config: RunConfig,
    on_event: OnEvent = ignore,
    on_arrays: OnArrays | None = None,
    monitors: Monitors = NO_MONITORS,
) -> RowResult:
    """Train one row on this process's device, as common.process.row.run says, which also says what is raised.

    on_event is called after every epoch, on_arrays with what was computed.
    """
    return row.run(IMPLEMENTATION, config, on_event, on_arrays, monitors)


def describe(config: RunConfig) -> RowResult:
    """Say where the row would run, and train nothing; raises Unsupported where that device is missing."""
    return row.describe(IMPLEMENTATION, config)


def train(
    model: ConvNet,
    optimizer: Optimizer,
    config: RunConfig,
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    replicas: Replicas,
    recorder: Recorder,
) -> list[Callable[[], object]]:
    """Train on the batches by the loop of the config, and tell the recorder; returns calls that train a little more.

    Differs from tf_impl: there is one loop alone, and a backward pass itself tells of its collectives.
    """
    step = compiled(train_step, model, optimizer, config.execution.compile)
    train_epochs(calls_of_epoch(step, batches, replicas), config.train.epochs, recorder)
    return [partial(step, *batch) for batch in batches[:TRACED_STEPS]]


def describe_execution(config: RunConfig, device: torch.device) -> dict[str, str]:
    """The manifest: what could tilt the comparison, one line a fact, read back from PyTorch where it can be."""
    matmul = torch.backends.cuda.matmul.fp32_precision
    convolution = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return {
        "execution": f"torch.compile: {', '.join(INDUCTOR[device.type])}" if config.execution.compile else "eager",
        "layout": "NHWC (channels_last)",
        "convolutions": "products over the patches",
        "TF32": f"{matmul} in products, {convolution} in convolutions",
        "autotuning": f"cudnn.benchmark {torch.backends.cudnn.benchmark}",
        "optimizer": "torch.optim.Adam, fused; Keras' epsilon by a pre-step hook",
        "threads": f"{torch.get_num_threads()} in one operation",
        "waiting threads": f"GOMP_SPINCOUNT {os.environ.get('GOMP_SPINCOUNT', '-')}",
        **({"distribution": "DistributedDataParallel, a process a device"} if config.execution.replicas > 1 else {}),
        **describe_fixed_choices(config),
    }


IMPLEMENTATION = Implementation(
    torch.__version__, device, distributed, model, monitor, optimizer, precision, steps, train, describe_execution
)
