"""The one clock of every row, and what is made of its readings."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds a step over the steady epochs: median, 5th and 95th percentile, and how many epochs they rest on."""

    median: float
    p05: float
    p95: float
    n: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Readings of one row, in seconds. The first epoch holds tracing, compiling and autotuning, so it is not steady.

    step_s and images_per_s are None where there was no second epoch. total_s runs from the start of the first step to
    the end of the last, what the article calls time to complete.
    """

    first_step_s: float
    epoch_s: list[float]
    step_s: StepTimes | None
    total_s: float
    images_per_s: float | None


class EpochClock:
    """Reads the clock at the start, after the very first step and at the end of every epoch.

    `synchronize` waits for the device, so that a reading covers the work and not merely its launch.
    """

    def __init__(self, synchronize: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self._synchronize = synchronize
        self._clock = clock
        self._start: float | None = None
        self._epoch_start = self._epoch_end = 0.0
        self._first_step_s: float | None = None
        self._epoch_s: list[float] = []

    def start_epoch(self) -> None:
        self._epoch_start = self._now()
        if self._start is None:
            self._start = self._epoch_start

    def end_step(self) -> None:
        """Call after every step; only the first one waits for the device and is read."""
        if self._first_step_s is None:
            self._first_step_s = self._now() - self._epoch_start

    def end_epoch(self) -> float:
        """Return the seconds that the epoch took."""
        self._epoch_end = self._now()
        self._epoch_s.append(self._epoch_end - self._epoch_start)
        return self._epoch_s[-1]

    def timing(self, steps_per_epoch: int, images: int) -> Timing:
        """Sum up; `images` are trained on in each epoch."""
        if self._start is None or self._first_step_s is None:
            raise ValueError("no step was timed")
        steady_s = self._epoch_s[1:]
        return Timing(
            first_step_s=self._first_step_s,
            epoch_s=self._epoch_s,
            step_s=_step_times(steady_s, steps_per_epoch),
            total_s=self._epoch_end - self._start,
            images_per_s=images / float(np.median(steady_s)) if _are_readable(steady_s) else None,
        )

    def _now(self) -> float:
        self._synchronize()
        return self._clock()


def seconds_of(
    operation: Callable[[], object],
    synchronize: Callable[[], None],
    times: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds that the operation takes, in the mean over `times` of them one after the other."""
    synchronize()
    start_s = clock()
    for _ in range(times):
        operation()
    synchronize()
    return (clock() - start_s) / times


def _are_readable(epoch_s: Sequence[float]) -> bool:
    """False for no epoch at all, and for a clock that stood still or went back."""
    return min(epoch_s, default=0.0) > 0


def _step_times(epoch_s: Sequence[float], steps_per_epoch: int) -> StepTimes | None:
    if not _are_readable(epoch_s):
        return None
    p05, median, p95 = np.percentile(np.asarray(epoch_s) / steps_per_epoch, [5, 50, 95]).tolist()
    return StepTimes(median=median, p05=p05, p95=p95, n=len(epoch_s))
