"""One row: train the model that the config describes, and report what it took.

Written once for both frameworks, which bring their functions: the same instrument on both sides is also the fairer one.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from common.config import Precision, RunConfig
from common.experiment.data import draw_data, drawn_fingerprint, fingerprint, fingerprint_batches, split_batches
from common.experiment.weights import Weights, draw_weights
from common.measure.contention import load_average
from common.measure.hardware import require_support, slow_reason
from common.measure.limits import Ceilings, find_limits, measure_ceilings
from common.process.manifest import describe_environment
from common.process.monitor import NO_MONITORS, Monitors, attempt, ignore
from common.process.recorder import OnArrays, OnEvent, Recorder
from common.proof.checks import check_replicas, check_start, relative_error
from common.proof.course import RULERS, can_follow, moved_weights, ruler_config
from common.proof.implementation import Implementation
from common.proof.probing import evaluate, examine, first_batch_case, probe
from common.proof.trial import TrialEnd, check_trial, trial_config
from common.results.check import Check, PrecisionProbe
from common.results.rows import Arrays, RowResult, Ruler, Status, describe_replicas

Batch = tuple[np.ndarray, np.ndarray]  # images (B, H, W, C) and labels (B, 1)


def run(
    impl: Implementation,
    config: RunConfig,
    on_event: OnEvent = ignore,
    on_arrays: OnArrays | None = None,
    monitors: Monitors = NO_MONITORS,
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
        impl.device.tf32(config.precision is Precision.TF32),
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
    """What run does, on this device, as one of the replicas. The order counts: each part says why it stands there."""
    trial = _try_out(impl, config, device, replicas)
    start = _prepare(impl, config, device, replicas, on_event, _draw_batches(config))
    origin = _fingerprint_start(impl, start, replicas)
    checks = trial.checks + _check_start(impl, config, trial, start, origin)
    further_steps = impl.train(start.model, start.optimizer, config, start.batches, replicas, start.recorder)
    measured = _read_measures(impl, config, trial, start, origin, replicas, checks)
    arrays, seen = _examine(impl, config, start, replicas)
    if on_arrays:
        on_arrays(arrays)
    measured = _with_rulers(impl, measured, device, replicas, start.host_batches, arrays.first_gradients)
    row = _judged(impl, measured, start.recorder, replace(seen, execution=trial.execution), device)
    monitors.on_measured(row)
    return attempt(row, "trace", partial(impl.monitor.trace_steps, further_steps, device), monitors.trace)


def build(impl: Implementation, config: RunConfig, device: Any) -> tuple[Any, Any]:
    """The model with its starting weights, and the optimizer, as the config says."""
    model = impl.model.build_model(config.model, config.precision, device)
    impl.model.load_weights(model, draw_weights(config.model, config.data.seed))
    return model, impl.optimizer.make_optimizer(model, config.train, config.loss_scale, config.precision)


class _Trial(NamedTuple):
    """What the row was tried on, before it trains. load_before: of the machine, before any of that."""

    checks: list[Check]
    execution: str
    drawn_sha256: str
    ceilings: Ceilings
    load_before: float | None


class _Start(NamedTuple):
    """What the training starts from. host_batches stay until the row ends: what they take belongs to the baseline."""

    host_batches: list[Batch]
    batches: list[tuple[Any, Any]]
    recorder: Recorder
    model: Any
    optimizer: Any


class _Origin(NamedTuple):
    """Sha256 of all batches and of the starting weights, as they are read back from the devices of all replicas."""

    data_sha256: str
    initial_weights_sha256: str


def _try_out(impl: Implementation, config: RunConfig, device: Any, replicas: Any) -> _Trial:
    """Probe the row's path and measure the device. First of all: nothing of it is timed, and its memory not counted."""
    load_before = load_average()
    checks = probe(impl, config, device)
    execution, trial_checks = try_training(impl, trial_config(config), device, replicas)
    drawn_sha256 = drawn_fingerprint(config.data)
    ceilings = _measure_ceilings(impl, config, device)
    impl.device.release_cached_memory(device)
    return _Trial(checks + trial_checks, execution, drawn_sha256, ceilings, load_before)


def try_training(impl: Implementation, config: RunConfig, device: Any, replicas: Any) -> tuple[str, list[Check]]:
    """The row's own training, as it will be timed, on the small run of trial_config: what carried it out, and C9."""
    start = _prepare(impl, config, device, replicas, ignore, _draw_batches(config))
    images, labels = (values[: config.train.batch_size] for values in start.host_batches[0])
    on_device, _ = impl.device.to_device(images, labels, device, impl.precision.variable_dtype(config.precision))
    train = partial(impl.train, start.model, start.optimizer, config, start.batches, replicas, start.recorder)
    execution = impl.steps.execution_of(train, start.model, on_device)
    training = start.recorder.training()
    weights = impl.model.export_weights(start.model)
    moments = impl.model.export_gradients(start.model, impl.optimizer.second_moments(start.optimizer))
    logits = impl.device.to_numpy(start.model.logits(on_device))
    impl.model.load_weights(start.model, weights)
    end = TrialEnd(weights, moments, logits, impl.device.to_numpy(start.model.logits(on_device)))
    return execution, check_trial(RowResult(config, Status.OK, training=training), end)


def _measure_ceilings(impl: Implementation, config: RunConfig, device: Any) -> Ceilings:
    """How fast the device copies and multiplies, in the dtypes of the row."""
    dtypes = {impl.precision.compute_dtype(config.precision), impl.precision.variable_dtype(config.precision)}
    products = [partial(impl.device.matmul_seconds, dtype=dtype, device=device) for dtype in dtypes]
    return measure_ceilings(config, partial(impl.device.copy_seconds, device=device), products)


def _prepare(
    impl: Implementation, config: RunConfig, device: Any, replicas: Any, on_event: OnEvent, host_batches: list[Batch]
) -> _Start:
    """The data on the device, then the recorder, then the model: the recorder's baseline holds the data alone."""
    dtype = impl.precision.variable_dtype(config.precision)
    batches = [impl.distributed.shard(images, labels, dtype, replicas) for images, labels in host_batches]
    recorder = _make_recorder(impl, config, device, replicas, on_event)
    model, optimizer = impl.distributed.replicated(partial(build, impl, config, device), replicas)
    return _Start(host_batches, batches, recorder, model, optimizer)


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


def _fingerprint_start(impl: Implementation, start: _Start, replicas: Any) -> _Origin:
    """Before a step changes it."""
    whole = ([impl.distributed.gather(values, replicas) for values in batch] for batch in start.batches)
    data_sha256 = fingerprint_batches(impl.device.to_host(*batch) for batch in whole)
    weights = impl.model.export_weights(start.model).values()
    return _Origin(data_sha256, fingerprint(*(array.astype(np.float32) for array in weights)))


def _check_start(impl: Implementation, config: RunConfig, trial: _Trial, start: _Start, origin: _Origin) -> list[Check]:
    """C7: what lies on the device is what was drawn. Before a step changes it."""
    weights, scale = impl.model.export_weights(start.model), float(impl.optimizer.loss_scale(start.optimizer))
    return check_start(config, trial.drawn_sha256, origin.data_sha256, weights, scale)


def _read_measures(
    impl: Implementation,
    config: RunConfig,
    trial: _Trial,
    start: _Start,
    origin: _Origin,
    replicas: Any,
    checks: list[Check],
) -> RowResult:
    """The row as it was measured. The clock has stopped; the memory is read before anything else takes some."""
    timing, memory = start.recorder.timing(), start.recorder.memory()
    contention = start.recorder.contention(trial.load_before)
    return RowResult(
        config,
        Status.OK,
        timing=timing,
        memory=memory,
        replicas=describe_replicas(config, replicas.backend, impl.distributed.peaks(replicas), timing),
        training=start.recorder.training(*origin),
        limits=find_limits(config, trial.ceilings, timing.step_s),
        contention=contention,
        checks=checks + check_replicas(impl.distributed.fingerprints(start.model, replicas)),
    )


def _examine(impl: Implementation, config: RunConfig, start: _Start, replicas: Any) -> tuple[Arrays, PrecisionProbe]:
    """See probing.examine. Last of all: it changes the model, and the last loss scale may be too large for it."""
    impl.optimizer.set_loss_scale(start.optimizer, start.recorder.least_loss_scale())
    return examine(impl, start.model, start.optimizer, config, replicas, *start.host_batches[0])


def _with_rulers(
    impl: Implementation, row: RowResult, device: Any, replicas: Any, host_batches: list[Batch], gradients: Weights
) -> RowResult:
    """The row, and of a float64 row that NumPy can't train its rulers. gradients: of its first batch."""
    if row.training is None or row.config.precision is not Precision.FLOAT64 or can_follow(row.config):
        return row
    config = ruler_config(row.config)
    rulers = []
    for number in range(RULERS):
        weights = moved_weights(config, number)
        start = _prepare(impl, config, device, replicas, ignore, host_batches)
        impl.model.load_weights(start.model, weights)
        impl.train(start.model, start.optimizer, config, start.batches, replicas, start.recorder)
        first = first_batch_case(config, *host_batches[0])._replace(weights=weights)
        (moved,) = evaluate(impl, start.model, start.optimizer, config, replicas, [first])
        distances = [relative_error(moved.gradients[name], gradient) for name, gradient in gradients.items()]
        rulers.append(Ruler(start.recorder.training().loss, float(np.median(distances))))
    return replace(row, training=replace(row.training, rulers=rulers))


def _judged(impl: Implementation, row: RowResult, recorder: Recorder, seen: PrecisionProbe, device: Any) -> RowResult:
    """The row with its status and, where that is not ok, why: a label that is untrue outweighs all else."""
    status, detail = recorder.status()
    asked = impl.steps.EXECUTION[row.config.execution.compile]
    if seen.execution != asked:
        seen = replace(seen, passed=False)
        status, detail = Status.LABEL_UNTRUE, f"carried out by {seen.execution} instead of {asked}"
    elif not seen.passed:
        computed_in = ", ".join(sorted(set(seen.seen.values())))
        status, detail = Status.LABEL_UNTRUE, f"computed in {computed_in} instead of {row.config.precision}"
    found = impl.device.describe_device(device)
    environment = describe_environment(impl.version, found, impl.describe_execution(row.config, device))
    detail = detail or slow_reason(row.config.precision, found)
    return replace(row, status=status, detail=detail, environment=environment, probe=seen)
