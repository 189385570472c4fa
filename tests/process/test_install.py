"""Can what is advised for a missing package be run as it is printed, and does it add all that a worker needs?"""

import shlex
from pathlib import Path

import pytest

from common.process import install as install_module
from common.process.install import install_command
from tests.conftest import ROOT

PYTHONS = ["/usr/bin/python3", "/home/ada/my venv/bin/python", "/home/ada/it's/python"]


@pytest.mark.parametrize("python", PYTHONS)
def test_a_checkout_installs_itself_with_the_frameworks_extra(python: str) -> None:
    """So that what the package itself needs comes too."""
    words = [python, "-m", "pip", "install", "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[torch]"]
    assert shlex.split(install_command("torch", python)) == words


@pytest.mark.parametrize("python", PYTHONS)
def test_an_installed_package_is_named(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_module, "_CONSTRAINTS", Path("nowhere"))
    words = [python, "-m", "pip", "install", "mixed-precision-parity[tensorflow]"]
    assert shlex.split(install_command("tensorflow", python)) == words
