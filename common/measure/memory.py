"""Memory of one row: the article's definition, and the resident set where there is no device allocator to ask."""

import ctypes
import gc
import re
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC, _CGROUP = Path("/proc/self"), Path("/sys/fs/cgroup")

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class OutOfMemory(Exception):  # noqa: N818 - named as its status is
    """The device, or the host, could not give what was asked for; the row's status becomes `oom`. None is unknown."""

    def __init__(self, asked_bytes: int | None, free_bytes: int | None, free_at_start_bytes: int | None) -> None:
        asked, free = (
            f"{number:,}" if number is not None else "an unknown number" for number in (asked_bytes, free_bytes)
        )
        super().__init__(f"{asked} bytes were asked for, {free} were free")
        self.free_at_start_bytes = free_at_start_bytes


@dataclass(frozen=True)
class MemoryReading:
    """Bytes in use now, and the most that were since the last reset."""

    kind: str  # "gpu_allocator" or "host_rss"
    current_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one row in bytes, as the article counts it.

    baseline: the data on the device, no model yet. peak: the most until the end. used = peak - baseline.
    steady_used: the same from the second epoch on, when autotuning and compiling are over; None after one epoch only,
    or where the peak cannot be reset. device_process_peak_bytes: the process's device memory as the driver sees it.
    """

    kind: str
    baseline_bytes: int
    peak_bytes: int
    used_bytes: int
    steady_used_bytes: int | None
    device_process_peak_bytes: int | None = None


def summarize_memory(baseline: MemoryReading, cold: MemoryReading, steady: MemoryReading | None) -> Memory:
    """cold: read at the end of the first epoch; steady: after a reset there, read at the end of the last."""
    peak_bytes = max(cold.peak_bytes, steady.peak_bytes if steady else 0)
    return Memory(
        kind=baseline.kind,
        baseline_bytes=baseline.current_bytes,
        peak_bytes=peak_bytes,
        used_bytes=peak_bytes - baseline.current_bytes,
        steady_used_bytes=steady.peak_bytes - baseline.current_bytes if steady else None,
    )


def read_host_memory() -> MemoryReading:
    """Read this process's resident set, on Linux from /proc, elsewhere its peak alone from getrusage."""
    try:
        status = (_PROC / "status").read_text()
    except OSError:
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return MemoryReading("host_rss", peak_bytes, peak_bytes)
    kib = {name: int(value) for name, value in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE)}
    return MemoryReading("host_rss", kib["VmRSS"] * 1024, kib["VmHWM"] * 1024)


def free_host_memory() -> int | None:
    """Bytes that the system would still give out, within the limit of its container; None where it doesn't say."""
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    free = int(available[1]) * 1024 if available else None
    with suppress(OSError, ValueError):  # the limit is "max" where there is none
        left = int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text())
        return left if free is None else min(free, left)
    return free


def bytes_in(message: str) -> int | None:
    """The size that an error speaks of: 'allocate 12.5 GiB' or 'allocate 4096 bytes'; None where there is none."""
    match = re.search(r"allocate ([\d.]+) ?(?:bytes|([KMGTPE]?)i?B)", message)
    return int(float(match[1]) * _UNITS[match[2] or ""]) if match else None


def reset_host_peak() -> bool:
    """Set the resident set's peak back to its current value; return False where the system can't."""
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def return_freed_host_memory() -> None:
    """Give back to the system what was freed or is in use no more: what a row was tried on is not its baseline."""
    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_host_memory() -> None:
    """Tell glibc to keep freed blocks of up to 32 MiB, the most it allows, and to return none below 1 GiB.

    By default it gives the activations back to the system at the end of a step, and the next step pays for as many page
    faults: a third of a float32 step of the cpu preset in PyTorch. A no-op where the C library isn't glibc.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 2**30)
