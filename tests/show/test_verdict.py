"""Is nothing said of a speed-up that its rows can't carry, in any of the places that say something of one?

float32 takes 2 s an epoch and mixed_float16 1 s, but for what a test does to them.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from common.cli.compare import compare, fail_above
from common.config import Precision, RunConfig, TrainConfig
from common.measure.contention import Contention
from common.measure.memory import Memory
from common.measure.timing import StepTimes, Timing
from common.results.check import Check
from common.results.rows import ParityEntry, Results, RowResult, Status
from common.show.crossover import crossover, gains_along
from common.show.findings import memory_finding, speed_finding
from common.show.lines import Line, group
from common.show.table import notes
from common.show.verdict import CANT_TELL, FASTER, FEW_PROCESSES, NO_DIFFERENCE, SLOWER, Verdict, judge

STEADY = [1.0, 1.01, 0.99, 1.0, 1.0, 1.01, 0.99]
SCATTERED = [1.0, 1.4, 1.0, 1.4, 1.0, 1.4, 1.0]
HERE, LATER = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
WRONG = Check("C1 logits", 2, 1, False, "right")


def row(precision: str, seconds: Sequence[float], repeat: int = 0, session: str | None = HERE) -> RowResult:
    config = RunConfig("torch", Precision(precision), train=TrainConfig(epochs=len(seconds) + 1), repeat=repeat)
    step_s = sorted(seconds)[len(seconds) // 2] / config.steps_per_epoch
    timing = Timing(1.0, [9.0, *seconds], StepTimes(step_s, step_s, step_s, len(seconds)), 99.0, 1.0)
    used = 2 * 10**6 if precision == "float32" else 10**6
    memory = Memory("host_rss", 0, used, used, used)
    return RowResult(config, Status.OK, timing=timing, memory=memory, session=session)


def rows_of(
    float32: Sequence[float] = (2.0,), float16: Sequence[float] = (1.0,), epochs: Sequence[float] = STEADY
) -> list[RowResult]:
    """A process for each pace of either precision, in turns of one session."""
    sides = {"float32": float32, "mixed_float16": float16}
    return [
        row(precision, [pace * seconds for seconds in epochs], repeat)
        for precision, paces in sides.items()
        for repeat, pace in enumerate(paces)
    ]


def said_of(rows: Sequence[RowResult], parity: Sequence[ParityEntry] = ()) -> Verdict:
    float32, float16 = lines_of(rows)
    return judge(float16, float32, parity)


def lines_of(rows: Sequence[RowResult]) -> list[Line]:
    return group(sorted(rows, key=lambda row: (row.precision, row.config.repeat)))


def bent(rows: Sequence[RowResult], precision: str, repeat: int, **fields: object) -> list[RowResult]:
    """With these fields of one row replaced."""
    return [
        replace(each, **fields) if (each.precision, each.config.repeat) == (precision, repeat) else each  # type: ignore[arg-type]
        for each in rows
    ]


THREE = rows_of([2.0, 2.02, 1.98], [1.0, 1.02, 0.99])


@pytest.mark.parametrize(
    ("float32", "float16", "verdict"),
    [
        ([2.0] * 3, [1.0] * 3, Verdict(FASTER)),
        ([1.0] * 3, [2.0] * 3, Verdict(SLOWER)),
        ([1.05, 1.06, 1.05], [1.0, 1.01, 1.0], Verdict(FASTER)),
        ([1.0, 1.02, 1.01], [1.0, 1.03, 1.0], Verdict(NO_DIFFERENCE, "within 3 %")),
        ([1.0, 1.08, 1.0], [1.08, 1.0, 1.0], Verdict(CANT_TELL, "anything from 0.83x to 1.21x the speed", True)),
        ([2.0], [1.0], Verdict(FASTER)),
        ([1.0], [1.0], Verdict(NO_DIFFERENCE, "within 10 %")),
        (
            [1.11],
            [1.0],
            Verdict(CANT_TELL, "1.10x to 1.12x the speed within the run; equal processes may differ by 10 %", True),
        ),
    ],
)
def test_what_is_said(float32: list[float], float16: list[float], verdict: Verdict) -> None:
    assert said_of(rows_of(float32, float16)) == verdict


def test_no_difference_is_not_said_of_what_may_be_any() -> None:
    """As it was of 0.07x, with an interval of 0.03 to 2.26."""
    word, why, _ = said_of(rows_of([1.0, 1.0, 1.0], [14.0, 0.5, 30.0]))
    assert (word, why.startswith("anything from 0.00x to ")) == (CANT_TELL, True)


def scattered(precision: str, repeat: int) -> list[RowResult]:
    pace = 2.0 if precision == "float32" else 1.0
    return bent(THREE, precision, repeat, timing=row(precision, [pace * seconds for seconds in SCATTERED]).timing)


BUSY = Contention(wall_s=2.0, cpu_s=2.0, threads=2, cores=2, queued_s=1.9, others_s=1.9)
C8 = ParityEntry("mixed_float16", False, False, [Check("C8 loss curve", 2, 1, False, "all", rows=("torch", "x"))])
NO_EVIDENCE = {
    "UNSTABLE": (scattered("mixed_float16", 1), ()),
    "float32 UNSTABLE": (scattered("float32", 2), ()),
    "NOISY": (bent(THREE, "mixed_float16", 1, contention=BUSY), ()),
    "float32 NOISY": (bent(THREE, "float32", 0, contention=BUSY), ()),
    "oom": (bent(THREE, "mixed_float16", 2, status=Status.OOM, timing=None), ()),
    "float32 killed": (bent(THREE, "float32", 0, status=Status.KILLED, timing=None), ()),
    "C1 logits failed": (bent(THREE, "mixed_float16", 1, checks=[WRONG]), ()),
    "float32 C1 logits failed": (bent(THREE, "float32", 1, checks=[WRONG]), ()),
    "C8 loss curve failed": (THREE, (C8,)),
    "of another session than float32": (bent(THREE, "mixed_float16", 1, session=LATER), ()),
    "fewer than 3 steady epochs in a process; give --epochs 4 or more": (rows_of([2.0] * 3, [1.0] * 3, STEADY[:2]), ()),
}


@pytest.mark.parametrize("why", NO_EVIDENCE)
def test_what_is_no_evidence_carries_no_headline(why: str) -> None:
    """Neither in the verdict, nor in a sweep, nor in a title, nor in the notes under a table."""
    rows, parity = NO_EVIDENCE[why]
    assert said_of(THREE).word == FASTER
    assert said_of(rows, parity) == Verdict(CANT_TELL, why)
    (gains,) = gains_along({8: Results([], {}, rows, list(parity))})
    assert crossover(gains, "size") == f"can't tell at size 8 ({why})"
    title = speed_finding(lines_of(rows), parity)
    assert "x as fast" not in title
    assert title.startswith(("PyTorch: can't tell", "Too few epochs to judge the speed"))
    if all(each.timing for each in rows):
        assert f"can't tell whether it pays: torch mixed_float16: {why}" in notes(rows, parity)


@pytest.mark.parametrize(
    "rows", [bent(THREE, "mixed_float16", 1, checks=[WRONG]), bent(THREE, "float32", 0, checks=[WRONG])]
)
def test_the_memory_of_a_wrong_row_is_no_headline(rows: list[RowResult]) -> None:
    assert memory_finding(lines_of(THREE), ()) == "PyTorch: mixed_float16 takes 50% less memory"
    assert memory_finding(lines_of(rows), ()).startswith("PyTorch: can't tell: ")


@pytest.mark.parametrize("why", ["UNSTABLE", "C1 logits failed"])
def test_a_comparison_rests_on_no_such_row_either(why: str) -> None:
    """Neither for better nor for worse: a gate does not pass it."""
    rows, _ = NO_EVIDENCE[why]
    both = [Results([], {}, rows), Results([], {}, THREE)]
    for old, new, whose in (*[(*both, "OLD")], (*reversed(both), "NEW")):
        changes = {change.new.first.precision: change for change in compare(old, new)}
        assert changes["float32"].verdict == NO_DIFFERENCE
        assert changes["mixed_float16"].said == Verdict(CANT_TELL, f"{whose} {why}")
        if not changes["mixed_float16"].is_lost:
            assert fail_above([*changes.values()], 5) == [f"torch mixed_float16 can't be judged: {whose} {why}"]


def test_a_title_names_what_it_can_not_tell() -> None:
    faster = [
        replace(each, config=replace(each.config, precision=Precision.MIXED_BFLOAT16))
        for each in scattered("mixed_float16", 0)
        if each.precision == "mixed_float16"
    ]
    title = speed_finding(lines_of([*THREE, *faster]), ())
    assert title == "PyTorch: mixed_float16 is 2.00x as fast; can't tell of mixed_bfloat16: UNSTABLE"


@pytest.mark.parametrize(("processes", "few"), [(1, True), (2, True), (3, False)])
def test_a_headline_of_few_processes_says_so(processes: int, few: bool) -> None:
    rows = rows_of([2.0] * processes, [1.0] * processes)
    title = speed_finding(lines_of(rows), ())
    assert title.startswith("PyTorch: mixed_float16 is 2.00x as fast")
    (gains,) = gains_along({8: Results([], {}, rows)})
    for text in (title, crossover(gains, "size")):
        assert text.lower().endswith(FEW_PROCESSES) is few


def test_a_turn_that_is_disturbed_hits_both_sides() -> None:
    """Twice as slow in one turn of three: processes differ, pairs don't. Ran one side first, who can tell?"""
    rows = rows_of([2.0, 4.04, 2.0], [1.0, 2.0, 1.01])
    assert all(line.instability.startswith("its processes differ") for line in lines_of(rows))
    assert said_of(rows) == Verdict(FASTER)
    assert said_of([replace(each, session=None) for each in rows]) == Verdict(CANT_TELL, "UNSTABLE")
    side = rows_of([2.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    assert said_of(side).word == CANT_TELL


def test_rows_of_another_session_are_named() -> None:
    note = "of another session than float32: torch mixed_float16: what changed in between is in their speed-up"
    assert note in notes(bent(rows_of(), "mixed_float16", 0, session=LATER))
    assert note in notes(bent(rows_of(), "mixed_float16", 0, session=None))
    for session in (HERE, None):  # of before nothing is recorded
        assert note not in notes([replace(each, session=session) for each in rows_of()])
