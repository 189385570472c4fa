"""Can what is advised for a missing package be run as it is printed, and does it add all that a worker needs?"""

import shlex
import sys
from pathlib import Path

import pytest

from common.process import install as install_module
from common.process.install import install_command, missing, without_packages
from tests.conftest import ROOT
from tests.remedies import assert_can_be_run

PYTHONS = ["/usr/bin/python3", "/home/ada/my venv/bin/python", "/home/ada/it's/python"]


@pytest.mark.parametrize("python", PYTHONS)
def test_a_checkout_installs_itself_with_the_frameworks_extra(python: str) -> None:
    """So that what the package itself needs comes too."""
    words = [python, "-m", "pip", "install", "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[torch]"]
    assert shlex.split(install_command("torch", python)) == words


@pytest.mark.parametrize("python", PYTHONS)
def test_of_an_installed_package_is_named_what_it_asks_for(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For no index has the package, and no checkout is there."""
    asked = ["numpy>=1.26", 'torch>=2.11; extra == "torch"', "torch>=2.11 ; extra == 'torch'", 'keras; extra == "tf"']
    monkeypatch.setattr(install_module, "_CONSTRAINTS", Path("nowhere"))
    monkeypatch.setattr(install_module.metadata, "requires", lambda name: asked)
    words = [python, "-m", "pip", "install", "numpy>=1.26", "torch>=2.11", "torch>=2.11"]
    assert shlex.split(install_command("torch", python)) == words


@pytest.mark.parametrize("is_checkout", [True, False])
@pytest.mark.parametrize("extra", ["tensorflow", "torch", "report", "tensorboard"])
def test_what_is_printed_can_be_run(extra: str, is_checkout: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_checkout:
        monkeypatch.setattr(install_module, "_CONSTRAINTS", Path("nowhere"))
    assert_can_be_run(install_command(extra, sys.executable))
    assert_can_be_run(missing(ModuleNotFoundError(name="x"), extra).partition("add it with: ")[2])


@pytest.mark.parametrize("refuses", [True, False], ids=["a system's Python", "a Python that takes packages"])
def test_a_python_without_packages_is_told_what_works_there(refuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system's own Python refuses pip."""
    monkeypatch.setattr(install_module, "_refuses_pip", lambda: refuses)
    monkeypatch.setattr(Path, "exists", lambda path: path == ROOT / "constraints.txt")
    said = without_packages("numpy")
    words = "this Python has no numpy; " + ("make one that has: " if refuses else "install it with: ")
    assert said.startswith(words)
    assert (" -m venv " in said) is refuses
    assert_can_be_run(said.removeprefix(words))


def test_a_python_without_packages_is_told_of_that_which_make_has_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: True)
    assert without_packages("numpy") == f"this Python has no numpy; take {ROOT / '.venv' / 'bin' / 'python'}"
