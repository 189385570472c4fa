"""One process a replica on this host, started and looked after.

Differs from tf_impl: by torchrun's agent, PyTorch's own. A replica that fails ends the others. Whose fault it was the
exit codes can't tell: the one that hangs is still alive when another has waited for it in vain. So each counts the
collectives that it has entered.
"""

import multiprocessing.connection
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from ctypes import Array, c_longlong

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from common.config import RunConfig
from common.process.monitor import NO_MONITORS, Monitors
from common.process.recorder import OnArrays, OnEvent
from common.process.replicas import STATUSES, Raised, ReplicaFailed, behind, end_of, failure_of, ranks, silent, stuck
from common.results.rows import RowResult, Status
from torch_impl.device import uses_gpu

GRACE_S = 2.0  # for replicas that are asked to end, since another has
SETTLE_S = 1.0  # in which the replica at fault ends before those that were waiting for it


def run_replicas(
    config: RunConfig, on_event: OnEvent, on_arrays: OnArrays | None, monitors: Monitors = NO_MONITORS
) -> RowResult:
    """What run returns for the replica of rank 0, of config.execution.devices processes.

    Raises ReplicaFailed, with the rank, where one of them raises, is killed or is waited for in vain, and Unsupported
    where there are fewer GPUs.
    """
    on_gpus = uses_gpu(config.execution.device, config.execution.devices)
    entered, ended_well = (
        multiprocessing.get_context("spawn").RawArray(c_longlong, config.execution.devices) for _ in range(2)
    )
    threading.Thread(target=_end_late_replicas, args=(ended_well,), daemon=True).start()
    logs = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    launch = elastic_launch(
        LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=config.execution.devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",  # a host's name need not be one that is resolved
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(logs.name),
            # Each sees its GPU alone, as the first: torch.compile keeps the kernels that it has chosen under the GPU's
            # number, so that otherwise each would choose anew what another, or a run of one, has chosen before.
            virtual_local_rank=on_gpus,
        ),
        _replica,
    )
    try:
        with logs:
            rows: dict[int, RowResult] = launch(entered, ended_well, config, on_event, on_arrays, monitors)
    except ChildFailedError as error:
        raise _find_cause(*error.get_first_failure(), list(entered), config.execution.collective_timeout_s) from error
    except SignalException as error:
        if error.sigval is signal.SIGINT:
            raise KeyboardInterrupt from error
        raise stuck(list(entered)) from error
    return rows[0]


def _replica(
    entered: "Array[c_longlong]",
    ended_well: "Array[c_longlong]",
    config: RunConfig,
    on_event: OnEvent,
    on_arrays: OnArrays | None,
    monitors: Monitors,
) -> RowResult:
    from torch_impl.run import run

    rank = int(os.environ["RANK"])

    def count() -> None:
        entered[rank] += 1

    try:
        row = run(config, on_event, on_arrays, monitors._replace(on_collective=count))
        ended_well[rank] = True
        return row
    except Exception:
        if entered[rank] > min(entered):
            time.sleep(SETTLE_S)
        raise


def _end_late_replicas(ended_well: "Array[c_longlong]") -> None:
    """Once one has failed, end those that don't end: the agent asks them to, and would wait for half a minute."""
    replicas: list[multiprocessing.process.BaseProcess] = []
    while len(replicas) < len(ended_well):
        time.sleep(GRACE_S / 10)
        replicas = multiprocessing.active_children()
    multiprocessing.connection.wait([replica.sentinel for replica in replicas])
    if all(ended_well):
        return
    time.sleep(GRACE_S)
    for replica in replicas:
        replica.kill()


def _find_cause(rank: int, failure: ProcessFailure, entered: Sequence[int], timeout_s: float) -> ReplicaFailed:
    """From the replica that ended first, and from how far each had come."""
    raised = _raised(failure)
    was_aborted = failure.exitcode in (1, -signal.SIGABRT)  # raised, or ended by NCCL
    has_waited = entered[rank] > min(entered) and raised.kind not in STATUSES
    if was_aborted and has_waited:
        waited = f"{ranks([rank])}, which waited, ended with {str(raised) or end_of(failure.exitcode)}"
        return ReplicaFailed(Status.CRASHED, f"{silent(behind(entered), timeout_s)}; {waited}")
    return failure_of(rank, failure.exitcode, raised)


def _raised(failure: ProcessFailure) -> Raised:
    """What the replica raised, which PyTorch's agent hands over as one text: 'RuntimeError: no more'."""
    if failure.exitcode < 0 or not isinstance(failure.message, dict):
        return Raised()
    kind, _, words = str(failure.message["message"]).partition("\n")[0].partition(": ")
    return Raised(kind, words)
