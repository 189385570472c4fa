"""Does the whole program do what README says: every row, one table, the same start, the same training?"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import run_parity as program
from common.cli.exit_codes import exit_code
from common.config import Precision, RunConfig
from common.process import runner
from common.proof.bounds import FLOAT32_TRAINING, RULES
from common.proof.runs import judge
from common.results.check import Check
from common.results.coding import read_json
from common.results.rows import Results, RowResult, Status
from common.results.store import StoreError
from tests.conftest import HAS, ROOT, needs_both, needs_one, needs_tensorflow, run_parity, run_python
from tests.fakes import fake_worker, started

PAIRS = {"C8 first gradient", "C8 loss curve", "C8 update", "C8 skips"}
ENDS = {"C6 late loss", "C8 late loss", "C8 update size"}  # where not every step of 40 or more can be compared
PRECISIONS = ["float64", "float32", "tf32", "mixed_float16", "mixed_bfloat16"]


TWO_FAKE_ROWS = ["--preset", "smoke", "--device", "cpu", "--frameworks", "torch", "--no-report"]
TWO_FAKE_ROWS += ["--precisions", "float64", "float32"]


def rows_of(run: SimpleNamespace) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["framework"], row["precision"]): row for row in run.results["rows"]}


def test_every_row_is_there_with_its_status(smoke_run: SimpleNamespace) -> None:
    for framework, package in (("tensorflow", "tf_impl"), ("torch", "torch_impl")):
        for precision in PRECISIONS:
            trained = "ok" if HAS[package] else "not_installed"
            expected = "unsupported" if precision == "tf32" else trained
            assert rows_of(smoke_run)[framework, precision]["status"] == expected


@needs_both
def test_exit_code_and_table(smoke_run: SimpleNamespace) -> None:
    assert smoke_run.process.returncode == 0, smoke_run.process.stderr
    for precision in PRECISIONS:
        assert len(re.findall(rf"^(tensorflow|torch) +{precision} ", smoke_run.process.stdout, re.MULTILINE)) == 2


def test_progress_goes_to_stderr_in_plain_lines(smoke_run: SimpleNamespace) -> None:
    assert "[10/10] torch-mixed_bfloat16-custom-compile-off-r0: " in smoke_run.process.stderr
    assert "\x1b" not in smoke_run.process.stderr + smoke_run.process.stdout


@needs_one
def test_same_data_and_starting_weights_everywhere(smoke_run: SimpleNamespace) -> None:
    trained = [row["training"] for row in smoke_run.results["rows"] if row["training"]]
    assert len({training["data_sha256"] for training in trained}) == 1
    assert len({training["initial_weights_sha256"] for training in trained}) == 1


@needs_both
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_loss_curves_agree(smoke_run: SimpleNamespace, precision: str) -> None:
    rows = rows_of(smoke_run)
    tensorflow, torch = (np.array(rows[name, precision]["training"]["loss"]) for name in ("tensorflow", "torch"))
    assert np.linalg.norm(tensorflow - torch) <= FLOAT32_TRAINING * np.linalg.norm(torch)


@needs_both
def test_loss_scales_agree(smoke_run: SimpleNamespace) -> None:
    rows = rows_of(smoke_run)
    for name in ("loss_scale", "skipped_steps"):
        tensorflow, torch = (
            rows[framework, "mixed_float16"]["training"][name] for framework in ("tensorflow", "torch")
        )
        assert tensorflow == torch


def test_every_row_that_ran_carries_its_proof(smoke_run: SimpleNamespace) -> None:
    """Whatever the row computes: its probe, its run and its start, and one verdict for each precision."""
    of_half = {"C1 precision", "C6 precision", "C9 precision"}
    names = {rule.name for rule in RULES} - of_half - {"C7 replicas"} - PAIRS - ENDS
    ran = [row for row in smoke_run.results["rows"] if row["status"] == "ok"]
    for row in ran:
        half = of_half if row["precision"].startswith("mixed") else set()
        assert {check["name"] for check in row["checks"]} == names | half
        assert all(check["passed"] for check in row["checks"])
    if all(HAS.values()):
        for entry in smoke_run.results["parity"]:
            assert PAIRS.issubset(check["name"] for check in entry["checks"])
    verdicts = {entry["precision"]: entry["passed"] for entry in smoke_run.results["parity"]}
    assert verdicts == dict.fromkeys((row["precision"] for row in ran), True)


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_a_failed_check_is_exit_code_1(passed: bool, code: int) -> None:
    row = RowResult(RunConfig("torch", Precision.FLOAT32), Status.OK, checks=[Check("C1 logits", 3.0, 2.0, passed, "")])
    assert exit_code(Results([], {}, [row], judge([row])), allow_missing=False) == code


def test_every_row_is_on_disk_and_equal_to_the_whole(smoke_run: SimpleNamespace) -> None:
    """But for the checks of the whole run and the limit that rows share, which need the rows beside it."""
    for row in smoke_run.results["rows"]:
        own = [c for c in row["checks"] if not c["name"].startswith("C6") and c["name"] != "C7 presence"]
        row = {**row, "checks": own}
        files = list(smoke_run.output.glob(f"rows/{row['framework']}-{row['precision']}-*/result.json"))
        shared = {name: row[name] for name in ("log", "limits", "setting", "variables", "key", "session")}
        assert [{**json.loads(file.read_text()), **shared} for file in files] == [row]


@needs_both
def test_every_trained_row_says_how_far_it_is_from_the_limit_and_in_what_it_computed(
    smoke_run: SimpleNamespace,
) -> None:
    rows = [row for row in smoke_run.results["rows"] if row["status"] == "ok"]
    assert rows
    assert all(row["limits"]["times_floor"] > 1 and row["probe"]["passed"] for row in rows)
    for precision in {row["precision"] for row in rows}:  # one limit for both frameworks
        assert len({row["limits"]["floor_s"] for row in rows if row["precision"] == precision}) == 1


@needs_both
def test_resume_keeps_what_is_finished(smoke_run: SimpleNamespace) -> None:
    arguments = ["--preset", "smoke", "--device", "cpu", "--precisions", "float32", "tf32"]
    process = run_parity(*arguments, "--output", smoke_run.output, "--resume", "--quiet", timeout=100)
    assert process.returncode == 0, process.stderr
    resumed = json.loads((smoke_run.output / "results.json").read_text())
    rows, earlier = (
        [row for row in results["rows"] if row["status"] == "ok"] for results in (resumed, smoke_run.results)
    )
    assert rows == earlier
    assert resumed["earlier_commands"] == [smoke_run.results["command"]]


@needs_both
def test_resume_runs_a_row_again_whose_arrays_are_damaged(smoke_run: SimpleNamespace) -> None:
    arrays = smoke_run.output / "rows" / "torch-float32-custom-compile-off-r0" / "arrays.npz"
    whole = arrays.read_bytes()
    arrays.write_bytes(whole[:200])
    arguments = ["--preset", "smoke", "--device", "cpu", "--frameworks", "torch", "--precisions", "float32"]
    process = run_parity(*arguments, "--output", smoke_run.output, "--resume", "--quiet")
    assert process.returncode == 0, process.stderr
    assert len(arrays.read_bytes()) == len(whole)


@pytest.mark.parametrize("module", [name for name, found in HAS.items() if found])
def test_alone(module: str) -> None:
    process = run_python("-m", module, "--preset", "smoke", "--precision", "mixed_float16")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert re.fullmatch(r"Epoch 1/3 - \d+\.\d\d s - loss: [\d.]+ - accuracy: \d\.\d{4}", lines[0])
    assert re.search(r"^Time to complete: \d+\.\d\d s", process.stdout, re.MULTILINE)
    assert re.search(r"^Memory before the model: .* GB, peak: .* GB, used: .* GB", process.stdout, re.MULTILINE)


@pytest.mark.slow
@needs_tensorflow
def test_fit_alone() -> None:
    process = run_python("-m", "tf_impl", "--preset", "smoke", "--loop", "fit")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("Epoch 1/3")


def test_a_row_is_on_disk_before_it_is_said_to_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, on_disk = tmp_path / "run", []

    @contextmanager
    def reporting(*_: object) -> Iterator[SimpleNamespace]:
        def end_row(row: RowResult) -> None:
            on_disk.append([found.config.row_id for found in read_json(output / "results.json", Results).rows][-1])

        yield SimpleNamespace(start_row=print, event=print, end_row=end_row, keep_row=print)

    monkeypatch.setattr(program, "reporting", reporting)
    assert program.main([*TWO_FAKE_ROWS, "--output", str(output), "--torch-python", fake_worker(tmp_path)]) == 0
    assert on_disk == started(tmp_path)


@pytest.mark.parametrize("error", [StoreError("arrays.npz is missing"), MemoryError()], ids=["arrays", "memory"])
def test_runs_that_cannot_be_compared_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setattr(runner, "compare_runs", lambda *_: (_ for _ in ()).throw(error))
    arguments = [*TWO_FAKE_ROWS, "--output", str(tmp_path / "run"), "--torch-python", fake_worker(tmp_path), "--quiet"]
    assert program.main(arguments) == 3
    printed = capsys.readouterr()
    assert "float64" in printed.out
    assert printed.err == f"the runs could not be compared: {str(error) or 'out of memory'}\n"


def test_a_reader_that_has_gone_is_no_failure(tmp_path: Path) -> None:
    """As `run_parity.py | head -1` has it."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [*TWO_FAKE_ROWS, "--output", str(tmp_path / "run"), "--torch-python", fake_worker(tmp_path), "--quiet"]
    process = subprocess.run(
        [sys.executable, "run_parity.py", *command], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (0, b"")


def test_an_interpreter_may_be_given_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    python = Path(fake_worker(tmp_path)).relative_to(tmp_path)
    assert program.main([*TWO_FAKE_ROWS, "--output", "run", "--torch-python", f"./{python}"]) == 0


def test_letters_that_stdout_cannot_hold_are_written_out(tmp_path: Path) -> None:
    """Every box of this table's is drawn with letters beyond ASCII."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = run_parity(
        *TWO_FAKE_ROWS, "--output", tmp_path / "run", "--torch-python", fake_worker(tmp_path), "--format", "fancy_grid",
        env=environment,
    )  # fmt: skip
    assert process.returncode == 0
    assert "\\u2502 float64" in process.stdout
