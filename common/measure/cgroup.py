"""The CPU quota of the container or service that this process runs in: Linux's control groups, versions 1 and 2.

A quota holds for a group and for all groups below it, so the process's own and those above it are read. In a container
the path that Linux names may be the host's; the container's own group then lies at the root.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.measure.kernel import read_file

_PROC, _CGROUP = Path("/proc/self"), Path("/sys/fs/cgroup")


class Throttle(NamedTuple):
    """What a quota has done so far: the periods it was counted over, those in which it ran out, and the seconds lost.

    stopped_s is summed over the cores, so that it can be longer than the time that has passed.
    """

    periods: int
    stopped_periods: int
    stopped_s: float


class _Quota(NamedTuple):
    cores: float
    folder: Path


def quota_cores() -> float | None:
    """How many cores' time this process may use; None where there is no quota, or where none is known."""
    quota = _tightest()
    return quota and quota.cores


def read_throttle() -> Throttle | None:
    """What the tightest quota has done so far; None where there is none, or where Linux doesn't say."""
    quota = _tightest()
    stat = dict(re.findall(r"^(\w+) (\d+)$", read_file(quota.folder / "cpu.stat"), re.MULTILINE)) if quota else {}
    try:
        stopped_s = int(stat["throttled_usec"]) / 1e6 if "throttled_usec" in stat else int(stat["throttled_time"]) / 1e9
        return Throttle(int(stat["nr_periods"]), int(stat["nr_throttled"]), stopped_s)
    except KeyError:
        return None


def _tightest() -> _Quota | None:
    found = (_Quota(cores, folder) for folder in _groups() if (cores := _cores(folder)))
    return min(found, default=None)


def _groups() -> Iterator[Path]:
    """The folders of the process's groups that may hold a quota: its own and those above it, up to the root."""
    for controllers, path in re.findall(r"(?m)^\d+:([^:]*):/(.*)$", read_file(_PROC / "cgroup")):
        if controllers == "" or "cpu" in controllers.split(","):  # version 2 names no controllers
            own = PurePosixPath(path)
            yield from (_CGROUP / controllers / group for group in (own, *own.parents))


def _cores(folder: Path) -> float | None:
    """The quota of one group; version 1 has a file for either number, and -1 where there is none."""
    text = read_file(folder / "cpu.max") or " ".join(
        read_file(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    match = re.match(r"(\d+)\s+(\d+)", text)
    return int(match[1]) / int(match[2]) if match else None
