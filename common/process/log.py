"""The log of one row: what its process printed, capped, since a library gone wild can print gigabytes."""

import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common.results.files import open_plain

FIRST_BYTES = 2**20
LAST_BYTES = 2**18


class CappedLog:
    """Keeps the first MiB as it comes, and of what follows the last 256 KiB, which close() adds. Any thread may write.

    A full disk loses the log and nothing else, and what comes after close() is dropped.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._file = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._lock = threading.Lock()
        self._room = FIRST_BYTES
        self._last: deque[bytes] = deque()
        self._kept = self._dropped = 0

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._file.closed:
                return
            first, rest = data[: self._room], data[self._room :]
            self._room -= len(first)
            with suppress(OSError):
                self._file.write(first)
                self._file.flush()
            if rest:
                self._last.append(rest[-LAST_BYTES:])
                self._dropped += len(rest) - len(self._last[-1])
                self._kept += len(self._last[-1])
            while self._last and self._kept - len(self._last[0]) >= LAST_BYTES:
                self._kept -= len(self._last[0])
                self._dropped += len(self._last.popleft())

    def close(self) -> None:
        with self._lock, suppress(OSError):
            last = b"".join(self._last)
            if dropped := self._dropped + max(0, len(last) - LAST_BYTES):
                self._file.write(b"\n[... %d bytes left out ...]\n" % dropped)
            self._file.write(last[-LAST_BYTES:])
            self._file.close()


def last_exception(lines: Sequence[str]) -> str | None:
    """The line of the last traceback that names what was raised; more text, and hints, may follow it."""
    begins = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last):")]
    return next((line for line in lines[begins[-1] + 1 :] if line[:1].strip()), None) if begins else None


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log that are not empty, decoded as far as they can be; none where it can't be read."""
    try:
        with open_plain(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            text = file.read(LAST_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
