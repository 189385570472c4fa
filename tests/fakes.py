"""Stand-ins for a framework: interpreters of a few lines of Python, started as workers, and what looks after them."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

from tests.conftest import ROOT

_RAW = """\
#!{python}
import json, os, signal, subprocess, sys, time
config, result = sys.argv[4:7:2] or (None, None)
{body}
"""

_WORKER = """\
#!{python}
import json, os, signal, subprocess, sys, time
from pathlib import Path
HERE = Path({folder!r})
if sys.argv[2] == "common.process.setting":
    print((HERE / "versions.json").read_text())
    sys.exit()
sys.path.insert(0, {root!r})
from common.measure.memory import OutOfMemory
from common.results.rows import Arrays, Status, RowResult
from common.measure.timing import StepTimes, Timing
from common.cli.worker import main

def ok(config):
    steady = config.train.epochs - 1
    times = StepTimes(0.05, 0.05, 0.05, steady)
    return RowResult(config, Status.OK, timing=Timing(0.1, [0.2, *[0.1] * steady], times, 0.2 + 0.1 * steady, 100.0))

def describe(config, on_event, on_arrays):
    return run(config, on_event, on_arrays)

def run(config, on_event, on_arrays, **monitors):
    with (HERE / "started.txt").open("a") as file:
        file.write(config.row_id + chr(10))
{body}

sys.exit(main({{"tf_impl": "tensorflow", "torch_impl": "torch"}}[sys.argv[2]], run, describe, sys.argv[3:]))
"""


_PATCHED = """\
#!{python}
import importlib, os, signal, sys, time
sys.path.insert(0, {root!r})
MODULE = sys.argv[2]
__import__(MODULE)
run = importlib.import_module(MODULE + ".run")
row = importlib.import_module("common.process.row")
{patch}

if __name__ == "__main__":
    from common.cli.worker import main
    entry = importlib.import_module(MODULE + ".__main__")
    sys.exit(main({{"tf_impl": "tensorflow", "torch_impl": "torch"}}[MODULE], entry.run, entry.describe, sys.argv[3:]))
"""


def fake_python(folder: Path, body: str) -> str:
    """Takes an interpreter's place and speaks no protocol; where it is a worker's, `body` sees config and result."""
    return _executable(folder / "fake python", _RAW.format(python=sys.executable, body=body))


def fake_worker(folder: Path, body: str = "return ok(config)") -> str:
    """A worker as ours, but for the framework: `body` is run(config, on_event, on_arrays).

    It notes the rows that it has begun in started.txt, and says that it has the versions in versions.json.
    """
    say_versions(folder, {"torch": "1.0"})
    script = _WORKER.format(python=sys.executable, folder=str(folder), root=str(ROOT), body=indent(body, "    "))
    return _executable(folder / "fake worker", script)


def patched_worker(folder: Path, patch: str) -> str:
    """A worker as ours; in every process of it `patch` runs first, and sees the modules `row` and `run`."""
    return _executable(folder / "patched worker", _PATCHED.format(python=sys.executable, root=str(ROOT), patch=patch))


def say_versions(folder: Path, versions: dict[str, str]) -> None:
    """From now on the fake worker says that it has these."""
    (folder / "versions.json").write_text(json.dumps({"versions": versions}))


def started(folder: Path) -> list[str]:
    """The rows that the fake worker has begun, in order."""
    path = folder / "started.txt"
    return path.read_text().split() if path.exists() else []


def wait_until(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    """What the condition returns once that is true; fails where it takes longer."""
    end_s = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)
