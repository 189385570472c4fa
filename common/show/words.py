"""Facts in words: whose a check is and what was compared, and which variables were set."""

from common.process.variables import Variables
from common.results.check import Check, End

# Why a run was compared no further.
ENDS: dict[End, str] = {
    "chaos": "then chaos",
    "skip": "then one alone skips",
    "not_finite": "then a loss that is not finite",
    "rulers_end": "as far as float64 was trained again",
    "ruler": "the first update; beyond it they are the ruler",
}


def place_of(check: Check) -> str:
    """'torch, tensorflow: 9 of 16 steps, then chaos', or 'torch: right, conv1/kernel not float16'."""
    place = extent_of(check) if check.of_steps is not None else _compared(check)
    return f"{rows_of(check)}: {place}" if check.rows else place


def rows_of(check: Check) -> str:
    """The rows that it is of, as they are named in notes."""
    return ", ".join(check.rows)


def extent_of(check: Check) -> str:
    """How much of a run was compared and, where that is not all of it, why no more."""
    if check.of_steps is None:
        return check.what
    if not check.end:
        return f"all {check.of_steps} steps"
    return f"{check.steps} of {check.of_steps} steps, {ENDS[check.end]}"


def _compared(check: Check) -> str:
    named = ", ".join(filter(None, [check.what, check.tensor]))
    return f"{named} not {check.dtype}" if check.dtype else named


def variables_set(variables: Variables) -> str:
    """Those of the environment that are set, as 'OMP_NUM_THREADS=2, https_proxy'; of a secret the name alone."""
    return ", ".join(name if value is None else f"{name}={value}" for name, value in variables.items()) or "none"
