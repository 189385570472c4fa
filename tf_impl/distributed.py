"""Several replicas: how they meet, share a batch, sum their gradients and report as one.

Differs from torch_impl: one process drives all devices of a host. A strategy holds a copy of every variable for each of
them and runs a function on all; what the copies compute has to be summed by name.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from common.config import ExecutionConfig
from common.data import short_fingerprint
from common.hardware import Unsupported
from common.replicas import ReplicaFailed, block, host_index, ranks
from common.results import Status
from tf_impl.device import memory_stats, reset_peak_memory, to_device
from tf_impl.model import ConvNet
from tf_impl.optimizer import Optimizer


class Replicas(NamedTuple):
    """Who trains together: `size` replicas in all; `ranks` are those of this process, `devices` what they are on.

    backend sums their gradients. strategy is what TensorFlow drives them by.
    """

    size: int
    ranks: range
    devices: list[str]
    backend: str
    strategy: tf.distribute.Strategy

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
    Differs from torch_impl: nobody can be told of a collective, which is an operation within a graph.
    """
    kind = device.partition(":")[0]
    devices = [f"{kind}:{number}" for number in range(execution.devices)]
    options = tf.distribute.experimental.CommunicationOptions(
        timeout_seconds=execution.collective_timeout_s,
        implementation=getattr(
            tf.distribute.experimental.CommunicationImplementation, "NCCL" if kind == "GPU" else "RING"
        ),
    )
    if execution.hosts > 1:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        first = host_index() * execution.devices
        if strategy.num_replicas_in_sync != execution.replicas:
            raise Unsupported(
                f"TensorFlow makes {strategy.num_replicas_in_sync} replicas of {execution.hosts} hosts with "
                f"{execution.devices} {kind}s each; on CPUs give --devices 1"
            )
    elif execution.devices > 1:
        strategy, first = tf.distribute.MirroredStrategy(devices), 0
    else:
        yield alone(device)
        return
    try:
        ranks_here, backend = range(first, first + execution.devices), options.implementation.value.lower()
        yield Replicas(execution.replicas, ranks_here, devices, backend, strategy)
    except (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError) as error:
        raise ReplicaFailed(Status.CRASHED, _name_silent(str(error), execution)) from error


def replicated(build: Callable[[], tuple[ConvNet, Optimizer]], replicas: Replicas) -> tuple[ConvNet, Optimizer]:
    """What build returns, on every replica; from then on `compiled` functions run on all of them.

    Differs from torch_impl: whatever makes variables in the strategy's scope makes one for each replica.
    """
    with replicas.strategy.scope():
        return build()


def shard(images: np.ndarray, labels: np.ndarray, dtype: tf.DType, replicas: Replicas) -> tuple[tf.Tensor, tf.Tensor]:
    """Copy this process's blocks of a batch, images (B, H, W, C) and labels (B, 1), to its devices as dtype."""

    def place(rank: int) -> tuple[tf.Tensor, tf.Tensor]:
        part = block(len(images), replicas.size, rank)
        return to_device(images[part], labels[part], replicas.devices[rank - replicas.ranks[0]], dtype)

    return _on_each(place, replicas)


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
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)


def mean(values: tf.Tensor, replicas: Replicas) -> tf.Tensor:
    """The mean over the replicas of values of any shape, on all of them."""
    return replicas.strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None)


def gather(values: tf.Tensor, replicas: Replicas) -> tf.Tensor:
    """The values (N, ...) of every replica, all of one shape, one after the other along the first axis."""
    if len(replicas.ranks) < replicas.size:
        return replicas.strategy.gather(values, axis=0)
    return tf.concat(replicas.strategy.experimental_local_results(values), axis=0)


def gather_numbers(numbers: Sequence[int], replicas: Replicas) -> list[int]:
    """One whole number of each replica of this process becomes the list of those of all, by rank."""
    by_rank = dict(zip(replicas.ranks, numbers, strict=True))
    return gather(_on_each(lambda rank: tf.constant([by_rank[rank]], tf.int64), replicas), replicas).numpy().tolist()


def fingerprints(model: ConvNet, replicas: Replicas) -> list[int]:
    """A hash of the weights of each replica, by rank."""
    copies = [replicas.strategy.experimental_local_results(variable.value) for variable in model.trainable_variables]
    return gather_numbers(
        [short_fingerprint(map(np.asarray, weights)) for weights in zip(*copies, strict=True)], replicas
    )


def reset_peaks(replicas: Replicas) -> bool:
    """Set the peak of each replica of this process back to the current value; return False where the system can't."""
    return all(reset_peak_memory(device) for device in replicas.devices)


def peaks(replicas: Replicas) -> list[int]:
    """The most bytes that each replica has had in use since the last reset, by rank; on a CPU they are one process."""
    return gather_numbers([memory_stats(device).peak_bytes for device in replicas.devices], replicas)


def _name_silent(message: str, execution: ExecutionConfig) -> str:
    """The ranks of the hosts that TensorFlow speaks of, or of the only other one; and what it says."""
    hosts = {int(number) for number in re.findall(r"task:(\d+)", message)} or set(range(execution.hosts))
    hosts -= {host_index()}
    silent = [rank for rank in range(execution.replicas) if rank // execution.devices in hosts]
    said = message.partition("}} ")[2].partition("\n")[0]
    if execution.hosts > 2 and len(hosts) == execution.hosts - 1:
        return f"one of the {ranks(silent)} did not answer within {execution.collective_timeout_s:g} s: {said}"
    return f"{ranks(silent)} did not answer within {execution.collective_timeout_s:g} s: {said}"


def _on_each(make: Callable[[int], Any], replicas: Replicas) -> Any:
    """What make returns for the rank of each replica of this process, as one value of the strategy's."""
    return replicas.strategy.experimental_distribute_values_from_function(
        lambda context: make(context.replica_id_in_sync_group)
    )
