"""When a signal comes between two rows, does the run end in order there too? For those within a row see test_faults."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import run_parity
from common.process import runner
from common.process.interrupts import SIGNALS, Interrupts
from common.results.coding import read_json
from common.results.rows import Results
from tests.fakes import fake_worker, started


def interrupt(*_: object) -> Any:
    """As Ctrl-C does, in the midst of something that takes long."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)


OF_REPLICAS = """
from dataclasses import replace
from common.results.rows import describe_replicas
row, replicas = ok(config), config.execution.replicas
return replace(row, replicas=describe_replicas(config, "gloo", [1] * replicas, row.timing))
"""


def run_with(tmp_path: Path, *options: str, body: str = "return ok(config)") -> int:
    arguments = [
        "--preset",
        "smoke",
        "--device",
        "cpu",
        "--frameworks",
        "torch",
        "--no-report",
        "--precisions",
        "float64",
        "float32",
    ]
    worker = fake_worker(tmp_path, body)
    return run_parity.main([*arguments, *options, "--output", str(tmp_path / "run"), "--torch-python", worker])


def test_while_the_versions_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "describe_setting", interrupt)
    start_s = time.monotonic()
    assert (run_with(tmp_path), started(tmp_path)) == (130, [])
    assert time.monotonic() - start_s < 10
    assert capsys.readouterr().out == "no row has ended\n"


def test_while_the_runs_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "compare_runs", interrupt)
    assert (run_with(tmp_path), len(started(tmp_path))) == (130, 2)
    assert "float64" in capsys.readouterr().out
    assert len(read_json(tmp_path / "run" / "results.json", Results).rows) == 2


def test_the_efficiencies_are_known_before_the_runs_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas at 50 images/s each; one alone, on the same batch, at 100."""
    monkeypatch.setattr(runner, "compare_runs", interrupt)
    assert run_with(tmp_path, "--devices", "1", "2", body=OF_REPLICAS) == 130
    rows = read_json(tmp_path / "run" / "results.json", Results).rows
    assert [row.replicas and row.replicas.strong_scaling_efficiency for row in rows] == [None, 0.5, None, 0.5]


def test_before_what_it_would_end_has_begun() -> None:
    ended = []
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        with interrupts.calling(lambda: ended.append(True)):
            assert ended == [True]
    assert interrupts.number == signal.SIGTERM


def test_after_it_has_ended_nothing_is_called() -> None:
    with Interrupts() as interrupts:
        with interrupts.calling(lambda: pytest.fail("it has ended")):
            pass
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupts.number == signal.SIGINT


def test_the_handlers_before_are_those_after() -> None:
    before: list[Callable[..., Any] | int | None] = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts():
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == before
