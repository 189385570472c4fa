"""From which size on a precision pays: its speed-up over float32 along a sweep, and the crossover in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.config import Precision
from common.results.rows import ParityEntry, Results
from common.show.lines import Interval, Line, baselines, group, interval, speed_up
from common.show.verdict import CANT_TELL, FASTER, FEW_PROCESSES, Verdict, judge


@dataclass(frozen=True)
class Gain:
    """One precision at one size, beside float32 of the same framework, compile mode and loop.

    speed_up is how many times faster it is, interval that of it; said: what can be said of it.
    """

    size: int
    line: Line
    float32: Line | None
    speed_up: float | None
    interval: Interval | None
    said: Verdict

    @property
    def verdict(self) -> str:
        return self.said.word


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

    It pays from the smallest size on from which it is faster than float32 at every larger one. Where that can't be told
    of some sizes, it pays at those that are named.
    """
    judged, unknown = _judged(gains), unknown_in(gains)
    paying = _tail_that_pays(judged)
    others = judged[: len(judged) - len(paying)]
    but = f", and not at {_at(others[-1])}" if others else ""
    clauses = []
    if paying and unknown:
        clauses = [f"pays at {axis} {join([_at(gain) for gain in paying])}{but}"]
    elif paying and others:
        clauses = [f"pays from {axis} {_at(paying[0])} on{_to(paying)}{but}"]
    elif paying:
        clauses = [f"pays at {f'every {axis} from' if len(paying) > 1 else axis} {_at(paying[0])}{_to(paying)}"]
    elif judged:
        clauses = [f"does not pay at {axis} {_at(judged[-1])}, the largest{' that was judged' if unknown else ''}"]
    if elsewhere := [_at(gain) for gain in others if gain.verdict == FASTER]:
        clauses.append(f"it does at {join(elsewhere)}")
    if unknown:
        clauses.append(f"can't tell at {axis} {join([f'{gain.size} ({gain.said.why})' for gain in unknown])}")
    if rests_on_few(gains):
        clauses.append(FEW_PROCESSES)
    return "; ".join(clauses)


def crossover_in_short(gains: Gains, axis: str) -> str:
    """Where a precision that pays does, without figures."""
    paying = [str(gain.size) for gain in _tail_that_pays(_judged(gains))]
    if unknown := unknown_in(gains):
        return f"pays at {axis} {join(paying)}; can't tell at {join([str(gain.size) for gain in unknown])}"
    return f"pays from {axis} {paying[0]}"


def pays_from(gains: Gains) -> int | None:
    """The size from which on it pays; None where it doesn't at the largest that was judged."""
    paying = _tail_that_pays(_judged(gains))
    return paying[0].size if paying else None


def unknown_in(gains: Gains) -> Gains:
    """The sizes at which it can't be told."""
    return [gain for gain in gains if gain.verdict == CANT_TELL]


def rests_on_few(gains: Gains) -> bool:
    """Whether something is said of it by too few processes for an interval over them."""
    return any(gain.interval and not gain.interval.over_processes for gain in _judged(gains))


def _gain(size: int, line: Line, float32: Line | None, parity: Sequence[ParityEntry]) -> Gain:
    ends = interval(line, float32) if float32 else None
    return Gain(size, line, float32, speed_up(line, float32), ends, judge(line, float32, parity))


def _judged(gains: Gains) -> Gains:
    return [gain for gain in gains if gain.verdict != CANT_TELL]


def _tail_that_pays(judged: Gains) -> Gains:
    for index in range(len(judged)):
        if all(gain.verdict == FASTER for gain in judged[index:]):
            return judged[index:]
    return []


def _at(gain: Gain) -> str:
    return f"{gain.size} ({gain.speed_up:.2f}x)"


def _to(gains: Gains) -> str:
    return f" to {_at(gains[-1])}" if len(gains) > 1 else ""


def join(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
