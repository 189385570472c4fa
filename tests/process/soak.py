"""How much abuse does the program survive? Three trials, to be run by hand; test_soak.py runs part of the first.

    python -m tests.process.soak kills --points 200    # SIGKILL to parent or worker at random moments of a run
    python -m tests.process.soak rows --rows 100       # memory and CPU time of the parent over many rows
    python -m tests.process.soak stuck --tries 10      # a replica that hangs: how long after its time is it gone?

In the first two a stand-in takes the framework's place, so that a row takes a tenth of a second and not four. Each
trial prints one line of JSON, and fails with the point at which something was lost.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from common.results.coding import read_json
from common.results.rows import Results, RowResult, Status
from tests.conftest import ROOT
from tests.fakes import fake_worker, is_alive, wait_until
from tests.process.two_replicas import DEAF_HANG, train

PRECISIONS = ("float64", "float32", "mixed_float16", "mixed_bfloat16")
ARGUMENTS = ("--preset", "smoke", "--device", "cpu", "--frameworks", "torch", "--no-report")
LONGEST_S = 60.0

# Tells its pid, an epoch, writes arrays and ends: every kind of file is under way at some moment.
WORKER = """
import numpy as np
with (HERE / "pids.txt").open("a") as file:
    file.write(f"{os.getpid()}\\n")
for epoch in range(3):
    time.sleep(0.03)
    on_event({"event": "epoch", "epoch": epoch + 1, "epochs": 3, "seconds": 0.03, "loss": 1.0, "accuracy": 0.5})
weights = {"dense/kernel": np.ones(200_000)}
on_arrays(Arrays(weights, weights))
return ok(config)
"""

# As large as a real row of the smoke preset: with the checks of one.
REAL_ROW = """
from common.config import Precision
from common.results.rows import Results
from common.results.coding import read_json
from dataclasses import replace
rows = read_json(Path({results!r}), Results).rows
checks = next(row.checks for row in rows if row.checks)
time.sleep({seconds})
return replace(ok(config), checks=checks)
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.process.soak", description=__doc__)
    trials = parser.add_subparsers(dest="trial", required=True)
    kills = trials.add_parser("kills")
    kills.add_argument("--points", type=int, default=200)
    kills.add_argument("--at-once", type=int, default=2)
    rows = trials.add_parser("rows")
    rows.add_argument("--rows", type=int, default=100)
    rows.add_argument("--seconds", type=float, default=2.0, help="that a row takes")
    stuck = trials.add_parser("stuck")
    stuck.add_argument("--tries", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.trial == "stuck":
        found: dict[str, Any] = {
            f"{framework}_late_s": [stuck_replica(framework) for _ in range(arguments.tries)]
            for framework in ("torch", "tensorflow")
        }
    elif arguments.trial == "kills":
        with ThreadPoolExecutor(arguments.at_once) as pool:
            points = list(pool.map(kill_point, range(arguments.points)))
        found = {"points": len(points)}
        for name in ("parent", "worker"):
            found[f"{name}_killed"] = sum(point["victim"] == name for point in points)
        found["rows_ended_before"] = sum(point["ended"] for point in points)
    else:
        found = many_rows(arguments.rows, arguments.seconds)
    print(json.dumps({"trial": arguments.trial, **found}))
    return 0


def kill_point(seed: int) -> dict[str, Any]:
    """Kill one process at a random moment, look at what is left, and resume; AssertionError names what was lost."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder, victim, moment_s = Path(name), draw.choice(("parent", "worker")), draw.uniform(0.0, 2.5)
        worker, output = fake_worker(folder, WORKER), folder / "run"
        command = [sys.executable, "run_parity.py", *ARGUMENTS, "--precisions", *PRECISIONS, "--output", str(output)]
        command += ["--torch-python", worker]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
            time.sleep(moment_s)
            target = process.pid if victim == "parent" else next_child(process)
            with suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
            _, stderr = process.communicate(timeout=LONGEST_S)
        ended = re.findall(r"^\[\d/4\] (\S+): ok", stderr, re.MULTILINE)
        for pid in worker_pids(folder):
            wait_until(lambda pid=pid: not is_alive(pid), within_s=5.0)
        check_files(output, ended)
        resumed = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S)
        assert resumed.returncode == 0, f"seed {seed}: {resumed.stderr}"
        rows = read_json(output / "results.json", Results).rows
        assert [row.precision for row in rows] == list(PRECISIONS), f"seed {seed}"
        assert not [path for path in output.rglob(".*") if path.name != ".lock"], f"seed {seed}: scratch files"
        return {"victim": "parent" if target == process.pid else "worker", "ended": len(ended)}


def next_child(process: "subprocess.Popen[str]") -> int:
    """The worker at work, or the next one; the process itself where there comes none."""
    while process.poll() is None:
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError, IndexError):
                if int(path.read_text().rpartition(")")[2].split()[1]) == process.pid:
                    return int(path.parent.name)
    return process.pid


def check_files(output: Path, ended: list[str]) -> None:
    """Every row that was said to have ended is there, and every file is whole."""
    if ended:
        rows = read_json(output / "results.json", Results).rows
        assert set(ended) <= {row.config.row_id for row in rows if row.status == "ok"}, ended
    for path in output.glob("rows/*/result.json"):
        read_json(path, RowResult)
    for path in output.glob("rows/*/arrays.npz"):
        with np.load(path) as arrays:
            assert all(arrays[name].size for name in arrays.files)


def many_rows(rows: int, seconds: float) -> dict[str, Any]:
    """The parent's resident set after a tenth of the rows and at the end, and its share of one core's time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = REAL_ROW.format(results=str(ROOT / "results/cpu/results.json"), seconds=seconds)
        command = [sys.executable, "run_parity.py", *ARGUMENTS, "--precisions", "float32", "--repeats", str(rows)]
        command += ["--output", str(folder / "run"), "--torch-python", fake_worker(folder, body)]
        start_s, early_bytes, last = time.monotonic(), 0, (0, 0.0)
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                done = re.match(r"\[(\d+)/", line)
                if done:
                    last = memory_and_cpu(process.pid)
                    wall_s = time.monotonic() - start_s
                if done and int(done[1]) == max(1, rows // 10):
                    early_bytes = last[0]
        return {
            "rows": rows,
            "row_s": seconds,
            "exit_code": process.returncode,
            "early_mb": early_bytes / 1e6,
            "late_mb": last[0] / 1e6,
            "cpu_s": last[1],
            "wall_s": wall_s,
            "cpu_percent": 100 * last[1] / wall_s,
        }


def stuck_replica(framework: str) -> float:
    """Seconds from the deadline of a row, one of whose replicas hangs and ignores SIGTERM, until no process is left."""
    with tempfile.TemporaryDirectory() as name:
        start_s = time.monotonic()
        row = train(Path(name), framework, DEAF_HANG, timeout_s=25)
        assert row.status is Status.TIMEOUT, row
        return round(time.monotonic() - start_s - 25, 2)


def worker_pids(folder: Path) -> list[int]:
    path = folder / "pids.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def memory_and_cpu(pid: int) -> tuple[int, float]:
    """Resident bytes, and seconds of CPU time without that of children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), cpu_s


if __name__ == "__main__":
    sys.exit(main())
