"""The device: choosing it, describing it, and moving data there and back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from common.measure.hardware import Unsupported, cpu_name, cudnn_version, gpu_libraries
from common.measure.limits import COPIES_AT_ONCE
from common.measure.memory import (
    MemoryReading,
    OutOfMemory,
    bytes_in,
    free_host_memory,
    keep_freed_host_memory,
    read_host_memory,
    reset_host_peak,
)
from common.measure.timing import seconds_of


def uses_gpu(requested: str, devices: int = 1) -> bool:
    """Whether "auto", "cpu" or "gpu" means a GPU here.

    Raises Unsupported where a GPU is asked for and none is found, or fewer than `devices`.
    Has no twin in tf_impl: there each process sees all GPUs of the host, and can ask by itself.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == "gpu" and not found:
        raise Unsupported("PyTorch finds no GPU; --device cpu runs without one")
    if not found or requested == "cpu":
        return False
    if found < devices:
        raise Unsupported(f"PyTorch finds {found} of {devices} GPUs; give --devices fewer")
    return True


def select_device(requested: str, threads: int, devices: int = 1) -> torch.device:
    """Return this process's device for "auto", "cpu" or "gpu" and pin the CPU threads of one operation.

    The processes of a host each take one of its devices, and share its threads.

    Raises Unsupported where a GPU is asked for and none is found, or fewer than `devices`; a replica may see one alone.
    Differs from tf_impl: the GPUs that must not be used are hidden by who starts the process, or else LOCAL_RANK says
    which to take.
    """
    torch.set_num_threads(max(1, threads // devices))
    keep_freed_host_memory()
    torch.backends.cudnn.benchmark = True  # measure cuDNN's algorithms in the first step, as TensorFlow always does
    number = int(os.environ.get("LOCAL_RANK", "0")) if devices > 1 else 0
    sees_its_own_alone = os.environ.get("LOCAL_RANK") == "0" and torch.cuda.device_count() == 1
    if not uses_gpu(requested, 1 if sees_its_own_alone else devices):
        return torch.device("cpu")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> dict[str, str]:
    """Return kind ("cpu" or "gpu") and name; of a GPU also its compute_capability, driver and libraries."""
    if device.type == "cpu":
        return {"kind": "cpu", "name": cpu_name()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "kind": "gpu",
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda built": str(torch.version.cuda),
        "cudnn built": cudnn_version(torch.backends.cudnn.version() or 0),
        **gpu_libraries(),
    }


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """In the block, let float32 products and convolutions round their inputs to TF32 on a GPU, or forbid it.

    Differs from tf_impl: one switch for each library; by default PyTorch allows TF32 in convolutions alone. The switch
    for recurrent layers is set as well, since PyTorch refuses to report cuDNN's setting while the two disagree. So are
    oneDNN's: by set_float32_matmul_precision("medium") it multiplies float32 in bfloat16 on a CPU.
    """
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
    backends += [torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv]  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if enabled else "ieee"
        yield
    finally:
        for backend, fp32_precision in zip(backends, before, strict=True):
            backend.fp32_precision = fp32_precision


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished everything it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_stats(device: torch.device) -> MemoryReading:
    """Read the allocator's current and peak bytes on a GPU, the process's resident set on a CPU."""
    if device.type == "cpu":
        return read_host_memory()
    return MemoryReading("gpu_allocator", torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device))


def reset_peak_memory(device: torch.device) -> bool:
    """Set the peak back to the current value; return False where the system can't."""
    if device.type == "cpu":
        return reset_host_peak()
    torch.cuda.reset_peak_memory_stats(device)
    return True


def free_memory(device: torch.device) -> int | None:
    """Bytes that the driver would still give out on a GPU, or the system on a CPU; None where it doesn't say."""
    return free_host_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Raise OutOfMemory for what is raised in the block when memory is short.

    Differs from tf_impl: PyTorch has an exception of its own on a GPU, but a plain RuntimeError on a CPU and for what
    the libraries of CUDA allocate themselves.
    """
    free_at_start = free_memory(device)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
            words in str(error) for words in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
        )
        if not short:
            raise
        raise OutOfMemory(bytes_in(str(error)), free_memory(device), free_at_start) from error


def release_cached_memory(device: torch.device) -> None:
    """Give what is freed back to the driver, so that what a row was tried on is not held beside what it trains.

    Differs from tf_impl: TensorFlow's allocator gives nothing back before its process ends.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()


def to_device(
    images: np.ndarray, labels: np.ndarray, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy images (N, H, W, C) and labels (N, 1) to the device as dtype.

    Differs from tf_impl: the images' shape becomes (N, C, H, W); the bytes stay in their order (channels_last).
    """
    return (
        torch.from_numpy(images).to(device, dtype).permute(0, 3, 1, 2),
        torch.from_numpy(labels).to(device, dtype),
    )


def to_host(images: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Undo to_device: images (N, H, W, C) and labels (N, 1) as float32 arrays."""
    return images.permute(0, 2, 3, 1).float().cpu().numpy(), labels.float().cpu().numpy()


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values on the host, in its own dtype and shape."""
    return tensor.detach().cpu().numpy()


def copy_seconds(size: int, device: torch.device) -> float:
    """Seconds to copy `size` bytes on the device."""
    source = torch.ones(size // torch.float32.itemsize, dtype=torch.float32, device=device)
    target = torch.ones_like(source)
    return seconds_of(lambda: target.copy_(source), partial(synchronize, device), COPIES_AT_ONCE)


def matmul_seconds(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Seconds to multiply two (size, size) matrices of dtype on the device."""
    matrix = torch.ones((size, size), dtype=dtype, device=device)
    return seconds_of(lambda: torch.matmul(matrix, matrix), partial(synchronize, device))
