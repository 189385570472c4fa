"""Does a row's log hold what is worth reading of any amount of output, and take no more memory than that?"""

import tracemalloc
from pathlib import Path

import pytest

from common.process.log import FIRST_BYTES, LAST_BYTES, CappedLog, last_exception, last_lines


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


BROKEN_COMPILER = """starting
Traceback (most recent call last):
  File "codecache.py", line 1, in handled
KeyError: 'an earlier one, which was handled'
Traceback (most recent call last):
  File "cpp_builder.py", line 713, in _run_compile_cmd
    raise exc.CppCompileError(cmd, output) from e
torch._inductor.exc.InductorError: CppCompileError: C++ compile error
Command:
g++ header.hpp
Output:
header.hpp:3:10: fatal error: bits/c++config.h: No such file or directory
Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace"""


def test_an_exception_is_told_from_what_follows_it() -> None:
    reason = "torch._inductor.exc.InductorError: CppCompileError: C++ compile error"
    assert last_exception(BROKEN_COMPILER.splitlines()) == reason


@pytest.mark.parametrize("text", ["", "a word", "Traceback (most recent call last):", "  Traceback (most recent"])
def test_where_nothing_was_raised_there_is_no_exception(text: str) -> None:
    assert last_exception(text.splitlines()) is None
