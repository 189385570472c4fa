"""How far the proof goes: over how much of a run its losses could be compared."""

from collections.abc import Sequence

from common.config import Precision
from common.proof.bounds import FIRST_GRADIENT, LOSS_CURVE, PAIR_LOSS, PRESENCE, TRIAL_RULES
from common.results.check import Check, worst_first
from common.results.rows import ParityEntry, RowResult, Status
from common.show.lines import NOTHING, Line
from common.show.words import extent_of, rows_of
from common.text import printable

TRIAL_NAMES = {rule.name for rule in TRIAL_RULES.values()}
SMALL_SHARE = 0.1  # of a run's steps; below it a note says what holds the others


def parity_of(line: Line) -> str:
    """pass, or the name of the check that failed worst; a loss that is not finite passes nothing."""
    checks = worst_first(check for row in line.rows for check in row.checks)
    if not checks:
        return NOTHING
    if not checks[0].passed:
        return checks[0].name
    return "not comparable" if any(row.status is Status.NONFINITE for row in line.rows) else "pass"


def parity_cell(line: Line) -> str:
    """What parity_of says and, where it is pass, over how much of the run if that is not all: 'pass (3 of 60)'."""
    verdict = parity_of(line)
    parts = [part for row in line.rows if (part := _part_compared(row))]
    return f"{verdict} ({parts[0]})" if verdict == "pass" and parts else verdict


def _part_compared(row: RowResult) -> str:
    """How much of the run was held to float64; "" where all of it, or where nobody has compared it."""
    curve = next((check for check in row.checks if check.name == LOSS_CURVE.name), None)
    if curve:
        return f"{curve.steps} of {curve.of_steps}" if curve.end else ""
    if row.training and row.training.rulers:
        return "ruler"
    return "first batch" if any(check.name == FIRST_GRADIENT.name for check in row.checks) else ""


def extents(entries: Sequence[ParityEntry]) -> list[str]:
    """Over how much of the run the losses could be compared, and which rows' losses and gradients could not."""
    labels: dict[str, dict[str, None]] = {}
    for entry in entries:
        for rule in (LOSS_CURVE, PAIR_LOSS):
            found = {_extent(check, entry) for check in entry.checks if check.name == rule.name}
            for extent in sorted(found):
                labels.setdefault(f"{rule.name} over {printable(extent)}", {})[label_of(entry)] = None
        if not any(check.name in (LOSS_CURVE.name, PAIR_LOSS.name) for check in entry.checks):
            labels.setdefault(f"{LOSS_CURVE.name} {_why_not_held(entry)}", {})[label_of(entry)] = None
        compared, held = (
            {rows_of(check) for check in entry.checks if check.name == rule.name} for rule in (PRESENCE, FIRST_GRADIENT)
        )
        if too_large := sorted(compared - held):
            text = f"{FIRST_GRADIENT.name} not held to float64: a step too large for NumPy: {', '.join(too_large)}"
            labels.setdefault(text, {})[label_of(entry)] = None
    return [f"{text}: {', '.join(names)}" for text, names in labels.items()]


def label_of(entry: ParityEntry) -> str:
    return f"{printable(entry.precision)}{' compiled' if entry.compile else ''}"


def _why_not_held(entry: ParityEntry) -> str:
    if not any(check.name == PRESENCE.name for check in entry.checks):
        return "not held to float64: the runs were not compared"
    if entry.precision == Precision.FLOAT64:
        return "not held to float64: these rows are what larger runs are held to"
    return "not held to float64: too large for NumPy, and no float64 row of its framework is there"


def _extent(check: Check, entry: ParityEntry) -> str:
    """As extent_of; of a small share it says what holds the rest."""
    if not check.of_steps or (check.steps or 0) >= SMALL_SHARE * check.of_steps:
        return extent_of(check)
    is_tried = any(other.name in TRIAL_NAMES for other in entry.checks)  # a file of before has no trial
    later = "a small run (C9) and the late loss hold the later steps" if is_tried else "nothing holds the later steps"
    return f"{extent_of(check)}; {later}"
