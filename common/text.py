"""Text for people: made fit to be shown where it may come from elsewhere, and said on stderr."""

import io
import os
import shlex
import sys
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

LONGEST_REASON = 300  # characters
LONGEST_FACT = 40  # characters that are shown of it


def printable(text: str) -> str:
    """The text with what a terminal would act upon, or no encoding holds, written out: an escape becomes '\\x1b'."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def say(text: str) -> None:
    """Print a line on stderr; where that leads to a full disk or to nobody, a run is worth more than the line."""
    if sys.stderr is None:  # it was closed when the program began, and print() would take stdout
        return
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def time_stamp() -> str:
    """The time now, UTC to the second, as part of the name of a file or a folder."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%SZ")


def resume_options(folder: Path) -> str:
    """The options with which an interrupted run goes on."""
    return f"--resume --output {shlex.quote(printable(str(folder)))}"


def in_one_line(error: BaseException) -> str:
    """What an exception says, printable and of bounded length: part of it may come from a file."""
    text = printable(str(error))
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


def escape_what_stdout_lacks() -> None:
    """Let stdout write out what its encoding doesn't hold, as stderr does, where print() would fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def show(text: str) -> bool:
    """Print on stdout; return False where that leads to a full disk. A reader that has gone (`| head`) is fine."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        say(f"the tables can't be printed: {error.strerror}")
        return False
    return True
