"""One row in a process of its own: start it, follow its events, take its result.

A fresh process for each row, because TensorFlow keeps GPU memory until its process ends, because a crash then costs one
row and not the run, and because no framework's threads or caches can lean on the other's clock.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO

from common.config import RunConfig
from common.nvml import GpuWatch, watch_gpu
from common.recorder import OnEvent
from common.results import RowResult, Status, make_row, read_arrays, read_json, write_json

MODULES = {"tensorflow": "tf_impl", "torch": "torch_impl"}
GRACE_S = 5.0  # between asking a worker to end and ending it
LOG_TAIL_LINES = 3

_ROOT = Path(__file__).resolve().parent.parent


def launch_row(config: RunConfig, python: str, folder: Path, timeout_s: float, on_event: OnEvent) -> RowResult:
    """Train one row in a fresh process of the interpreter `python`; files go to `folder`, which is made.

    Always returns a row: what goes wrong becomes its status. Only KeyboardInterrupt passes, after the worker was ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config_file, result_file, log_file = folder / "config.json", folder / "result.json", folder / "log.txt"
    for stale in (result_file, arrays_file(folder)):
        stale.unlink(missing_ok=True)
    write_json(config_file, config)
    command = [python, "-m", MODULES[config.framework], "--config", str(config_file), "--result", str(result_file)]
    with (
        log_file.open("wb") as log,
        _process(command, log) as process,
        _deadline(process, timeout_s) as expired,
        _gpu(config, process) as gpu,
    ):
        _follow(process, log, gpu, on_event)
        exit_code = process.wait()
    log_name = str(log_file.relative_to(folder.parent.parent))
    if expired.is_set():
        return make_row(config, Status.TIMEOUT, f"ended after {timeout_s:g} s; --timeout allows more", log=log_name)
    if exit_code != 0:
        return _failed(config, exit_code, log_file, log_name)
    try:
        row = read_json(result_file, RowResult)
        if row.training and row.config == config:
            read_arrays(arrays_file(folder))
    except (OSError, ValueError) as error:
        return make_row(config, Status.NO_RESULT, f"the process ended well but left no result: {error}", log=log_name)
    if row.config != config:
        return make_row(config, Status.NO_RESULT, "the result is of another config", log=log_name)
    return replace(_with_gpu_use(row, gpu), log=log_name)


def arrays_file(folder: Path) -> Path:
    """Where the worker of a row puts its arrays."""
    return folder / "arrays.npz"


@contextmanager
def _process(command: list[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a session of its own, so that no Ctrl-C reaches it directly and its whole group can be ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)
        process.wait()


@contextmanager
def _deadline(process: subprocess.Popen[bytes], timeout_s: float) -> Iterator[threading.Event]:
    """Yields an event that is set if the process had to be ended because its time was over."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _end(process)

    timer = threading.Timer(timeout_s, expire)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()


def _gpu(config: RunConfig, process: subprocess.Popen[bytes]) -> AbstractContextManager[GpuWatch | None]:
    return nullcontext() if config.execution.device == "cpu" else watch_gpu(process.pid)


def _with_gpu_use(row: RowResult, gpu: GpuWatch | None) -> RowResult:
    if gpu is None or row.memory is None or row.memory.kind != "gpu_allocator":  # a row that chose the CPU
        return row
    use = gpu.use()
    return replace(row, gpu=use, memory=replace(row.memory, device_process_peak_bytes=use.process_peak_bytes))


def _follow(process: subprocess.Popen[bytes], log: IO[bytes], gpu: GpuWatch | None, on_event: OnEvent) -> None:
    """Pass on the worker's events until its output ends; anything else that it prints goes to the log."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
            is_event = isinstance(event, dict) and "event" in event
        except ValueError:
            is_event = False
        if is_event:
            if gpu and event["event"] == "epoch":
                gpu.end_epoch()
            on_event(event)
        else:
            log.write(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the worker's whole group to end, and end it after the grace period."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_S)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _failed(config: RunConfig, exit_code: int, log_file: Path, log_name: str) -> RowResult:
    tail = " | ".join(log_file.read_text(errors="replace").strip().splitlines()[-LOG_TAIL_LINES:])
    if exit_code == -signal.SIGKILL:
        return make_row(config, Status.KILLED, f"signal 9, likely out of memory; {tail}".rstrip("; "), log=log_name)
    reason = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return make_row(config, Status.CRASHED, f"{reason}; {tail}".rstrip("; "), log=log_name)
