"""What the driver says of the GPU while a row runs, read by the parent: memory, energy, what held the clocks down.

The memory that the driver counts for a process is the one definition that both frameworks share: it includes the CUDA
context, the libraries' kernels and whatever an allocator holds in reserve.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

INTERVAL_S = 0.1  # between two samples: short beside an epoch, long beside the tenths of a millisecond that one takes

# nvml.h, nvmlClocksEventReasons: what makes a GPU run slower than it could.
SLOWED_BY = {0x04: "the power limit", 0x20: "heat", 0x40: "heat", 0x80: "the power supply", 0x08: "a hardware slowdown"}


@dataclass(frozen=True)
class GpuUse:
    """What one row took of the GPU, as the driver counts it.

    memory_source: "process", or, where the driver can't tell processes apart (in some containers), "growth of the
    device" since the row began. energy_per_epoch_j: of the whole device, over the steady epochs; None where there is no
    counter. slowed_by: what held the clocks down at some time. other_processes: how many more there were at most.
    """

    memory_source: str
    process_peak_bytes: int
    energy_per_epoch_j: float | None
    slowed_by: list[str]
    other_processes: int


class GpuWatch:
    """Samples one GPU for the process `pid`; nvml is the module pynvml, initialised."""

    def __init__(self, nvml: Any, pid: int) -> None:
        self._nvml = nvml
        self._pid = pid
        self._gpu = _first_visible_gpu(nvml)
        self._start_bytes = nvml.nvmlDeviceGetMemoryInfo(self._gpu).used
        self._process_bytes = self._growth_bytes = self._others = self._slowed = 0
        self._energy_mj: list[int] = []

    def sample(self) -> None:
        """Read the memory now, and what holds the clocks down."""
        processes = {
            each.pid: each.usedGpuMemory for each in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._gpu)
        }
        used_bytes = self._nvml.nvmlDeviceGetMemoryInfo(self._gpu).used
        self._process_bytes = max(self._process_bytes, processes.get(self._pid) or 0)
        self._growth_bytes = max(self._growth_bytes, used_bytes - self._start_bytes)
        self._others = max(self._others, len(processes.keys() - {self._pid}) if self._pid in processes else 0)
        self._slowed |= self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._gpu)

    def end_epoch(self) -> None:
        """Read the energy counter: call at the end of every epoch."""
        try:
            self._energy_mj.append(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu))
        except self._nvml.NVMLError:  # none before Volta
            self._energy_mj.clear()

    def use(self) -> GpuUse:
        """Sum up; the first epoch, with tracing and autotuning, is left out of the energy."""
        epochs = len(self._energy_mj) - 1
        return GpuUse(
            memory_source="process" if self._process_bytes else "growth of the device",
            process_peak_bytes=self._process_bytes or self._growth_bytes,
            energy_per_epoch_j=(self._energy_mj[-1] - self._energy_mj[0]) / epochs / 1e3 if epochs > 0 else None,
            slowed_by=sorted({name for bit, name in SLOWED_BY.items() if self._slowed & bit}),
            other_processes=self._others,
        )


@contextmanager
def watch_gpu(pid: int) -> Iterator[GpuWatch | None]:
    """Sample the GPU for the process until the block ends; None without an NVIDIA driver, or without nvidia-ml-py."""
    nvml = _load()
    if nvml is None:
        yield None
        return
    watch, ended = GpuWatch(nvml, pid), threading.Event()

    def keep_sampling() -> None:
        while not ended.wait(INTERVAL_S):
            watch.sample()

    thread = threading.Thread(target=keep_sampling, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def _load() -> Any:
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _first_visible_gpu(nvml: Any) -> Any:
    """The GPU that both frameworks choose; by number or UUID, as CUDA_VISIBLE_DEVICES may give either."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return nvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdigit() else nvml.nvmlDeviceGetHandleByUUID(first)
