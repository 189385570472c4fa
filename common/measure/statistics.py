"""How far a speed-up can be trusted: its intervals, over processes and within one, and what is unsteady about a row.

A row is given as its processes (one for each of --repeats), each the seconds of its steady epochs: all but the first.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CONFIDENCE_PERCENT = 95
RESAMPLES = 2000  # some fifty of them lie beyond either end of the interval, so that its ends hardly hang on the seed
SEED = 0  # the same times print the same interval
NORMAL_QUANTILE = 1.959964  # beyond which 2.5 % of a normal distribution lie

# On either side; with two, the interval over processes is six times as wide as with three, and tells hardly anything.
LEAST_PROCESSES = 3

# A speed-up compares processes: where equal ones lie this far apart, a gain of that size may be none.
PROCESSES_DIFFER = 1.10
# In results/h100 the halves of every row of our own loops lie within 1.5 % of each other, but for one that scatters.
HALVES_DIFFER = 0.05
# A trend shows in nearly every pair of an early and a late epoch. Noise of 5 % an epoch moves the medians of 9 epochs'
# halves beyond 5 % in a quarter of all rows; asked for this share of pairs too, it looks like a trend in one of twenty.
PAIRS_AGREE = 0.9
# Three epochs a half: with two, noise that moves the medians this far puts the halves apart as well, mostly.
LEAST_EPOCHS_OF_A_TREND = 6
# 95th percentile over 5th, the spread that the table shows; in results/h100 it is below 1.18, but for three rows with
# single epochs of up to 1.6 times their median.
EPOCHS_SCATTER = 1.20
# The least of which a median leaves a reading out on either side.
LEAST_EPOCHS = 3


def interval_over_processes(
    baseline: Sequence[Sequence[float]], row: Sequence[Sequence[float]], *, by_turns: bool
) -> tuple[float, float] | None:
    """The 95 % interval of how many times faster `row` is than `baseline`, over equal processes.

    A process counts once, by the median of its epochs; how its epochs scatter says nothing about the next process. What
    is averaged is the logarithm of the speed-up, with Student's t for so few: of processes that ran by turns one for
    each pair of a turn, so that what disturbs a turn disturbs both of its sides; of others by Welch's formula.

    Of 300 simulated runs (processes 3 % apart, epochs 1 %) it held the truth in 94 to 96 % with 3, 4 and 5 pairs. A
    percentile bootstrap over the pairs held it in 76, 90 and 94 %.

    None where a side was not measured, or has fewer than three processes.
    """
    if not (_is_measured(baseline) and _is_measured(row)) or min(len(baseline), len(row)) < LEAST_PROCESSES:
        return None
    before, after = (np.log([np.median(epochs_s) for epochs_s in side]) for side in (baseline, row))
    if by_turns:
        gains = before - after
        center, variance, freedom = gains.mean(), gains.var(ddof=1) / len(gains), len(gains) - 1.0
    else:
        parts = [side.var(ddof=1) / len(side) for side in (before, after)]
        center, variance = before.mean() - after.mean(), sum(parts)
        by_side = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (before, after), strict=True))
        freedom = variance**2 / by_side if by_side else 1.0  # of equal times the interval is a point
    half = _student_quantile(freedom) * np.sqrt(variance)
    return float(np.exp(center - half)), float(np.exp(center + half))


def interval_within(baseline: Sequence[Sequence[float]], row: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """How many times faster `row` is than `baseline`, as far as the epochs of few processes show it.

    A side counts as the median over its processes of the median over the epochs of each. Hierarchical bootstrap:
    processes are drawn with replacement, then epochs with replacement within each process drawn; the ends are
    percentiles of the ratios of 2000 such draws (percentile method: Efron & Tibshirani 1993, An Introduction to the
    Bootstrap, chapter 13).

    It is no interval over processes: with one on a side, it covers the variation between the epochs of that process
    alone, not what another process would have measured. Where processes differ more than epochs do, two of them hold
    the true ratio in 7 intervals of 10 (simulated).

    None where a side was not measured (no process, a process without steady epochs, a time of zero) or has fewer than
    two epochs in every process. Of two the interval is their range, and far too narrow.
    """
    for side in (baseline, row):
        if not _is_measured(side) or max(map(len, side)) < 2:
            return None
    generator = np.random.default_rng(SEED)
    ratios = _resampled_medians(baseline, generator) / _resampled_medians(row, generator)
    outside = (100 - CONFIDENCE_PERCENT) / 2
    low, high = np.percentile(ratios, [outside, 100 - outside]).tolist()
    return low, high


def instability(processes: Sequence[Sequence[float]], steps_per_epoch: int, cause: str = "") -> str:
    """Why the row's times are unsteady, in one clause with its figures in ms a step; "" where they are steady.

    `processes` are seconds of steady epochs. One reason alone is given, the first that is true: processes that differ,
    too few epochs, a trend within them, scattered epochs. "" too where nothing was measured: no time is shown then.
    cause: what is known to have slowed them; it takes the place of a guess.
    """
    if not _is_measured(processes):
        return ""
    steps_ms = [1e3 * np.asarray(epochs_s) / steps_per_epoch for epochs_s in processes]
    return _difference(steps_ms) or _shortness(steps_ms) or _trend(steps_ms, cause) or _scatter(steps_ms, cause)


def _is_measured(processes: Sequence[Sequence[float]]) -> bool:
    return bool(processes) and all(len(epochs) > 0 and min(epochs) > 0 for epochs in processes)


def _student_quantile(freedom: float) -> float:
    """Beyond which 2.5 % of Student's t lie: Abramowitz and Stegun 26.7.5, from 2 degrees on within 1 %."""
    z = NORMAL_QUANTILE
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def _resampled_medians(processes: Sequence[Sequence[float]], generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """RESAMPLES draws of the median over processes of the median over epochs."""
    drawn = generator.integers(len(processes), size=(RESAMPLES, len(processes)))
    medians = np.empty(drawn.shape)
    for index, epochs in enumerate(processes):
        is_this = drawn == index
        picks = generator.integers(len(epochs), size=(np.count_nonzero(is_this), len(epochs)))
        medians[is_this] = np.median(np.asarray(epochs)[picks], axis=1)
    resampled: npt.NDArray[np.float64] = np.median(medians, axis=1)
    return resampled


def _difference(steps_ms: Sequence[npt.NDArray[np.float64]]) -> str:
    medians = [float(np.median(times)) for times in steps_ms]
    if max(medians) <= PROCESSES_DIFFER * min(medians):
        return ""
    return f"its processes differ: {_number(min(medians))} to {_number(max(medians))} ms a step"


def _trend(steps_ms: Sequence[npt.NDArray[np.float64]], cause: str) -> str:
    """First half against second; the middle epoch of an odd number belongs to neither."""
    if min(map(len, steps_ms)) < LEAST_EPOCHS_OF_A_TREND:
        return ""
    halves = [(times[: len(times) // 2], times[-(len(times) // 2) :]) for times in steps_ms]
    change = float(np.median([np.median(second) / np.median(first) for first, second in halves])) - 1
    direction = np.sign(change)
    agreeing = np.mean([np.mean(np.sign(second[:, np.newaxis] - first) == direction) for first, second in halves])
    if abs(change) <= HALVES_DIFFER or agreeing < PAIRS_AGREE:
        return ""
    pace, reason = ("slower", "heat, a power limit or memory") if change > 0 else ("faster", "still warming up")
    return f"{pace} by {100 * abs(change):.0f} % in the second half of its epochs than in the first: {cause or reason}"


def _scatter(steps_ms: Sequence[npt.NDArray[np.float64]], cause: str) -> str:
    p05, p95 = max((np.percentile(times, [5, 95]).tolist() for times in steps_ms), key=lambda ends: ends[1] / ends[0])
    if p95 <= EPOCHS_SCATTER * p05:
        return ""
    reason = cause or "too short, or not alone"
    return f"epochs scatter from {_number(p05)} to {_number(p95)} ms a step: {reason}"


def _shortness(steps_ms: Sequence[npt.NDArray[np.float64]]) -> str:
    fewest = min(map(len, steps_ms))
    if fewest >= LEAST_EPOCHS:
        return ""
    epochs = f"{fewest} epoch{'s' if fewest > 1 else ''}{' a process' if len(steps_ms) > 1 else ''}"
    return f"rests on {epochs} only: give --epochs {LEAST_EPOCHS + 1} or more"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
