"""How much of a run can be compared: until roundings decide what is computed, or the run went another way."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from common.config import Precision
from common.proof.bounds import CHAOS, FLOAT32_TRAINING, PRICES, SHORTEST_WITH_AN_END, Rule
from common.proof.checks import compare, rounds
from common.proof.course import Course, running_rms
from common.results.check import Check, End
from common.results.rows import RowResult


class Extent(NamedTuple):
    """How many of the steps can be compared and, where not all, why no more: see Check."""

    steps: int
    of_steps: int
    end: End = ""

    def has_an_end(self, loss: np.ndarray) -> bool:
        """Whether the run goes on, for long enough, where its steps can't be compared any more."""
        long = self.steps < len(loss) and len(loss) >= SHORTEST_WITH_AN_END
        return long and bool(np.isfinite(loss).all())


def find_extent(row: RowResult, course: Course, loss: np.ndarray, parting: int) -> Extent:
    """How many steps can be compared, and why not more. A step's loss is taken before the step is skipped.

    A loss that is not finite ends it: the row's status says so, and why it came to be can't be told from the loss.
    """
    steps = len(course.loss)
    overflow = int(np.argmin(np.append(np.isfinite(loss), False)))
    finite = int(np.argmin(np.append(np.isfinite(course.loss), False)))
    known = _horizon(course.error, course.loss, row.config.precision)
    chaos = max(min(2, finite), known)  # the first update in any case
    ruled = steps if course.whole else int(np.argmax(np.append(np.isinf(course.error), True)))
    ends: tuple[tuple[int, End], ...] = (
        (steps, ""),
        (ruled, "rulers_end"),
        (parting, "skip"),
        (overflow, "not_finite"),
        (chaos, "chaos"),
    )
    least, end = min(ends, key=lambda choice: choice[0])
    return Extent(least, steps, end)


def compare_over(extent: Extent, rule: Rule, difference: float, bound: float) -> Check:
    return replace(compare(rule, difference, bound), **extent._asdict())


def _horizon(error: np.ndarray, loss: np.ndarray, precision: Precision) -> int:
    known = error / running_rms(loss) < (CHAOS if rounds(precision) else FLOAT32_TRAINING / PRICES)
    lost = ~known  # also where the reference itself is not finite any more
    return int(np.argmax(lost)) if lost.any() else len(loss)
