"""How the rows of one call are run, whichever they are: what the command line decides besides the rows themselves."""

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
