"""What one comparison came to, as facts; show/words.py makes sentences of them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# Why a run was compared no further; "" where all of it was.
End = Literal["", "chaos", "skip", "not_finite", "ruler", "rulers_end"]


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison that was made. difference is None where it was not finite.

    what: the case, batch, epoch or setting that was compared, and tensor the weight in it. dtype: the type that can't
    hold the tensor's values, where that was the question. steps of of_steps: how much of a run was compared, and end:
    why no more. rows: the rows that an entry of the parity table has the check from, as "torch fit" or "torch x2"; a
    row's own checks leave it out.
    """

    name: str
    difference: float | None
    bound: float
    passed: bool
    what: str = ""
    tensor: str = ""
    dtype: str = ""
    steps: int | None = None
    of_steps: int | None = None
    end: End = ""
    rows: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """difference / bound: 1 is the limit. Of a bound of 0, 0 where it holds and infinity elsewhere."""
        if self.difference is None:
            return math.inf
        if self.bound == 0:
            return math.inf if self.difference else 0.0
        return self.difference / self.bound


def worst_first(checks: Iterable[Check]) -> list[Check]:
    """By difference / bound; checks that failed come first in any case."""
    return sorted(checks, key=lambda check: (check.passed, -check.fraction))


def worst_of_each_name(checks: Iterable[Check]) -> list[Check]:
    """The worst check of each name, worst first."""
    worst: dict[str, Check] = {}
    for check in worst_first(checks):
        worst.setdefault(check.name, check)
    return list(worst.values())


@dataclass(frozen=True, slots=True)
class PrecisionProbe:
    """Whether a row ran as its label says; seen: for each kernel, the coarsest precision from it on.

    execution: what carried out its steps, as the framework shows it; "" in files of before.
    """

    passed: bool
    seen: dict[str, str]
    execution: str = ""
