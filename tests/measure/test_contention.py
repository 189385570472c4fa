"""Does a row know what it had to share of the CPU, and is that put down to the right cause?"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from common.measure import contention
from common.measure.cgroup import Throttle
from common.measure.contention import Cause, Contention, CpuReading, contention_between, read_cpu

# Two threads on two cores, for two seconds.
ALONE = Contention(wall_s=2.0, cpu_s=3.9, threads=2, cores=2, queued_s=0.01, others_s=0.02, stolen_s=0.0)


@pytest.mark.parametrize(
    ("seen", "causes"),
    [
        (ALONE, []),
        (Contention(2.0, 3.9, 2, 2), []),  # a system that says nothing more
        (replace(ALONE, queued_s=0.9), []),  # TensorFlow's threads, which wait for each other
        (replace(ALONE, others_s=1.9), []),  # on a machine with cores for both
        (replace(ALONE, queued_s=1.9, others_s=1.9), [Cause.OTHERS]),
        (Contention(0.05, 0.09, 2, 2, queued_s=0.03, others_s=0.04, stolen_s=0.04), []),  # a tick or two
        (replace(ALONE, queued_s=None, others_s=1.9), [Cause.OTHERS]),
        (replace(ALONE, queued_s=1.9, others_s=None), []),
        (replace(ALONE, stolen_s=0.8), [Cause.HOST]),
        (replace(ALONE, quota_cores=1.5, periods=20, stopped_periods=18, stopped_s=0.9), [Cause.QUOTA]),
        (replace(ALONE, quota_cores=1.5, periods=20, stopped_periods=1, stopped_s=0.02), []),
        (replace(ALONE, threads=8, queued_s=12.0), [Cause.THREADS]),
        (replace(ALONE, threads=8), []),
        (replace(ALONE, queued_s=1.9, others_s=1.9, stopped_s=0.9), [Cause.OTHERS, Cause.QUOTA]),
    ],
)
def test_causes(seen: Contention, causes: list[Cause]) -> None:
    assert seen.causes == causes


def test_busy_is_the_share_of_all_threads_time() -> None:
    assert replace(ALONE, cpu_s=1.0).busy_share == 0.25


START = CpuReading(
    10.0, 5.0, {"70": 20.0, "71": 9.0}, {"1": 1.0, "2": 3.0, "9": 8.0}, 40.0, 1.0, 7.0, Throttle(10, 2, 0.5)
)
END = CpuReading(
    12.0, 8.0, {"71": 9.25, "72": 0.5}, {"1": 1.5, "2": 3.0, "3": 0.25}, 45.25, 1.5, 7.75, Throttle(30, 6, 0.75)
)


def test_what_was_counted_between_two_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread or a process that began meanwhile counts whole, one that has ended not at all."""
    monkeypatch.setattr(contention, "allowed_cores", lambda: {0, 1})
    monkeypatch.setattr(contention, "quota_cores", lambda: 1.5)
    assert contention_between(START, END, threads=2, load_before=0.5) == Contention(
        wall_s=2.0, cpu_s=3.0, threads=2, cores=2, queued_s=0.75, others_s=1.5, stolen_s=0.5, pressure_s=0.75,
        load_before=0.5, quota_cores=1.5, periods=20, stopped_periods=4, stopped_s=0.25,
    )  # fmt: skip


def test_what_the_system_does_not_count_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "allowed_cores", lambda: {0, 1})
    monkeypatch.setattr(contention, "quota_cores", lambda: None)
    start, end = (each._replace(siblings_s={}, queued_s={}, used_s=None, stolen_s=None, pressure_s=None, throttle=None)
                  for each in (START, END))  # fmt: skip
    assert contention_between(start, end, 2, None) == Contention(2.0, 3.0, 2, 2)


def test_without_linux_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_PROC", tmp_path)
    found = read_cpu()
    assert (found.siblings_s, found.queued_s, found.used_s, found.stolen_s) == ({}, {}, None, None)
    assert found.pressure_s is None


def test_the_cores_are_those_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ticks: user, nice, system, idle, iowait, irq, softirq, steal; time of guests is part of the user's."""
    (tmp_path / "stat").write_text(
        "cpu  999 0 0 0 0 0 0 0 0 0\ncpu0 100 10 20 500 50 1 2 30 7 0\ncpu1 900 0 0 0 0 0 0 0 0 0\n"
        "cpu2 200 0 0 500 50 0 0 5 0 0\nintr 1\n"
    )
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull total=9\n")
    monkeypatch.setattr(contention, "_PROC", tmp_path)
    monkeypatch.setattr(contention, "allowed_cores", lambda: {0, 2})
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    found = read_cpu()
    assert (found.used_s, found.stolen_s, found.pressure_s) == (3.33, 0.35, 2.5)


def test_threads_waits_are_read_by_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for thread, text in {"1": "900 1500000000 3\n", "2": "900 250000000 3\n", "3": ""}.items():  # the last has ended
        (tmp_path / "self" / "task" / thread).mkdir(parents=True)
        (tmp_path / "self" / "task" / thread / "schedstat").write_text(text)
    monkeypatch.setattr(contention, "_PROC", tmp_path)
    assert read_cpu().queued_s == {"1": 1.5, "2": 0.25}


def test_processes_of_the_group_are_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replicas of a row; not this process itself, nor one of another group."""
    own, group = os.getpid(), os.getpgrp()
    for pid, pgrp in ((own, group), (70, group), (71, group + 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a ) name) S 1 {pgrp} 5 0 -1 0 1 2 3 4 250 50 9 9 20 0\n")
    monkeypatch.setattr(contention, "_PROC", tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    assert read_cpu().siblings_s == {"70": 3.0}
