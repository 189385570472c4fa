"""Is what a row's process says, and what the driver says of it, passed on? For those that misbehave see test_faults."""

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
from tests.fakes import fake_python

CONFIG = RunConfig("torch", Precision.FLOAT32)


def launch(tmp_path: Path, body: str, timeout_s: float = 30) -> tuple[RowResult, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    row = launch_row(CONFIG, fake_python(tmp_path, body), tmp_path / "rows" / "one", timeout_s, events.append)
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
    def watch_gpu(pid: int) -> Iterator[FakeWatch]:
        watches.append(FakeWatch(pid))
        yield watches[-1]

    monkeypatch.setattr(launch_module, "watch_gpu", watch_gpu)
    config = replace(CONFIG, execution=replace(CONFIG.execution, device=device))
    write_json(tmp_path / "row.json", make_row(config, Status.OK, memory=Memory(kind, 1, 3, 2, None)))
    body = (
        "print(json.dumps({'event': 'pid', 'pid': os.getpid()}))\n"
        "print(json.dumps({'event': 'epoch', 'epoch': 1})); print(json.dumps({'event': 'epoch', 'epoch': 2}))\n"
        f"row = json.load(open({str(tmp_path / 'row.json')!r}))\n"
        "json.dump({**row, 'run_id': sys.argv[8]}, open(result, 'w'))"
    )
    events: list[dict[str, Any]] = []
    row = launch_row(config, fake_python(tmp_path, body), tmp_path / "rows" / "one", 30, events.append)
    assert [watch.pid for watch in watches] == ([events[0]["pid"]] if watched else [])
    assert row.memory is not None
    assert row.memory.device_process_peak_bytes == (1002 if attached else None)
    assert (row.gpu is not None) is attached
