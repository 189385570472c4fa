"""Is a row that was disturbed named with what disturbed it, and no other?"""

from dataclasses import replace

import pytest

from common.config import Precision, RunConfig
from common.measure.contention import Contention
from common.measure.limits import Ceilings, Limits
from common.measure.nvml import GpuUse
from common.measure.timing import StepTimes, Timing
from common.results.rows import RowResult, Status
from common.show.disturbance import disturbances, unlikely_floors
from common.show.lines import group
from common.show.table import notes, unsteady

ALONE = Contention(wall_s=2.0, cpu_s=3.9, threads=2, cores=2, queued_s=0.01, others_s=0.02, stolen_s=0.0)
SHARED = replace(ALONE, cpu_s=2.0, queued_s=1.9, others_s=1.9)
QUOTA = replace(ALONE, quota_cores=1.5, periods=20, stopped_periods=18, stopped_s=0.9)


def make(precision: str = "float32", contention: Contention | None = None, repeat: int = 0) -> RowResult:
    return RowResult(
        RunConfig("torch", Precision(precision), repeat=repeat),
        Status.OK,
        timing=Timing(1.0, [2.0] + 8 * [1.0], StepTimes(1.0, 1.0, 1.0, 8), 10.0, 16.0),
        contention=contention,
    )


def said_of(*rows: RowResult) -> list[str]:
    return [note for note in notes(rows) if note.startswith("NOISY")]


@pytest.mark.parametrize(
    ("contention", "text"),
    [
        (SHARED, "other processes took up to 0.95 of 2 cores; the worst-hit threads ran 50 % of the time"),
        (
            replace(ALONE, stolen_s=0.8),
            "the host of this virtual machine kept up to 0.4 of 2 cores for others",
        ),
        (QUOTA, "its quota of 1.5 cores ran out in up to 90 % of its periods; --threads 1 would stay within it"),
        (replace(QUOTA, quota_cores=0.5), "its quota of 0.5 cores ran out in up to 90 % of its periods"),
        (
            replace(ALONE, threads=8, queued_s=12.0),
            "8 threads of it waited for 2 cores; --threads 2 gives each its own",
        ),
    ],
)
def test_the_cause_is_named(contention: Contention, text: str) -> None:
    assert said_of(make(contention=contention)) == [f"NOISY: torch float32: {text}"]


@pytest.mark.parametrize("contention", [None, ALONE], ids=["of an earlier version", "alone"])
def test_nothing_is_said_without_a_cause(contention: Contention | None) -> None:
    assert said_of(make(contention=contention)) == []


def test_a_cause_is_said_once_with_the_worst_of_it() -> None:
    rows = [make(contention=SHARED), make(contention=replace(SHARED, others_s=1.0), repeat=1), make("float64", ALONE)]
    rows.append(make("mixed_bfloat16", replace(SHARED, cpu_s=1.0)))
    (note,) = said_of(*rows)
    assert note.startswith("NOISY: torch float32, torch mixed_bfloat16: other processes took up to 0.95 of 2 cores")
    assert note.endswith("the worst-hit threads ran 25 % of the time")


def slowing(contention: Contention | None) -> RowResult:
    row = make(contention=contention)
    assert row.timing
    return replace(row, timing=replace(row.timing, epoch_s=[9.0, 1.0, 1.0, 1.0, 1.0, 1.3, 1.3, 1.3, 1.3]))


def test_heat_is_not_blamed_for_what_others_took() -> None:
    (known,), (unknown,) = (unsteady(group([slowing(contention)])) for contention in (SHARED, ALONE))
    assert known.endswith("than in the first: other work on its cores")
    assert unknown.endswith("than in the first: heat, a power limit or memory")


def test_scattered_epochs_have_the_cause_that_is_known() -> None:
    row = make(contention=QUOTA)
    assert row.timing
    row = replace(row, timing=replace(row.timing, epoch_s=[2.0, 1.0, 1.4] + 4 * [1.0, 1.4]))
    (note,) = unsteady(group([row]))
    assert note.endswith("ms a step: its CPU quota ran out")


def on_gpu(**seen: float) -> RowResult:
    return replace(make(), gpu=GpuUse("process", 10**9, 50.0, [], **{"other_processes": 0, **seen}))


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (
            {"other_processes": 2, "other_bytes": 5 * 10**9},
            "up to 2 other processes used the GPU beside it, with up to 5000 MB",
        ),
        ({"other_processes": 1}, "up to 1 other process used the GPU beside it"),
        ({"sm_clock_mhz": 1410, "max_sm_clock_mhz": 1980}, "the SM clock was at 1410 of 1980 MHz"),
    ],
)
def test_what_the_driver_saw_is_said(seen: dict[str, float], text: str) -> None:
    assert said_of(on_gpu(**seen)) == [f"NOISY: torch float32: {text}"]


@pytest.mark.parametrize("seen", [{"sm_clock_mhz": 1905, "max_sm_clock_mhz": 1980}, {"max_sm_clock_mhz": 1980}, {}])
def test_a_clock_near_its_maximum_or_unknown_is_no_news(seen: dict[str, float]) -> None:
    assert disturbances(group([on_gpu(**seen)])) == []


def with_floor(times_floor: float, floor_s: float = 0.005, detail: str = "") -> RowResult:
    limits = Limits(1e9, 1e8, floor_s, times_floor, Ceilings(1e11, 1e11))
    return replace(make(), limits=limits, detail=detail)


@pytest.mark.parametrize(
    ("row", "beginning"),
    [
        (with_floor(23.0), "x floor above 10: torch float32: steps took far longer than their work"),
        (with_floor(0.259), "x floor below 1: torch float32: the device was busy while its ceilings were measured"),
    ],
)
def test_an_unlikely_floor_is_said(row: RowResult, beginning: str) -> None:
    (note,) = unlikely_floors(group([row]))
    assert note.startswith(beginning)
    assert note in notes([row])


@pytest.mark.parametrize(
    "row",
    [with_floor(2.0), with_floor(1.0), with_floor(90.0, floor_s=1e-4), with_floor(34.0, detail="emulated"), make()],
    ids=["near", "at its limit", "little work", "a reason is given", "not measured"],
)
def test_a_floor_that_is_likely_is_not(row: RowResult) -> None:
    assert unlikely_floors(group([row])) == []
