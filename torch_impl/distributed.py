"""Several replicas: how they meet, share a batch, sum their gradients and report as one.

A process drives one replica; processes.py starts those of a host.
Differs from tf_impl: a gradient is summed while the backward pass goes on, by DistributedDataParallel.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from common.config import ExecutionConfig, Precision
from common.experiment.data import block, short_fingerprint
from torch_impl.device import memory_stats, reset_peak_memory, to_device
from torch_impl.model import ConvNet, export_weights
from torch_impl.optimizer import Optimizer
from torch_impl.precision import compute_dtype


class Replicas(NamedTuple):
    """Who trains together: `size` replicas in all; `ranks` are those of this process, `devices` what they are on.

    backend sums their gradients. on_collective is told before each of their collectives.
    """

    size: int
    ranks: range
    devices: list[torch.device]
    backend: str
    on_collective: Callable[[], object] = lambda: None

    @property
    def is_chief(self) -> bool:
        return 0 in self.ranks


def alone(device: torch.device) -> Replicas:
    """A single replica."""
    return Replicas(1, range(1), [device], "none")


@contextmanager
def joined(
    execution: ExecutionConfig, device: torch.device, on_collective: Callable[[], object] = lambda: None
) -> Iterator[Replicas]:
    """Meet the other replicas, and take leave of them when the block has ended well. A single one meets nobody.

    A collective that some of them don't enter raises after execution.collective_timeout_s.
    Differs from tf_impl: what is raised names none of them; that is up to what has started them, torchrun or
    processes.py.
    """
    if execution.replicas == 1:
        yield alone(device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    on_collective()
    dist.init_process_group(
        backend,
        timeout=timedelta(seconds=execution.collective_timeout_s),
        device_id=device if device.type == "cuda" else None,
    )
    on_collective()  # they have met
    rank = dist.get_rank()
    yield Replicas(dist.get_world_size(), range(rank, rank + 1), [device], backend, on_collective)
    dist.destroy_process_group()  # after an error it could wait for a replica that is gone


def replicated(build: Callable[[], tuple[ConvNet, Optimizer]], replicas: Replicas) -> tuple[ConvNet, Optimizer]:
    """What build returns, on every replica; from then on a backward pass sums the gradients over all of them.

    Differs from tf_impl: the model is wrapped. By itself the wrapper would divide the sum by the number of replicas, so
    that each had to scale its loss up by as much first: float16 would overflow earlier than on one device.
    """
    model, optimizer = build()
    if replicas.size > 1:
        model.replicas = replicas.size
        replicas.on_collective()  # the wrapper compares the parameters
        model.logits = DistributedDataParallel(model.logits, gradient_as_bucket_view=True)
        model.logits.register_comm_hook(replicas, _sum)
    return model, optimizer


def shard(
    images: np.ndarray, labels: np.ndarray, dtype: torch.dtype, replicas: Replicas
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy this process's block of a batch, images (B, H, W, C) and labels (B, 1), to its device as dtype."""
    part = block(len(images), replicas.size, replicas.ranks[0])
    return to_device(images[part], labels[part], replicas.devices[0], dtype)


def global_loss(loss: torch.Tensor, model: ConvNet) -> torch.Tensor:
    """This replica's part of the mean loss over the global batch, of which its own mean loss is given."""
    return loss if model.replicas == 1 else loss / model.replicas


def sum_gradients(gradients: Sequence[torch.Tensor], model: ConvNet) -> Sequence[torch.Tensor]:
    """Sum over the replicas, before anyone asks whether a gradient is finite: so all of them decide alike.

    Differs from tf_impl: DistributedDataParallel has summed them, bucket by bucket, while the backward pass went on.
    They are rounded here and not in what follows a bucket's sum: that runs on another of 32 streams each time, and on
    each of them PyTorch would have to allocate memory first, for which the device waits.
    """
    return gradients if model.replicas == 1 else [_as_of_one(sums, model.precision) for sums in gradients]


def mean(values: torch.Tensor, replicas: Replicas) -> torch.Tensor:
    """The mean over the replicas of values of any shape, on all of them."""
    return gather(values[None], replicas).mean(dim=0)


def gather(values: torch.Tensor, replicas: Replicas) -> torch.Tensor:
    """The values (N, ...) of every replica, all of one shape, one after the other along the first axis."""
    if replicas.size == 1:
        return values
    replicas.on_collective()
    values = values.contiguous()
    parts = [torch.empty_like(values) for _ in range(replicas.size)]
    dist.all_gather(parts, values)
    return torch.cat(parts)


def gather_numbers(numbers: Sequence[int], replicas: Replicas) -> list[int]:
    """One whole number of each replica of this process becomes the list of those of all, by rank."""
    return gather(torch.tensor(numbers, device=replicas.devices[0]), replicas).tolist()


def fingerprints(model: ConvNet, replicas: Replicas) -> list[int]:
    """A hash of the weights of each replica, by rank."""
    return gather_numbers([short_fingerprint(export_weights(model).values())], replicas)


def reset_peaks(replicas: Replicas) -> bool:
    """Set the peak of each replica of this process back to the current value; return False where the system can't."""
    return all(reset_peak_memory(device) for device in replicas.devices)


def peaks(replicas: Replicas) -> list[int]:
    """The most bytes that each replica has had in use since the last reset, by rank."""
    return gather_numbers([memory_stats(device).peak_bytes for device in replicas.devices], replicas)


def _sum(
    replicas: Replicas,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    replicas.on_collective()
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def _as_of_one(sums: torch.Tensor, precision: Precision) -> torch.Tensor:
    """Rounded as one device's gradient is, which the layers compute in 16 bits: what overflows there overflows here."""
    return sums.copy_(sums.to(compute_dtype(precision)))
