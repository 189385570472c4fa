"""Facts about the hardware that neither framework is needed for: the CPU, and which precisions are native where."""

import ctypes
import math
import os
import platform
import re
from functools import cache
from pathlib import Path

from common.config import Precision
from common.measure.cgroup import quota_cores
from common.measure.kernel import read_file

# From this compute capability on a GPU has matrix units for the precision (NVIDIA CUDA C++ Programming Guide,
# "Arithmetic Instructions" and "Tensor Cores").
NATIVE_FROM_CAPABILITY = {Precision.MIXED_FLOAT16: 7.0, Precision.MIXED_BFLOAT16: 8.0, Precision.TF32: 8.0}

# The chips TU116 and TU117 have compute capability 7.5 and no tensor cores; the driver tells them by name alone. See
# NVIDIA's pages of the GeForce 16 series, whose specifications list none, and ggml-org/llama.cpp, pull request 4682. By
# tensorflow/tensorflow, issue 44191, a GTX 1660 Ti is 2 to 4 times slower in mixed_float16.
WITHOUT_TENSOR_CORES = re.compile(r"\bGTX 16\d\d\b|\bMX[45]50\b|\bT(?:400|500|550|600|1000|1200|2000)\b|\bCMP 30HX\b")

# The rows of a product's matrices are multiples of this many 16-bit values, or tensor cores take twice as long.
TENSOR_CORE_WIDTH = 8

# One of these CPU flags means instructions that multiply in the precision.
NATIVE_CPU_FLAGS = {
    Precision.MIXED_FLOAT16: {"avx512_fp16", "amx_fp16", "asimdhp"},
    Precision.MIXED_BFLOAT16: {"avx512_bf16", "amx_bf16", "bf16"},
}


class Unsupported(Exception):  # noqa: N818 - a finding about the device, not an error
    """The device can't run the row; the message says why. The row's status becomes `unsupported`."""


def require_support(precision: Precision, device: dict[str, str]) -> None:
    """Raise Unsupported for TF32 where there are no matrix units for it: it would silently be plain float32.

    The other precisions run everywhere, if slowly. device: as from describe_device of either implementation.
    """
    if precision is not Precision.TF32:
        return
    needed = NATIVE_FROM_CAPABILITY[precision]
    if device["kind"] == "cpu":
        raise Unsupported(f"tf32 needs a GPU of compute capability {needed} or later; this row would run on a CPU")
    capability = device["compute_capability"]
    if float(capability) < needed:
        raise Unsupported(f"tf32 needs compute capability {needed} or later; {device['name']} has {capability}")


def slow_reason(precision: Precision, device: dict[str, str]) -> str:
    """Say why no speed is to be expected of this precision on the device, or "" where it is native.

    device: as from describe_device of either implementation.
    """
    if device["kind"] == "gpu":
        capability = float(device["compute_capability"])
        needed = NATIVE_FROM_CAPABILITY.get(precision, 0.0)
        if capability < needed:
            return (
                f"{device['name']} has compute capability {capability}, and no tensor cores for "
                f"{precision.compute_dtype} below {needed}: no speed to expect"
            )
        if precision is Precision.MIXED_FLOAT16 and WITHOUT_TENSOR_CORES.search(device["name"]):
            others = f"as others of compute capability {capability} have"
            return f"{device['name']} has no tensor cores, {others}: no speed to expect"
        return ""
    instructions = NATIVE_CPU_FLAGS.get(precision)
    if instructions and not instructions & cpu_flags():
        return f"this CPU has no {precision.compute_dtype} arithmetic and emulates it: no speed to expect"
    return ""


def cpu_name() -> str:
    """The processor's own name, as Linux reports it."""
    return _first(r"(?m)^model name\s*:\s*(.+)$", _cpuinfo()) or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """The instruction sets that Linux lists for the first processor; empty elsewhere."""
    return set(_first(r"(?m)^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo()).split())


def allowed_cores() -> set[int]:
    """The numbers of the cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def available_cores() -> int:
    """How many threads this process can keep busy: its cores, or as many as its quota lasts for where that is fewer."""
    cores, quota = len(allowed_cores()), quota_cores()
    return min(cores, math.ceil(quota)) if quota else cores


def has_gpu() -> bool:
    """Whether an NVIDIA driver is loaded and no environment variable hides its devices."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1", "NoDevFiles")
    return Path("/proc/driver/nvidia/version").exists() and not hidden


def driver_version() -> str:
    """The NVIDIA driver's version; "" where there is none."""
    return _first(r"Kernel Module(?: for \w+)?\s+([\d.]+)", read_file(Path("/proc/driver/nvidia/version")))


def gpu_libraries() -> dict[str, str]:
    """The driver's version, and those of the CUDA and cuDNN libraries that this process has loaded, as they say.

    What is loaded need not be what the framework was built with: another package, or LD_LIBRARY_PATH, may come first.
    """
    maps = read_file(Path("/proc/self/maps"))
    versions = {
        "driver": {driver_version()},
        "cuda loaded": {_cudart_version(path) for path in re.findall(r"/\S*libcudart[^/\s]*\.so[^/\s]*", maps)},
        "cudnn loaded": {
            cudnn_version(ctypes.CDLL(path).cudnnGetVersion()) for path in re.findall(r"/\S*libcudnn\.so[^/\s]*", maps)
        },
    }
    return {name: ", ".join(sorted(found)) for name, found in versions.items() if any(found)}


def _cudart_version(path: str) -> str:
    version = ctypes.c_int()
    ctypes.CDLL(path).cudaRuntimeGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def cudnn_version(number: int) -> str:
    """92800 is 9.28.0; before version 9 the factors were smaller, and 8907 is 8.9.7."""
    major = 10000 if number >= 90000 else 1000
    return f"{number // major}.{number % major // 100}.{number % 100}"


@cache
def _cpuinfo() -> str:
    return read_file(Path("/proc/cpuinfo"))


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""
