"""What is missing, and the command that adds it."""

import shlex
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_CONSTRAINTS = _ROOT / "constraints.txt"  # of a checkout; an installed package has none


def install_command(extra: str, python: str) -> str:
    """What adds one of our extras, as "torch" or "report", to the interpreter `python`.

    It installs this package with the extra: a worker also needs what the package depends on.
    """
    if _CONSTRAINTS.exists():
        words = ["-c", str(_CONSTRAINTS), "-e", f"{_ROOT}[{extra}]"]
    else:
        words = [f"mixed-precision-parity[{extra}]"]
    return shlex.join([python, "-m", "pip", "install", *words])


def missing(error: ModuleNotFoundError, extra: str) -> str:
    """Which package of an extra this interpreter lacks, and what adds it."""
    return f"{error.name} is not installed; add it with: {install_command(extra, sys.executable)}"
