"""The session: how one call runs its rows, and prints them. Which rows these are, their configs say (config.py).

Of all this only an interpreter changes what a row computes; its versions are part of the row's setting (setting.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Session:
    """pythons: the interpreter of each framework. timeout_s: for one row. tablefmt: one of tabulate's formats.

    resume: take over what the folder holds. with_report: write figures, and the page of a run, beside the results.
    """

    pythons: Mapping[str, str]
    timeout_s: float
    quiet: bool
    tablefmt: str
    resume: bool = False
    with_report: bool = True
