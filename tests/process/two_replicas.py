"""Rows of two replicas, of which the second comes to grief: what the tests of faults and the soak start.

`train` trains them, in a framework. `stand_in` does not: what looks after them is real, and only the training is not.
A fault is a few lines of Python. All that is patched in an implementation for it stands here.
"""

from contextlib import suppress
from pathlib import Path

import pytest

from common.config import DataConfig, ExecutionConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.process.launch import Job, launch_row
from common.results.rows import RowResult
from tests.conftest import needs_tensorflow, needs_torch
from tests.fakes import fake_replicas, patched_worker

SHAPE = (12, 12, 3)
FRAMEWORKS = [pytest.param("torch", marks=needs_torch), pytest.param("tensorflow", marks=needs_tensorflow)]

# Faults of the second replica.
HANG = "time.sleep(600)"
DEAF_HANG = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
FROZEN = "os.kill(os.getpid(), signal.SIGSTOP)"

RANK = """
import json
def rank():
    return int(os.environ.get("RANK") or json.loads(os.environ["TF_CONFIG"])["task"]["index"])
"""

# Where the fault happens.
IN_THE_THIRD_STEP = """
compiled, calls = run.compiled, []
def compiled_with_a_fault(*arguments):
    step = compiled(*arguments)
    def faulty(*batch):
        calls.append(batch)
        if rank() == 1 and len(calls) == 3:
            open({reached!r}, "w").close()
            {fault}
        return step(*batch)
    return faulty
run.compiled = compiled_with_a_fault
"""

BEFORE_THE_MODEL = """
replicated = run.distributed.replicated
def replicated_with_a_fault(*arguments):
    if rank() == 1:
        open({reached!r}, "w").close()
        {fault}
    return replicated(*arguments)
run.distributed.replicated = replicated_with_a_fault
"""

# What else can be unlike in the processes of a row.
PATIENT = """
import tensorflow as tf
limited = tf.distribute.experimental.CommunicationOptions
tf.distribute.experimental.CommunicationOptions = lambda timeout_seconds=None, **options: limited(**options)
"""

SLOW_END = """
import atexit
@atexit.register
def end_late():
    if os.environ.get("RANK") == "0" or '"index": 0' in os.environ.get("TF_CONFIG", ""):
        open({late!r}, "w").close()
        time.sleep(3)
"""

FIRST_CRASHES = """
import threading
def crash_while_waiting():
    while not os.path.exists({reached!r}):
        time.sleep(0.1)
    time.sleep(4)
    if rank() == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
if __name__ == "__mp_main__":
    threading.Thread(target=crash_while_waiting, daemon=True).start()
"""


def config_of(framework: str, collective_s: float = 60) -> RunConfig:
    return RunConfig(
        framework,
        Precision.FLOAT32,
        DataConfig(16, SHAPE),
        ModelConfig(SHAPE, filters=4),
        TrainConfig(epochs=2, batch_size=4),
        execution=ExecutionConfig("cpu", threads=2, devices=2, collective_timeout_s=collective_s),
    )


def train(
    folder: Path,
    framework: str,
    fault: str,
    collective_s: float = 60,
    where: str = IN_THE_THIRD_STEP,
    further: str = "",
    timeout_s: float = 60,
) -> RowResult:
    """The row of two replicas of which the second does `fault`, patched further; no process of it is left."""
    patch = RANK + where.format(fault=fault, reached=str(folder / "reached")) + further
    return launch_marked(folder, config_of(framework, collective_s), patched_worker(folder, patch), timeout_s)


def stand_in(folder: Path, framework: str, fault: str, collective_s: float = 60, before: str = "") -> RowResult:
    """As train, except that the replicas train nothing, so that no framework is waited for.

    before: what each does before its first step.
    """
    return launch_marked(folder, config_of(framework, collective_s), fake_replicas(folder, fault, before))


def launch_marked(folder: Path, config: RunConfig, python: str, timeout_s: float = 60) -> RowResult:
    """The row whose fault was reached; no process of it is left."""
    mark = f"row-of-{folder}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARK", mark)
        row = launch_row(Job(config, python, folder / "rows" / "row", timeout_s), lambda event: None)
    assert (folder / "reached").exists()
    assert left_of(mark) == []
    return row


def left_of(mark: str) -> list[str]:
    """The pids of processes that were started with the mark in their environment, and have not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                found.append(process.name)
    return found
