"""The device: choosing it, describing it, and moving data there and back."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import tensorflow as tf

from common.measure.hardware import Unsupported, cpu_name, gpu_libraries
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
from common.measure.nvml import free_gpu_memory
from common.measure.timing import seconds_of
from common.process.replicas import task_index


def select_device(requested: str, threads: int, devices: int = 1) -> str:
    """Return this process's device for "auto", "cpu" or "gpu" and pin the CPU threads of one operation.

    The processes of a host each take one of its devices, and share its threads.

    Raises Unsupported where a GPU is asked for and none is found, or fewer than `devices`.
    Differs from torch_impl: TensorFlow places operations itself, so GPUs that must not be used are hidden here, and the
    one that remains is its first; and it takes all of a GPU's memory at once unless told to grow. Once TensorFlow has
    started, none of this can change any more.
    """
    tf.config.threading.set_intra_op_parallelism_threads(max(1, threads // devices))
    keep_freed_host_memory()
    gpus = tf.config.list_physical_devices("GPU")
    if requested == "gpu" and not gpus:
        raise Unsupported("TensorFlow finds no GPU; --device cpu runs without one")
    if not gpus or requested == "cpu":
        tf.config.set_visible_devices([], "GPU")
        return "CPU:0"
    if len(gpus) < devices:
        raise Unsupported(f"TensorFlow finds {len(gpus)} of {devices} GPUs; give --devices fewer")
    gpu = gpus[task_index() % devices if devices > 1 else 0]
    tf.config.set_visible_devices(gpu, "GPU")
    tf.config.experimental.set_memory_growth(gpu, True)
    return "GPU:0"


def describe_device(device: str) -> dict[str, str]:
    """Return kind ("cpu" or "gpu") and name; of a GPU also its compute_capability, driver and libraries."""
    if device.startswith("CPU"):
        return {"kind": "cpu", "name": cpu_name()}
    details = tf.config.experimental.get_device_details(tf.config.get_visible_devices("GPU")[0])
    build = tf.sysconfig.get_build_info()
    return {
        "kind": "gpu",
        "name": details["device_name"],
        "compute_capability": ".".join(map(str, details["compute_capability"])),
        "cuda built": str(build["cuda_version"]),
        "cudnn built": str(build["cudnn_version"]),
        **gpu_libraries(),
    }


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """In the block, let float32 products and convolutions round their inputs to TF32 on a GPU, or forbid it.

    Differs from torch_impl: one switch for everything, and on by default.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(enabled)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def synchronize(device: str) -> None:
    """Wait until the device has finished everything it was given.

    Not by tf.test.experimental.sync_devices, which fails where there are devices of other processes.
    """
    if device.startswith("GPU"):
        with tf.device(device):
            tf.raw_ops.SyncDevice()


def memory_stats(device: str) -> MemoryReading:
    """Read the allocator's current and peak bytes on a GPU, the process's resident set on a CPU."""
    if device.startswith("CPU"):
        return read_host_memory()
    memory = tf.config.experimental.get_memory_info(device)
    return MemoryReading("gpu_allocator", memory["current"], memory["peak"])


def reset_peak_memory(device: str) -> bool:
    """Set the peak back to the current value; return False where the system can't."""
    if device.startswith("CPU"):
        return reset_host_peak()
    tf.config.experimental.reset_memory_stats(device)
    return True


def free_memory(device: str) -> int | None:
    """Bytes that the driver would still give out on a GPU, or the system on a CPU; None where it doesn't say.

    Differs from torch_impl: TensorFlow can't be asked, so that the driver is, by NVML.
    """
    if device.startswith("CPU"):
        return free_host_memory()
    return free_gpu_memory(tf.config.list_physical_devices("GPU").index(tf.config.get_visible_devices("GPU")[0]))


@contextmanager
def memory_errors(device: str) -> Iterator[None]:
    """Raise OutOfMemory for what is raised in the block when memory is short.

    Differs from torch_impl: TensorFlow has one exception for it everywhere, which names a tensor's shape and type, or,
    from XLA, bytes.
    """
    free_at_start = free_memory(device)
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        asked = _tensor_bytes(str(error)) or bytes_in(str(error))
        raise OutOfMemory(asked, free_memory(device), free_at_start) from error


def _tensor_bytes(message: str) -> int | None:
    match = re.search(r"tensor with shape\[([\d,]*)\] and type (\w+)", message)
    if match is None:
        return None
    return math.prod(int(size) for size in match[1].split(",") if size) * tf.as_dtype(match[2]).size


def release_cached_memory(device: str) -> None:
    """Do nothing. Differs from torch_impl: TensorFlow's allocator gives nothing back before its process ends."""


def to_device(images: np.ndarray, labels: np.ndarray, device: str, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    """Copy images (N, H, W, C) and labels (N, 1) to the device as dtype."""
    with tf.device(device):
        return tf.cast(tf.constant(images), dtype), tf.cast(tf.constant(labels), dtype)


def to_host(images: tf.Tensor, labels: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Undo to_device: images (N, H, W, C) and labels (N, 1) as float32 arrays."""
    return tf.cast(images, tf.float32).numpy(), tf.cast(labels, tf.float32).numpy()


def to_numpy(tensor: tf.Tensor) -> np.ndarray:
    """The tensor's values on the host, in its own dtype and shape."""
    return tensor.numpy()


def copy_seconds(size: int, device: str) -> float:
    """Seconds to copy `size` bytes on the device.

    Differs from torch_impl: an eager tensor is never copied for its own sake, so each value is negated on the way.
    """
    with tf.device(device):
        source = tf.ones(size // tf.float32.size)
    return seconds_of(lambda: tf.negative(source), partial(synchronize, device), COPIES_AT_ONCE)


def matmul_seconds(size: int, dtype: tf.DType, device: str) -> float:
    """Seconds to multiply two (size, size) matrices of dtype on the device."""
    with tf.device(device):
        matrix = tf.ones((size, size), dtype)
    return seconds_of(lambda: tf.matmul(matrix, matrix), partial(synchronize, device))
