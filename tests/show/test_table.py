"""Does the table say what the rows hold, and claim nothing for rows that were not trained?"""

from dataclasses import replace

import pytest

from common.config import ExecutionConfig, Precision, RunConfig
from common.measure.limits import Ceilings, Limits
from common.measure.memory import Memory
from common.measure.nvml import GpuUse
from common.measure.timing import StepTimes, Timing
from common.proof.runs import judge
from common.results.check import Check
from common.results.rows import Environment, ReplicaGroup, RowResult, Ruler, Status, Training
from common.show.extents import extents, parity_cell
from common.show.lines import Line
from common.show.table import failures, manifest_table, notes, parity_table, speed_table
from common.show.verdict import FEW_PROCESSES, INTERVALS


def make(
    framework: str, precision: str, step_ms: float, used_mb: int, repeat: int = 0, compile: bool = False
) -> RowResult:
    config = RunConfig(framework, Precision(precision), execution=ExecutionConfig(compile=compile), repeat=repeat)
    step_s = step_ms / 1e3
    return RowResult(
        config,
        Status.OK,
        environment=Environment("1.0", "3.12", "2.2", "Linux", {"kind": "gpu"}, {"scaling": precision[-2:]}),
        timing=Timing(1.5, [2.0, 1.0], StepTimes(step_s, 0.9 * step_s, 1.1 * step_s, 9), 3.25, 400.0),
        memory=Memory("gpu_allocator", 10**6, (used_mb + 1) * 10**6, used_mb * 10**6, used_mb * 10**6),
        training=Training([0.25], [0.125], [0.75], [1.0], [0, 3], "data", "weights"),
    )


def with_epochs(row: RowResult, epoch_s: list[float]) -> RowResult:
    return replace(row, timing=replace(row.timing, epoch_s=epoch_s))


FLOAT32 = make("torch", "float32", 10, 200)
FLOAT16 = make("torch", "mixed_float16", 4, 50)
BROKEN = RowResult(RunConfig("torch", Precision.TF32), Status.UNSUPPORTED, "needs a GPU")


def cells(*rows: RowResult) -> list[dict[str, str]]:
    header, *lines = speed_table(rows, "tsv").splitlines()
    names = [name.strip() for name in header.split("\t")]
    return [dict(zip(names, (cell.strip() for cell in line.split("\t")), strict=True)) for line in lines]


def test_one_row() -> None:
    assert cells(FLOAT32) == [
        {
            "framework": "torch", "precision": "float32", "compile": "off", "loop": "custom",
            "step ms": "10", "spread ms": "9-11", "speed-up": "1.00x", "x floor": "-",
            "first s": "1.5", "total s": "3.25", "images/s": "400",
            "base MB": "1", "peak MB": "201", "used MB": "200", "steady MB": "200", "saved": "0 %",
            "loss": "0.125", "acc %": "75", "skips": "2", "parity": "-", "status": "ok",
        }
    ]  # fmt: skip


def test_speed_up_and_memory_saved_over_float32() -> None:
    _, half = cells(FLOAT32, FLOAT16)
    assert (half["speed-up"], half["saved"]) == ("2.50x", "75 %")


def test_the_interval_of_one_process_is_bootstrapped_from_its_steady_epochs() -> None:
    baseline, row = (with_epochs(one, [9.0, *3 * [s]]) for one, s in ((FLOAT32, 2.0), (FLOAT16, 1.0)))
    assert [line["within run"] for line in cells(baseline, row)] == ["-", "2.00-2.00"]  # the first does not count
    line = cells(baseline, with_epochs(FLOAT16, [9.0, 0.8, 1.0, 1.2]))[1]
    low, high = line["within run"].split("-")
    assert float(low) < 2.0 < float(high)


@pytest.mark.parametrize(("processes", "column"), [(1, "within run"), (2, "within run"), (3, "95 %")])
def test_one_process_has_no_95_percent(processes: int, column: str) -> None:
    rows = [
        with_epochs(replace(row, config=replace(row.config, repeat=repeat)), [9.0, *4 * [seconds]])
        for repeat in range(processes)
        for row, seconds in ((FLOAT32, 2.0), (FLOAT16, 1.0))
    ]
    line = cells(*rows)[1]
    assert {name: cell for name, cell in line.items() if name in INTERVALS} == {column: "2.00-2.00"}
    said = any(note.startswith("within run: ") and FEW_PROCESSES in note for note in notes(rows))
    assert said == (processes < 3)


def test_an_unstable_row_is_named_with_the_reason_and_what_the_driver_saw() -> None:
    slowing = with_epochs(FLOAT16, [9.0, 1.0, 1.0, 1.0, 1.0, 1.3, 1.3, 1.3, 1.3])
    hot = replace(slowing, gpu=GpuUse("process", 10**9, 50.0, ["heat"], other_processes=2))
    said = notes([with_epochs(FLOAT32, [9.0] + 8 * [2.0]), hot])
    assert "can't tell whether it pays: torch mixed_float16: UNSTABLE" in said
    (warning,) = (note for note in said if note.startswith("UNSTABLE"))
    assert warning.startswith("UNSTABLE: torch mixed_float16: slower by 30 % in the second half")
    assert warning.endswith("; its clocks were held down by heat")


def test_columns_of_several_replicas_are_there_where_one_row_has_them() -> None:
    group = ReplicaGroup(2, 1, "nccl", 25, 200.0, [10**9, 11 * 10**8], strong_scaling_efficiency=0.625)
    config = replace(FLOAT16.config, execution=ExecutionConfig(devices=2))
    one, two = cells(FLOAT16, replace(FLOAT16, config=config, replicas=group))
    columns = ("replicas", "hosts", "sums by", "batch each", "images/s each", "peak MB each", "strong %", "weak %")
    assert [two.get(column) for column in columns] == ["2", "1", "nccl", "25", "200", "1100", "62.5", None]
    assert [one[column] for column in columns[:-1]] == ["1", "1", "-", "50", "400", "-", "-"]


def test_columns_that_only_a_gpu_fills_are_there_where_one_row_fills_them() -> None:
    memory = replace(FLOAT16.memory, device_process_peak_bytes=5 * 10**9)
    measured = replace(FLOAT16, memory=memory, gpu=GpuUse("process", 5 * 10**9, 52.5, [], 0))
    lines = cells(FLOAT32, measured)
    assert [(line["device MB"], line["J/epoch"]) for line in lines] == [("-", "-"), ("5000", "52.5")]


def test_distance_to_the_floor() -> None:
    limits = Limits(1e12, 1e10, floor_s=0.002, times_floor=2.0, ceilings=Ceilings(1e12, 1e14))
    (line,) = cells(replace(FLOAT16, limits=limits))
    assert line["x floor"] == "2"


def test_a_baseline_is_of_the_same_framework_and_mode() -> None:
    other = make("tensorflow", "mixed_float16", 4, 50)
    compiled = make("torch", "mixed_float16", 2, 50, compile=True)
    assert [line["speed-up"] for line in cells(FLOAT32, other, compiled)] == ["1.00x", "-", "-"]


def test_a_row_that_was_not_trained_claims_nothing() -> None:
    _, line = cells(FLOAT32, BROKEN)
    assert line["status"] == "unsupported"
    assert {line[name] for name in ("step ms", "speed-up", "used MB", "saved", "loss", "skips")} == {"-"}


def test_a_failed_baseline_gives_no_speed_up() -> None:
    diverged = replace(FLOAT32, status=Status.NONFINITE)
    assert [line["speed-up"] for line in cells(diverged, FLOAT16)] == ["-", "-"]


def test_repeats_are_one_line() -> None:
    (line,) = cells(*(make("torch", "float32", ms, 200, repeat) for repeat, ms in enumerate((10, 30, 20))))
    assert (line["step ms"], line["spread ms"]) == ("20", "10-30")


def test_one_failed_repeat_spoils_the_line() -> None:
    (line,) = cells(FLOAT32, replace(FLOAT32, status=Status.CRASHED, config=replace(FLOAT32.config, repeat=1)))
    assert (line["step ms"], line["status"]) == ("-", "ok, crashed")


def test_notes_name_rows_and_reasons() -> None:
    assert "torch tf32: needs a GPU" in notes([FLOAT32, BROKEN])


def test_notes_compare_the_starts() -> None:
    assert "data: sha256 data... in all 2 rows that ran, bit for bit" in notes([FLOAT32, FLOAT16])
    assert FLOAT16.training
    moved = replace(FLOAT16, training=replace(FLOAT16.training, data_sha256="other"))
    assert any(note.startswith("data: NOT EQUAL") for note in notes([FLOAT32, moved]))


def test_the_manifest_says_what_differs_by_precision() -> None:
    lines = manifest_table([FLOAT32, FLOAT16, make("torch", "tf32", 5, 200)], "tsv").splitlines()
    assert lines[-1].split("\t")[1].strip() == "32; mixed_float16: 16"


GOOD = Check("C2 gradient", 0.5, 2.0, True, "ordinary", "conv1/kernel")
BAD = Check("C1 logits", 3.0, 2.0, False, "right")
NOT_FINITE = Check("C5 loss scale", None, 0.0, False, "loss scale")


def test_parity_names_the_check_that_failed_worst() -> None:
    rows = [replace(FLOAT32, checks=checks) for checks in ([GOOD], [GOOD, BAD], [BAD, NOT_FINITE])]
    assert [cells(row)[0]["parity"] for row in rows] == ["pass", "C1 logits", "C5 loss scale"]


def test_the_parity_table_shows_fractions_of_the_bounds() -> None:
    (entry,) = judge([replace(FLOAT32, checks=[GOOD]), replace(make("tensorflow", "float32", 4, 50), checks=[BAD])])
    header, line = (text.split("\t") for text in parity_table([entry], "tsv").splitlines())
    table = dict(zip((name.strip() for name in header), (cell.strip() for cell in line), strict=True))
    assert (table["logits"], table["gradient"], table["loss"], table["parity"]) == (
        "1.50", "0.25 conv1/kernel", "-", "FAIL",
    )  # fmt: skip


def test_a_failure_names_check_framework_tensor_and_factor() -> None:
    entries = judge([replace(FLOAT32, checks=[GOOD, BAD])])
    assert failures(entries) == ["float32: C1 logits failed, torch: right: 3, bound 2, 1.5 times"]


def test_the_extent_of_the_comparison_is_said() -> None:
    curve = Check("C6 loss curve", 0.1, 0.5, True, steps=9, of_steps=16, end="chaos")
    entries = judge([replace(FLOAT32, checks=[GOOD, curve]), replace(FLOAT16, checks=[GOOD])])
    assert extents(entries) == [
        "C6 loss curve over 9 of 16 steps, then chaos: float32",
        "C6 loss curve not held to float64: the runs were not compared: mixed_float16",
    ]
    compared = Check("C7 presence", 0, 0, True, "every check")
    assert extents(judge([replace(FLOAT16, checks=[GOOD, compared])])) == [
        "C6 loss curve not held to float64: too large for NumPy, and no float64 row of its framework is there: "
        "mixed_float16",
        "C6 first gradient not held to float64: a step too large for NumPy: torch: mixed_float16",
    ]


@pytest.mark.parametrize(
    ("steps", "cell", "note"),
    [
        (60, "pass", "all 60 steps"),
        (6, "pass (6 of 60)", "6 of 60 steps, then chaos"),
        (
            5,
            "pass (5 of 60)",
            "5 of 60 steps, then chaos; a small run (C9) and the late loss hold the later steps",
        ),
    ],
)
def test_the_parity_column_says_how_far_a_run_could_be_compared(steps: int, cell: str, note: str) -> None:
    """Below a tenth of the steps a note says what holds the others."""
    curve = Check("C6 loss curve", 0.1, 0.5, True, steps=steps, of_steps=60, end="chaos" if steps < 60 else "")
    row = replace(FLOAT32, checks=[GOOD, curve, Check("C9 loss curve", 0.1, 0.5, True)])
    assert parity_cell(Line((row,))) == cell
    assert extents(judge([row])) == [f"C6 loss curve over {note}: float32"]


def test_of_a_file_of_before_nothing_holds_the_later_steps() -> None:
    curve = Check("C6 loss curve", 0.1, 0.5, True, steps=5, of_steps=60, end="chaos")
    assert extents(judge([replace(FLOAT32, checks=[GOOD, curve])])) == [
        "C6 loss curve over 5 of 60 steps, then chaos; nothing holds the later steps: float32"
    ]


def test_a_row_of_float64_is_what_others_are_held_to() -> None:
    row = replace(FLOAT32, config=replace(FLOAT32.config, precision=Precision.FLOAT64))
    compared = [GOOD, Check("C7 presence", 0, 0, True, "every check"), Check("C6 first gradient", 0.1, 0.5, True)]
    assert extents(judge([replace(row, checks=compared)])) == [
        "C6 loss curve not held to float64: these rows are what larger runs are held to: float64"
    ]


def test_the_parity_column_says_what_was_compared_of_a_run_without_a_reference() -> None:
    first = Check("C6 first gradient", 0.1, 0.5, True, "first batch")
    assert FLOAT32.training
    ruler = replace(FLOAT32.training, rulers=[Ruler([0.5], 1e-8)])
    assert parity_cell(Line((replace(FLOAT32, checks=[GOOD, first]),))) == "pass (first batch)"
    assert parity_cell(Line((replace(FLOAT32, checks=[GOOD, first], training=ruler),))) == "pass (ruler)"
    assert parity_cell(Line((replace(FLOAT32, checks=[BAD, first]),))) == BAD.name


def test_pairs_join_the_verdict_of_their_rows() -> None:
    pair = replace(BAD, name="C8 loss curve", rows=("tensorflow x2", "torch x2"))
    (entry,) = judge([replace(FLOAT32, checks=[GOOD])], {("float32", False): [pair]})
    assert not entry.passed
    assert failures([entry]) == ["float32: C8 loss curve failed, tensorflow x2, torch x2: right: 3, bound 2, 1.5 times"]


def test_no_rows_that_ran() -> None:
    assert "no row ran" in notes([BROKEN])[-1]
    assert manifest_table([BROKEN], "simple") == ""


def test_rows_that_ran_at_other_versions_are_named() -> None:
    """A resumed run keeps rows that it isn't asked for."""
    old, new, other = ({"python": "3.12", "torch": version} for version in ("2.12.0", "2.13.0", "2.13.0"))
    rows = [replace(FLOAT32, setting=old), replace(FLOAT16, setting=new), replace(BROKEN, setting={"torch": "1"})]
    assert "UNLIKE: torch is not the same for all: 2.12.0 of torch float32; 2.13.0 of torch mixed_float16" in notes(
        rows
    )
    rows[0] = replace(FLOAT32, setting=other)
    assert not any(note.startswith("UNLIKE") for note in notes(rows))
    of_more_cores = replace(FLOAT16.config, execution=replace(FLOAT16.config.execution, threads=64))
    rows[1] = replace(FLOAT16, setting=new, config=of_more_cores)
    assert "UNLIKE: threads is not the same for all: 1 of torch float32; 64 of torch mixed_float16" in notes(rows)
