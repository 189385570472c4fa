"""Does an installed package have its command, and does that run from any folder?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HAS, ROOT, needs_one
from tests.remedies import assert_can_be_run


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package alone, without the checkout; what it depends on is this environment's."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    names = ["common", "tf_impl", "torch_impl", "run_parity.py", "pyproject.toml", "README.md", "LICENSE"]
    source.mkdir()
    for name in names:  # by copies, since a build leaves files beside its source
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(source)], check=True, capture_output=True)
    return folder / "site"


def run(installed: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The command, by its own script, in another folder."""
    script = installed / "bin" / "run-parity"
    return subprocess.run(
        [sys.executable, str(script), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_says_what_it_is_called(installed: Path, tmp_path: Path) -> None:
    process = run(installed, tmp_path, "env", "--help")
    assert process.stdout.startswith("usage: run-parity env"), process.stderr


def test_what_it_prints_as_a_remedy_can_be_run_there(installed: Path, tmp_path: Path) -> None:
    """Neither the constraints nor the project's folder are there."""
    code = "from common.process.install import install_command, sys; print(install_command('torch', sys.executable))"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "torch>=" in process.stdout, process.stderr
    assert_can_be_run(process.stdout.strip())


@needs_one
def test_the_command_trains_a_row_and_writes_its_page(installed: Path, tmp_path: Path) -> None:
    framework = "torch" if HAS["torch_impl"] else "tensorflow"
    process = run(
        installed, tmp_path, "--preset", "smoke", "--device", "cpu", "--frameworks", framework,
        "--precisions", "float32", "--output", "here",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "here" / "results.json").exists()
    assert (tmp_path / "here" / "report" / "index.html").exists()
