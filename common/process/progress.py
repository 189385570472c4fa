"""What a run says while it works: a bar with the time left on a terminal, plain lines elsewhere, or nothing.

Everything goes to stderr; stdout is for the tables alone.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TimeElapsedColumn, TimeRemainingColumn

from common.config import RunConfig
from common.results.rows import RowResult
from common.text import say


class Reporter(Protocol):
    """Told when a row starts, at each of its events, and when it has ended; or that it is kept from an earlier run.

    changes: why a row that had ended well is run again, as clauses ('threads was 16 and is 8'); of others none.
    """

    def start_row(self, config: RunConfig, changes: Sequence[str]) -> None: ...
    def event(self, event: dict[str, Any]) -> None: ...
    def end_row(self, row: RowResult) -> None: ...
    def keep_row(self, row: RowResult) -> None: ...


class Silent:
    """For --quiet."""

    def start_row(self, config: RunConfig, changes: Sequence[str]) -> None: ...
    def event(self, event: dict[str, Any]) -> None: ...
    def end_row(self, row: RowResult) -> None: ...
    def keep_row(self, row: RowResult) -> None: ...


class PlainLines:
    """One plain line for each row that ended, for logs and pipes."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._ended = self._kept = 0
        self._start_s = self._row_start_s = time.monotonic()

    def start_row(self, config: RunConfig, changes: Sequence[str]) -> None:
        if changes:
            say(_again(config, changes))
        self._row_start_s = time.monotonic()

    def event(self, event: dict[str, Any]) -> None:
        pass

    def end_row(self, row: RowResult) -> None:
        self._ended += 1
        now_s = time.monotonic()
        left_s = (now_s - self._start_s) / self._ended * (self._rows - self._ended - self._kept)
        took_s = now_s - self._row_start_s
        say(f"{self._place} {row.config.row_id}: {row.status}, {took_s:.1f} s, about {left_s:.0f} s left")

    def keep_row(self, row: RowResult) -> None:
        self._kept += 1
        say(f"{self._place} {row.config.row_id}: kept")

    @property
    def _place(self) -> str:
        return f"[{self._ended + self._kept}/{self._rows}]"


class Bar:
    """A live bar: rows done, the row and epoch at work, the time left. One unit of it is one epoch or one start."""

    def __init__(self, progress: Progress, configs: Sequence[RunConfig]) -> None:
        self._progress = progress
        self._units = [1 + config.train.epochs for config in configs]
        self._row = 0
        self._task: TaskID = progress.add_task("", total=sum(self._units))

    def start_row(self, config: RunConfig, changes: Sequence[str]) -> None:
        if changes:
            self._progress.console.print(_again(config, changes), highlight=False, markup=False)
        self._progress.update(self._task, description=f"{self._row + 1}/{len(self._units)} {config.row_id}")

    def event(self, event: dict[str, Any]) -> None:
        self._progress.update(self._task, completed=sum(self._units[: self._row]) + 1 + event.get("epoch", 0))

    def end_row(self, row: RowResult) -> None:
        self._pass(row, str(row.status))

    def keep_row(self, row: RowResult) -> None:
        self._pass(row, "kept")

    def _pass(self, row: RowResult, outcome: str) -> None:
        self._progress.console.print(f"{row.config.row_id}: {outcome}", highlight=False)
        self._row += 1
        self._progress.update(self._task, completed=sum(self._units[: self._row]))


def _again(config: RunConfig, changes: Sequence[str]) -> str:
    return f"{config.row_id} is run again: {', '.join(changes)}"


@contextmanager
def reporting(configs: Sequence[RunConfig], quiet: bool) -> Iterator[Reporter]:
    """The reporter that suits where stderr leads."""
    console = Console(stderr=True)
    if quiet:
        yield Silent()
    elif not console.is_terminal:
        yield PlainLines(len(configs))
    else:
        times = (TimeElapsedColumn(), "elapsed,", TimeRemainingColumn(), "left")
        columns = ("{task.description}", BarColumn(), *times)
        # Redrawn rarely: the bar shares the processor with the row that is timed.
        with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
            yield Bar(progress, configs)
