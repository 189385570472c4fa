"""From which size on a precision pays: its speed-up over float32 along a sweep, and the crossover in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.config import Precision
from common.proof.runs import pair_checks
from common.results.rows import ParityEntry, Results, Status
from common.show.lines import Line, baselines, clear_ratio, group, interval, speed_up

FASTER, SLOWER, NO_DIFFERENCE, NOT_JUDGED = "faster", "slower", "no difference", "not judged"


@dataclass(frozen=True)
class Gain:
    """One precision at one size, beside float32 of the same framework, compile mode and loop.

    speed_up is how many times faster it is, interval the 95 % confidence interval of that. failed_pairs: the checks
    that hold it to a row of the other framework, or of other replicas, and failed.
    """

    size: int
    line: Line
    float32: Line | None
    speed_up: float | None
    interval: tuple[float, float] | None
    failed_pairs: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """faster or slower where the interval lies beyond 1; with few processes, beyond what equal ones differ by.

        What fails a check is not judged: a fast wrong row is worth nothing.
        """
        if self.interval is None or self.float32 is None or self.speed_up is None or self.failed_checks:
            return NOT_JUDGED
        margin = clear_ratio(self.line, self.float32)
        if self.interval[0] > margin:
            return FASTER
        return SLOWER if self.interval[1] < 1 / margin else NO_DIFFERENCE

    @property
    def failed_checks(self) -> list[str]:
        own = [check.name for row in self.line.rows for check in row.checks if not check.passed]
        return [*own, *self.failed_pairs]


Gains = Sequence[Gain]  # one precision of one framework and mode, from the smallest size to the largest


def gains_along(swept: Mapping[int, Results]) -> list[Gains]:
    """Every precision but float32 of each framework and mode, along the sizes."""
    found: dict[tuple[object, ...], list[Gain]] = {}
    for size in sorted(swept):
        lines = group(swept[size].rows)
        of_mode = baselines(lines)
        for line in lines:
            if line.first.precision != Precision.FLOAT32:
                gain = _gain(size, line, of_mode.get(line.mode), swept[size].parity)
                found.setdefault((line.mode, line.first.precision), []).append(gain)
    return list(found.values())


def crossover(gains: Gains, axis: str) -> str:
    """Where the precision starts to pay, in words.

    It pays from the smallest size on from which it is faster than float32 at every size that was judged.
    """
    judged = [gain for gain in gains if gain.verdict != NOT_JUDGED]
    paying = _tail_that_pays(judged)
    others = judged[: len(judged) - len(paying)]
    unknown = [f"{gain.size} ({_why_not(gain)})" for gain in gains if gain.verdict == NOT_JUDGED]
    that = " that was judged" if unknown else ""
    clauses = []
    if paying and not others:
        where = f"every {axis}{that} from" if len(paying) > 1 else axis
        clauses = [f"pays at {where} {_at(paying[0])}{_to(paying)}"]
    elif paying:
        clauses = [f"pays from {axis} {_at(paying[0])} on{_to(paying)}, and not at {_at(others[-1])}"]
    elif judged:
        clauses = [f"does not pay at {axis} {_at(judged[-1])}, the largest{that}"]
    if elsewhere := [_at(gain) for gain in others if gain.verdict == FASTER]:
        clauses.append(f"it does at {_and(elsewhere)}")
    if unknown:
        clauses.append(f"not judged at {axis} {_and(unknown)}")
    return "; ".join(clauses)


def pays_from(gains: Gains) -> int | None:
    """The size from which on it pays; None where it doesn't at the largest that was judged."""
    paying = _tail_that_pays([gain for gain in gains if gain.verdict != NOT_JUDGED])
    return paying[0].size if paying else None


def _gain(size: int, line: Line, float32: Line | None, parity: Sequence[ParityEntry]) -> Gain:
    failed = [
        check.name
        for entry in parity
        if (entry.precision, entry.compile) == (line.first.precision, line.first.compile)
        for check in pair_checks(entry)
        if not check.passed
    ]
    return Gain(size, line, float32, speed_up(line, float32), interval(line, float32) if float32 else None, failed)


def _tail_that_pays(judged: Gains) -> Gains:
    for index in range(len(judged)):
        if all(gain.verdict == FASTER for gain in judged[index:]):
            return judged[index:]
    return []


def _at(gain: Gain) -> str:
    return f"{gain.size} ({gain.speed_up:.2f}x)"


def _to(gains: Gains) -> str:
    return f" to {_at(gains[-1])}" if len(gains) > 1 else ""


def _why_not(gain: Gain) -> str:
    for line, name in ((gain.line, ""), (gain.float32, "float32 ")):
        if line is None:
            return "no float32"
        if ended := [row.status for row in line.rows if row.status is not Status.OK]:
            return f"{name}{ended[0]}"
    if gain.failed_checks:
        return f"{gain.failed_checks[0]} failed"
    return "too few epochs" if gain.speed_up else "no steady step"


def _and(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
