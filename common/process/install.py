"""What is missing, and the command that adds it."""

import shlex
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

PACKAGE = "mixed-precision-parity"

_ROOT = Path(__file__).resolve().parents[2]
_CONSTRAINTS = _ROOT / "constraints.txt"  # of a checkout; an installed package has none


def install_command(extra: str, python: str) -> str:
    """What adds one of our extras, as "torch" or "report", to the interpreter `python`.

    A worker also needs what the package itself depends on. A checkout is installed with the extra; of an installed
    package, which no index has, what it asks for is named instead.
    """
    words = ["-c", str(_CONSTRAINTS), "-e", f"{_ROOT}[{extra}]"] if _CONSTRAINTS.exists() else _requirements(extra)
    return shlex.join([python, "-m", "pip", "install", *words])


def without_packages(name: str) -> str:
    """What to do where this interpreter lacks the package `name`, which every command needs."""
    venv = _ROOT / ".venv"  # as make makes it
    python = str(venv / "bin" / "python")
    if Path(python).exists():
        return f"this Python has no {name}; take {shlex.quote(python)}"
    if _refuses_pip():
        make = shlex.join([sys.executable, "-m", "venv", str(venv)])
        return f"this Python has no {name}; make one that has: {make} && {install_command('all', python)}"
    return f"this Python has no {name}; install it with: {install_command('report', sys.executable)}"


def missing(error: ModuleNotFoundError, extra: str) -> str:
    """Which package of an extra this interpreter lacks, and what adds it."""
    return f"{error.name} is not installed; add it with: {install_command(extra, sys.executable)}"


def _refuses_pip() -> bool:
    """Whether this is a system's own Python, which is left to the system's packages (PEP 668)."""
    in_venv = sys.prefix != sys.base_prefix
    return not in_venv and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()


def _requirements(extra: str) -> list[str]:
    """What the installed package asks for, by itself and for the extra, as 'torch>=2.11'."""
    asked = [entry.replace(" ", "").replace("'", '"').partition(";") for entry in metadata.requires(PACKAGE) or ()]
    return [requirement for requirement, _, marker in asked if marker in ("", f'extra=="{extra}"')]
