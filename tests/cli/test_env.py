"""Does `env` say what each framework runs here, in which precisions it pays, and what adds what is missing?"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import run_parity
from common.cli import env
from common.cli.env import verdict
from common.config import Precision, RunConfig
from common.measure import hardware
from common.results.rows import Environment, RowResult, Status
from tests.conftest import ROOT, needs_torch
from tests.fakes import fake_worker, started

H100 = {"kind": "gpu", "name": "NVIDIA H100", "compute_capability": "9.0"}
T4 = {"kind": "gpu", "name": "Tesla T4", "compute_capability": "7.5"}
CPU = {"kind": "cpu", "name": "x"}

ON_T4 = f"""
from common.results.rows import Environment
return RowResult(config, Status.OK, environment=Environment("2.13", "3.12", "2.2", "Linux", {T4}))
"""


def row(device: dict[str, str]) -> RowResult:
    config = RunConfig("torch", Precision.FLOAT32)
    return RowResult(config, Status.OK, environment=Environment("2.13", "3.12", "2.2", "Linux", device))


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (H100, ["yes", "yes", "yes", "yes", "yes"]),
        (T4, ["yes", "yes", "no", "yes", "emulated"]),
        (CPU, ["yes", "yes", "no", "emulated", "yes"]),
    ],
    ids=["H100", "T4", "CPU with bfloat16"],
)
def test_precisions_of_a_device(monkeypatch: pytest.MonkeyPatch, device: dict[str, str], words: list[str]) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx512_bf16"})
    assert [verdict(row(device), precision)[0] for precision in Precision] == words


def test_a_framework_that_does_not_work_says_why() -> None:
    missing = replace(row(CPU), status=Status.NOT_INSTALLED, detail="install it with: pip", environment=None)
    assert verdict(missing, Precision.FLOAT64) == ("not_installed", "install it with: pip")


def test_the_verb_asks_each_framework_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worker = fake_worker(tmp_path, ON_T4)
    assert run_parity.main(["env", "--tf-python", worker, "--torch-python", worker, "--format", "tsv"]) == 0
    lines = [[cell.strip() for cell in line.split("\t")] for line in capsys.readouterr().out.splitlines()]
    assert len(started(tmp_path)) == 2
    assert ["tf32", "no", "no"] in lines
    assert ["mixed_bfloat16", "emulated", "emulated"] in lines
    assert ["version", "2.13", "2.13"] in lines
    (reason,) = (line[0] for line in lines if "tf32 needs compute capability" in line[0])
    assert reason.startswith("- tensorflow tf32, torch tf32: ")


def test_nothing_that_works_is_exit_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worker = fake_worker(tmp_path, "raise ModuleNotFoundError(name=config.framework)")
    assert run_parity.main(["env", "--tf-python", worker, "--torch-python", worker]) == 4
    assert f"- torch: install it with: {sys.executable} -m pip install" in capsys.readouterr().out


def test_a_package_that_a_verb_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(env, "find_spec", lambda name: None if name == "matplotlib" else name)
    worker = fake_worker(tmp_path, ON_T4)
    run_parity.main(["env", "--tf-python", worker, "--torch-python", worker])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("- no page and no figures: "))
    assert line.endswith(f"-m pip install -c {ROOT / 'constraints.txt'} -e '{ROOT}[report]'")


def test_a_gpu_that_a_framework_does_not_see_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(env, "has_gpu", lambda: True)
    worker = fake_worker(tmp_path, ON_T4.replace(str(T4), str(CPU)))
    run_parity.main(["env", "--tf-python", worker, "--torch-python", worker])
    assert "- torch: there is an NVIDIA GPU, which it does not see" in capsys.readouterr().out


@needs_torch
@pytest.mark.usefixtures("torch_impl")
def test_a_real_framework_describes_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    without = fake_worker(tmp_path, "raise ModuleNotFoundError(name='tensorflow')")
    assert run_parity.main(["env", "--device", "cpu", "--tf-python", without]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert hardware.cpu_name() in printed
