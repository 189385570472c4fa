"""One row: train the model that the config describes, and report what it took.

Written once for both frameworks, which bring their functions: the same instrument on both sides is also the fairer one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from common.config import Precision, RunConfig
from common.experiment.data import draw_data, drawn_fingerprint, fingerprint, fingerprint_batches, split_batches
from common.experiment.weights import draw_weights
from common.measure.hardware import require_support, slow_reason
from common.measure.limits import Ceilings, find_limits, measure_ceilings
from common.process.manifest import describe_environment
from common.process.monitor import NONE, Monitors, attempt, ignore
from common.process.recorder import OnArrays, OnEvent, Recorder
from common.proof.checks import check_replicas, check_start
from common.proof.implementation import Implementation
from common.proof.probing import examine, probe
from common.results.check import PrecisionProbe
from common.results.rows import RowResult, Status, describe_replicas

Batch = tuple[np.ndarray, np.ndarray]  # images (B, H, W, C) and labels (B, 1)


def run(
    impl: Implementation,
    config: RunConfig,
    on_event: OnEvent = ignore,
    on_arrays: OnArrays | None = None,
    monitors: Monitors = NONE,
) -> RowResult:
    """Train one row on this process's device; on_event is called after every epoch, on_arrays with what it computed.

    Of several replicas, the one of rank 0 calls them.

    Once it is measured, its scalars are written for TensorBoard, and a few steps more are traced, as the monitors say.

    Raises Unsupported where the device is missing or can't run the precision, OutOfMemory where it has too little, and
    whatever else the framework raises.
    """
    execution = config.execution
    device = impl.device.select_device(execution.device, execution.threads, execution.devices)
    require_support(config.precision, impl.device.describe_device(device))
    with (
        impl.device.memory_errors(device),
        impl.distributed.joined(execution, device, monitors.on_collective) as replicas,
    ):
        if not replicas.is_chief:
            on_event, on_arrays, monitors = ignore, None, monitors.of_rank(replicas.ranks[0])
        row = train(impl, config, device, replicas, on_event, on_arrays, monitors)
    return attempt(row, "TensorBoard events", partial(impl.monitor.write_scalars, row), monitors.tensorboard)


def describe(impl: Implementation, config: RunConfig) -> RowResult:
    """Say where the row would run, and train nothing; raises Unsupported where that device is missing."""
    execution = config.execution
    device = impl.device.select_device(execution.device, execution.threads, execution.devices)
    environment = describe_environment(impl.version, impl.device.describe_device(device), {})
    return RowResult(config, Status.OK, environment=environment)


def train(
    impl: Implementation,
    config: RunConfig,
    device: Any,
    replicas: Any,
    on_event: OnEvent,
    on_arrays: OnArrays | None,
    monitors: Monitors,
) -> RowResult:
    """What run does, on this device, as one of the replicas. The order counts: see what each part says of it."""
    impl.device.set_tf32(config.precision is Precision.TF32)

    # Before anything is timed or its memory read.
    checks = probe(impl, config, device)
    drawn_sha256 = drawn_fingerprint(config.data)
    ceilings = _measure_ceilings(impl, config, device)
    impl.device.release_cached_memory(device)

    host_batches = _draw_batches(config)
    dtype = impl.precision.variable_dtype(config.precision)
    batches = [impl.distributed.shard(images, labels, dtype, replicas) for images, labels in host_batches]
    recorder = _make_recorder(impl, config, device, replicas, on_event)
    model, optimizer = impl.distributed.replicated(partial(build, impl, config, device), replicas)
    start = {
        "data_sha256": _fingerprint_of_data(impl, batches, replicas),
        "initial_weights_sha256": fingerprint(
            *(w.astype(np.float32) for w in impl.model.export_weights(model).values())
        ),
    }
    scale = float(impl.optimizer.loss_scale(optimizer))
    checks += check_start(config, drawn_sha256, start["data_sha256"], impl.model.export_weights(model), scale)
    further_steps = impl.train(model, optimizer, config, batches, replicas, recorder)

    # The clock has stopped; the memory is read before anything else takes some.
    timing, memory = recorder.timing(), recorder.memory()
    group = describe_replicas(config, replicas.backend, impl.distributed.peaks(replicas), timing)
    checks += check_replicas(impl.distributed.fingerprints(model, replicas))
    impl.optimizer.set_loss_scale(
        optimizer, recorder.least_loss_scale()
    )  # the last may be too large for the starting weights
    arrays, seen = examine(impl, model, optimizer, config, replicas, *host_batches[0])
    if on_arrays:
        on_arrays(arrays)
    status, detail = _judge(config, recorder, seen)
    found = impl.device.describe_device(device)
    row = RowResult(
        config,
        status,
        detail or slow_reason(config.precision, found),
        environment=describe_environment(impl.version, found, impl.describe_execution(config, device)),
        timing=timing,
        memory=memory,
        replicas=group,
        training=recorder.training(**start),
        limits=find_limits(config, ceilings, timing.step_s),
        probe=seen,
        checks=checks,
    )
    monitors.on_measured(row)
    return attempt(row, "trace", partial(impl.monitor.trace_steps, further_steps, device), monitors.trace)


def build(impl: Implementation, config: RunConfig, device: Any) -> tuple[Any, Any]:
    """The model with its starting weights, and the optimizer, as the config says."""
    model = impl.model.build_model(config.model, config.precision, device)
    impl.model.load_weights(model, draw_weights(config.model, config.data.seed))
    return model, impl.optimizer.make_optimizer(model, config.train, config.loss_scale, config.precision)


def _measure_ceilings(impl: Implementation, config: RunConfig, device: Any) -> Ceilings:
    """How fast the device copies and multiplies, in the dtypes of the row."""
    dtypes = {impl.precision.compute_dtype(config.precision), impl.precision.variable_dtype(config.precision)}
    products = [partial(impl.device.matmul_seconds, dtype=dtype, device=device) for dtype in dtypes]
    return measure_ceilings(config, partial(impl.device.copy_seconds, device=device), products)


def _draw_batches(config: RunConfig) -> list[Batch]:
    """The batches of an epoch, on the host. Model.fit is given the data whole, and cuts the batches itself."""
    size = config.data.images if config.execution.loop == "fit" else config.train.batch_size
    return split_batches(*draw_data(config.data), size)


def _make_recorder(impl: Implementation, config: RunConfig, device: Any, replicas: Any, on_event: OnEvent) -> Recorder:
    """Made when the data lie on the device and there is no model yet: the memory in use now is the baseline."""
    return Recorder(
        config,
        on_event,
        fetch=partial(impl.steps.fetch, replicas=replicas),
        synchronize=partial(impl.device.synchronize, device),
        memory_stats=partial(impl.device.memory_stats, device),
        reset_peak_memory=partial(impl.distributed.reset_peaks, replicas),
    )


def _fingerprint_of_data(impl: Implementation, batches: Sequence[tuple[Any, Any]], replicas: Any) -> str:
    """Sha256 of all batches as they are read back from the devices of all replicas."""
    whole = ([impl.distributed.gather(values, replicas) for values in batch] for batch in batches)
    return fingerprint_batches(impl.device.to_host(*batch) for batch in whole)


def _judge(config: RunConfig, recorder: Recorder, seen: PrecisionProbe) -> tuple[Status, str]:
    """The status and, where that is not ok, why: a label that is untrue outweighs all else."""
    if seen.passed:
        return recorder.status()
    computed_in = ", ".join(sorted(set(seen.seen.values())))
    return Status.LABEL_UNTRUE, f"computed in {computed_in} instead of {config.precision}"
