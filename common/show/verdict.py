"""What can be said of a speed-up: one rule for tables, sweeps, comparisons and the titles of figures.

It is faster or slower where its interval lies beyond 1, over three processes or more on either side. Of fewer, what
equal processes differ by does not show, so that it has to lie beyond that. There is no difference only within bounds
that are named. All else can't be told, and it is said why: a row that failed, or fails a check; one whose times are
not steady, or that was kept from the CPU, since that may hit one side alone, or one precision more than the other (a
busy machine has turned a loss into a gain, with a narrow interval); or one that was measured in another session.

Processes that differ make a row UNSTABLE. They end no verdict over three pairs of a turn or more: a turn keeps a
disturbance from hitting one side alone, and how far its pairs lie apart is in the interval. Two runs that are compared
have no turns; there the interval over processes is all there is.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from common.measure.statistics import LEAST_EPOCHS, LEAST_PROCESSES, PROCESSES_DIFFER
from common.proof.runs import pair_checks
from common.results.rows import ParityEntry, Status
from common.show.disturbance import cause_of
from common.show.lines import NOTHING, Interval, Line, baselines, by_turns, in_other_sessions, interval, speed_up

FASTER, SLOWER, NO_DIFFERENCE, CANT_TELL = "faster", "slower", "no difference", "can't tell"

INTERVALS = ("95 %", "within run")  # columns, of which a table has those that some line fills
UNSTABLE, NOISY = "UNSTABLE", "NOISY"  # and the notes under the table say what is
TOO_FEW_EPOCHS = f"fewer than {LEAST_EPOCHS} steady epochs in a process; give --epochs {LEAST_EPOCHS + 1} or more"
FEW_PROCESSES = (
    f"fewer than {LEAST_PROCESSES} processes each: run --repeats {LEAST_PROCESSES} for an interval over them"
)


class Verdict(NamedTuple):
    """word: one of the four. why: of can't tell the reason, of no difference within what; of the others nothing.

    is_wide: the rows are good, and it is their interval that leaves it open.
    """

    word: str
    why: str = ""
    is_wide: bool = False


def judge(
    line: Line,
    baseline: Line | None,
    parity: Sequence[ParityEntry] = (),
    names: tuple[str, str] = ("", "float32 "),
    *,
    of_one_run: bool = True,
) -> Verdict:
    """What can be said of the line's speed-up over the baseline; names: what a reason calls the two.

    of_one_run: two of one results file; rows of two files are of two sessions, as the reader knows.
    """
    if baseline is None:
        return Verdict(CANT_TELL, "no float32")
    if reason := fault(line, baseline, parity, names):
        return Verdict(CANT_TELL, reason)
    if speed_up(line, baseline) is None:
        return Verdict(CANT_TELL, "no steady step")
    ends = interval(line, baseline)
    if ends is None:
        return Verdict(CANT_TELL, TOO_FEW_EPOCHS)
    may_differ = ends.over_processes and (by_turns(line, baseline) or not of_one_run)
    for side, name in zip((line, baseline), names, strict=True):
        if not side.is_steady_within or (side.instability and not may_differ):
            return Verdict(CANT_TELL, f"{name}{UNSTABLE}")
        if cause_of(side):
            return Verdict(CANT_TELL, f"{name}{NOISY}")
    if of_one_run and in_other_sessions(line, baseline):
        return Verdict(CANT_TELL, "of another session than float32")
    return _by_interval(ends)


def fault(line: Line, baseline: Line, parity: Sequence[ParityEntry], names: tuple[str, str] = ("", "float32 ")) -> str:
    """Why either of the two counts for nothing, however fast it is or little it takes: it failed, or fails a check."""
    for side, name in zip((line, baseline), names, strict=True):
        if ended := [row.status for row in side.rows if row.status is not Status.OK]:
            return f"{name}{ended[0]}"
        if failed := _failed_checks(side, parity):
            return f"{name}{failed[0]} failed"
    return ""


def is_sound(line: Line, parity: Sequence[ParityEntry]) -> bool:
    """Whether a title may rest on its times alone."""
    return not (line.instability or cause_of(line) or fault(line, line, parity))


def doubts(lines: Sequence[Line], parity: Sequence[ParityEntry] = ()) -> list[str]:
    """What the speed-ups of a table can't say, and why."""
    of_mode = baselines(lines)
    pairs = [
        (line, float32)
        for line in lines
        if (float32 := of_mode.get(line.mode)) and float32 is not line and speed_up(line, float32) is not None
    ]
    unknown: dict[str, list[str]] = {}
    for line, float32 in pairs:
        verdict = judge(line, float32, parity)
        if verdict.word == CANT_TELL:
            unknown.setdefault(verdict.why, []).append(line.name)
    said = [f"can't tell whether it pays: {', '.join(names)}: {why}" for why, names in unknown.items()]
    if elsewhere := [line.name for line, float32 in pairs if in_other_sessions(line, float32)]:
        said.append(
            f"of another session than float32: {', '.join(elsewhere)}: what changed in between is in their speed-up"
        )
    if any((ends := interval(*pair)) and not ends.over_processes for pair in pairs):
        own = "within run: what the epochs of a process show; equal processes lie further apart"
        said.append(f"{own} ({FEW_PROCESSES})")
    return said


def interval_cells(ends: Interval | None, decimals: int = 2) -> dict[str, str]:
    """An interval in its column: 95 % is said of processes alone."""
    text = f"{ends.low:.{decimals}f}-{ends.high:.{decimals}f}" if ends else NOTHING
    over = bool(ends and ends.over_processes)
    return dict(zip(INTERVALS, (text, NOTHING) if over else (NOTHING, text), strict=True))


def _failed_checks(line: Line, parity: Sequence[ParityEntry]) -> list[str]:
    """Of its own, and of those that hold it to a row of the other framework, or of other replicas."""
    own = [check.name for row in line.rows for check in row.checks if not check.passed]
    return own + [
        check.name
        for entry in parity
        if (entry.precision, entry.compile) == (line.first.precision, line.first.compile)
        for check in pair_checks(entry)
        if not check.passed
    ]


def _by_interval(ends: Interval) -> Verdict:
    margin = 1.0 if ends.over_processes else PROCESSES_DIFFER
    if ends.low > margin:
        return Verdict(FASTER)
    if ends.high < 1 / margin:
        return Verdict(SLOWER)
    widest = max(ends.high, 1 / ends.low)
    if widest <= PROCESSES_DIFFER:
        return Verdict(NO_DIFFERENCE, f"within {_percent(widest if ends.over_processes else PROCESSES_DIFFER)} %")
    seen = f"{ends.low:.2f}x to {ends.high:.2f}x the speed"
    if ends.over_processes:
        return Verdict(CANT_TELL, f"anything from {seen}", is_wide=True)
    margin_percent = _percent(PROCESSES_DIFFER)
    return Verdict(CANT_TELL, f"{seen} within the run; equal processes may differ by {margin_percent} %", is_wide=True)


def _percent(ratio: float) -> int:
    """By how much it lies beyond 1, rounded up."""
    return max(1, math.ceil(round(100 * (ratio - 1), 6)))
