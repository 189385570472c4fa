"""Text for people: made fit to be shown where it may come from elsewhere, and said on stderr."""

import sys
from contextlib import suppress


def printable(text: str) -> str:
    """The text with what a terminal would act upon, or no encoding holds, written out: an escape becomes '\\x1b'."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def say(text: str) -> None:
    """Print a line on stderr; where that leads to a full disk or to nobody, a run is worth more than the line."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
