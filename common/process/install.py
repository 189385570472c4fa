"""What is missing, and the command that adds it."""

import shlex
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_CONSTRAINTS = _ROOT / "constraints.txt"  # of a checkout; an installed package has none


def install_command(framework: str, python: str) -> str:
    """What adds the framework to the interpreter `python`.

    It installs this package with the framework's extra: a worker also needs what the package depends on.
    """
    return extra_command(framework, python)


def extra_command(extra: str, python: str) -> str:
    """What adds the packages of one of our extras to the interpreter `python`."""
    if _CONSTRAINTS.exists():
        words = ["-c", str(_CONSTRAINTS), "-e", f"{_ROOT}[{extra}]"]
    else:
        words = [f"mixed-precision-parity[{extra}]"]
    return shlex.join([python, "-m", "pip", "install", *words])


def missing(error: ModuleNotFoundError, extra: str) -> str:
    """Which package of an extra this interpreter lacks, and what adds it."""
    return f"{error.name} is not installed; add it with: {extra_command(extra, sys.executable)}"
