"""One row: train the model that the config describes, and report what it took."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from common.config import Precision, RunConfig
from common.experiment.data import draw_data, drawn_fingerprint, fingerprint, fingerprint_batches, split_batches
from common.experiment.weights import draw_weights
from common.measure.hardware import require_support, slow_reason
from common.measure.limits import find_limits, measure_ceilings
from common.process.manifest import describe_environment, describe_fixed_choices
from common.process.monitor import NONE, TRACED_STEPS, Monitors, attempt, ignore
from common.process.recorder import OnArrays, OnEvent, Recorder
from common.proof.checks import check_replicas, check_start
from common.proof.probe import Case, is_label_true, label_cases, see_precision
from common.results.check import PrecisionProbe
from common.results.rows import Arrays, RowResult, Status, describe_replicas, make_row
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
    to_host,
)
from torch_impl.distributed import Replicas, fingerprints, gather, joined, peaks, replicated, reset_peaks, shard
from torch_impl.model import ConvNet, build_model, export_weights, load_weights
from torch_impl.monitor import trace_steps, write_scalars
from torch_impl.optimizer import Optimizer, loss_scale, make_optimizer, set_loss_scale
from torch_impl.precision import compute_dtype, variable_dtype
from torch_impl.probe import evaluate, probe
from torch_impl.train import INDUCTOR, Step, compiled, fetch, train_step


def run(
    config: RunConfig,
    on_event: OnEvent = ignore,
    on_arrays: OnArrays | None = None,
    monitors: Monitors = NONE,
) -> RowResult:
    """Train one row on this process's device; on_event is called after every epoch, on_arrays with what it computed.

    Of several replicas, the one of rank 0 calls them.

    Once it is measured, its scalars are written for TensorBoard, and a few steps more are traced, as the monitors say.

    Raises Unsupported where the device is missing or can't run the precision, OutOfMemory where it has too little, and
    whatever else PyTorch raises.
    """
    execution = config.execution
    device = select_device(execution.device, execution.threads, execution.devices)
    require_support(config.precision, describe_device(device))
    with memory_errors(device), joined(execution, device, monitors.on_collective) as replicas:
        if not replicas.is_chief:
            on_event, on_arrays, monitors = ignore, None, monitors.of_rank(replicas.ranks[0])
        row = train(config, device, replicas, on_event, on_arrays, monitors)
    return attempt(row, "TensorBoard events", partial(write_scalars, row), monitors.tensorboard)


def train(
    config: RunConfig,
    device: torch.device,
    replicas: Replicas,
    on_event: OnEvent,
    on_arrays: OnArrays | None,
    monitors: Monitors,
) -> RowResult:
    """What run does, on this device, as one of the replicas."""
    set_tf32(config.precision is Precision.TF32)

    # Before anything is timed or its memory read.
    checks = probe(config, device)
    drawn_sha256 = drawn_fingerprint(config.data)
    dtypes = {compute_dtype(config.precision), variable_dtype(config.precision)}
    ceilings = measure_ceilings(
        config,
        partial(copy_seconds, device=device),
        [partial(matmul_seconds, dtype=dtype, device=device) for dtype in dtypes],
    )
    release_cached_memory(device)

    host_batches = split_batches(*draw_data(config.data), config.train.batch_size)
    dtype = variable_dtype(config.precision)
    batches = [shard(images, labels, dtype, replicas) for images, labels in host_batches]
    recorder = Recorder(
        config,
        on_event,
        fetch=partial(fetch, replicas=replicas),
        synchronize=partial(synchronize, device),
        memory_stats=partial(memory_stats, device),
        reset_peak_memory=partial(reset_peaks, replicas),
    )

    model, optimizer = replicated(partial(build, config, device), replicas)
    whole_batches = ([gather(values, replicas) for values in batch] for batch in batches)
    hashes = {
        "data_sha256": fingerprint_batches(to_host(*batch) for batch in whole_batches),
        "initial_weights_sha256": fingerprint(*(w.astype(np.float32) for w in export_weights(model).values())),
    }
    checks += check_start(
        config, drawn_sha256, hashes["data_sha256"], export_weights(model), float(loss_scale(optimizer))
    )
    step = compiled(train_step, model, optimizer, config.execution.compile)

    train_epochs(calls_of_epoch(step, batches, replicas), config.train.epochs, recorder)
    steps = [partial(step, *batch) for batch in batches[:TRACED_STEPS]]

    # The clock has stopped; the memory is read before anything else takes some.
    timing, memory, (status, detail) = recorder.timing(), recorder.memory(), recorder.status()
    group = describe_replicas(config, replicas.backend, peaks(replicas), timing)
    checks += check_replicas(fingerprints(model, replicas))
    set_loss_scale(optimizer, recorder.least_loss_scale())  # the last may be too large for the starting weights
    arrays, seen = examine(model, optimizer, config, replicas, *host_batches[0])
    if on_arrays:
        on_arrays(arrays)
    if not seen.passed:
        computed_in = ", ".join(sorted(set(seen.seen.values())))
        status, detail = Status.LABEL_UNTRUE, f"computed in {computed_in} instead of {config.precision}"
    row = make_row(
        config,
        status,
        detail or slow_reason(config.precision, describe_device(device)),
        environment=describe_environment(
            torch.__version__, describe_device(device), describe_execution(config, device)
        ),
        timing=timing,
        memory=memory,
        replicas=group,
        training=recorder.training(**hashes),
        limits=find_limits(config, ceilings, timing.step_s),
        probe=seen,
        checks=checks,
    )
    monitors.on_measured(row)
    return attempt(row, "trace", partial(trace_steps, steps, device), monitors.trace)


def build(config: RunConfig, device: torch.device) -> tuple[ConvNet, Optimizer]:
    """The model with its starting weights, and the optimizer, as the config says."""
    model = build_model(config.model, config.precision, device)
    load_weights(model, draw_weights(config.model, config.data.seed))
    return model, make_optimizer(model, config.train, config.loss_scale, config.precision)


def describe(config: RunConfig) -> RowResult:
    """Say where the row would run, and train nothing; raises Unsupported where that device is missing."""
    device = select_device(config.execution.device, config.execution.threads, config.execution.devices)
    return make_row(config, Status.OK, environment=describe_environment(torch.__version__, describe_device(device), {}))


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


def examine(
    model: ConvNet,
    optimizer: Optimizer,
    config: RunConfig,
    replicas: Replicas,
    images: np.ndarray,
    labels: np.ndarray,
) -> tuple[Arrays, PrecisionProbe]:
    """Export the trained weights; then compute, on other weights, the first batch's gradients and the probe's cases.

    images (N, H, W, C) and labels (N, 1), in the order of training. The model is left with weights of the probe.
    """
    final_weights = export_weights(model)
    start, size = draw_weights(config.model, config.data.seed), config.train.batch_size
    cases = label_cases(config.model, size)
    first_batch = Case("first batch", start, images[:size], labels[:size])
    first, *others = evaluate(model, optimizer, config, replicas, [first_batch, *cases])
    seen = see_precision(cases, [evaluation.logits for evaluation in others])
    return Arrays(first.gradients, final_weights), PrecisionProbe(is_label_true(config.precision, seen), seen)


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
