"""What becomes of a row whose process misbehaves? A fake worker, a few lines of Python, stands in for a framework."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common.config import Precision, RunConfig
from common.launch import launch_row
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
