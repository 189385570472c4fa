"""Is what a row's process says, and what the driver says of it, passed on? For those that misbehave see test_faults."""

import os
import signal
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.config import Precision, RunConfig
from common.measure.contention import Contention
from common.measure.memory import Memory
from common.measure.nvml import GpuUse
from common.measure.timing import Timing
from common.process import launch as launch_module
from common.process.launch import Job, launch_row
from common.results.coding import write_json
from common.results.rows import Environment, ReplicaGroup, RowResult, Status, Training
from tests.fakes import fake_python, is_alive

CONFIG = RunConfig("torch", Precision.FLOAT32)
LEAVE_ROW = "json.dump({{**json.load(open('{}')), 'run_id': run_id}}, open(result, 'w'))"


def launch(tmp_path: Path, body: str, timeout_s: float = 30) -> tuple[RowResult, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    row = launch_row(Job(CONFIG, fake_python(tmp_path, body), tmp_path / "rows" / "one", timeout_s), events.append)
    return row, events


def test_events_are_passed_on_and_other_output_is_logged(tmp_path: Path) -> None:
    body = "print('a banner'); print(json.dumps({'event': 'epoch', 'epoch': 1})); print('[1, 2]'); sys.exit(1)"
    _, events = launch(tmp_path, body)
    assert events == [{"event": "epoch", "epoch": 1}]
    assert (tmp_path / "rows" / "one" / "log.txt").read_text() == "a banner\n[1, 2]\n"


class FakeWatch:
    """Stands for the driver: counts the epochs that it was told of."""

    def __init__(self, pid: int) -> None:
        self.pid, self.epochs = pid, 0

    def end_epoch(self) -> None:
        self.epochs += 1

    def use(self) -> GpuUse:
        return GpuUse("process", 1000 + self.epochs, 5.0, [], 0)


@pytest.mark.parametrize(
    ("device", "kind", "watched", "attached"),
    [
        ("auto", "gpu_allocator", True, True),
        ("auto", "host_rss", True, False),  # the framework found no GPU
        ("cpu", "host_rss", False, False),
    ],
)
def test_what_the_driver_saw_is_attached_to_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, kind: str, watched: bool, attached: bool
) -> None:
    watches: list[FakeWatch] = []

    @contextmanager
    def watch_gpus(pid: int, number: int) -> Iterator[FakeWatch]:
        watches.append(FakeWatch(pid))
        yield watches[-1]

    monkeypatch.setattr(launch_module, "watch_gpus", watch_gpus)
    config = replace(CONFIG, execution=replace(CONFIG.execution, device=device))
    write_json(tmp_path / "row.json", RowResult(config, Status.OK, memory=Memory(kind, 1, 3, 2, None)))
    body = (
        "print(json.dumps({'event': 'pid', 'pid': os.getpid()}))\n"
        "print(json.dumps({'event': 'epoch', 'epoch': 1})); print(json.dumps({'event': 'epoch', 'epoch': 2}))\n"
    ) + LEAVE_ROW.format(tmp_path / "row.json")
    events: list[dict[str, Any]] = []
    row = launch_row(Job(config, fake_python(tmp_path, body), tmp_path / "rows" / "one", 30), events.append)
    assert [watch.pid for watch in watches] == ([events[0]["pid"]] if watched else [])
    assert row.memory is not None
    assert row.memory.device_process_peak_bytes == (1002 if attached else None)
    assert (row.gpu is not None) is attached


def test_a_bar_that_cannot_be_drawn_costs_no_row(tmp_path: Path) -> None:
    """Its error is in the log, and what the worker says next is read."""
    body = "print(json.dumps({'event': 'x'})); sys.stderr.write('after\\n')"
    row = launch_row(Job(CONFIG, fake_python(tmp_path, body), tmp_path / "rows" / "one", 30), lambda event: 1 / 0)
    assert row.status is Status.NO_RESULT  # since it left none
    assert "ZeroDivisionError" in (tmp_path / "rows" / "one" / "log.txt").read_text()


def test_a_thread_too_many_costs_its_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(launch_module, "_deadline", refuse)
    monkeypatch.setattr(launch_module, "DRAIN_S", 0.2)
    body = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    row, _ = launch(tmp_path, body)
    assert row.status is Status.CRASHED
    assert row.detail.endswith("can't be started: can't start new thread")
    assert not (tmp_path / "pid").exists() or not is_alive(int((tmp_path / "pid").read_text()))


def test_output_without_line_ends_takes_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    launch(tmp_path, "sys.stdout.write('y' * 30_000_000); sys.stderr.write('y' * 30_000_000)")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_what_left_the_workers_session_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the pipes open and writes when the log is closed; it was told to outlive us, and does."""
    monkeypatch.setattr(launch_module, "DRAIN_S", 0.2)
    child = "import sys, time; time.sleep(1); sys.stderr.write('late'); sys.stderr.flush(); time.sleep(60)"
    body = (
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))"
    )
    start_s = time.monotonic()
    launch(tmp_path, body)
    assert time.monotonic() - start_s < 1
    time.sleep(1)
    assert (tmp_path / "rows" / "one" / "log.txt").read_text() == ""
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_files_of_an_earlier_run_are_gone_before_the_worker_starts(tmp_path: Path) -> None:
    folder = tmp_path / "rows" / "one"
    folder.mkdir(parents=True)
    for name in ("result.json", "arrays.npz"):
        (folder / name).write_text("old")
    (tmp_path / "outside").write_text("precious")
    (folder / "log.txt").symlink_to(tmp_path / "outside")
    launch(tmp_path, "print(sorted(os.listdir(os.path.dirname(result))))")
    assert (folder / "log.txt").read_text() == "['config.json', 'log.txt']\n"
    assert (tmp_path / "outside").read_text() == "precious"


def test_a_row_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "one").symlink_to(tmp_path / "outside")
    row, _ = launch(tmp_path, "")
    assert (row.status, list((tmp_path / "outside").iterdir())) == (Status.NO_RESULT, [])
    assert "it is a link" in row.detail


TRAINING = Training([1.0], [1.0], [1.0], [1.0], [], "aa", "bb")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"training": TRAINING}, "lacks its environment"),
        (
            {"training": TRAINING, "environment": Environment("1", "3", "2", "x", {"kind": "cpu", "name": "x"})},
            "training.loss has 1 entries; it must have 160",
        ),
        ({"timing": Timing(1.0, [1.0], None, 1.0, None)}, "timing.epoch_s has 1 entries; it must have 10"),
        ({"replicas": ReplicaGroup(2, 1, "gloo", 4, 1.0, [1, 2])}, "replicas.peak_bytes has 2 entries; it must have 1"),
        (
            {"contention": Contention(0.0, 1.0, 2, 2)},
            "contention's wall_s, threads and cores must be larger than 0",
        ),
    ],
    ids=["no environment", "steps", "epochs", "replicas", "contention"],
)
def test_a_result_whose_parts_contradict_each_other_is_none(tmp_path: Path, parts: dict[str, Any], reason: str) -> None:
    write_json(tmp_path / "row.json", RowResult(CONFIG, Status.OK, **parts))
    row, _ = launch(tmp_path, LEAVE_ROW.format(tmp_path / "row.json"))
    assert row.status is Status.NO_RESULT
    assert reason in row.detail


def test_a_trained_row_without_its_arrays_is_none(tmp_path: Path) -> None:
    config = replace(CONFIG, data=replace(CONFIG.data, images=50), train=replace(CONFIG.train, epochs=1))
    environment = Environment("1", "3", "2", "x", {"kind": "cpu", "name": "x"})
    write_json(tmp_path / "row.json", RowResult(config, Status.OK, training=TRAINING, environment=environment))
    python = fake_python(tmp_path, LEAVE_ROW.format(tmp_path / "row.json"))
    row = launch_row(Job(config, python, tmp_path / "rows" / "one", 30), lambda event: None)
    assert row.status is Status.NO_RESULT
    assert "arrays.npz" in row.detail


def test_a_result_that_is_a_pipe_is_none(tmp_path: Path) -> None:
    row, _ = launch(tmp_path, "os.mkfifo(result)")
    assert (row.status, row.detail) == (
        Status.NO_RESULT, "the process ended well but left no result: it is no plain file",
    )  # fmt: skip


def test_a_module_in_the_users_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real worker, in a folder with a json.py; a torch that can't be imported ends it soon."""
    (tmp_path / "json.py").write_text("raise SystemExit('not the library')")
    (tmp_path / "packages" / "torch").mkdir(parents=True)
    (tmp_path / "packages" / "torch" / "__init__.py").write_text("raise ImportError('broken')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "packages")  # a relative path is still the user's
    row = launch_row(Job(CONFIG, sys.executable, Path("rows") / "one", 60), lambda event: None)
    assert (row.status, row.detail) == (Status.IMPORT_ERROR, "broken")
