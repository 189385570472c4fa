"""What Ctrl-C and a scheduler's SIGTERM do to a run: the first ends it in order, the second at once.

Nothing is raised for the first, wherever it comes, so that no file and no row is left half done: whoever works says
what is to be called, and looks at `number` between two pieces of work. What the second raises ends the worker's group
on its way out; any more change nothing about that.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Receives the signals while it is entered, in the main thread; number is the first one's, or 0."""

    def __init__(self) -> None:
        self.number = 0
        self._first: Callable[[], None] = _nothing
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        self._earlier = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    @contextmanager
    def calling(self, first: Callable[[], None]) -> Iterator[None]:
        """While the block runs, call `first` at the first signal, or now if it has come."""
        self._first = first
        try:
            if self.number:
                first()
            yield
        finally:
            self._first = _nothing

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            for further in SIGNALS:
                signal.signal(further, signal.SIG_IGN)
            self._earlier = {}
            raise SystemExit(128 + self.number)
        self.number = number
        self._first()


def _nothing() -> None:
    pass
