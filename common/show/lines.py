"""The lines of a table: equal rows of --repeats together, and what is read off them.

Here seconds are turned into milliseconds, and bytes into MB (1e6 bytes).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from common.config import Mode, Precision
from common.measure.statistics import LEAST_EPOCHS, instability, interval_over_processes, interval_within
from common.results.rows import RowResult, Status

NOTHING = "-"

# What is read off one row; None where it has no such reading (a steady step after one epoch, say).
MEASURES: dict[str, Callable[[RowResult], Any]] = {
    "step ms": lambda row: row.timing and row.timing.step_s and row.timing.step_s.median * 1e3,
    "x floor": lambda row: row.limits and row.limits.times_floor,
    "first s": lambda row: row.timing and row.timing.first_step_s,
    "total s": lambda row: row.timing and row.timing.total_s,
    "hosts": lambda row: row.config.execution.hosts,
    "batch each": lambda row: row.config.train.batch_size // row.config.execution.replicas,
    "images/s each": lambda row: _images_per_s_each(row),
    "peak MB each": lambda row: row.replicas and max(row.replicas.peak_bytes) / 1e6,
    "strong %": lambda row: row.replicas and _percent(row.replicas.strong_scaling_efficiency),
    "weak %": lambda row: row.replicas and _percent(row.replicas.weak_scaling_efficiency),
    "images/s": lambda row: row.timing and row.timing.images_per_s,
    "base MB": lambda row: row.memory and row.memory.baseline_bytes / 1e6,
    "peak MB": lambda row: row.memory and row.memory.peak_bytes / 1e6,
    "used MB": lambda row: row.memory and row.memory.used_bytes / 1e6,
    "steady MB": lambda row: row.memory and _megabytes(row.memory.steady_used_bytes),
    "device MB": lambda row: row.memory and _megabytes(row.memory.device_process_peak_bytes),
    "J/epoch": lambda row: row.gpu and row.gpu.energy_per_epoch_j,
    "loss": lambda row: row.training and row.training.epoch_loss[-1],
    "acc %": lambda row: row.training and 100 * (row.training.epoch_accuracy[-1] or 0.0),
    "skips": lambda row: row.training and len(row.training.skipped_steps),
}


class Interval(NamedTuple):
    """Of a speed-up. over_processes: at 95 %, with three or more on either side; otherwise only within the run."""

    low: float
    high: float
    over_processes: bool


@dataclass(frozen=True)
class Line:
    """One line of the table: equal rows of --repeats together."""

    rows: tuple[RowResult, ...]

    @property
    def first(self) -> RowResult:
        return self.rows[0]

    @property
    def mode(self) -> Mode:
        """What a speed-up is taken within."""
        return self.first.config.mode

    @property
    def name(self) -> str:
        framework, compile, loop, replicas = self.mode
        words = [
            framework,
            self.first.precision,
            *(["compiled"] if compile else []),
            *(["fit"] if loop == "fit" else []),
        ]
        return " ".join([*words, *([f"x{replicas}"] if replicas > 1 else [])])

    def values(self, measure: str) -> list[float]:
        """The measure of each repeat; empty unless every repeat was trained and has it."""
        values = [MEASURES[measure](row) for row in self.rows if row.status is Status.OK]
        known = [value for value in values if value is not None]
        return known if len(known) == len(self.rows) else []

    @property
    def steady_epochs_s(self) -> list[list[float]]:
        """The seconds of each process's steady epochs; empty unless every repeat was trained."""
        epochs_s = [row.timing.epoch_s[1:] for row in self.rows if row.status is Status.OK and row.timing]
        return epochs_s if len(epochs_s) == len(self.rows) else []

    @property
    def sessions(self) -> dict[int, str | None]:
        """Of each repeat the session that measured it."""
        return {row.config.repeat: row.session for row in self.rows}

    @property
    def instability(self) -> str:
        """What is unsteady about its times; "" where nothing is."""
        return instability(self.steady_epochs_s, self.first.config.steps_per_epoch)

    @property
    def is_steady_within(self) -> bool:
        """Whether each of its processes was steady, however far they lie apart."""
        steps = self.first.config.steps_per_epoch
        return not any(instability([epochs_s], steps) for epochs_s in self.steady_epochs_s)

    @property
    def spread_ms(self) -> tuple[float, float] | None:
        """One process: 5th to 95th percentile of its steps. Several: least to greatest of their medians."""
        medians = self.values("step ms")
        if len(medians) > 1:
            return min(medians), max(medians)
        step_s = self.first.timing and self.first.timing.step_s
        return (step_s.p05 * 1e3, step_s.p95 * 1e3) if medians and step_s else None

    def median(self, measure: str) -> float | None:
        values = self.values(measure)
        return float(np.median(values)) if values else None


def group(rows: Iterable[RowResult]) -> list[Line]:
    """The lines, in the order of their first rows."""
    groups: dict[tuple[str, Mode], list[RowResult]] = {}
    for row in rows:
        groups.setdefault((row.precision, row.config.mode), []).append(row)
    return [Line(tuple(group)) for group in groups.values()]


def baselines(lines: Sequence[Line]) -> dict[Mode, Line]:
    """The float32 line of each mode, which the others of it are compared with."""
    return {line.mode: line for line in lines if line.first.precision == Precision.FLOAT32}


def interval(line: Line, baseline: Line) -> Interval | None:
    """The interval of the speed-up over the baseline; of fewer than three epochs it would be a guess."""
    sides = baseline.steady_epochs_s, line.steady_epochs_s
    if not all(len(epochs_s) >= LEAST_EPOCHS for side in sides for epochs_s in side):
        return None
    if over := interval_over_processes(*sides, by_turns=by_turns(line, baseline)):
        return Interval(*over, over_processes=True)
    within = interval_within(*sides)
    return Interval(*within, over_processes=False) if within else None


def by_turns(line: Line, other: Line) -> bool:
    """Whether each repeat of the one ran in a turn with a repeat of the other."""
    return line.sessions == other.sessions and None not in line.sessions.values()


def in_other_sessions(line: Line, other: Line) -> bool:
    """Whether a row of the one was measured in a session in which its counterpart was not."""
    ours, theirs = line.sessions, other.sessions
    shared = ours.keys() & theirs.keys()
    return set(ours.values()) != set(theirs.values()) or any(ours[repeat] != theirs[repeat] for repeat in shared)


def speed_up(line: Line, baseline: Line | None) -> float | None:
    """How many times faster than the baseline, by the medians of their steps."""
    before, after = baseline and baseline.median("step ms"), line.median("step ms")
    return before / after if before and after else None


def saved(line: Line, baseline: Line | None) -> float | None:
    """The share of the baseline's steady memory that the line does without."""
    before, after = baseline and baseline.median("steady MB"), line.median("steady MB")
    return 1 - after / before if before and after else None


def number(value: float | None) -> str:
    """Three significant digits, more only for what is 100 and larger."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _images_per_s_each(row: RowResult) -> float | None:
    images_per_s = row.timing.images_per_s if row.timing else None
    return None if images_per_s is None else images_per_s / row.config.execution.replicas


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / 1e6
