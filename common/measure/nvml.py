"""What the driver says of the GPU while a row runs, read by the parent: memory, energy, what held the clocks down.

The memory that the driver counts for a process is the one definition that both frameworks share: it includes the CUDA
context, the libraries' kernels and whatever an allocator holds in reserve.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

INTERVAL_S = 0.1  # between two samples: short beside an epoch, long beside the tenths of a millisecond that one takes
LAST_SAMPLE_S = 5.0  # a driver that has lost its GPU may never answer

# nvml.h, nvmlClocksEventReasons: what makes a GPU run slower than it could.
SLOWED_BY = {
    0x02: "a clock setting",
    0x04: "the power limit",
    0x08: "a hardware slowdown",
    0x10: "a slower GPU of its sync boost group",
    0x20: "heat",
    0x40: "heat",
    0x80: "the power supply",
}
SM_CLOCK = 1  # nvml.h, nvmlClockType


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What one row took of the GPU, as the driver counts it; None or empty where the driver doesn't say.

    memory_source: "process", or, where the driver names none of the row's (in some containers), "growth of the device"
    since the row began. energy_per_epoch_j: of the whole device, over the steady epochs. slowed_by: what held the
    clocks down at some time. other_processes and other_bytes: how many there were at most beside the row's, and what
    they held. sm_clock_mhz: its median over the steady epochs, beside the most that the GPU can do.
    """

    memory_source: str
    process_peak_bytes: int | None
    energy_per_epoch_j: float | None
    slowed_by: list[str]
    other_processes: int
    other_bytes: int | None = None
    sm_clock_mhz: float | None = None
    max_sm_clock_mhz: int | None = None


class DeviceWatch:
    """Samples one GPU for the process `pid` and those of its group; a reading that fails is left out.

    nvml: pynvml, initialised. number: which of the GPUs that CUDA_VISIBLE_DEVICES names.
    """

    def __init__(self, nvml: Any, pid: int, number: int = 0) -> None:
        self._nvml = nvml
        self._pid = pid
        self._gpu = self._read(_visible_gpu, nvml, number)
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        self._start_bytes = memory.used if memory else 0
        self._process_bytes = self._growth_bytes = self._others = self._other_bytes = self._slowed = 0
        self._energy_mj: list[int] = []
        self._is_steady = False
        self._clocks_mhz: list[int] = []
        self._steady_clocks = 0
        self._earlier = self._processes().keys()

    def sample(self) -> None:
        """Read the memory now, the clock, and what holds it down."""
        processes = self._processes()
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        ours = {pid: used for pid, used in processes.items() if self._is_ours(pid)}
        # Where none is named as the row's, as in some containers, those that were there before it are another's.
        others = [used for pid, used in processes.items() if (pid not in ours if ours else pid in self._earlier)]
        self._process_bytes = max(self._process_bytes, sum(ours.values()))
        self._growth_bytes = max(self._growth_bytes, memory.used - self._start_bytes if memory else 0)
        self._others, self._other_bytes = max(self._others, len(others)), max(self._other_bytes, sum(others))
        self._slowed |= self._ask("nvmlDeviceGetCurrentClocksEventReasons") or 0
        if self._is_steady and (clock_mhz := self._ask("nvmlDeviceGetClockInfo", SM_CLOCK)):
            self._clocks_mhz.append(clock_mhz)

    def end_epoch(self) -> None:
        """Read the energy counter, and count the clocks until now as steady: call at the end of every epoch."""
        self._is_steady, self._steady_clocks = True, len(self._clocks_mhz)
        energy_mj = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        if energy_mj is not None:  # there is none before Volta
            self._energy_mj.append(energy_mj)

    def use(self) -> GpuUse:
        """Sum up; the first epoch, with tracing and autotuning, is left out of the energy and the clock."""
        epochs = len(self._energy_mj) - 1
        clocks_mhz = self._clocks_mhz[: self._steady_clocks]
        return GpuUse(
            memory_source="process" if self._process_bytes else "growth of the device",
            process_peak_bytes=self._process_bytes or self._growth_bytes or None,
            energy_per_epoch_j=(self._energy_mj[-1] - self._energy_mj[0]) / epochs / 1e3 if epochs > 0 else None,
            slowed_by=sorted({name for bit, name in SLOWED_BY.items() if self._slowed & bit}),
            other_processes=self._others,
            other_bytes=self._other_bytes or None,
            sm_clock_mhz=median(clocks_mhz) if clocks_mhz else None,
            max_sm_clock_mhz=self._ask("nvmlDeviceGetMaxClockInfo", SM_CLOCK),
        )

    def _processes(self) -> dict[int, int]:
        """The bytes that each process holds, by its pid; 0 where the driver doesn't say."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        return {each.pid: each.usedGpuMemory or 0 for each in processes}

    def _is_ours(self, pid: int) -> bool:
        """Whether it is the row's process or, of several devices, one that it has started."""
        try:
            return self._pid in (pid, os.getpgid(pid))
        except OSError:  # it has ended
            return False

    def _ask(self, function: str, *arguments: int) -> Any:
        """What NVML's function says of the GPU; None where this driver or its bindings don't have it."""
        return None if self._gpu is None else self._read(lambda: getattr(self._nvml, function)(self._gpu, *arguments))

    def _read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (self._nvml.NVMLError, AttributeError, ValueError):
            return None


class GpuWatch:
    """Samples every GPU of a row."""

    def __init__(self, watches: Sequence[DeviceWatch]) -> None:
        self._watches = watches

    def sample(self) -> None:
        for watch in self._watches:
            watch.sample()

    def end_epoch(self) -> None:
        for watch in self._watches:
            watch.end_epoch()

    def use(self) -> GpuUse:
        """Memory and other processes of the fullest GPU, energy of all, the slowest clock, what held any down."""
        uses = [watch.use() for watch in self._watches]
        energies = [use.energy_per_epoch_j for use in uses if use.energy_per_epoch_j is not None]
        most = max(uses, key=lambda use: use.process_peak_bytes or 0)
        slowest = min(uses, key=lambda use: use.sm_clock_mhz or math.inf)
        return GpuUse(
            memory_source=most.memory_source,
            process_peak_bytes=most.process_peak_bytes,
            energy_per_epoch_j=sum(energies) if len(energies) == len(uses) else None,
            slowed_by=sorted({cause for use in uses for cause in use.slowed_by}),
            other_processes=max(use.other_processes for use in uses),
            other_bytes=max(use.other_bytes or 0 for use in uses) or None,
            sm_clock_mhz=slowest.sm_clock_mhz,
            max_sm_clock_mhz=slowest.max_sm_clock_mhz,
        )


@contextmanager
def watch_gpus(pid: int, number: int = 1) -> Iterator[GpuWatch | None]:
    """Sample the first GPUs for the process until the block ends; None without an NVIDIA driver, or nvidia-ml-py."""
    nvml = _load()
    if nvml is None:
        yield None
        return
    watch, ended = GpuWatch([DeviceWatch(nvml, pid, gpu) for gpu in range(number)]), threading.Event()

    def keep_sampling() -> None:
        while not ended.wait(INTERVAL_S):
            watch.sample()

    thread = threading.Thread(target=keep_sampling, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join(LAST_SAMPLE_S)


def gpu_name() -> str:
    """The name of the GPU that both frameworks choose; "" where the driver can't be asked."""
    return str(_ask_gpu("nvmlDeviceGetName") or "")


def free_gpu_memory(number: int = 0) -> int | None:
    """Bytes of a GPU, the first or another, which the driver would still give out; None where it can't be asked."""
    memory = _ask_gpu("nvmlDeviceGetMemoryInfo", number)
    return memory.free if memory else None


def _ask_gpu(function: str, number: int = 0) -> Any:
    nvml = _load()
    if nvml is None:
        return None
    try:
        return getattr(nvml, function)(_visible_gpu(nvml, number))
    except (nvml.NVMLError, ValueError):
        return None


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


def _visible_gpu(nvml: Any, number: int = 0) -> Any:
    """A GPU in the order of both frameworks; by index or UUID, as CUDA_VISIBLE_DEVICES may give either."""
    visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", str(number)).split(",")]
    name = visible[min(number, len(visible) - 1)]
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
