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
from contextlib import suppress
from ctypes import Array, c_longlong
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from common.config import RunConfig
from common.process.monitor import NO_MONITORS, Monitors
from common.process.recorder import OnArrays, OnEvent
from common.process.replicas import (
    Raised,
    ReplicaFailed,
    describe_exception,
    describe_exit,
    explain_failure,
    explain_silence,
    explain_timeout,
    find_awaited,
)
from common.results.coding import read_json, write_json
from common.results.rows import RowResult, Status
from torch_impl.device import uses_gpu

GRACE_S = 2.0  # for replicas that are asked to end, since another has
SETTLE_S = 1.0  # in which the replica at fault ends before those that were waiting for it


def run_replicas(
    config: RunConfig, on_event: OnEvent, on_arrays: OnArrays | None, monitors: Monitors = NO_MONITORS
) -> RowResult:
    """What run returns for the replica of rank 0, of config.execution.devices processes.

    Raises ReplicaFailed, with the rank, where one of them raises, is killed or does not answer in time, and Unsupported
    where there are fewer GPUs.
    """
    on_gpus = uses_gpu(config.execution.device, config.execution.devices)
    entered, ended_well = (
        multiprocessing.get_context("spawn").RawArray(c_longlong, config.execution.devices) for _ in range(2)
    )
    threading.Thread(target=_end_late_replicas, args=(ended_well,), daemon=True).start()
    scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
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
            logs_specs=DefaultLogsSpecs(scratch.name),
            # Each sees its GPU alone, as the first: torch.compile keeps the kernels that it has chosen under the GPU's
            # number, so that otherwise each would choose anew what another, or a run of one, has chosen before.
            virtual_local_rank=on_gpus,
        ),
        _replica,
    )
    with scratch:
        folder = Path(scratch.name)
        try:
            rows: dict[int, RowResult] = launch(folder, entered, ended_well, config, on_event, on_arrays, monitors)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            timeout_s = config.execution.collective_timeout_s
            cause = _find_cause(rank, failure.exitcode, _read_raised(folder, rank), list(entered), timeout_s)
            raise cause from error
        except SignalException as error:
            if error.sigval is signal.SIGINT:
                raise KeyboardInterrupt from error
            raise explain_timeout(list(entered)) from error
    return rows[0]


def _replica(
    folder: Path,
    entered: "Array[c_longlong]",
    ended_well: "Array[c_longlong]",
    config: RunConfig,
    on_event: OnEvent,
    on_arrays: OnArrays | None,
    monitors: Monitors,
) -> RowResult:
    rank = int(os.environ["RANK"])

    def count() -> None:
        entered[rank] += 1

    try:
        from torch_impl.run import run

        row = run(config, on_event, on_arrays, monitors._replace(on_collective=count))
        ended_well[rank] = True
        return row
    except Exception as error:
        with suppress(OSError):  # a full disk costs the words alone
            write_json(_raised_file(folder, rank), describe_exception(error))
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


def _raised_file(folder: Path, rank: int) -> Path:
    return folder / f"raised-{rank}.json"


def _read_raised(folder: Path, rank: int) -> Raised:
    """What the replica has raised, in its own words: PyTorch's agent hands over one text made of them."""
    try:
        return read_json(_raised_file(folder, rank), Raised)
    except (OSError, ValueError):
        return Raised()


def _find_cause(rank: int, exit_code: int, raised: Raised, entered: Sequence[int], timeout_s: float) -> ReplicaFailed:
    """Who is at fault, from the replica that ended first, and from how far each had come."""
    if exit_code < 0:
        raised = Raised()  # a signal ended it, whatever it had raised before
    was_aborted = exit_code in (1, -signal.SIGABRT)  # raised, or ended by NCCL
    if was_aborted and raised.status is Status.CRASHED and entered[rank] > min(entered):
        said = str(raised) or describe_exit(exit_code)
        return explain_silence(find_awaited(entered), timeout_s, rank, said)
    return explain_failure(rank, exit_code, raised)
