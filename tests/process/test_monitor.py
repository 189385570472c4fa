"""Do the files for other viewers open, and do they say what the row says, without a part in it?"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import run_parity as program
from common.config import DataConfig, ExecutionConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.process.interrupts import Interrupts
from common.process.launch import Job
from common.process.monitor import Monitors, attempt, scalars
from common.process.runner import launch_monitored
from common.results.rows import RowResult, Status
from tests.conftest import HAS, needs_one, needs_tensorflow, run_parity, run_python
from tests.fakes import fake_worker

SIZES = {"data": DataConfig(5, (8, 8, 3)), "model": ModelConfig((8, 8, 3), 16), "train": TrainConfig(2, 2)}
STEPS = 2 * 3  # epochs, and batches of 2, 2 and 1 image
ONE = ["torch_impl" if HAS["torch_impl"] else "tf_impl", "--preset", "smoke", "--device", "cpu"]


def train(impl: SimpleNamespace, tmp_path: Path, loop: str = "custom") -> RowResult:
    execution = ExecutionConfig("cpu", loop=loop)
    config = RunConfig(impl.framework, Precision.MIXED_FLOAT16, execution=execution, **SIZES)
    return impl.run.run(config, monitors=Monitors(tmp_path / "tensorboard", tmp_path / "trace"))


def test_tensorboard_reads_what_the_row_says(impl: SimpleNamespace, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.util.tensor_util import make_ndarray

    row = train(impl, tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    # TensorFlow writes scalars as tensors, PyTorch as numbers.
    read = {
        tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    read |= {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert row.training is not None
    assert row.timing is not None
    assert read == {
        "loss": [(step, pytest.approx(value)) for step, value in enumerate(row.training.loss)],
        "loss scale": list(enumerate(row.training.loss_scale)),
        "epoch/loss": [(step, pytest.approx(v)) for step, v in zip((2, 5), row.training.epoch_loss, strict=True)],
        "epoch/accuracy": [
            (step, pytest.approx(v)) for step, v in zip((2, 5), row.training.epoch_accuracy, strict=True)
        ],
        "epoch/step ms": [
            (step, pytest.approx(s / 3 * 1e3)) for step, s in zip((2, 5), row.timing.epoch_s, strict=True)
        ],
    }
    assert len(read["loss"]) == STEPS


@pytest.mark.slow
def test_a_trace_has_three_steps_and_their_products(impl: SimpleNamespace, tmp_path: Path) -> None:
    assert train(impl, tmp_path).status is Status.OK
    names = traced_names(impl.framework, tmp_path / "trace")
    assert sum(name.startswith("train") for name in names) == 3
    assert any("matmul" in name.lower() or name == "aten::mm" for name in names)


@pytest.mark.slow
@needs_tensorflow
def test_a_trace_of_fit_has_its_steps(tensorflow_impl: SimpleNamespace, tmp_path: Path) -> None:
    """The steps are Keras' own, in one call."""
    assert train(tensorflow_impl, tmp_path, "fit").status is Status.OK
    assert any("matmul" in name.lower() for name in traced_names("tensorflow", tmp_path / "trace"))


def traced_names(framework: str, folder: Path) -> list[str]:
    """The names of the events in a trace, read as its viewer reads it."""
    if framework == "torch":
        return [event["name"] for event in json.loads((folder / "trace.json").read_text())["traceEvents"]]
    xplane = pytest.importorskip("tensorflow.tsl.profiler.protobuf.xplane_pb2")
    (file,) = folder.glob("plugins/profile/*/*.xplane.pb")
    space = xplane.XSpace.FromString(file.read_bytes())
    return [
        plane.event_metadata[event.metadata_id].name
        for plane in space.planes
        for line in plane.lines
        for event in line.events
    ]


def test_the_row_is_handed_over_before_they_begin(impl: SimpleNamespace, tmp_path: Path) -> None:
    config = RunConfig(impl.framework, Precision.MIXED_FLOAT16, execution=ExecutionConfig("cpu"), **SIZES)
    told: list[tuple[RowResult, bool]] = []
    trace = tmp_path / "trace"
    row = impl.run.run(
        config, monitors=Monitors(trace=trace, on_measured=lambda row: told.append((row, trace.exists())))
    )
    assert told == [(row, False)]
    assert trace.exists()


def test_what_is_trained_is_the_same_with_them(impl: SimpleNamespace, tmp_path: Path) -> None:
    with_them = train(impl, tmp_path).training
    without = impl.run.run(
        RunConfig(impl.framework, Precision.MIXED_FLOAT16, execution=ExecutionConfig("cpu"), **SIZES)
    )
    assert with_them == without.training


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (
            ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard"),
            "tensorboard is not installed; add it with: ",
        ),
        (RuntimeError("another profiler is at work"), "another profiler is at work"),
        (MemoryError(), "MemoryError"),
        (SystemExit(7), "7"),
    ],
)
def test_one_that_fails_costs_a_note(tmp_path: Path, error: BaseException, note: str) -> None:
    row = RowResult(RunConfig("torch", Precision.FLOAT32), Status.OK, "slow")
    found = attempt(row, "trace", lambda folder: raise_(error), tmp_path)
    assert found.detail.startswith(f"slow; no trace: {note}")
    assert replace(found, detail="slow") == row


@pytest.mark.parametrize(("option", "given"), [("--trace", "file"), ("--tensorboard", "file/below"), ("--trace", " ")])
def test_a_folder_that_cannot_be_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, given: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        program.main([option, str(tmp_path / given) if given.strip() else given])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run_parity.py: argument {option}: ")
    assert line.endswith("give a folder")


ENDS = {"it is killed": "os.kill(os.getpid(), 9)", "it crashes": "os.abort()", "it hangs": "time.sleep(60)"}


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(ending, id=name, marks=pytest.mark.slow if name == "it hangs" else [])
        for name, ending in ENDS.items()
    ],
)
def test_a_worker_that_ends_at_them_has_measured_its_row(tmp_path: Path, ending: str) -> None:
    body = f"row = ok(config)\nmonitors['monitors'].on_measured(row)\n{ending}"
    config = RunConfig("torch", Precision.FLOAT32, execution=ExecutionConfig("cpu"), **SIZES)
    launch = launch_monitored(Monitors(trace=tmp_path / "trace"))
    folder = tmp_path / "rows" / "one"
    row = launch(Job(config, fake_worker(tmp_path, body), folder, 5), lambda event: None, Interrupts())
    assert row.status is Status.OK
    assert row.timing is not None
    assert row.detail.startswith("its TensorBoard events or its trace are not whole: ")


def test_a_row_that_was_not_trained_has_no_scalars() -> None:
    assert list(scalars(RowResult(RunConfig("torch", Precision.FLOAT32), Status.OOM))) == []


def test_each_row_of_a_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Also where the folder is given relative to the user's, which is not a worker's."""
    worker = fake_worker(tmp_path, "print(sys.argv[-4:], file=sys.stderr)\nreturn ok(config)")
    options = ["--preset", "smoke", "--device", "cpu", "--frameworks", "torch", "--precisions", "float32", "float64"]
    run_parity(*options, "--output", tmp_path / "run", "--torch-python", worker, "--tensorboard", "tb", "--trace", "tr")
    for precision in ("float32", "float64"):
        name = f"torch-{precision}-custom-compile-off-r0"
        log = (tmp_path / "run" / "rows" / name / "log.txt").read_text()
        for option, folder in (("tensorboard", "tb"), ("trace", "tr")):
            assert f"'--{option}', '{Path.cwd() / folder / name}'" in log


@pytest.mark.slow
@needs_one
def test_by_hand(tmp_path: Path) -> None:
    process = run_python("-m", *ONE, "--trace", tmp_path / "trace")
    assert process.returncode == 0, process.stderr
    assert any(path.is_file() for path in (tmp_path / "trace").rglob("*"))
