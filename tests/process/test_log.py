"""Does a row's log hold what is worth reading of any amount of output, and take no more memory than that?"""

import tracemalloc
from pathlib import Path

from common.process.log import FIRST_BYTES, LAST_BYTES, CappedLog, last_lines


def test_the_first_and_the_last_of_a_flood_are_kept(tmp_path: Path) -> None:
    log = CappedLog(tmp_path / "log.txt")
    log.write(b"first\n")
    for _ in range(100):
        log.write(b"x" * 99_999 + b"\n")
    log.write(b"last\n")
    log.close()
    text = (tmp_path / "log.txt").read_bytes()
    dropped = 6 + 10**7 + 5 - FIRST_BYTES - LAST_BYTES
    assert text.startswith(b"first\n")
    assert text.endswith(b"last\n")
    assert b"\n[... %d bytes left out ...]\n" % dropped in text


def test_a_flood_takes_no_memory(tmp_path: Path) -> None:
    log, piece = CappedLog(tmp_path / "log.txt"), b"x" * 2**16
    tracemalloc.start()
    for _ in range(1000):
        log.write(bytes(bytearray(piece)))  # each a memory of its own
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    log.close()
    assert peak < 4 * LAST_BYTES


def test_what_comes_after_the_end_is_dropped(tmp_path: Path) -> None:
    log = CappedLog(tmp_path / "log.txt")
    log.close()
    log.write(b"late")
    assert (tmp_path / "log.txt").read_bytes() == b""


def test_a_log_that_is_not_there_has_no_last_lines(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "log.txt", 5) == []
