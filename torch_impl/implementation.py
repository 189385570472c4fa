"""This implementation as the instrument sees it: every function that running and probing a row take from it.

common/proof/implementation.py says what each has to do; here stand two that belong nowhere else, the choice of the loop
and the manifest.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from common.config import RunConfig
from common.process.manifest import describe_fixed_choices
from common.process.monitor import TRACED_STEPS
from common.process.recorder import Recorder
from torch_impl.device import (
    copy_seconds,
    describe_device,
    matmul_seconds,
    memory_errors,
    memory_stats,
    release_cached_memory,
    select_device,
    set_tf32,
    synchronize,
    to_device,
    to_host,
    to_numpy,
)
from torch_impl.distributed import (
    Replicas,
    alone,
    fingerprints,
    gather,
    joined,
    mean,
    peaks,
    replicated,
    reset_peaks,
    shard,
)
from torch_impl.model import (
    ConvNet,
    build_model,
    export_gradients,
    export_weights,
    load_gradients,
    load_weights,
)
from torch_impl.monitor import trace_steps, write_scalars
from torch_impl.optimizer import Optimizer, applied_steps, loss_scale, make_optimizer, scale_loss, set_loss_scale
from torch_impl.precision import compute_dtype, variable_dtype
from torch_impl.train import (
    INDUCTOR,
    apply_gradients,
    calls_of_epoch,
    compiled,
    fetch,
    loss_and_gradients,
    train_epochs,
    train_step,
)

VERSION: str = torch.__version__


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
        **({"distribution": "DistributedDataParallel, a process a device"} if config.execution.replicas > 1 else {}),
        **describe_fixed_choices(config),
    }
