"""Stand-ins for a framework: interpreters that are a few lines of Python, started by the program as its workers."""

import sys
from pathlib import Path
from textwrap import indent

from tests.conftest import ROOT

_RAW = """\
#!{python}
import json, os, signal, subprocess, sys, time
config, result = sys.argv[4], sys.argv[6]
{body}
"""

_WORKER = """\
#!{python}
import json, os, signal, subprocess, sys, time
from pathlib import Path
HERE = Path({folder!r})
if sys.argv[2] == "common.setting":
    print((HERE / "versions.json").read_text())
    sys.exit()
sys.path.insert(0, {root!r})
from common.memory import OutOfMemory
from common.results import Arrays, Status, make_row
from common.timing import StepTimes, Timing
from common.worker import main

def ok(config):
    return make_row(config, Status.OK, timing=Timing(0.1, [0.2, 0.1, 0.1], StepTimes(0.05, 0.05, 0.05, 2), 0.4, 100.0))

def run(config, on_event, on_arrays):
    with (HERE / "started.txt").open("a") as file:
        file.write(config.row_id + chr(10))
{body}

sys.exit(main({{"tf_impl": "tensorflow", "torch_impl": "torch"}}[sys.argv[2]], run, sys.argv[3:]))
"""


def fake_python(folder: Path, body: str) -> str:
    """Takes an interpreter's place and speaks no protocol; `body` sees config and result, the paths it was given."""
    return _executable(folder / "fake python", _RAW.format(python=sys.executable, body=body))


def fake_worker(folder: Path, body: str = "return ok(config)") -> str:
    """A worker as ours, but for the framework: `body` is run(config, on_event, on_arrays).

    It notes the rows that it has begun in started.txt, and says that it has the versions in versions.json.
    """
    (folder / "versions.json").write_text('{"torch": "1.0"}')
    script = _WORKER.format(python=sys.executable, folder=str(folder), root=str(ROOT), body=indent(body, "    "))
    return _executable(folder / "fake worker", script)


def started(folder: Path) -> list[str]:
    """The rows that the fake worker has begun, in order."""
    path = folder / "started.txt"
    return path.read_text().split() if path.exists() else []


def _executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)
