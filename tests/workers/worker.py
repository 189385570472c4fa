"""A worker as ours, except for the framework: it trains nothing, and its row is what the body's run() returns.

It notes the rows that it has begun in started.txt, and says that it has the versions in versions.json.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common.cli.worker import main
from common.config import RunConfig
from common.measure.memory import OutOfMemory
from common.measure.timing import StepTimes, Timing
from common.results.rows import Arrays, RowResult, Status
from tests.workers.arguments import parse

FRAMEWORKS = {"tf_impl": "tensorflow", "torch_impl": "torch"}


def ok(config: RunConfig) -> RowResult:
    """A row that was trained, in steps of 50 ms."""
    steady = config.train.epochs - 1
    times = StepTimes(0.05, 0.05, 0.05, steady)
    timing = Timing(0.1, [0.2, *[0.1] * steady], times, 0.2 + 0.1 * steady, 100.0)
    return RowResult(config, Status.OK, timing=timing)


def run(config: RunConfig, on_event: Any, on_arrays: Any, **monitors: Any) -> RowResult:
    with (arguments.folder / "started.txt").open("a") as file:
        file.write(f"{config.row_id}\n")
    row: RowResult = NAMES["run"](config, on_event, on_arrays, **monitors)
    return row


NAMES: dict[str, Any] = {
    "json": json, "os": os, "signal": signal, "subprocess": subprocess, "sys": sys, "time": time, "Path": Path,
    "OutOfMemory": OutOfMemory, "StepTimes": StepTimes, "Timing": Timing,
    "Arrays": Arrays, "RowResult": RowResult, "Status": Status, "ok": ok,
}  # fmt: skip

if __name__ == "__main__":
    arguments = parse(__doc__)
    NAMES["HERE"] = arguments.folder
    if arguments.module == "common.process.setting":
        print((arguments.folder / "versions.json").read_text())
        sys.exit()
    exec(arguments.body, NAMES)
    sys.exit(main(FRAMEWORKS[arguments.module], run, run, arguments.words))
