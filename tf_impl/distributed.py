"""Several replicas: how they meet, share a batch, sum their gradients and report as one.

A process drives one replica; processes.py starts those of a host.
Differs from torch_impl: a strategy makes the variables and runs the functions; what the replicas compute has to be
summed by name.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from common.config import ExecutionConfig, Precision
from common.experiment.data import block, short_fingerprint
from common.process.replicas import ReplicaFailed, blame, blame_one_of, task_index, without_proxies
from common.results.rows import Status
from tf_impl.device import memory_stats, reset_peak_memory, to_device
from tf_impl.model import ConvNet, export_weights
from tf_impl.optimizer import Optimizer
from tf_impl.precision import compute_dtype

BACKENDS = {
    "ring": tf.distribute.experimental.CommunicationImplementation.RING,
    "nccl": tf.distribute.experimental.CommunicationImplementation.NCCL,
}


class Replicas(NamedTuple):
    """Who trains together: `size` replicas in all; `ranks` are those of this process, `devices` what they are on.

    backend sums their gradients. strategy is what TensorFlow drives them by. on_collective is told before each call in
    which they wait for each other.
    """

    size: int
    ranks: range
    devices: list[str]
    backend: str
    strategy: tf.distribute.Strategy
    on_collective: Callable[[], object] = lambda: None

    @property
    def is_chief(self) -> bool:
        return 0 in self.ranks


def alone(device: str) -> Replicas:
    """A single replica."""
    return Replicas(1, range(1), [device], "none", tf.distribute.get_strategy())


@contextmanager
def joined(
    execution: ExecutionConfig, device: str, on_collective: Callable[[], object] = lambda: None
) -> Iterator[Replicas]:
    """Meet the other replicas, and take leave of them when the block has ended well. A single one meets nobody.

    A collective that some of them don't enter raises after execution.collective_timeout_s.
    Differs from torch_impl: TensorFlow would go by a proxy, and puts no limit to the meeting; processes.py does.
    """
    if execution.replicas == 1:
        yield alone(device)
        return
    options = tf.distribute.experimental.CommunicationOptions(
        timeout_seconds=execution.collective_timeout_s, implementation=BACKENDS["ring"]
    )
    rank = task_index()
    try:
        with without_proxies():
            on_collective()
            strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
            on_collective()  # they have met
            backend = _backend(strategy)
            yield Replicas(
                strategy.num_replicas_in_sync, range(rank, rank + 1), [device], backend, strategy, on_collective
            )
    except (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError) as error:
        raise _silence(str(error), execution) from error


def replicated(build: Callable[[], tuple[ConvNet, Optimizer]], replicas: Replicas) -> tuple[ConvNet, Optimizer]:
    """What build returns, on every replica; from then on `compiled` functions run on all of them.

    Differs from torch_impl: whatever makes variables in the strategy's scope makes them alike on all replicas. For that
    they wait for each other, and without limit: so they meet first where there is one.
    """
    gather_numbers([0], replicas)
    with replicas.strategy.scope():
        return build()


def shard(images: np.ndarray, labels: np.ndarray, dtype: tf.DType, replicas: Replicas) -> tuple[tf.Tensor, tf.Tensor]:
    """Copy this process's block of a batch, images (B, H, W, C) and labels (B, 1), to its device as dtype."""
    part = block(len(images), replicas.size, replicas.ranks[0])
    return to_device(images[part], labels[part], replicas.devices[0], dtype)


def global_loss(loss: tf.Tensor, model: ConvNet) -> tf.Tensor:
    """This replica's part of the mean loss over the global batch, of which its own mean loss is given."""
    replicas = model.distribute_strategy.num_replicas_in_sync
    return loss if replicas == 1 else loss / replicas


def sum_gradients(gradients: Sequence[tf.Tensor], model: ConvNet) -> Sequence[tf.Tensor]:
    """Sum over the replicas, before anyone asks whether a gradient is finite: so all of them decide alike.

    Differs from torch_impl: the sum has to be asked for. Keras would sum too, but after its LossScaleOptimizer has
    looked at the first replica's own gradients.
    """
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return gradients
    backend = _backend(model.distribute_strategy)
    add = _add_in_xla if backend == "nccl" else _add
    return add(list(gradients), model.precision, BACKENDS[backend])


def mean(values: tf.Tensor, replicas: Replicas) -> tf.Tensor:
    """The mean over the replicas of values of any shape, on all of them."""
    replicas.on_collective()
    return replicas.strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None)


def gather(values: tf.Tensor, replicas: Replicas) -> tf.Tensor:
    """The values (N, ...) of every replica, all of one shape, one after the other along the first axis."""
    if replicas.size == 1:
        return values
    replicas.on_collective()
    return _gather(values, replicas.strategy)


def gather_numbers(numbers: Sequence[int], replicas: Replicas) -> list[int]:
    """One whole number of each replica of this process becomes the list of those of all, by rank."""
    with tf.device(replicas.devices[0]):
        return gather(tf.constant(numbers, tf.int64), replicas).numpy().tolist()


def fingerprints(model: ConvNet, replicas: Replicas) -> list[int]:
    """A hash of the weights of each replica, by rank."""
    return gather_numbers([short_fingerprint(export_weights(model).values())], replicas)


def reset_peaks(replicas: Replicas) -> bool:
    """Set the peak of each replica of this process back to the current value; return False where the system can't."""
    return all(reset_peak_memory(device) for device in replicas.devices)


def peaks(replicas: Replicas) -> list[int]:
    """The most bytes that each replica has had in use since the last reset, by rank."""
    return gather_numbers([memory_stats(device).peak_bytes for device in replicas.devices], replicas)


def _add(
    gradients: list[tf.Tensor], precision: Precision, backend: tf.distribute.experimental.CommunicationImplementation
) -> list[tf.Tensor]:
    options = tf.distribute.experimental.CommunicationOptions(implementation=backend)
    sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients, options)
    return [_as_of_one(values, precision) for values in sums]


# By TensorFlow's own operation for NCCL the host would wait for each sum; by XLA's the device waits alone.
_add_in_xla = tf.function(_add, jit_compile=True, autograph=False)


def _as_of_one(sums: tf.Tensor, precision: Precision) -> tf.Tensor:
    """Rounded as one device's gradient is, which the layers compute in 16 bits: what overflows there overflows here."""
    return tf.cast(tf.cast(sums, compute_dtype(precision)), sums.dtype)


def _backend(strategy: tf.distribute.Strategy) -> str:
    """What sums gradients. They alone go by NCCL: of XLA and TensorFlow's own operations only one can connect by it."""
    return "nccl" if "GPU" in strategy.extended.worker_devices[0] else "ring"


@tf.function(reduce_retracing=True, autograph=False)
def _gather(values: tf.Tensor, strategy: tf.distribute.Strategy) -> tf.Tensor:
    return strategy.gather(values, axis=0)


def _silence(message: str, execution: ExecutionConfig) -> ReplicaFailed:
    """Of the ranks that TensorFlow speaks of, or of all others; with what it says."""
    others = set(range(execution.replicas)) - {task_index()}
    named = {int(number) for number in re.findall(r"task:(\d+)", message)} & others
    # After the node that failed, and where in our code it was made.
    failed = re.search(r"(?:\}\} |stack traces unavailable>\n|  File .*\n\n)(?! )(.*)", message)
    said = failed[1] if failed else message.partition("\n")[0]
    say = blame if named and named != others else blame_one_of
    words = say(sorted(named or others), execution.collective_timeout_s)
    return ReplicaFailed(Status.CRASHED, f"{words}: {said}", said)
