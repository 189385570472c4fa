"""A worker as ours whose replicas train nothing: what looks after them is real, and no TensorFlow is imported.

In each of four steps a replica meets the others, by files in the folder. In the third the replica of rank 1 runs the
body. Each runs the lines of `--before` ahead of its first step. Both see the replica as `replica`: its rank, whether it
gives up on others, whether it meets them at all, and reach(), which leaves a note for the test. One that waits in vain
for longer than the config allows says so, as its framework would.
"""

import atexit
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common.cli.worker import main
from common.config import RunConfig
from common.measure.memory import OutOfMemory
from common.process.monitor import Monitors
from common.process.replicas import ReplicaFailed, blame
from common.results.rows import RowResult, Status
from tests.workers.arguments import parse

FRAMEWORKS = {"tf_impl": "tensorflow", "torch_impl": "torch"}
STEPS, STEP_OF_THE_FAULT = 4, 2

arguments = parse(__doc__)
REACHED = arguments.folder / "reached"


@dataclass
class Replica:
    rank: int
    gives_up: bool = True
    meets: bool = True

    def reach(self) -> None:
        REACHED.touch()


def run(config: RunConfig, on_event: Any, on_arrays: Any, monitors: Monitors) -> RowResult:
    replica = Replica(int(os.environ.get("RANK") or json.loads(os.environ["TF_CONFIG"])["task"]["index"]))
    names = {"atexit": atexit, "os": os, "signal": signal, "threading": threading, "time": time}
    names |= {"OutOfMemory": OutOfMemory, "REACHED": REACHED, "replica": replica}
    if arguments.before:
        exec(arguments.before, names)
    for step in range(STEPS):
        if replica.rank == 1 and step == STEP_OF_THE_FAULT:
            replica.reach()
            exec(arguments.body, names)
        monitors.on_collective()
        meet(step, replica, config)
    return RowResult(config, Status.OK)


def meet(step: int, replica: Replica, config: RunConfig) -> None:
    (arguments.folder / f"step-{step}-rank-{replica.rank}").touch()
    end_s = time.monotonic() + config.execution.collective_timeout_s
    while not replica.meets or len(list(arguments.folder.glob(f"step-{step}-rank-*"))) < config.execution.replicas:
        if replica.gives_up and time.monotonic() > end_s:
            give_up(replica, config)
        time.sleep(0.01)


def give_up(replica: Replica, config: RunConfig) -> None:
    """TensorFlow's implementation blames a rank in words of its own; PyTorch's collective raises and names none."""
    if config.framework == "torch":
        raise RuntimeError("a collective has timed out")
    others = [other for other in range(config.execution.replicas) if other != replica.rank]
    words, said = blame(others, config.execution.collective_timeout_s), "Collective has timed out"
    raise ReplicaFailed(Status.CRASHED, f"{words}: {said}", said)


stand_in = ModuleType(f"{arguments.module}.run")
stand_in.run = run  # type: ignore[attr-defined]
sys.modules[stand_in.__name__] = stand_in

if __name__ == "__main__":
    from importlib import import_module

    run_replicas = import_module(f"{arguments.module}.processes").run_replicas

    def look_after(config: RunConfig, on_event: Any, on_arrays: Any) -> RowResult:
        row: RowResult = run_replicas(config, on_event, on_arrays)
        return row

    sys.exit(main(FRAMEWORKS[arguments.module], look_after, look_after, arguments.words))
