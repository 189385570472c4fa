"""Does a sweep name the size from which on a precision pays, twice the same, whatever ends its workers?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import run_parity
from common.cli.sweep import describe
from common.config import Precision, RunConfig, TrainConfig
from common.measure.timing import StepTimes, Timing
from common.results.check import Check
from common.results.coding import read_json
from common.results.rows import ParityEntry, Results, RowResult, Status
from common.results.store import read_results, results_file
from common.show.crossover import crossover, gains_along, pays_from
from common.show.verdict import FEW_PROCESSES
from tests.conftest import ROOT
from tests.fakes import fake_worker, started

# A step of 1 ms and what grows with the pixels: 1 us a pixel in float32, a quarter of it in bfloat16, which takes
# 0.5 ms more to begin. Both take 1.67 ms at 26 x 26 pixels.
PAYS_FROM_26 = """
import os, signal
{before}
pixels = config.data.image_shape[0] ** 2
step_s = 1e-3 + pixels * 1e-6 if config.precision == "float32" else 1.5e-3 + pixels * 0.25e-6
step_s *= 1 + 0.001 * config.repeat
steps = config.steps_per_epoch
return RowResult(
    config, Status.OK, timing=Timing(0.1, [9.0] + 5 * [steps * step_s], StepTimes(step_s, step_s, step_s, 5), 1.0, 1.0)
)
"""
PRECISIONS = ("float32", "mixed_bfloat16")
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def row(precision: str, step_s: float, repeat: int) -> RowResult:
    config = RunConfig("torch", Precision(precision), train=TrainConfig(epochs=6), repeat=repeat)
    epochs_s = [9.0, *5 * [config.steps_per_epoch * step_s]]
    return RowResult(config, Status.OK, timing=Timing(1.0, epochs_s, StepTimes(step_s, step_s, step_s, 5), 9.0, 1.0))


def swept(speed_ups: Mapping[int, float | None], processes: int = 3) -> dict[int, Results]:
    """Rows of float32 and mixed_float16 at each size; None is a row that failed."""
    found = {}
    for size, gain in speed_ups.items():
        rows = [row("float32", 1.0, repeat) for repeat in range(processes)]
        for repeat in range(processes):
            mixed = row("mixed_float16", 1 / (gain or 1), repeat)
            rows.append(mixed if gain else RowResult(mixed.config, Status.OOM))
        found[size] = Results([], {}, rows)
    return found


@pytest.mark.parametrize(
    ("speed_ups", "size", "words"),
    [
        ({8: 0.5, 16: 0.9, 32: 1.5, 64: 2}, 32, "pays from size 32 (1.50x) on to 64 (2.00x), and not at 16 (0.90x)"),
        ({8: 1.2, 16: 1.5}, 8, "pays at every size from 8 (1.20x) to 16 (1.50x)"),
        ({8: 0.5, 16: 0.9}, None, "does not pay at size 16 (0.90x), the largest"),
        ({8: 0.5, 16: 1.0}, None, "does not pay at size 16 (1.00x), the largest"),
        ({8: 1.5, 16: 0.9, 32: 2}, 32, "pays from size 32 (2.00x) on, and not at 16 (0.90x); it does at 8 (1.50x)"),
        ({8: 1.5, 16: 0.9}, None, "does not pay at size 16 (0.90x), the largest; it does at 8 (1.50x)"),
        (
            {8: 0.5, 16: 2, 32: None},
            16,
            "pays at size 16 (2.00x), and not at 8 (0.50x); can't tell at size 32 (oom)",
        ),
        ({8: None, 16: None}, None, "can't tell at size 8 (oom) and 16 (oom)"),
    ],
)
def test_the_crossover_in_words(speed_ups: Mapping[int, float | None], size: int | None, words: str) -> None:
    (gains,) = gains_along(swept(speed_ups))
    assert crossover(gains, "size") == words
    assert pays_from(gains) == size


@pytest.mark.parametrize(("processes", "size"), [(1, 32), (3, 16)])
def test_a_gain_of_5_percent_counts_where_three_processes_show_it(processes: int, size: int) -> None:
    (gains,) = gains_along(swept({8: 0.9, 16: 1.05, 32: 1.2}, processes))
    assert pays_from(gains) == size


def test_without_float32_nothing_is_judged() -> None:
    without = {8: Results([], {}, [row("mixed_float16", 1.0, 0)])}
    (gains,) = gains_along(without)
    assert crossover(gains, "size") == "can't tell at size 8 (no float32)"


def sweep(tmp_path: Path, *arguments: str, before: str = "", output: str = "run") -> int:
    worker = fake_worker(tmp_path, PAYS_FROM_26.format(before=before))
    options = ["--preset", "smoke", "--epochs", "6", "--device", "cpu", "--frameworks", "torch", "--quiet"]
    options += ["--precisions", *PRECISIONS, "--torch-python", worker]
    options += ["--output", str(tmp_path / output)]
    repeats = [] if "--repeats" in arguments else ["--repeats", "1"]
    return run_parity.main(["sweep", "--over", "image-size", *arguments, *repeats, *options])


SENTENCE = f"- torch mixed_bfloat16 pays from image-size 32 (1.15x) on, and not at 16 (0.80x); {FEW_PROCESSES}"


def test_the_same_answer_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "16", "32", output="one") == 0
    once = capsys.readouterr().out
    assert sweep(tmp_path, "32", "16", output="two") == 0
    assert capsys.readouterr().out == once
    assert once.splitlines()[-1] == SENTENCE
    assert (tmp_path / "one" / "sweep.txt").read_text() == once


def test_repeats_run_by_turns_and_a_resumed_sweep_keeps_them(tmp_path: Path) -> None:
    """The second turn of size 8 is interrupted; what is missing then runs by turns as well, in another session."""
    in_turn_2 = "if config.repeat == 1: os.kill(os.getppid(), signal.SIGINT); signal.pause()"
    assert sweep(tmp_path, "8", "16", "--repeats", "2", before=in_turn_2) == 130
    turns = [f"torch-{precision}-custom-compile-off-r{repeat}" for repeat in range(2) for precision in PRECISIONS]
    assert started(tmp_path) == turns[:3]
    assert sweep(tmp_path, "8", "16", "--repeats", "2", "--resume") == 0
    assert started(tmp_path)[3:] == [*turns[2:], *turns]
    rows = read_json(tmp_path / "run" / "image-size-8" / "results.json", Results).rows
    sessions = {row.config.row_id: row.session for row in rows}
    first, again, second, too = (sessions[name] for name in turns)
    assert first is not None is not second
    assert first == again < second == too


def test_each_size_is_a_run_with_a_folder_of_its_own(tmp_path: Path) -> None:
    assert sweep(tmp_path, "16", "32") == 0
    for size in (16, 32):
        results = read_json(tmp_path / "run" / f"image-size-{size}" / "results.json", Results)
        assert [row.config.data.image_shape for row in results.rows] == [(size, size, 3)] * 2


def test_a_worker_that_is_killed_once_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once = f"first = not (HERE / 'killed').exists(); (HERE / 'killed').touch()\nif first: {KILL}"
    assert sweep(tmp_path, "16", "32", before=once) == 0
    assert capsys.readouterr().out.splitlines()[-1] == SENTENCE
    assert len(started(tmp_path)) == 2 * 2 + 1


def test_a_worker_that_is_always_killed_costs_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "16", "32", before=f"if config.data.image_shape[0] == 16: {KILL}") == 3
    sentence = "- torch mixed_bfloat16 pays at image-size 32 (1.15x); can't tell at image-size 16 (killed)"
    sentence += f"; {FEW_PROCESSES}"
    assert capsys.readouterr().out.splitlines()[-1] == sentence


def test_a_resumed_sweep_runs_what_is_missing_and_takes_a_size_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, "8", "16") == 0
    assert sweep(tmp_path, "8", "16", "32", "--resume") == 0
    assert capsys.readouterr().out.splitlines()[-1] == SENTENCE
    assert len(started(tmp_path)) == 3 * 2


def test_an_interrupted_sweep_shows_what_it_has_and_can_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_32 = "if config.data.image_shape[0] == 32: os.kill(os.getppid(), signal.SIGINT); signal.pause()"
    assert sweep(tmp_path, "16", "32", before=at_32) == 130
    assert "does not pay at image-size 16 (0.80x)" in capsys.readouterr().out.splitlines()[-1]
    assert sweep(tmp_path, "16", "32", "--resume") == 0
    assert capsys.readouterr().out.splitlines()[-1] == SENTENCE


def test_a_resumed_sweep_does_not_lose_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "8", "16") == 0
    with pytest.raises(SystemExit):
        sweep(tmp_path, "16", "32", "--resume")
    assert "run holds image-size-8 too, which its table would lose; name all sizes" in capsys.readouterr().err


def test_earlier_results_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "8", "16") == 0
    with pytest.raises(SystemExit) as stopped:
        sweep(tmp_path, "16", "32")
    assert stopped.value.code == 2
    assert "run already holds a sweep; give another folder, or --resume" in capsys.readouterr().err
    assert len(started(tmp_path)) == 4


def test_two_axes_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "8", "16") == 0
    options = ["--preset", "smoke", "--epochs", "6", "--output", str(tmp_path / "run"), "--resume"]
    with pytest.raises(SystemExit):
        run_parity.main(["sweep", "--over", "filters", "8", "16", *options])
    assert "run holds a sweep over image-size; give another folder" in capsys.readouterr().err


def test_a_resumed_sweep_that_is_interrupted_keeps_what_it_did_not_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, "16", "32") == 0
    capsys.readouterr()
    at_8 = "if config.data.image_shape[0] == 8: os.kill(os.getppid(), signal.SIGINT); signal.pause()"
    assert sweep(tmp_path, "8", "16", "32", "--resume", before=at_8) == 130
    assert capsys.readouterr().out.splitlines()[-1] == SENTENCE


def test_broken_results_are_found_before_the_first_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "image-size-32").mkdir(parents=True)
    (tmp_path / "run" / "image-size-32" / "results.json").write_text("{")
    with pytest.raises(SystemExit):
        sweep(tmp_path, "16", "32", "--resume")
    assert "image-size-32/results.json can't be read" in capsys.readouterr().err
    assert started(tmp_path) == []


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "image-size-16").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        sweep(tmp_path, "16", "32")
    assert "image-size-16 is a link, and none is followed; remove it" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_table_that_cannot_be_written_costs_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "sweep.txt").mkdir(parents=True)
    assert sweep(tmp_path, "16", "32", "--resume") == 3
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == SENTENCE
    assert "sweep.txt can't be written" in printed.err


def test_a_row_that_fails_a_check_does_not_pay() -> None:
    wrong = Check("C1 logits", 2, 1, False, "right")
    rows = [row("float32", 1.0, 0), replace(row("mixed_float16", 0.5, 0), checks=[wrong])]
    (gains,) = gains_along({8: Results([], {}, rows)})
    assert crossover(gains, "size") == "can't tell at size 8 (C1 logits failed)"


@pytest.mark.parametrize(("precision", "words"), [("mixed_float16", "can't tell"), ("float64", "pays")])
def test_a_row_that_is_unlike_the_other_frameworks_does_not_pay(precision: str, words: str) -> None:
    """Where C8 failed at its precision, and not at another."""
    wrong = ParityEntry(
        precision, False, False, [Check("C8 loss curve", 2, 1, False, "all", rows=("tensorflow", "torch"))]
    )
    rows = [row("float32", 1.0, 0), row("mixed_float16", 0.5, 0)]
    (gains,) = gains_along({8: Results([], {}, rows, [wrong])})
    assert crossover(gains, "size").startswith(words)


def test_the_published_sweep_is_that_of_its_results() -> None:
    folder = ROOT / "results" / "h100" / "sweep"
    found = {
        int(path.name.removeprefix("image-size-")): read_results(results_file(path)) for path in folder.glob("*-*/")
    }
    assert (folder / "sweep.txt").read_text() == describe(dict(sorted(found.items())), "image-size", "simple") + "\n"


def test_a_row_without_a_steady_step_is_not_judged() -> None:
    timing = Timing(1.0, [9.0, *5 * [1.0]], None, 9.0, None)
    rows = [row("float32", 1.0, 0), replace(row("mixed_float16", 1.0, 0), timing=timing)]
    (gains,) = gains_along({8: Results([], {}, rows)})
    assert crossover(gains, "size") == "can't tell at size 8 (no steady step)"


def test_a_batch_size_sets_the_images(tmp_path: Path) -> None:
    """The preset's 20 images in batches of 8 are three steps; so are 12 in batches of 4."""
    worker = fake_worker(tmp_path)
    options = ["--preset", "smoke", "--epochs", "4", "--device", "cpu", "--frameworks", "torch", "--quiet"]
    options += ["--torch-python", worker]
    assert (
        run_parity.main(
            ["sweep", "--over", "batch-size", "4", "40", "--repeats", "1", *options, "--output", str(tmp_path)]
        )
        == 0
    )
    for size, images in ((4, 12), (40, 120)):
        row, *_ = read_json(tmp_path / f"batch-size-{size}" / "results.json", Results).rows
        assert (row.config.train.batch_size, row.config.data.images) == (size, images)


def test_progress_has_the_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worker = fake_worker(tmp_path)
    options = ["--preset", "smoke", "--epochs", "4", "--device", "cpu", "--frameworks", "torch", "--repeats", "1"]
    options += ["--precisions", "float32", "mixed_bfloat16", "--output", str(tmp_path), "--torch-python", worker]
    assert run_parity.main(["sweep", "--over", "filters", "4", "8", *options]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "left" in line]
    assert [line.split()[0] for line in lines] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]


def test_it_is_drawn_with_both_frameworks(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from common.show.canvas import COLOURS
    from common.show.figures import crossovers

    both = {}
    for size, results in swept({8: 0.5, 16: 2}).items():
        tensorflow = [
            RowResult(
                RunConfig("tensorflow", row.config.precision, repeat=row.config.repeat), Status.OK, timing=row.timing
            )
            for row in results.rows
        ]
        both[size] = Results([], {}, [*tensorflow, *results.rows])
    figure = crossovers(gains_along(both), "image-size", "pixels")
    title = " ".join(figure.get_suptitle().split())
    assert title == ("TensorFlow: mixed_float16 pays from image-size 16 PyTorch: mixed_float16 pays from image-size 16")
    (axes,) = figure.axes
    drawn = {line.get_color(): list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"}
    assert drawn == {colour: [pytest.approx(0.5), pytest.approx(2)] for colour in COLOURS.values()}
    assert axes.get_xlabel() == "pixels"


def test_a_figure_does_not_say_of_what_was_not_judged_that_it_does_not_pay() -> None:
    pytest.importorskip("matplotlib")
    from common.show.figures import crossovers

    assert crossovers(gains_along(swept({8: None, 16: None})), "size", "").get_suptitle() == "PyTorch: can't tell: oom"
    assert "no mixed precision pays" in crossovers(gains_along(swept({8: 0.5, 16: None})), "size", "").get_suptitle()


def test_its_figure_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert sweep(tmp_path, "8", "16") == 0
    assert (tmp_path / "run" / "sweep.svg").read_text().startswith("<?xml")
    assert (tmp_path / "run" / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["image-size", "8"], "argument VALUES: 1 sizes were given; give 2 to 100"),
        (["image-size", "8", "8"], "argument VALUES: 1 sizes were given; give 2 to 100"),
        (["image-size", "1", "8"], "argument --image-size: it is (1, 1, 3); height and width must be at least 2"),
        (["image-size", "8", "16", "--image-size", "4"], "argument --image-size: the sweep sets it; leave it out"),
        (["batch-size", "8", "16", "--batch-per-replica", "4"], "argument --batch-per-replica: the sweep sets"),
        (["depth", "8", "16"], "argument --over: invalid choice: 'depth'"),
        (["filters", "8", "16", "--precisions", "tf32"], "argument --precisions: what pays is judged against float32"),
        (
            ["filters", "8", "16", "--precisions", "float32"],
            "argument --precisions: float32 alone is nothing to",
        ),
        (["filters", "8", "16", "--resume"], "argument --resume: give the --output"),
        (
            ["filters", "8", "16", "--epochs", "3"],
            "3 are too few to judge a speed-up; give 4 or more",
        ),
        (["batch-size", "8", str(2**53)], f"argument VALUES: {2**53} is too large a batch; give {2**53 // 3} or less"),
        (["filters", *map(str, range(1, 102))], "argument VALUES: 101 sizes were given; give 2 to 100"),
        (
            ["batch-size", "8", "64", "--images", "40"],
            "argument --batch-size: it is 64; it must be at most the number of images, 40",
        ),
    ],
)
def test_what_it_needs_is_said(capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_parity.main(["sweep", "--preset", "smoke", "--epochs", "4", "--over", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert reason in line
