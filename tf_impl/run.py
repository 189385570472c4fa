"""One row in TensorFlow: train the model that the config describes, and report what it took.

The program is common/process/row.py, the same for both frameworks; here is what this one brings to it.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial

import tensorflow as tf

from common.config import RunConfig
from common.process import row
from common.process.manifest import describe_fixed_choices
from common.process.monitor import NO_MONITORS, TRACED_STEPS, Monitors, ignore
from common.process.recorder import OnArrays, OnEvent, Recorder
from common.proof.implementation import Implementation
from common.results.rows import RowResult
from tf_impl import device, distributed, model, monitor, optimizer, precision
from tf_impl import train as steps
from tf_impl.distributed import Replicas
from tf_impl.fit import fit, fit_more
from tf_impl.model import ConvNet
from tf_impl.optimizer import Optimizer
from tf_impl.precision import compute_dtype, rounded_product
from tf_impl.train import STEPS_PER_CALL, calls_of_epoch, compiled, train_epochs, train_step


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
    batches: Sequence[tuple[tf.Tensor, tf.Tensor]],
    replicas: Replicas,
    recorder: Recorder,
) -> list[Callable[[], object]]:
    """Train on the batches by the loop of the config, and tell the recorder; returns calls that train a little more.

    Differs from torch_impl: there is a second loop, Model.fit, which is given one batch that holds all data.
    """
    step = compiled(train_step, model, optimizer, config.execution.compile)
    if config.execution.loop == "fit":
        ((images, labels),) = batches
        fit(model, optimizer, images, labels, config, recorder)
        few = slice(TRACED_STEPS * config.train.batch_size)
        return [partial(fit_more, model, images[few], labels[few], config.train.batch_size)]

    def step_when_met(images: tf.Tensor, labels: tf.Tensor) -> object:
        replicas.on_collective()
        return step(images, labels)

    train_epochs(calls_of_epoch(step, batches, replicas), config.train.epochs, recorder)
    return [partial(step_when_met, *batch) for batch in batches[:TRACED_STEPS]]


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
    several, on_gpu = config.execution.replicas > 1, device.startswith("GPU")
    if config.execution.compile:
        return f"tf.function with XLA{', but for the sum of the gradients' if several and not on_gpu else ''}"
    return f"tf.function{', the sum of the gradients with XLA' if several and on_gpu else ''}"


def _convolutions(config: RunConfig, device: str) -> str:
    if config.execution.compile and compute_dtype(config.precision).size == 2:
        return "the first a product over the patches, the others Conv2D"
    is_rounded_by_matmul = rounded_product(config.precision, device) is tf.matmul
    return f"products over the patches{'' if is_rounded_by_matmul else ', in float32, then rounded'}"


IMPLEMENTATION = Implementation(
    tf.__version__, device, distributed, model, monitor, optimizer, precision, steps, train, describe_execution
)
