"""One row: train the model that the config describes, and report what it took."""

import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import tensorflow as tf

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
from tf_impl.device import (
    copy_seconds,
    describe_device,
    matmul_seconds,
    memory_errors,
    memory_stats,
    select_device,
    set_tf32,
    synchronize,
    to_host,
)
from tf_impl.distributed import Replicas, fingerprints, gather, joined, peaks, replicated, reset_peaks, shard
from tf_impl.fit import fit, fit_more
from tf_impl.model import ConvNet, build_model, export_weights, load_weights
from tf_impl.monitor import trace_steps, write_scalars
from tf_impl.optimizer import Optimizer, loss_scale, make_optimizer, set_loss_scale
from tf_impl.precision import compute_dtype, rounded_product, variable_dtype
from tf_impl.probe import evaluate, probe
from tf_impl.train import Step, compiled, fetch, train_step

STEPS_PER_CALL = 20  # of several replicas, at most; on GPUs each is traced, which takes up to half a second


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
    whatever else TensorFlow raises.
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
    device: str,
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

    # Model.fit is given the data whole and cuts the batches itself.
    batch_size = config.data.images if config.execution.loop == "fit" else config.train.batch_size
    host_batches = split_batches(*draw_data(config.data), batch_size)
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

    if config.execution.loop == "fit":
        fit(model, optimizer, *batches[0], config, recorder)
        few = slice(TRACED_STEPS * config.train.batch_size)
        images, labels = batches[0]
        steps: list[Callable[[], object]] = [
            partial(fit_more, model, images[few], labels[few], config.train.batch_size)
        ]
    else:
        train_epochs(calls_of_epoch(step, batches, replicas), config.train.epochs, recorder)
        steps = [partial(_waited_for, replicas, step, *batch) for batch in batches[:TRACED_STEPS]]

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
        environment=describe_environment(tf.__version__, describe_device(device), describe_execution(config, device)),
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


def build(config: RunConfig, device: str) -> tuple[ConvNet, Optimizer]:
    """The model with its starting weights, and the optimizer, as the config says."""
    model = build_model(config.model, config.precision, device)
    load_weights(model, draw_weights(config.model, config.data.seed))
    return model, make_optimizer(model, config.train, config.loss_scale, config.precision)


def describe(config: RunConfig) -> RowResult:
    """Say where the row would run, and train nothing; raises Unsupported where that device is missing."""
    device = select_device(config.execution.device, config.execution.threads, config.execution.devices)
    return make_row(config, Status.OK, environment=describe_environment(tf.__version__, describe_device(device), {}))


def calls_of_epoch(
    step: tf.types.experimental.PolymorphicFunction,
    batches: Sequence[tuple[tf.Tensor, tf.Tensor]],
    replicas: Replicas,
) -> list[Callable[[], list[Step]]]:
    """The calls that step through the batches in their order.

    Differs from torch_impl: of several replicas many steps are one call, of one graph. It returns when the gradients
    have been summed, and the device has nothing to do until the next one has come to it.
    """
    # On GPUs the graph does not call the step's, but repeats it: the numbers by which replicas find their sums would
    # come from the host to each step after the one before.
    in_graph = step.python_function if replicas.backend == "nccl" else step

    def one(images: tf.Tensor, labels: tf.Tensor) -> list[Step]:
        return [step(images, labels)]

    def all_in_turn(batches: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> list[Step]:
        steps: list[Step] = []
        for images, labels in batches:
            with tf.control_dependencies(steps[-1] if steps else []):  # or the host prepares all batches at once
                steps.append(in_graph(tf.identity(images), tf.identity(labels)))
        return steps

    if replicas.size == 1:
        return [partial(one, *batch) for batch in batches]
    graph = tf.function(all_in_turn, autograph=False)  # an exception then keeps its words

    def many(batches: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> list[Step]:
        graph.get_concrete_function(batches)  # traced by each replica for itself
        replicas.on_collective()
        return graph(batches)

    return [partial(many, batches[at : at + STEPS_PER_CALL]) for at in range(0, len(batches), STEPS_PER_CALL)]


def _waited_for(replicas: Replicas, step: Callable[..., Step], *batch: tf.Tensor) -> Step:
    replicas.on_collective()
    return step(*batch)


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


def describe_execution(config: RunConfig, device: str) -> dict[str, str]:
    """The manifest: what could tilt the comparison, one line a fact, read back from TensorFlow where it can be."""
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    execution = _execution(config, device)
    return {
        "execution": execution,
        "XLA flags": os.environ["XLA_FLAGS"] if "XLA" in execution else "-",
        "layout": "NHWC",
        "convolutions": _convolutions(config, device),
        "cuBLASLt": os.environ["TF_USE_CUBLASLT"] if device.startswith("GPU") else "-",
        "TF32": f"{'tf32' if tf32 else 'ieee'} in products and convolutions",
        "autotuning": "cuDNN's algorithms, always" if device.startswith("GPU") else "-",
        "GPU memory": "grows as needed" if device.startswith("GPU") else "-",
        "optimizer": "keras.optimizers.Adam, each update one kernel (ResourceApplyAdam), skipped by the device alone",
        "threads": f"{tf.config.threading.get_intra_op_parallelism_threads()} in one operation",
        **(
            {"distribution": f"tf.distribute, a process a device, up to {STEPS_PER_CALL} steps a call"}
            if config.execution.replicas > 1
            else {}
        ),
        **describe_fixed_choices(config),
    }


def _execution(config: RunConfig, device: str) -> str:
    alone, on_gpu = config.execution.replicas == 1, device.startswith("GPU")
    if config.execution.compile:
        return f"tf.function with XLA{'' if alone or on_gpu else ', but for the sum of the gradients'}"
    return f"tf.function{', the sum of the gradients with XLA' if on_gpu and not alone else ''}"


def _convolutions(config: RunConfig, device: str) -> str:
    if config.execution.compile and compute_dtype(config.precision).size == 2:
        return "the first a product over the patches, the others Conv2D"
    is_rounded_by_matmul = rounded_product(config.precision, device) is tf.matmul
    return f"products over the patches{'' if is_rounded_by_matmul else ', in float32, then rounded'}"
