"""Is the ruler of memory right? A known allocation, and the article's arithmetic on numbers made up by hand."""

import platform
import sys

import numpy as np
import pytest

from common.measure.memory import (
    Memory,
    MemoryReading,
    read_host_memory,
    reset_host_peak,
    summarize_memory,
)
from tests.conftest import run_python
from tests.tolerances import KNOWN_ALLOCATION

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SIZE = 200 * 2**20


@linux_only
def test_a_known_allocation_is_seen() -> None:
    before = read_host_memory()
    block = np.ones(SIZE, np.uint8)
    grown = read_host_memory().current_bytes - before.current_bytes
    assert block.nbytes == SIZE
    assert grown == pytest.approx(SIZE, rel=KNOWN_ALLOCATION)


@linux_only
def test_the_peak_outlives_the_allocation_until_it_is_reset() -> None:
    assert reset_host_peak()
    start = read_host_memory().current_bytes
    np.ones(SIZE, np.uint8)  # freed at once
    assert read_host_memory().peak_bytes - start == pytest.approx(SIZE, rel=KNOWN_ALLOCATION)
    assert reset_host_peak()
    assert read_host_memory().peak_bytes - start < KNOWN_ALLOCATION * SIZE


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_freed_blocks_are_returned_when_asked() -> None:
    """In a fresh process, for here other tests have left freed blocks, which would be taken first."""
    code = f"""
import numpy as np
from common.measure.memory import keep_freed_host_memory, read_host_memory, return_freed_host_memory
keep_freed_host_memory()
start = read_host_memory().current_bytes
blocks = [np.ones(2**20, np.uint8) for _ in range({SIZE} // 2**20)]
blocks.clear()
print(read_host_memory().current_bytes - start)
return_freed_host_memory()
print(read_host_memory().current_bytes - start)
"""
    kept, returned = map(int, run_python("-c", code).stdout.split())
    assert kept > (1 - KNOWN_ALLOCATION) * SIZE
    assert returned < KNOWN_ALLOCATION * SIZE


def reading(current: int, peak: int) -> MemoryReading:
    return MemoryReading("gpu_allocator", current, peak)


def test_used_is_peak_less_baseline() -> None:
    memory = summarize_memory(baseline=reading(10, 10), cold=reading(30, 90), steady=reading(30, 50))
    assert memory == Memory("gpu_allocator", baseline_bytes=10, peak_bytes=90, used_bytes=80, steady_used_bytes=40)


def test_a_later_peak_counts_too() -> None:
    assert summarize_memory(reading(10, 10), reading(30, 50), reading(30, 70)).used_bytes == 60


def test_one_epoch_has_no_steady_memory() -> None:
    assert summarize_memory(reading(10, 10), reading(30, 90), None).steady_used_bytes is None
