"""One row in a process of its own: start it, follow its events, take its result.

A fresh process for each row, because TensorFlow keeps GPU memory until its process ends, because a crash then costs one
row and not the run, and because no framework's threads or caches can lean on the other's clock.

While a row is timed the parent sleeps: in waitpid until the worker ends, in two threads until it prints something, and
in a third until its time is over.
"""

import json
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from common.config import RunConfig
from common.experiment.weights import weight_shapes
from common.measure.nvml import GpuWatch, watch_gpus
from common.process.install import install_command
from common.process.interrupts import Interrupts
from common.process.log import LAST_BYTES, CappedLog, last_exception, last_lines
from common.process.recorder import OnEvent
from common.process.replicas import LAUNCHER_VARIABLES
from common.process.setting import MODULES
from common.results.coding import arrays_file, read_arrays, read_json, write_json
from common.results.files import require_folder
from common.results.rows import RowResult, Status, require_consistent
from common.text import in_one_line

GRACE_S = 5.0  # between asking a worker to end and ending it
DRAIN_S = 2.0  # for the last of its output, once it has ended
LOG_TAIL_LINES = 20
RAISED = 1  # Python's exit code after an exception that nothing has caught
LONGEST_LINE_BYTES = 2**16  # of what is looked at as an event; an event of the largest run has 200

# How the log of a worker ends whose interpreter lacks what every row needs.
WITHOUT_PACKAGES = tuple(f"ModuleNotFoundError: No module named '{name}'" for name in ("numpy", "msgspec"))

_ROOT = Path(__file__).resolve().parents[2]

# What the last lines of the log are kept of.
_FAILED = (Status.CRASHED, Status.KILLED, Status.NO_RESULT, Status.IMPORT_ERROR, Status.OOM, Status.TIMEOUT)


@dataclass(frozen=True)
class Job:
    """One row to be run: by which interpreter, in which folder, and for how long. further: more of its arguments."""

    config: RunConfig
    python: str
    folder: Path
    timeout_s: float
    further: Sequence[str] = ()


Launch = Callable[[Job, OnEvent, Interrupts], RowResult]


def launch_row(job: Job, on_event: OnEvent, interrupts: Interrupts | None = None) -> RowResult:
    """Train one row in a fresh process; its folder is made.

    Always returns a row: what goes wrong becomes its status. The first signal that `interrupts` receives ends the
    worker.
    """
    interrupts, run_id = interrupts or Interrupts(), secrets.token_hex(8)
    try:
        log = _prepare(job.folder, job.config)
    except (OSError, ValueError) as error:
        return RowResult(job.config, Status.NO_RESULT, f"{job.folder} can't be written: {error}; give another --output")
    with closing(log):
        try:
            end = _follow(job, run_id, log, on_event, interrupts)
        except (OSError, RuntimeError) as error:  # a process or a thread too many
            return RowResult(job.config, Status.CRASHED, f"{job.python} can't be started: {error}")
    row = _with_log(_with_gpu_use(_outcome(job, run_id, end), end.gpu), job.folder, end.exit_code)
    return _not_installed(job) if row.log_tail and row.log_tail[-1] in WITHOUT_PACKAGES else row


def launch_undisturbed(job: Job, on_event: OnEvent, interrupts: Interrupts) -> RowResult:
    """As launch_row; a worker killed by signal 9 is started once more: was it for its memory, it is killed again."""
    row = launch_row(job, on_event, interrupts)
    if row.status is Status.KILLED and not interrupts.number:
        row = launch_row(job, on_event, interrupts)
    return row


class _End(NamedTuple):
    """How a worker ended. signal_number: what we were told to end by, or 0. expired: whether its time was over."""

    exit_code: int
    signal_number: int
    expired: bool
    gpu: GpuWatch | None


def _follow(job: Job, run_id: str, log: CappedLog, on_event: OnEvent, interrupts: Interrupts) -> _End:
    """Start the worker and pass on what it prints, until it ends or is ended."""
    files = ["--config", _absolute(job.folder, "config.json"), "--result", _absolute(job.folder, "result.json")]
    command = [job.python, "-m", MODULES[job.config.framework], *files, "--run-id", run_id, *job.further]
    expired = threading.Event()
    with _Worker(command) as worker, ExitStack() as running:
        gpu = running.enter_context(_gpu(job.config, worker.pid))
        running.enter_context(worker.read(partial(_take_line, log=log, gpu=gpu, on_event=on_event), log.write))
        running.enter_context(_deadline(job.timeout_s, expired, worker.end))
        running.enter_context(interrupts.calling(worker.end))
        exit_code = worker.wait()
    return _End(exit_code, interrupts.number, expired.is_set(), gpu)


def _outcome(job: Job, run_id: str, end: _End) -> RowResult:
    """The row that the worker left, or what cut it short."""
    row = _result(job.config, end.exit_code, run_id, job.folder)
    if not _is_cut_short(row, end):
        return row
    row = _cut_short(row, end.signal_number, job.timeout_s if end.expired else None)
    return _as_measured_before(row, run_id, job.folder) if job.further else row


def _not_installed(job: Job) -> RowResult:
    """Of an interpreter without a package that every worker imports: it can't even say so."""
    advice = f"install it with: {install_command(job.config.framework, job.python)}"
    return RowResult(job.config, Status.NOT_INSTALLED, advice)


def _absolute(folder: Path, name: str) -> str:
    """Also as a worker sees it, whose working directory is another."""
    return str(folder.absolute() / name)


def _prepare(folder: Path, config: RunConfig) -> CappedLog:
    """Make the row's folder, without anything of an earlier run; OSError or ValueError where that can't be done."""
    folder.mkdir(parents=True, exist_ok=True)
    require_folder(folder)
    for stale in (folder / "result.json", arrays_file(folder)):
        stale.unlink(missing_ok=True)
    write_json(folder / "config.json", config)
    return CappedLog(folder / "log.txt")


class _Worker:
    """A worker in a session of its own, so that no Ctrl-C reaches it directly and its whole group can be ended.

    Its stdin is a pipe that nothing is written to: that it closes tells the worker that we are gone. It works in our
    own folder, since Python would import what has a module's name in the user's.
    """

    def __init__(self, command: list[str]) -> None:
        paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *paths])
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=_ROOT, start_new_session=True
        )
        self._ended = threading.Event()
        self.pid = self._process.pid

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kill()

    def wait(self) -> int:
        """Return the exit code once the worker has ended; what it started and left behind is ended with it."""
        try:
            return self._process.wait()
        finally:
            self._kill()

    def end(self) -> None:
        """Ask the group to end, and end it after the grace period; returns at once."""
        try:
            threading.Thread(target=self._end, daemon=True).start()
        except RuntimeError:  # a thread too many
            self._signal(signal.SIGKILL)

    @contextmanager
    def read(self, take_line: Callable[[bytes], Any], take_error: Callable[[bytes], Any]) -> Iterator[None]:
        """Until the block has ended and all is read, pass on each line of stdout and each piece of stderr."""
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None
        assert isinstance(stdout, BufferedReader)
        assert isinstance(stderr, BufferedReader)
        read_line, read_error = partial(stdout.readline, LONGEST_LINE_BYTES), partial(stderr.read1, LONGEST_LINE_BYTES)
        readers = [
            threading.Thread(target=_pass_on, args=pair, daemon=True)
            for pair in ((read_line, take_line), (read_error, take_error))
        ]
        try:
            for reader in readers:
                reader.start()
            yield
        finally:
            for reader in readers:
                if reader.ident:  # else it could not be started
                    reader.join(DRAIN_S)  # what left the group may hold the pipes open for good
            for reader, pipe in zip(readers, (stdout, stderr), strict=True):
                if not reader.is_alive():
                    pipe.close()
            with suppress(OSError):
                stdin.close()

    def _end(self) -> None:
        self._signal(signal.SIGTERM)
        if not self._ended.wait(GRACE_S):
            self._signal(signal.SIGKILL)

    def _kill(self) -> None:
        """End the group, for good: its number may soon be another's."""
        self._signal(signal.SIGKILL)
        self._ended.set()
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.is_set():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def _pass_on(read: Callable[[], bytes], take: Callable[[bytes], Any]) -> None:
    for data in iter(read, b""):
        take(data)


def _take_line(line: bytes, log: CappedLog, gpu: GpuWatch | None, on_event: OnEvent) -> None:
    """Pass on an event of the worker; anything else that it prints goes to the log."""
    try:
        event = json.loads(line)
        is_event = isinstance(event, dict) and "event" in event
    except (ValueError, RecursionError):
        is_event = False
    if not is_event:
        log.write(line)
        return
    if gpu and event["event"] == "epoch":
        gpu.end_epoch()
    try:
        on_event(event)
    except Exception as error:  # a bar that can't be drawn must not stop the reading, or the worker blocks
        log.write(f"{error!r}\n".encode())


@contextmanager
def _deadline(timeout_s: float, expired: threading.Event, end: Callable[[], None]) -> Iterator[None]:
    """Unless the block ends within the time, set `expired` and call `end`."""

    def expire() -> None:
        expired.set()
        end()

    timer = threading.Timer(min(timeout_s, threading.TIMEOUT_MAX), expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _gpu(config: RunConfig, pid: int) -> AbstractContextManager[GpuWatch | None]:
    return nullcontext() if config.execution.device == "cpu" else watch_gpus(pid, config.execution.devices)


def _with_gpu_use(row: RowResult, gpu: GpuWatch | None) -> RowResult:
    if gpu is None or row.memory is None or row.memory.kind != "gpu_allocator":  # a row that chose the CPU
        return row
    use = gpu.use()
    return replace(row, gpu=use, memory=replace(row.memory, device_process_peak_bytes=use.process_peak_bytes))


def _with_log(row: RowResult, folder: Path, exit_code: int) -> RowResult:
    """Where the log lies and, of a row that failed, how it ends, and the reason that is given there."""
    log = folder / "log.txt"
    row = replace(row, log=str(log.relative_to(folder.parent.parent)))
    if row.status not in _FAILED:
        return row
    lines = last_lines(log, LAST_BYTES)
    reason = lines[-1:] if row.status is Status.CRASHED and not row.run_id else []
    if reason and exit_code == RAISED:
        reason = [last_exception(lines) or lines[-1]]
    return replace(row, detail="; ".join([row.detail, *reason]), log_tail=lines[-LOG_TAIL_LINES:])


def _result(config: RunConfig, exit_code: int, run_id: str, folder: Path) -> RowResult:
    """What the worker left, or the status that its end amounts to."""
    if exit_code == -signal.SIGKILL:
        return RowResult(config, Status.KILLED, "signal 9, likely out of memory")
    if exit_code < 0:
        return RowResult(config, Status.CRASHED, f"signal {-exit_code} ({_signal_name(-exit_code)})")
    if exit_code > 0:
        return RowResult(config, Status.CRASHED, f"exit code {exit_code}")
    return _read_result(config, run_id, folder)


def _is_cut_short(row: RowResult, end: _End) -> bool:
    """Whether the process ended before its time; what it finished although it was asked to end is worth having."""
    if end.exit_code != 0 or row.status in (Status.NO_RESULT, Status.TIMEOUT):
        return True
    return bool(end.signal_number or end.expired) and row.status is Status.CRASHED


def _cut_short(row: RowResult, signal_number: int, timeout_s: float | None) -> RowResult:
    """The row with what ended it: our own signal, or its time limit. A row of replicas has said who was waited for."""
    if signal_number:
        return RowResult(row.config, Status.INTERRUPTED, signal.Signals(signal_number).name)
    if timeout_s is not None:
        waited = f": {row.detail}" if row.status is Status.TIMEOUT else ""
        return RowResult(row.config, Status.TIMEOUT, f"ended after {timeout_s:g} s{waited}; --timeout allows more")
    return row


def _read_result(config: RunConfig, run_id: str, folder: Path) -> RowResult:
    """What the worker wrote, or the status no_result."""
    try:
        row = read_json(folder / "result.json", RowResult)
        if row.config != config or row.run_id != run_id:
            return RowResult(config, Status.NO_RESULT, "the result is of another config or another run")
        require_consistent(row)
        if row.training:
            read_arrays(arrays_file(folder), weight_shapes(config.model))
    except (OSError, ValueError) as error:
        reason = f"the process ended well but left no result: {in_one_line(error)}"
        return RowResult(config, Status.NO_RESULT, reason)
    return row


def _as_measured_before(row: RowResult, run_id: str, folder: Path) -> RowResult:
    """What a worker had measured before it ended at its work for other viewers, with a note; else the row."""
    measured = _read_result(row.config, run_id, folder)
    if measured.status is Status.NO_RESULT:
        return row
    note = f"its TensorBoard events or its trace are not whole: {row.status}: {row.detail}"
    return replace(measured, detail="; ".join(filter(None, [measured.detail, note])))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"
