"""One process a replica on this host, started and looked after.

Differs from torch_impl: TensorFlow has no launcher of its own, so that this is one. A replica that fails ends the
others. Whose fault it was shows in who has ended and how: one that waited in vain says so, and one that hangs is alive.
But TensorFlow may crash when it gives up waiting, so each also counts the calls in which it may have to wait.

Not one process for all, as by MirroredStrategy: that one calls the operations of its devices by turns, and is slower.
"""

import json
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
    blame,
    blame_one_of,
    describe_exception,
    describe_exit,
    explain_failure,
    explain_no_meeting,
    explain_silence,
    explain_timeout,
    find_awaited,
    is_meeting,
    tf_configs,
)
from common.results.rows import RowResult, Status

GRACE_S = 10.0  # for replicas that have trained, to end
SETTLE_S = 2.0  # in which those that waited for the replica at fault end after it
WATCH_S = 1.0  # between two looks at how far each has come


class _Ended(NamedTuple):
    """How a replica's process ended: with its row, or with what it raised, or with neither.

    waited: it ended because another had, or had not answered in time. said: what TensorFlow then said.
    """

    row: RowResult | None = None
    raised: Raised = Raised()
    exit_code: int = 1
    waited: bool = False
    said: str = ""

    @property
    def was_aborted(self) -> bool:
        """As TensorFlow may end when it gives up waiting."""
        return self.exit_code in (-signal.SIGABRT, -signal.SIGSEGV)


class _Replica(NamedTuple):
    """What is known of a replica once another has failed. end: None where it hangs. entered: so many collectives."""

    rank: int
    entered: int
    end: _Ended | None


def run_replicas(
    config: RunConfig, on_event: OnEvent, on_arrays: OnArrays | None, monitors: Monitors = NO_MONITORS
) -> RowResult:
    """What run returns for the replica of the lowest rank here, of config.execution.devices processes.

    Raises ReplicaFailed, with the rank, where one of them raises, is killed or does not answer in time.
    """
    context = multiprocessing.get_context("spawn")
    entered = context.RawArray(c_longlong, config.execution.devices)
    processes: dict[int, BaseProcess] = {}
    connections: dict[Connection, int] = {}
    try:
        configs = tf_configs(config.execution.devices)
        addresses = json.loads(configs[min(configs)])["cluster"]["worker"]
        for number, (rank, tf_config) in enumerate(configs.items()):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (theirs, tf_config, number, entered, config, on_event, on_arrays, monitors)
            process: BaseProcess = context.Process(target=_replica, args=arguments)
            process.start()
            processes[rank], connections[ours] = process, rank
            theirs.close()  # else its end would never show
        with _asked_to_end(entered, min(processes), addresses):
            ended = _wait_for(connections, processes, entered, addresses, config.execution.collective_timeout_s)
        if any(end.row is None for end in ended.values()):
            ranks = [*ended, *sorted(processes.keys() - ended.keys())]
            replicas = [_Replica(rank, entered[rank - min(processes)], ended.get(rank)) for rank in ranks]
            elsewhere = sorted(set(range(config.execution.replicas)) - processes.keys())
            raise _find_cause(replicas, elsewhere, config.execution.collective_timeout_s)
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
        end = _Ended(raised=describe_exception(error))
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
def _asked_to_end(entered: "Array[c_longlong]", first: int, addresses: Sequence[str]) -> Iterator[None]:
    """Raise ReplicaFailed in the block when SIGTERM comes: the row's time is over."""

    def end(number: int, frame: FrameType | None) -> None:
        raise explain_timeout(list(entered), first, addresses)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for(
    connections: dict[Connection, int],
    processes: dict[int, BaseProcess],
    entered: "Array[c_longlong]",
    addresses: Sequence[str],
    timeout_s: float,
) -> dict[int, _Ended]:
    """How each has ended, by rank in the order of their ends, but for those that don't though another has failed.

    Raises ReplicaFailed where one has kept the others waiting for longer than TensorFlow itself allows: on GPUs it does
    not look, since the devices wait for each other. Nor does it while the replicas meet, at their addresses.
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
        elif not ready and time.monotonic() - since_s > timeout_s + SETTLE_S:
            if is_meeting(reached):
                raise explain_no_meeting(addresses, timeout_s)
            if slow := [min(processes) + number for number in find_awaited(reached)]:
                raise ReplicaFailed(Status.CRASHED, blame(slow, timeout_s))
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


def _find_cause(replicas: Sequence[_Replica], elsewhere: Sequence[int], timeout_s: float) -> ReplicaFailed:
    """Who is at fault, among the replicas of this host in the order of their ends.

    elsewhere: the ranks of other hosts. Where all of this one have waited, it is one of those; TensorFlow's words may
    name one that waited too.
    """
    hanging = [replica.rank for replica in replicas if replica.end is None]
    least = min(replica.entered for replica in replicas)
    failed = [(replica, replica.end) for replica in replicas if replica.end and replica.end.row is None]
    replica, end = min(failed, key=lambda pair: (pair[1].waited, pair[1].was_aborted))
    if not end.waited and not (end.was_aborted and hanging and replica.entered > least):
        return explain_failure(replica.rank, end.exit_code, end.raised)
    said = end.said or describe_exit(end.exit_code)
    if hanging:
        return explain_silence(hanging, timeout_s, replica.rank, said)
    message = f"{blame_one_of(elsewhere, timeout_s)}: {said}" if elsewhere else end.raised.words
    return ReplicaFailed(Status.CRASHED, message)
