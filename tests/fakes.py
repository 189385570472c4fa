"""Stand-ins for a framework: the programs of tests/workers, started as workers, and what looks after them."""

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

from tests.conftest import ROOT


def fake_python(folder: Path, body: str) -> str:
    """Takes an interpreter's place and speaks no protocol; where it is a worker's, `body` sees config and result."""
    return _interpreter(folder, "interpreter", body)


def fake_worker(folder: Path, body: str = "return ok(config)") -> str:
    """A worker as ours, except for the framework: `body` is that of run(config, on_event, on_arrays, **monitors).

    It notes the rows that it has begun in started.txt, and says that it has the versions in versions.json.
    """
    say_versions(folder, {"torch": "1.0"})
    return _interpreter(folder, "worker", f"def run(config, on_event, on_arrays, **monitors):\n{indent(body, '    ')}")


def patched_worker(folder: Path, patch: str) -> str:
    """A worker as ours; in every process of it `patch` runs first, and sees the modules `run` and `row`."""
    return _interpreter(folder, "patched", patch)


def fake_replicas(folder: Path, fault: str, before: str = "") -> str:
    """A worker as ours whose replicas train nothing; the one of rank 1 runs `fault` in its third step.

    before: what each of them runs ahead of its first step; it sees its `replica`.
    """
    return _interpreter(folder, "replicas", fault, before)


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


def _interpreter(folder: Path, name: str, body: str, before: str = "") -> str:
    """A file that is run as an interpreter would be: the program of tests/workers with this body."""
    (folder / f"{name} body.py").write_text(body)
    own = [sys.executable, str(ROOT / "tests" / "workers" / f"{name}.py"), "--folder", str(folder)]
    own += ["--body", str(folder / f"{name} body.py")]
    if before:
        (folder / f"{name} before.py").write_text(before)
        own += ["--before", str(folder / f"{name} before.py")]
    words = shlex.join([*own, "--"])
    path = folder / f"fake {name}"
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return str(path)
