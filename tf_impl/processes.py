"""One process a replica on this host, started and looked after.

Differs from torch_impl: TensorFlow has no launcher of its own, so that this is one. A replica that fails ends the
others. Whose fault it was shows in who has ended and how: one that waited in vain says so, and one that hangs is alive.
But TensorFlow may crash when it gives up waiting, so each also counts the calls in which it may have to wait.

Not one process for all, as by MirroredStrategy: that one calls the operations of its devices by turns, and is slower.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import Array, c_longlong
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import NamedTuple

from common.config import RunConfig
from common.process.monitor import NO_MONITORS, Monitors
from common.process.recorder import OnArrays, OnEvent
from common.process.replicas import (
    Raised,
    ReplicaFailed,
    behind,
    end_of,
    failure_of,
    one_silent,
    ranks,
    silent,
    stuck,
    tf_configs,
)
from common.results.rows import RowResult, Status

GRACE_S = 10.0  # for replicas that have trained, to end
SETTLE_S = 2.0  # in which those that waited for the replica at fault end after it
WATCH_S = 1.0  # between two looks at how far each has come


class _Ended(NamedTuple):
    """How a replica's process ended: with its row, or with what it raised, or with neither.

    waited: it ended because another did, or was waited for in vain. said: what TensorFlow then said.
    """

    row: RowResult | None = None
    raised: Raised = Raised()
    exit_code: int = 1
    waited: bool = False
    said: str = ""


def run_replicas(
    config: RunConfig, on_event: OnEvent, on_arrays: OnArrays | None, monitors: Monitors = NO_MONITORS
) -> RowResult:
    """What run returns for the replica of the lowest rank here, of config.execution.devices processes.

    Raises ReplicaFailed, with the rank, where one of them raises, is killed or is waited for in vain.
    """
    context = multiprocessing.get_context("spawn")
    entered = context.RawArray(c_longlong, config.execution.devices)
    processes: dict[int, BaseProcess] = {}
    connections: dict[Connection, int] = {}
    try:
        for number, (rank, tf_config) in enumerate(tf_configs(config.execution.devices).items()):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (theirs, tf_config, number, entered, config, on_event, on_arrays, monitors)
            process: BaseProcess = context.Process(target=_replica, args=arguments)
            process.start()
            processes[rank], connections[ours] = process, rank
            theirs.close()  # else its end would never show
        with _asked_to_end(entered, min(processes)):
            ended = _wait_for(connections, processes, entered, config.execution.collective_timeout_s)
        failed = {rank: end for rank, end in ended.items() if end.row is None}
        if failed:
            hanging = sorted(processes.keys() - ended.keys())
            ahead = [rank for rank, count in zip(processes, entered, strict=True) if count > min(entered)]
            elsewhere = sorted(set(range(config.execution.replicas)) - processes.keys())
            raise _find_cause(failed, hanging, ahead, elsewhere, config.execution.collective_timeout_s)
        for process in processes.values():
            process.join(GRACE_S)
    finally:
        for process in processes.values():
            process.kill()
    row = ended[min(ended)].row
    assert row is not None
    return row


def _replica(
    connection: Connection,
    tf_config: str,
    number: int,
    entered: "Array[c_longlong]",
    config: RunConfig,
    on_event: OnEvent,
    on_arrays: OnArrays | None,
    monitors: Monitors,
) -> None:
    _end_with_parent()
    os.environ["TF_CONFIG"] = tf_config
    from tf_impl.run import run

    def count() -> None:
        entered[number] += 1

    try:
        end = _Ended(run(config, on_event, on_arrays, monitors._replace(on_collective=count)))
    except Exception as error:
        traceback.print_exc()
        kind = "ImportError" if isinstance(error, ImportError) else type(error).__name__
        end = _Ended(raised=Raised(kind, str(error).partition("\n")[0]))
        if isinstance(error, ReplicaFailed):
            end = end._replace(waited=True, said=error.said)
    connection.send(end)
    connection.close()
    if end.row is None:
        os._exit(1)  # its runtime would wait for the others


def _end_with_parent() -> None:
    """End this process once the one that looks after it has gone; Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _asked_to_end(entered: "Array[c_longlong]", first: int) -> Iterator[None]:
    """Raise ReplicaFailed in the block when SIGTERM comes: the row's time is over."""

    def end(number: int, frame: FrameType | None) -> None:
        raise stuck(list(entered), first)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for(
    connections: dict[Connection, int],
    processes: dict[int, BaseProcess],
    entered: "Array[c_longlong]",
    timeout_s: float,
) -> dict[int, _Ended]:
    """How each has ended, by rank in the order of their ends, but for those that don't though another has failed.

    Raises ReplicaFailed where one has kept the others waiting for longer than TensorFlow itself allows: on GPUs it does
    not look, since the devices wait for each other.
    """
    ended: dict[int, _Ended] = {}
    reached, since_s = list(entered), time.monotonic()
    while len(ended) < len(processes):
        waiting = [connection for connection, rank in connections.items() if rank not in ended]
        has_failed = any(end.row is None for end in ended.values())
        ready = multiprocessing.connection.wait(waiting, SETTLE_S if has_failed else WATCH_S)
        if has_failed and not ready:
            break
        if reached != list(entered):
            reached, since_s = list(entered), time.monotonic()
        elif behind(reached) and not ready and time.monotonic() - since_s > timeout_s + SETTLE_S:
            slow = [min(processes) + number for number in behind(reached)]
            raise ReplicaFailed(Status.CRASHED, silent(slow, timeout_s))
        for connection in ready:
            assert isinstance(connection, Connection)
            rank = connections[connection]
            ended[rank] = _end_of(connection, processes[rank])
    return ended


def _end_of(connection: Connection, process: BaseProcess) -> _Ended:
    try:
        end = connection.recv()
        assert isinstance(end, _Ended)
        return end
    except EOFError:
        process.join()
        assert process.exitcode is not None
        return _Ended(exit_code=process.exitcode)


def _find_cause(
    failed: dict[int, _Ended], hanging: Sequence[int], ahead: Sequence[int], elsewhere: Sequence[int], timeout_s: float
) -> ReplicaFailed:
    """From how replicas ended, by rank in the order of their ends, who hangs, and who was ahead of others.

    elsewhere: the ranks of other hosts. Where all of this one have waited, it is one of those; TensorFlow's words may
    name one that waited too.
    """

    def was_aborted(rank: int) -> bool:
        return failed[rank].exit_code in (-signal.SIGABRT, -signal.SIGSEGV)

    rank = min(failed, key=lambda rank: (failed[rank].waited, was_aborted(rank)))
    end = failed[rank]
    if not end.waited and not (was_aborted(rank) and hanging and rank in ahead):
        return failure_of(rank, end.exit_code, end.raised)
    message, said = end.raised.words, end.said or end_of(end.exit_code)
    if hanging:
        message = f"{silent(hanging, timeout_s)}; {ranks([rank])}, which waited, ended with {said}"
    elif elsewhere:
        message = f"{one_silent(elsewhere, timeout_s)}: {said}"
    return ReplicaFailed(Status.CRASHED, message)
