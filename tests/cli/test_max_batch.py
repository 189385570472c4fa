"""Is the largest batch that trains found, in few processes, whatever ends the others?

A search starts some six processes. Where it does not matter what happens in them, none is started.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

import run_parity
from common.cli import max_batch
from common.cli.max_batch import RESOLUTION, Found, search
from common.config import Precision, RunConfig
from common.measure.memory import Memory
from common.process.launch import Job
from common.results.coding import read_json
from common.results.rows import RowResult, Status, Training
from tests.fakes import fake_worker, started

# A training that takes 1000 bytes and 10 a sample, of which `limit` are there.
TRAINS = """
from common.measure.memory import Memory
from common.results.rows import Environment, Training
size, limit = config.train.batch_size, {limit}
peak = 1000 + 10 * size
{before}
if peak > limit:
    raise OutOfMemory(peak, limit, limit)
steps = [1.0] * config.train.epochs
weights = {{}}
from common.experiment.weights import draw_weights
weights = draw_weights(config.model, config.data.seed)
on_arrays(Arrays(weights, weights))
return RowResult(
    config, Status.OK, memory=Memory("host_rss", 1000, peak, peak - 1000, None),
    environment=Environment("1", "3", "2", "x", {{"kind": "cpu", "name": "x"}}),
    training=Training(steps, steps, steps, steps, [], "a", "b"),
)
"""
PLENTY = 10**12
LIMIT = ("--memory-limit", "30000")


def count(limit: int) -> tuple[Callable[[int], bool], list[int]]:
    """What fits up to this limit, and the sizes that were asked about."""
    asked: list[int] = []
    return (lambda size: asked.append(size) or size <= limit), asked  # type: ignore[func-returns-value]


@pytest.mark.parametrize("start", [1, 7, 100, 566, 10_000])
@pytest.mark.parametrize("limit", [1, 2, 3, 50, 566, 1234, 9999])
def test_the_search_ends_within_a_percent_below_the_limit(limit: int, start: int) -> None:
    fits, asked = count(limit)
    found = search(fits, start)
    assert found <= limit <= found + max(1, RESOLUTION * found)
    assert len(asked) == len(set(asked))  # no size is tried twice


def test_a_good_guess_takes_few_trials() -> None:
    fits, asked = count(570)
    assert search(fits, 560) >= 564
    assert asked == [560, 571, 565, 568]


def test_nothing_fits() -> None:
    fits, asked = count(0)
    assert search(fits, 4) == 0
    assert asked[-1] == 1


def run(tmp_path: Path, body: str, *arguments: str) -> tuple[int, Found]:
    worker, output = fake_worker(tmp_path, body), tmp_path / "run"
    options = ["--preset", "smoke", "--device", "cpu", "--frameworks", "torch", "--precisions", "float32", "--quiet"]
    code = run_parity.main(["max-batch", *options, "--output", str(output), "--torch-python", worker, *arguments])
    return code, read_json(output / "max_batch.json", Found)


def run_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str, limit: int = PLENTY, killed_above: int = PLENTY
) -> tuple[int, Found]:
    """As run(), of TRAINS, without a process: what is launched answers at once."""

    def launch(job: Job, *_: object) -> RowResult:
        config = job.config
        size = config.train.batch_size
        peak = 1000 + 10 * size
        if size > killed_above:
            return RowResult(config, Status.KILLED)
        if peak > limit:
            return RowResult(config, Status.OOM)
        training = Training([1.0], [1.0], [1.0], [1.0], [], "a", "b")
        return RowResult(config, Status.OK, memory=Memory("host_rss", 1000, peak, 1000, None), training=training)

    monkeypatch.setattr(max_batch, "launch_undisturbed", launch)
    return run(tmp_path, "", *arguments)


Search = Callable[..., tuple[int, Found]]


@pytest.fixture(params=["without processes", pytest.param("with processes", marks=pytest.mark.slow)])
def search_within(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Search:
    """A search within 30 kB, where the device has less, or where what is larger is killed."""

    def search(limit: int = PLENTY, killed_above: int = PLENTY) -> tuple[int, Found]:
        if request.param == "without processes":
            return run_here(monkeypatch, tmp_path, *LIMIT, limit=limit, killed_above=killed_above)
        killed = f"if size > {killed_above}: os.kill(os.getpid(), 9)"
        return run(tmp_path, TRAINS.format(limit=limit, before=killed), *LIMIT)

    return search


def test_within_a_limit_of_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1000 + 10 x 2900 = 30 kB; what fits is judged by what the process took."""
    code, found = run(tmp_path, TRAINS.format(limit=PLENTY, before=""), "--memory-limit", "30000")
    (line,) = found.lines
    assert code == 0
    assert line.batch_size is not None
    assert 2900 / (1 + 2 * RESOLUTION) <= line.batch_size <= 2900
    assert all(trial.fits is (trial.batch_size <= 2900) for trial in line.trials)
    assert len({trial.batch_size for trial in line.trials}) == len(line.trials)  # none is tried twice
    assert str(line.batch_size) in capsys.readouterr().out.splitlines()[2].split()


def test_what_is_found_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    _, found = run_here(monkeypatch, tmp_path, *LIMIT)
    drawn = (tmp_path / "run" / "max_batch.svg").read_text()
    assert f">{found.lines[0].batch_size}</text>" in drawn
    assert (tmp_path / "run" / "max_batch.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_says_by_how_much_a_precision_allows_more() -> None:
    pytest.importorskip("matplotlib")
    from common.show.figures import largest_batches

    rows = {"float32": 100, "mixed_float16": 190}
    figure = largest_batches({RunConfig("torch", Precision(name)): size for name, size in rows.items()})
    assert figure is not None
    assert figure.get_suptitle() == "PyTorch: mixed_float16 takes 1.90x the batch"
    assert [bar.get_width() for bar in figure.axes[0].patches] == [100, 190]


def test_out_of_memory_in_one_trial_ends_no_other(search_within: Search) -> None:
    code, found = search_within(limit=5000)
    (line,) = found.lines
    assert code == 0
    assert line.batch_size is not None
    assert 400 / (1 + 2 * RESOLUTION) <= line.batch_size <= 400
    assert {trial.status for trial in line.trials if not trial.fits} == {Status.OOM}


def test_a_worker_that_is_killed_once_is_tried_again(tmp_path: Path) -> None:
    once = "first = not (HERE / 'killed').exists(); (HERE / 'killed').touch()\nif first: os.kill(os.getpid(), 9)"
    code, found = run(tmp_path, TRAINS.format(limit=PLENTY, before=once), "--memory-limit", "30000")
    (line,) = found.lines
    assert code == 0
    assert line.batch_size is not None
    assert line.batch_size > 2800
    assert len(started(tmp_path)) == len(line.trials) + 1


def test_a_batch_that_is_always_killed_does_not_fit(search_within: Search) -> None:
    _, found = search_within(killed_above=300)
    assert found.lines[0].batch_size in range(297, 301)


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "arrays.npz").touch()
    (tmp_path / "run" / "rows").mkdir(parents=True)
    (tmp_path / "run" / "rows" / "torch-float32-custom-compile-off-r0-b1").symlink_to(tmp_path / "outside")
    code, _ = run(tmp_path, TRAINS.format(limit=PLENTY, before=""), "--memory-limit", "30000")
    assert code == 4
    assert (tmp_path / "outside" / "arrays.npz").exists()


@pytest.mark.slow
def test_a_search_that_cannot_be_written_is_exit_code_3(tmp_path: Path) -> None:
    in_its_place = "(HERE / 'run' / 'max_batch.json').mkdir(exist_ok=True)"
    worker = fake_worker(tmp_path, TRAINS.format(limit=PLENTY, before=in_its_place))
    options = ["--preset", "smoke", "--device", "cpu", "--frameworks", "torch", "--precisions", "float32", "--quiet"]
    options += ["--output", str(tmp_path / "run"), "--torch-python", worker, "--memory-limit", "30000"]
    assert run_parity.main(["max-batch", *options]) == 3


def test_what_does_not_fit_at_all_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image takes 1010 bytes."""
    code, found = run_here(monkeypatch, tmp_path, "--memory-limit", "1000")
    assert (code, found.lines[0].batch_size) == (0, 0)
    assert "one image takes 1,010 bytes, libraries included" in capsys.readouterr().out


def test_any_other_end_is_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(tmp_path, "sys.exit('broken')", "--memory-limit", "30000")
    assert (code, found.lines[0].batch_size) == (4, None)
    assert "crashed: exit code 1; broken" in capsys.readouterr().out


def test_an_earlier_search_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = run_here(monkeypatch, tmp_path, *LIMIT)
    with pytest.raises(SystemExit):
        run_here(monkeypatch, tmp_path, "--memory-limit", "60000")
    assert "already holds a search; give another folder" in capsys.readouterr().err
    assert read_json(tmp_path / "run" / "max_batch.json", Found) == found


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--device", "cpu"], "argument --memory-limit: needed on a CPU"),
        (["--memory-limit", "2TB"], "'2TB' is no size; give one such as 1500MB or 2GB"),
        (["--memory-limit", f"{'9' * 400}GB"], "is no size; give one such as 1500MB or 2GB"),
        (["--memory-limit", "0.5"], "'0.5' is no size"),
        (["--memory-limit", "1GB", "--batch-size", "5"], "argument --batch-size: max-batch chooses it itself"),
        (["--memory-limit", "1GB", "--batch-per-replica", "5"], "argument --batch-per-replica: max-batch chooses it"),
        (["--memory-limit", "1GB", "--devices", "2"], "argument --devices: max-batch tries one device; leave it out"),
    ],
)
def test_what_it_needs_is_said(capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_parity.main(["max-batch", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert reason in line
