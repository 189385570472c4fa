"""What a process had to share of the CPU: with others, with its own threads, with the machine's host, under a quota.

Everything is read from what the system counts anyway, outside the time that is measured.
"""

import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from common.measure.cgroup import Throttle, quota_cores, read_throttle
from common.measure.hardware import allowed_cores
from common.measure.kernel import read_file

_PROC = Path("/proc")

# Cores that a row has lost, in the mean over its steady epochs, from which it counts as disturbed. Beside one busy
# process on two cores the rows of the cpu preset lose 0.75 to 1, and their threads wait as long. Waiting alone tells
# nothing: of TensorFlow's threads 0.3 to 0.5 wait for each other where it has the machine to itself.
LOST_TO_OTHERS = 0.25
# Time of others is counted in ticks, mostly of 10 ms, which are off by up to one at either end, on each core by chance.
# Alone on two cores up to 0.043 s were put down to others, in 0.2 to 0.6 s.
UNCERTAIN_S = 0.03  # times the root of the cores
# Of a quota, which is counted to the microsecond: what moves halves of a row apart far enough to be a trend.
LOST_TO_QUOTA = 0.05


class Cause(str, Enum):
    """Why a row did not have the CPU that its threads could have used."""

    OTHERS = "others"
    HOST = "host"
    QUOTA = "quota"
    THREADS = "threads"


@dataclass(frozen=True, slots=True)
class Contention:
    """The CPU over the steady epochs of one process, in seconds; None where the system doesn't say.

    cpu_s: what the process itself used, all threads together; threads: how many of them one operation takes; cores: how
    many it may run on. queued_s: how long threads of it were ready to run and waited for a core, summed over them.
    others_s and stolen_s: what other processes, and other guests of the machine's host, had of these cores; those of
    the process's group, such as further replicas, are none. pressure_s: how long anything on the machine waited for a
    core. load_before: the load average of a minute when the row began, which the row before it is part of.
    quota_cores, and periods, stopped_periods and stopped_s: see cgroup.py.
    """

    wall_s: float
    cpu_s: float
    threads: int
    cores: int
    queued_s: float | None = None
    others_s: float | None = None
    stolen_s: float | None = None
    pressure_s: float | None = None
    load_before: float | None = None
    quota_cores: float | None = None
    periods: int | None = None
    stopped_periods: int | None = None
    stopped_s: float | None = None

    @property
    def busy_share(self) -> float:
        """CPU time over wall time x threads: 1 where every thread computed, or span, all the time."""
        return self.cpu_s / (self.wall_s * self.threads)

    @property
    def causes(self) -> list[Cause]:
        """What kept the process from the CPU, as far as the system says, by the limits above."""
        has_waited = self.queued_s is None or self.queued_s > LOST_TO_OTHERS * self.wall_s
        much_s = LOST_TO_OTHERS * self.wall_s + UNCERTAIN_S * math.sqrt(self.cores)
        lost = {
            Cause.OTHERS: has_waited and (self.others_s or 0.0) > much_s,
            Cause.HOST: (self.stolen_s or 0.0) > much_s,
            Cause.QUOTA: (self.stopped_s or 0.0) > LOST_TO_QUOTA * self.wall_s,
            Cause.THREADS: has_waited and self.threads > self.cores,
        }
        return [cause for cause, is_one in lost.items() if is_one]


class CpuReading(NamedTuple):
    """What the system has counted until now; see Contention. queued_s is by thread, siblings_s by process.

    siblings_s: the CPU time of the other processes of this one's group.
    """

    wall_s: float
    cpu_s: float
    siblings_s: dict[str, float]
    queued_s: dict[str, float]
    used_s: float | None
    stolen_s: float | None
    pressure_s: float | None
    throttle: Throttle | None


def read_cpu() -> CpuReading:
    """Takes about two milliseconds where there are a hundred threads and processes."""
    used_s, stolen_s = _read_cores()
    pressure = re.search(r"(?m)^some .*total=(\d+)$", read_file(_PROC / "pressure" / "cpu"))
    return CpuReading(
        wall_s=time.perf_counter(),
        cpu_s=time.process_time(),
        siblings_s=_read_siblings(),
        queued_s=_read_queues(),
        used_s=used_s,
        stolen_s=stolen_s,
        pressure_s=int(pressure[1]) / 1e6 if pressure else None,
        throttle=read_throttle(),
    )


def load_average() -> float | None:
    """Of the last minute; None where the system has none."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def contention_between(start: CpuReading, end: CpuReading, threads: int, load_before: float | None) -> Contention:
    """What the second reading counts more than the first."""
    cpu_s, used_s = end.cpu_s - start.cpu_s, _difference(start.used_s, end.used_s)
    ours_s = cpu_s + _growth(start.siblings_s, end.siblings_s)
    return Contention(
        wall_s=end.wall_s - start.wall_s,
        cpu_s=cpu_s,
        threads=threads,
        cores=len(allowed_cores()),
        queued_s=_growth(start.queued_s, end.queued_s) if end.queued_s else None,
        others_s=None if used_s is None else max(0.0, used_s - ours_s),
        stolen_s=_difference(start.stolen_s, end.stolen_s),
        pressure_s=_difference(start.pressure_s, end.pressure_s),
        load_before=load_before,
        quota_cores=quota_cores(),
        **_stops_between(start.throttle, end.throttle),
    )


def _stops_between(start: Throttle | None, end: Throttle | None) -> dict[str, Any]:
    if start is None or end is None:
        return {}
    return {name: after - before for name, before, after in zip(Throttle._fields, start, end, strict=True)}


def _growth(start: Mapping[str, float], end: Mapping[str, float]) -> float:
    """What began meanwhile counts whole; what has ended, not at all."""
    return sum(max(0.0, seconds - start.get(name, 0.0)) for name, seconds in end.items())


def _read_siblings() -> dict[str, float]:
    """CPU seconds of each process of this one's group, except for itself (proc_pid_stat(5))."""
    found = {}
    for path in _PROC.glob("[0-9]*/stat"):
        _, _, rest = read_file(path).rpartition(")")  # before it stands a name, which may hold anything
        fields = rest.split()
        if len(fields) > 12 and int(fields[2]) == os.getpgrp() and path.parent.name != str(os.getpid()):
            found[path.parent.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _read_queues() -> dict[str, float]:
    """Seconds that each thread of this process has been ready to run without a core (proc(5), schedstat: in ns)."""
    times = {path.parent.name: read_file(path).split() for path in (_PROC / "self" / "task").glob("*/schedstat")}
    return {thread: int(fields[1]) / 1e9 for thread, fields in times.items() if len(fields) == 3}


def _read_cores() -> tuple[float | None, float | None]:
    """Seconds that the cores which this process may use were busy so far, and that the machine's host kept them."""
    lines = dict(re.findall(r"(?m)^cpu(\d+) (.*)$", read_file(_PROC / "stat")))
    cores = [[int(field) for field in lines.get(str(core), "").split()] for core in allowed_cores()]
    if not cores or min(map(len, cores)) < 8:
        return None, None
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    # proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal
    busy = sum(sum(core[:3]) + sum(core[5:7]) for core in cores)
    return busy / ticks_per_s, sum(core[7] for core in cores) / ticks_per_s


def _difference(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
