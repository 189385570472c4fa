"""What several replicas share that train on one batch: who takes which part of it, and who keeps the others waiting.

A replica is a copy of the model on a device of its own. Every global batch is cut into equal, contiguous blocks, one a
replica in the order of their ranks; the gradients of its mean loss are the sums of what the replicas find.
"""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from socket import create_server
from typing import Any

from common.measure.hardware import Unsupported
from common.measure.memory import OutOfMemory
from common.results.rows import Status
from common.text import printable

# Variables by which torchrun and TensorFlow tell a process of its peers.
LAUNCHER_VARIABLES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TF_CONFIG"),
)

MEETING = 1  # collectives that a replica has entered while it looks for the others; the next counts as soon as they met

_STATUSES = {OutOfMemory: Status.OOM, Unsupported: Status.UNSUPPORTED, ImportError: Status.IMPORT_ERROR}


class ReplicaFailed(Exception):  # noqa: N818 - a status, as the others
    """A replica ended before its time, or keeps the others waiting; the message names its rank.

    said: what the framework said when it gave up waiting.
    """

    def __init__(self, status: Status, message: str, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.said = said


@dataclass(frozen=True)
class Raised:
    """The exception that ended a replica's process, as data that reaches the process that looks after it.

    kind: its type; words: the first line of what it says; both "" where the process left none.
    """

    kind: str = ""
    words: str = ""
    status: Status = Status.CRASHED

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}" if self.words else self.kind


def describe_exception(error: Exception) -> Raised:
    """What a replica says of the exception that ends it."""
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), Status.CRASHED)
    return Raised(type(error).__name__, printable(str(error).partition("\n")[0]), status)


def find_awaited(entered: Sequence[int]) -> list[int]:
    """The ranks that the others wait for: those that have entered the fewest collectives, unless all are level."""
    return [rank for rank, count in enumerate(entered) if count < max(entered) and count == min(entered)]


def is_meeting(entered: Sequence[int]) -> bool:
    """Whether all have begun to look for the others, and none has found them."""
    return set(entered) == {MEETING}


@contextmanager
def without_proxies() -> Iterator[None]:
    """In the block, hide the proxies that the environment names: they know no way from one replica to another."""
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    try:
        for name in proxies:
            del os.environ[name]
        yield
    finally:
        os.environ.update(proxies)


def devices_and_hosts(framework: str) -> tuple[int | None, int]:
    """How many devices of this host, and how many hosts, a launcher has told this process to join.

    PyTorch is told by torchrun's variables. TensorFlow is told of hosts alone, by TF_CONFIG; (None, 1) where nobody
    has told it anything. ValueError where the variables aren't what the launcher sets.
    """
    if framework == "torch" and "RANK" in os.environ:
        return _torchrun()
    if framework == "tensorflow" and "TF_CONFIG" in os.environ:
        return None, len(_tf_config()["cluster"]["worker"])
    return None, 1


def is_chief(framework: str) -> bool:
    """Whether this process is the one that writes and prints."""
    if framework == "torch":
        return os.environ.get("RANK", "0") == "0"
    return task_index() == 0


def task_index() -> int:
    """Which of TF_CONFIG's workers this process is; 0 without one."""
    return int(_tf_config()["task"]["index"]) if "TF_CONFIG" in os.environ else 0


def tf_configs(devices: int) -> dict[int, str]:
    """TF_CONFIG for each process of this host, one a device, by rank.

    Where TF_CONFIG names hosts, each of these has its processes at as many successive ports, from its own on.
    """
    if "TF_CONFIG" in os.environ:
        hosts = [worker.rpartition(":") for worker in _tf_config()["cluster"]["worker"]]
        workers = [f"{host}:{int(port) + number}" for host, _, port in hosts for number in range(devices)]
        first = task_index() * devices
    else:
        workers, first = [f"127.0.0.1:{port}" for port in _free_ports(devices)], 0
    return {
        rank: json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})
        for rank in range(first, first + devices)
    }


def explain_failure(rank: int, exit_code: int, raised: Raised) -> ReplicaFailed:
    """Say how a replica ended before its time."""
    if exit_code == -signal.SIGKILL:
        return ReplicaFailed(Status.KILLED, f"{_name([rank])}: signal 9, likely out of memory")
    if raised.status is Status.UNSUPPORTED:
        return ReplicaFailed(raised.status, raised.words)  # of the host, whichever of its replicas has found it
    return ReplicaFailed(raised.status, f"{_name([rank])}: {str(raised) or describe_exit(exit_code)}")


def explain_timeout(entered: Sequence[int], first: int = 0, addresses: Sequence[str] = ()) -> ReplicaFailed:
    """Say whom the others waited for when a row's time was over. entered: collectives by rank, from rank first on."""
    if is_meeting(entered):
        return ReplicaFailed(Status.TIMEOUT, f"the replicas had not met{_at(addresses)}")
    slow = [first + number for number in find_awaited(entered)]
    waited = f"{_name(slow)} did not answer" if slow else "no replica kept the others waiting"
    return ReplicaFailed(Status.TIMEOUT, waited)


def explain_no_meeting(addresses: Sequence[str], timeout_s: float) -> ReplicaFailed:
    """Say that replicas which had all begun did not find each other in time, and where each was to be found."""
    return ReplicaFailed(Status.CRASHED, f"the replicas did not meet{_at(addresses)} within {timeout_s:g} s")


def explain_silence(silent: Sequence[int], timeout_s: float, waited: int, said: str) -> ReplicaFailed:
    """Say which ranks did not answer in time, and with what words the rank that waited for them ended."""
    ended = f"{_name([waited])}, which waited, ended with {said}"
    return ReplicaFailed(Status.CRASHED, f"{blame(silent, timeout_s)}; {ended}")


def describe_exit(exit_code: int) -> str:
    """Say which signal or exit code ended a process that left no word."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"signal {-exit_code} ({names.get(-exit_code, 'a real-time signal')})"


def blame(ranks: Sequence[int], timeout_s: float) -> str:
    """Say which ranks did not answer in time."""
    return f"{_name(ranks)} did not answer within {timeout_s:g} s"


def blame_one_of(ranks: Sequence[int], timeout_s: float) -> str:
    """Say that one of these did not answer in time, where it is not known which."""
    return f"{'one of the ' if len(ranks) > 1 else ''}{blame(ranks, timeout_s)}"


def _at(addresses: Sequence[str]) -> str:
    return f" at {', '.join(addresses)}" if addresses else ""


def _name(ranks: Sequence[int]) -> str:
    """'rank 1' or 'ranks 1, 3'."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _free_ports(number: int) -> Iterator[int]:
    """Ports of this machine that nobody listens at."""
    with ExitStack() as stack:
        for server in [stack.enter_context(create_server(("127.0.0.1", 0))) for _ in range(number)]:
            yield server.getsockname()[1]


def _torchrun() -> tuple[int, int]:
    """Processes on this host, and hosts, by torchrun's variables, checked."""
    found = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    try:
        rank, processes, on_host = map(int, found.values())
        if not 0 <= rank < processes or on_host < 1 or processes % on_host or "MASTER_ADDR" not in os.environ:
            raise ValueError
    except ValueError:
        words = ", ".join(f"{name} {value!r:.40}" for name, value in found.items())
        raise ValueError(
            f"there are {words}; let torchrun set them, with as many processes on each host, or unset them"
        ) from None
    return on_host, processes // on_host


def _tf_config() -> dict[str, Any]:
    """TF_CONFIG, checked."""
    text = os.environ["TF_CONFIG"]
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        is_right = (
            set(config["cluster"]) == {"worker"}
            and isinstance(workers, list)
            and all(worker.rpartition(":")[2].isdecimal() for worker in workers)
            and len(set(workers)) == len(workers)
            and task["type"] == "worker"
            and 0 <= int(task["index"]) < len(workers)
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        is_right = False
    if not is_right:
        raise ValueError(
            f"TF_CONFIG is {text!r:.200}; it must be as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
        )
    return dict(config)
