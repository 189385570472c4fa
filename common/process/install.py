"""What is missing, and the command that adds it."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def install_command(framework: str, python: str) -> str:
    """What adds the framework, and NumPy with it, to the interpreter `python`, at the version measured here."""
    return f"{python} -m pip install -c {_ROOT / 'constraints.txt'} {framework}"


def extra_command(extra: str, python: str) -> str:
    """What adds the packages of one of our extras to the interpreter `python`."""
    return f"{python} -m pip install -c {_ROOT / 'constraints.txt'} -e '{_ROOT}[{extra}]'"


def missing(error: ModuleNotFoundError, extra: str) -> str:
    """Which package of an extra this interpreter lacks, and what adds it."""
    return f"{error.name} is not installed; add it with: {extra_command(extra, sys.executable)}"
