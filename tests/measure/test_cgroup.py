"""Is the CPU quota of a container found, in either version of control groups, and never invented?"""

from pathlib import Path

import pytest

from common.measure import cgroup, hardware
from common.measure.cgroup import Throttle, quota_cores, read_throttle
from common.measure.hardware import available_cores

VERSION_2 = {
    "proc/cgroup": "0::/service/row\n",
    "cgroup/service/cpu.max": "150000 100000\n",
    "cgroup/service/cpu.stat": "usage_usec 9\nnr_periods 40\nnr_throttled 12\nthrottled_usec 500000\nnr_bursts 0\n",
    "cgroup/service/row/cpu.max": "max 100000\n",
}
VERSION_1 = {
    "proc/cgroup": "4:memory:/box\n2:cpuacct,cpu:/box\n1:name=systemd:/\n0::/\n",
    "cgroup/cpuacct,cpu/box/cpu.cfs_quota_us": "50000\n",
    "cgroup/cpuacct,cpu/box/cpu.cfs_period_us": "100000\n",
    "cgroup/cpuacct,cpu/box/cpu.stat": "nr_periods 40\nnr_throttled 12\nthrottled_time 500000000\n",
}
# The path is the host's, and the container's own group lies at the root.
CONTAINER = {"proc/cgroup": "0::/docker/5a\n", "cgroup/cpu.max": "400000 100000\n"}
NESTED = {**VERSION_2, "cgroup/cpu.max": "800000 100000\n", "cgroup/service/row/cpu.max": "300000 100000\n"}


def write(folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files stand for those of /proc/self and /sys/fs/cgroup."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(cgroup, "_PROC", folder / "proc")
    monkeypatch.setattr(cgroup, "_CGROUP", folder / "cgroup")


@pytest.mark.parametrize(
    ("files", "cores"),
    [(VERSION_2, 1.5), (VERSION_1, 0.5), (CONTAINER, 4.0), (NESTED, 1.5)],
    ids=["version 2", "version 1", "container", "nested"],
)
def test_the_tightest_quota(
    files: dict[str, str], cores: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, files, monkeypatch)
    assert quota_cores() == cores


@pytest.mark.parametrize("files", [VERSION_2, VERSION_1, NESTED], ids=["version 2", "version 1", "nested"])
def test_what_the_quota_has_done(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, files, monkeypatch)
    assert read_throttle() == Throttle(periods=40, stopped_periods=12, stopped_s=0.5)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/cgroup": "0::/\n"},
        {"proc/cgroup": "0::/\n", "cgroup/cpu.max": "max 100000\n"},
        {"proc/cgroup": "1:cpu:/\n", "cgroup/cpu/cpu.cfs_quota_us": "-1\n", "cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        {"proc/cgroup": "not what\nwas expected", "cgroup/cpu.max": ""},
    ],
    ids=["not Linux", "no controller", "version 2", "version 1", "odd"],
)
def test_no_quota(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, files, monkeypatch)
    assert quota_cores() is None
    assert read_throttle() is None


@pytest.mark.parametrize(
    ("quota", "cores"), [(None, 4), (0.5, 1), (1.0, 1), (1.5, 2), (2.0, 2), (3.2, 4), (4.0, 4), (16.0, 4)]
)
def test_threads_follow_the_quota(quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded up, so that what is allowed can be used, and never more than the cores that there are."""
    monkeypatch.setattr(hardware, "allowed_cores", lambda: {0, 1, 2, 5})
    monkeypatch.setattr(hardware, "quota_cores", lambda: quota)
    assert available_cores() == cores
