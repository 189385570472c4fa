"""Is what the driver says of the GPU summed up rightly? A made-up driver, and on a GPU an allocation of known size."""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from common.measure import nvml as nvml_module
from common.measure.hardware import has_gpu
from common.measure.nvml import DeviceWatch, GpuUse, GpuWatch, watch_gpus
from tests.conftest import ROOT, needs_tensorflow, needs_torch
from tests.tolerances import KNOWN_ALLOCATION

PID = 7
needs_gpu = pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU")


class FakeNvml:
    """Answers with what stands in its fields."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.used = 100
        self.processes: dict[int, int | None] = {}
        self.reasons = 0
        self.energy_mj: int | None = 0
        self.clock_mhz = 1980
        self.asked_for: Any = None

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802 - NVML's names
        self.asked_for = index
        return "gpu"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked_for = uuid
        return "gpu"

    def nvmlDeviceGetMemoryInfo(self, gpu: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: str) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes.items()]

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: str) -> int:  # noqa: N802
        return self.reasons

    def nvmlDeviceGetClockInfo(self, gpu: str, kind: int) -> int:  # noqa: N802
        return {1: self.clock_mhz}[kind]

    def nvmlDeviceGetMaxClockInfo(self, gpu: str, kind: int) -> int:  # noqa: N802
        return {1: 1980}[kind]

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: str) -> int:  # noqa: N802
        if self.energy_mj is None:
            raise self.NVMLError
        return self.energy_mj


@pytest.fixture
def nvml() -> FakeNvml:
    return FakeNvml()


def test_the_peak_of_the_process(nvml: FakeNvml) -> None:
    watch = DeviceWatch(nvml, PID)
    for used in (50, 80, 60):
        nvml.processes = {PID: used, 8: 1000}
        watch.sample()
    assert watch.use() == GpuUse("process", 80, None, [], 1, other_bytes=1000, max_sm_clock_mhz=1980)


def test_a_driver_that_no_longer_answers_is_not_waited_for(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, is_over, waited_for = threading.Event(), threading.Event(), threading.Event()

    def hang(watch: GpuWatch) -> None:
        asked.set()
        if not is_over.wait(20):
            waited_for.set()

    monkeypatch.setattr(nvml_module, "_load", lambda: nvml)
    monkeypatch.setattr(nvml_module, "LAST_SAMPLE_S", 0.1)
    monkeypatch.setattr(GpuWatch, "sample", hang)
    with watch_gpus(PID):
        assert asked.wait(10)
    assert not waited_for.is_set()
    is_over.set()


def test_where_processes_cannot_be_told_apart_the_growth_of_the_device_counts(nvml: FakeNvml) -> None:
    watch = DeviceWatch(nvml, PID)
    for used in (130, 190, 150):  # 100 were used before
        nvml.used = used
        watch.sample()
    assert (watch.use().memory_source, watch.use().process_peak_bytes) == ("growth of the device", 90)


def test_energy_is_of_the_steady_epochs(nvml: FakeNvml) -> None:
    """Counter at the ends of three epochs, in mJ: the two steady ones took 40 J and 60 J."""
    watch = DeviceWatch(nvml, PID)
    for nvml.energy_mj in (900_000, 940_000, 1_000_000):
        watch.end_epoch()
    assert watch.use().energy_per_epoch_j == 50.0


def test_no_energy_without_a_counter(nvml: FakeNvml) -> None:
    watch = DeviceWatch(nvml, PID)
    for nvml.energy_mj in (1000, None):
        watch.end_epoch()
    assert watch.use().energy_per_epoch_j is None


@pytest.mark.parametrize("missing", [name for name in dir(FakeNvml) if name.startswith("nvml")])
def test_a_reading_that_fails_is_left_out_and_nothing_else(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old driver, an old nvidia-ml-py, or a GPU that can't be found: the row is never lost."""

    class Old(FakeNvml):
        def __getattribute__(self, name: str) -> Any:
            if name == missing:
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    nvml = Old()
    watch = DeviceWatch(nvml, PID)
    nvml.used, nvml.processes, nvml.reasons = 150, {PID: 40}, 0x04
    for nvml.energy_mj in (0, 5000):
        watch.sample()
        watch.end_epoch()
    complete = GpuUse("process", 40, 5.0, ["the power limit"], 0, None, 1980, 1980)
    assert watch.use() == {
        "nvmlDeviceGetHandleByIndex": GpuUse("growth of the device", None, None, [], 0),
        "nvmlDeviceGetComputeRunningProcesses": replace(
            complete, memory_source="growth of the device", process_peak_bytes=50
        ),
        "nvmlDeviceGetCurrentClocksEventReasons": replace(complete, slowed_by=[]),
        "nvmlDeviceGetClockInfo": replace(complete, sm_clock_mhz=None),
        "nvmlDeviceGetMaxClockInfo": replace(complete, max_sm_clock_mhz=None),
        "nvmlDeviceGetTotalEnergyConsumption": replace(complete, energy_per_epoch_j=None),
    }.get(missing, complete)


def test_whatever_held_the_clocks_down_is_remembered(nvml: FakeNvml) -> None:
    watch = DeviceWatch(nvml, PID)
    for nvml.reasons in (0x01, 0x04, 0x20 | 0x40, 0x00):  # idle, power cap, heat twice, nothing
        watch.sample()
    assert watch.use().slowed_by == ["heat", "the power limit"]


def test_the_clock_is_that_of_the_steady_epochs(nvml: FakeNvml) -> None:
    """Low while the row starts and after it has trained; the middle one of the three between counts."""
    watch = DeviceWatch(nvml, PID)
    for clocks_mhz in ((210,), (1200, 1500), (1980,), ()):
        for nvml.clock_mhz in clocks_mhz:
            watch.sample()
        watch.end_epoch()
    nvml.clock_mhz = 345
    watch.sample()
    assert (watch.use().sm_clock_mhz, watch.use().max_sm_clock_mhz) == (1500, 1980)


def test_a_clock_that_someone_has_set_is_remembered(nvml: FakeNvml) -> None:
    watch = DeviceWatch(nvml, PID)
    nvml.reasons = 0x02
    watch.sample()
    assert watch.use().slowed_by == ["a clock setting"]


def test_who_was_there_before_a_row_that_the_driver_does_not_name_is_another(nvml: FakeNvml) -> None:
    """In some containers the driver gives pids of the host; the one that comes later may be the row's own."""
    nvml.processes = {4001: 700, 4002: None}
    watch = DeviceWatch(nvml, PID)
    nvml.processes = {4001: 900, 4002: None, 4003: 300}
    watch.sample()
    assert (watch.use().other_processes, watch.use().other_bytes) == (2, 900)


@pytest.mark.parametrize(
    ("visible", "number", "asked_for"),
    [("3,1", 0, 3), ("3,1", 1, 1), ("GPU-5a, GPU-5b", 1, "GPU-5b"), (None, 0, 0), (None, 1, 1)],
)
def test_the_gpus_are_the_first_visible_ones(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str | None, number: int, asked_for: Any
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    DeviceWatch(nvml, PID, number)
    assert nvml.asked_for == asked_for


def test_several_gpus_are_one_row_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of the fuller one, the energy of both. On each there is a process that the row's has started."""
    monkeypatch.setattr("os.getpgid", {21: PID, 22: PID, 8: 8}.__getitem__)
    one, two = FakeNvml(), FakeNvml()
    one.processes, two.processes = {21: 300}, {22: 500, 8: 1000}
    watch = GpuWatch([DeviceWatch(nvml, PID) for nvml in (one, two)])
    for one.energy_mj, two.energy_mj in ((0, 0), (5000, 7000)):
        watch.sample()
        watch.end_epoch()
    two.reasons = 0x04
    watch.sample()
    assert watch.use() == GpuUse("process", 500, 12.0, ["the power limit"], 1, 1000, 1980, 1980)


@pytest.mark.skipif(has_gpu(), reason="there is one")
def test_without_a_gpu_nothing_is_watched() -> None:
    with watch_gpus(PID) as watch:
        assert watch is None


SIZE = 2**30
ALLOCATE = {
    "torch_impl": "import torch; held = torch.ones({size} // 4, device='cuda'); torch.cuda.synchronize()",
    "tf_impl": "from tf_impl.device import select_device; import tensorflow as tf; select_device('gpu', 1);"
    "held = tf.ones({size} // 4)",
}


@needs_gpu
@pytest.mark.parametrize(
    "package", [pytest.param("torch_impl", marks=needs_torch), pytest.param("tf_impl", marks=needs_tensorflow)]
)
def test_an_allocation_of_known_size(package: str) -> None:
    """1 GiB more is 1 GiB more, as the driver counts it, and TensorFlow does not grab the whole card."""
    small, large = (peak_bytes(ALLOCATE[package].format(size=size)) for size in (SIZE, 2 * SIZE))
    assert large - small == pytest.approx(SIZE, rel=KNOWN_ALLOCATION)
    assert small < 3 * SIZE  # with CUDA's context and the libraries' kernels


def peak_bytes(program: str) -> int:
    command = [sys.executable, "-c", f"{program}; import time; time.sleep(1)"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    with watch_gpus(process.pid) as watch:
        assert watch is not None
        process.wait(120)
        time.sleep(0.2)
    return watch.use().process_peak_bytes
