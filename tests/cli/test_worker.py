"""What does a worker that is started by hand, as run_parity.py would, make of arguments that don't fit?

Its part in a run is in test_faults; the options that it shares with run_parity.py are in test_options.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.cli.worker import main
from common.config import Precision, RunConfig
from common.measure.hardware import Unsupported
from common.results.coding import read_json, write_json
from common.results.rows import RowResult, Status
from tests.conftest import ROOT

CONFIG = RunConfig("torch", Precision.FLOAT32)


def never(*_: object) -> Any:
    pytest.fail("it was trained")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a worker of torch ends with."""
    with pytest.raises(SystemExit) as stopped:
        main("torch", never, never, [str(argument) for argument in arguments])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_config_makes_its_result(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", CONFIG)
    arguments = ["--config", str(tmp_path / "config.json"), "--result", str(tmp_path / "result.json")]
    assert main("torch", lambda config, *_: RowResult(config, Status.OK), never, arguments) == 0
    assert read_json(tmp_path / "result.json", RowResult) == RowResult(CONFIG, Status.OK)


def test_a_worker_that_is_to_describe_trains_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", CONFIG)
    arguments = ["--config", str(tmp_path / "config.json"), "--result", str(tmp_path / "result.json"), "--describe"]
    assert main("torch", never, lambda config, *_: RowResult(config, Status.OK), arguments) == 0
    assert read_json(tmp_path / "result.json", RowResult).status is Status.OK


def test_a_config_needs_a_place_for_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "config.json", CONFIG)
    assert "give --result too" in refusal(capsys, "--config", tmp_path / "config.json")


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("", "'' is no file; give the name of one"),
        (".", "'.' is no file; give the name of one"),
        ("/dev/full", "'/dev/full' is no file; give the name of one"),
        ("nowhere/row.json", "the folder of 'nowhere/row.json' is not there, or can't be written; make it first"),
    ],
)
def test_a_result_that_could_not_be_written_is_refused_before_training(
    result: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, "--result", result) == f"python -m torch_impl: argument --result: {reason}"


@pytest.mark.parametrize("text", [None, "{", '{"framework": 1}'], ids=["missing", "no JSON", "another type"])
def test_a_config_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    line = refusal(capsys, "--config", tmp_path / "config.json", "--result", tmp_path / "result.json")
    assert line.startswith(f"python -m torch_impl: argument --config: {tmp_path / 'config.json'} can't be read (")


def test_a_config_of_the_other_framework(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "config.json", RunConfig("tensorflow", Precision.FLOAT32))
    line = refusal(capsys, "--config", tmp_path / "config.json", "--result", tmp_path / "result.json")
    assert line == "python -m torch_impl: argument --config: it is of tensorflow; run python -m tf_impl"


@pytest.mark.parametrize(("rank", "said_on"), [("0", "out"), ("1", "err")])
def test_any_of_several_processes_says_why_it_fails(
    rank: str, said_on: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first speaks for all; but torchrun may end it before it can, since another has failed."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def fail(*_: object, **__: object) -> Any:
        raise Unsupported("PyTorch finds 1 of 2 GPUs; give --devices fewer")

    assert main("torch", fail, never, ["--preset", "smoke"]) == 3
    printed = capsys.readouterr()
    said = {"out": printed.out, "err": printed.err}
    assert said.pop(said_on) == "unsupported: PyTorch finds 1 of 2 GPUs; give --devices fewer\n"
    assert list(said.values()) == [""]


def test_a_worker_whose_stdin_closes_leaves_its_shell_alone(tmp_path: Path) -> None:
    """Where no parent gave it a group of its own."""
    write_json(tmp_path / "config.json", CONFIG)
    worker = (
        "import time; from common.cli.worker import main; "
        f"main('torch', lambda *_: time.sleep(20), None, ['--config', {str(tmp_path / 'config.json')!r},"
        f" '--result', {str(tmp_path / 'result.json')!r}, '--run-id', 'x'])"
    )
    script = 'exec 0</dev/null; "$0" -c "$1"; echo "ended by signal $(($? - 128))"'
    process = subprocess.run(
        ["bash", "-c", script, sys.executable, worker], cwd=ROOT, capture_output=True, text=True, timeout=15,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout == "ended by signal 9\n"
