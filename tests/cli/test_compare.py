"""Are two results compared row by row, and is a change only called one that equal runs would not show?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import run_parity
from common.cli.compare import Change, compare, fail_above, lost, notes
from common.config import Precision, RunConfig, TrainConfig
from common.measure.memory import Memory
from common.measure.timing import StepTimes, Timing
from common.results.check import Check
from common.results.coding import write_json
from common.results.rows import Environment, ParityEntry, Results, RowResult, Status

STEADY = [1.0, 1.01, 0.99, 1.0, 1.0, 1.01, 0.99]  # seconds of an epoch
CPU = {"kind": "cpu", "name": "x"}


def make(
    epochs_s: Sequence[float] = STEADY, repeat: int = 0, precision: str = "float32", version: str = "1"
) -> RowResult:
    config = RunConfig("torch", Precision(precision), train=TrainConfig(epochs=len(epochs_s) + 1), repeat=repeat)
    steps_s = np.asarray(epochs_s) / config.steps_per_epoch
    steps = StepTimes(float(np.median(steps_s)), float(np.min(steps_s)), float(np.max(steps_s)), len(epochs_s))
    return RowResult(
        config,
        Status.OK,
        environment=Environment(version, "3.12", "2.2", "Linux", CPU, {"layout": "NHWC"}),
        timing=Timing(1.0, [2.0, *epochs_s], steps, 9.0, 400.0),
        memory=Memory("host_rss", 10**6, 3 * 10**6, 2 * 10**6, 2 * 10**6),
        checks=[Check("C1 logits", 1, 2, True, "right")],
    )


OTHER = replace(make(), config=replace(make().config, train=TrainConfig(epochs=8, batch_size=25)))


def results(*rows: RowResult) -> Results:
    return Results(["run_parity.py"], {}, list(rows))


def scaled(factor: float, count: int = 3) -> list[RowResult]:
    """Processes that are this much slower than STEADY, and lie 1 % apart."""
    return [make([factor * (1 + 0.01 * repeat) * seconds for seconds in STEADY], repeat) for repeat in range(count)]


def change(old: Sequence[RowResult], new: Sequence[RowResult]) -> Change:
    (only,) = compare(results(*old), results(*new))
    return only


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.5, "slower"), (1.04, "slower"), (1.0, "no difference"), (0.96, "faster"), (0.5, "faster")],
)
def test_three_processes_show_4_percent(factor: float, verdict: str) -> None:
    found = change(scaled(1.0), scaled(factor))
    assert found.ratio == pytest.approx(factor)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.2, "slower"), (1.08, "no difference"), (0.93, "no difference"), (0.8, "faster")]
)
def test_one_process_shows_what_equal_ones_do_not_differ_by(factor: float, verdict: str) -> None:
    assert change(scaled(1.0, 1), scaled(factor, 1)).verdict == verdict


def test_of_pairs_of_equal_runs_few_differ() -> None:
    """Epochs scatter by 2 %, processes by 3 %: of 200 pairs 5 % differ by chance at 95 %, more with few processes."""
    draw, differing = np.random.default_rng(1), 0
    for _ in range(200):
        old, new = (
            [make((p * (1 + 0.02 * draw.standard_normal(9))).tolist(), r) for r, p in enumerate(pace)]
            for pace in 1 + 0.03 * draw.standard_normal((2, 5))
        )
        differing += change(old, new).verdict != "no difference"
    assert differing <= 20


def test_two_epochs_are_not_judged() -> None:
    found = change([make([1.0, 1.0])], [make([5.0, 5.0])])
    assert (found.ratio, found.verdict) == (5.0, "can't tell")
    assert "can't tell: torch float32: fewer than 3 steady epochs in a process; give --epochs 4 or more" in notes(
        results(found.old.first), results(found.new.first), [found]
    )


def test_only_a_slow_down_beyond_the_limit_fails() -> None:
    slower = compare(results(*scaled(1.0)), results(*scaled(1.06)))
    assert fail_above(slower, 5) == ["torch float32 is slower by 6 %, more than 5 %"]
    assert fail_above(slower, 7) == []
    assert fail_above(compare(results(*scaled(1.0)), results(*scaled(0.5))), 5) == []


def test_a_gate_does_not_pass_what_it_cannot_judge() -> None:
    few = compare(results(make([1.0, 1.0])), results(make([9.0, 9.0])))
    assert fail_above(few, 5) == [
        "torch float32 can't be judged: fewer than 3 steady epochs in a process; give --epochs 4 or more"
    ]


@pytest.mark.parametrize(("percent", "fails"), [(5, True), (20, False)])
def test_a_gate_passes_what_lies_within_it(percent: float, fails: bool) -> None:
    """Three processes of 0.89 to 1.13 times the time can't be told apart, but a slow-down by a fifth they exclude."""
    paces = ([1.0, 1.05, 0.95], [1.06, 0.95, 1.0])
    old, new = ([make([pace * s for s in STEADY], repeat) for repeat, pace in enumerate(side)] for side in paces)
    assert change(old, new).verdict == "can't tell"
    assert bool(fail_above([change(old, new)], percent)) is fails


def test_a_row_that_does_not_run_any_more_fails() -> None:
    gone = replace(make(), status=Status.OOM, timing=None, checks=[])
    assert fail_above(compare(results(make()), results(gone)), 5) == ["torch float32 was ok, parity pass and is oom"]
    wrong = replace(make(), checks=[Check("C1 logits", 3, 2, False, "right")])
    assert fail_above(compare(results(make()), results(wrong)), 5) == [
        "torch float32 was ok, parity pass and is ok, parity C1 logits"
    ]


@pytest.mark.parametrize(
    ("before", "after", "fails"),
    [(1, 3, True), (3, 3, False), (1, 1, False), (None, 3, False)],
    ids=["fails now", "failed before", "passes", "was not compared"],
)
def test_two_rows_that_are_no_longer_alike_fail(before: float | None, after: float, fails: bool) -> None:
    """C8, in which the bound is 2 here, stands in neither of the two rows."""

    def compared(difference: float | None) -> Results:
        pair = (
            []
            if difference is None
            else [Check("C8 loss curve", difference, 2, difference < 2, "all", rows=("torch", "tensorflow"))]
        )
        return replace(results(make()), parity=[ParityEntry("float32", False, not pair or pair[0].passed, pair)])

    said = ["float32: C8 loss curve failed, torch, tensorflow: all: 3, bound 2, 1.5 times"]
    assert lost(compared(before), compared(after)) == (said if fails else [])


def test_notes_name_what_changed_and_what_is_in_one_alone() -> None:
    old, new = results(make(version="2.12"), make(precision="mixed_bfloat16")), results(make(version="2.13"))
    said = notes(old, new, compare(old, new))
    assert said[0] == "not in NEW: torch mixed_bfloat16"
    assert said[-1] == "changed, torch: version: 2.12 -> 2.13"


def files(tmp_path: Path, old: Results, new: Results) -> list[str]:
    write_json(tmp_path / "old.json", old)
    (tmp_path / "new").mkdir()
    write_json(tmp_path / "new" / "results.json", new)
    return ["compare", str(tmp_path / "old.json"), str(tmp_path / "new")]


def test_the_verb_prints_a_line_for_each_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = files(tmp_path, results(*scaled(1.0)), results(*scaled(2.0)))
    assert run_parity.main([*command, "--format", "tsv"]) == 0
    header, line = (line.split("\t") for line in capsys.readouterr().out.splitlines()[:2])
    cells = {name.strip(): cell.strip() for name, cell in zip(header, line, strict=True)}
    assert (cells["new / old"], cells["verdict"], cells["memory"]) == ("2.000", "slower", "1.000")
    assert run_parity.main([*command, "--fail-above", "5"]) == 1
    assert "- FAIL: torch float32 is slower by 100 %, more than 5 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (
            results(replace(make(), config=replace(make().config, train=TrainConfig(8, 25)))),
            "with batch_size 25 and not 50",
        ),
        (results(make(precision="mixed_bfloat16")), "it has no row that OLD has"),
        (results(), "it has no row that OLD has"),
    ],
    ids=["another experiment", "other rows", "no rows"],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], new: Results, reason: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_parity.main(files(tmp_path, results(make()), new))
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert reason in line


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_parity.main(["compare", str(tmp_path), str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"run_parity.py compare: {tmp_path / 'results.json'} is not there\n"


def test_rows_of_one_and_of_two_replicas_are_not_held_to_each_other() -> None:
    one = make()
    execution = replace(one.config.execution, devices=2)
    two = replace(make([2 * seconds for seconds in STEADY]), config=replace(one.config, execution=execution))
    changes = compare(results(one, two), results(one, two))
    assert [each.ratio for each in changes] == [1.0, 1.0]
    assert notes(results(one, two), results(one), compare(results(one, two), results(one)))[0] == (
        "not in NEW: torch float32 x2"
    )
