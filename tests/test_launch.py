"""What becomes of a row whose process misbehaves? A fake worker, a few lines of Python, stands in for a framework."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import launch as launch_module
from common.config import Precision, RunConfig
from common.launch import launch_row
from common.memory import Memory
from common.nvml import GpuUse
from common.results import RowResult, Status, make_row, write_json

CONFIG = RunConfig("torch", Precision.FLOAT32)


def fake_python(folder: Path, body: str) -> str:
    """An executable that takes an interpreter's place; `body` sees config and result, the paths it was given."""
    script = folder / "fake python"
    script.write_text(
        f"#!{sys.executable}\nimport json, os, signal, sys, time\nconfig, result = sys.argv[4], sys.argv[6]\n{body}\n"
    )
    script.chmod(0o755)
    return str(script)


def launch(tmp_path: Path, body: str, timeout_s: float = 30) -> tuple[RowResult, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    row = launch_row(CONFIG, fake_python(tmp_path, body), tmp_path / "rows" / "one", timeout_s, events.append)
    return row, events


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("os._exit(0)", Status.NO_RESULT, "left no result"),
        ("open(result, 'w').write('{\"framework\":')", Status.NO_RESULT, "left no result"),
        ("open(result, 'w').write('{}')", Status.NO_RESULT, "lacks the field"),
        ("sys.exit('no such kernel')", Status.CRASHED, "exit code 1; no such kernel"),
        ("os.abort()", Status.CRASHED, "signal 6"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Status.KILLED, "likely out of memory"),
    ],
)
def test_a_worker_that_fails(tmp_path: Path, body: str, status: Status, detail: str) -> None:
    row, _ = launch(tmp_path, body)
    assert row.status is status
    assert detail in row.detail
    assert row.log == "rows/one/log.txt"


@pytest.mark.parametrize("body", ["time.sleep(60)", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"])
def test_a_worker_that_hangs_is_ended(tmp_path: Path, body: str) -> None:
    start_s = time.monotonic()
    row, _ = launch(tmp_path, body, timeout_s=0.5)
    assert row.status is Status.TIMEOUT
    assert time.monotonic() - start_s < 10


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
    def watch_gpu(pid: int) -> Iterator[FakeWatch]:
        watches.append(FakeWatch(pid))
        yield watches[-1]

    monkeypatch.setattr(launch_module, "watch_gpu", watch_gpu)
    config = replace(CONFIG, execution=replace(CONFIG.execution, device=device))
    write_json(tmp_path / "row.json", make_row(config, Status.OK, memory=Memory(kind, 1, 3, 2, None)))
    body = (
        "print(json.dumps({'event': 'pid', 'pid': os.getpid()}))\n"
        "print(json.dumps({'event': 'epoch', 'epoch': 1})); print(json.dumps({'event': 'epoch', 'epoch': 2}))\n"
        f"os.replace({str(tmp_path / 'row.json')!r}, result)"
    )
    events: list[dict[str, Any]] = []
    row = launch_row(config, fake_python(tmp_path, body), tmp_path / "rows" / "one", 30, events.append)
    assert [watch.pid for watch in watches] == ([events[0]["pid"]] if watched else [])
    assert row.memory is not None
    assert row.memory.device_process_peak_bytes == (1002 if attached else None)
    assert (row.gpu is not None) is attached


def test_a_stale_result_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "rows" / "one"
    folder.mkdir(parents=True)
    write_json(folder / "result.json", make_row(CONFIG, Status.OK))
    row, _ = launch(tmp_path, "")
    assert row.status is Status.NO_RESULT


def test_a_result_of_another_config_is_not_taken(tmp_path: Path) -> None:
    write_json(tmp_path / "other.json", make_row(RunConfig("torch", Precision.FLOAT64), Status.OK))
    row, _ = launch(tmp_path, f"os.replace({str(tmp_path / 'other.json')!r}, result)")
    assert (row.status, row.detail) == (Status.NO_RESULT, "the result is of another config")
