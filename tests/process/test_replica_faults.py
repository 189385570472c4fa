"""What becomes of a row when one of its replicas raises, is killed or hangs? It ends, and its status names the rank.

A row has two replicas, each a process, of which the second comes to grief in its third step (in TensorFlow, where
many are one call, while that is traced). On two hosts TensorFlow has a process on each, which nobody looks after.
Each fault is tried twice: without training, where what looks after the replicas is real and they are not, and trained.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.config import ExecutionConfig
from common.measure.hardware import Unsupported
from common.measure.memory import OutOfMemory
from common.process import launch as launch_module
from common.process.launch import Job, launch_row
from common.process.replicas import Raised, describe_exception, explain_failure, is_meeting, without_proxies
from common.results.coding import read_json, write_json
from common.results.rows import RowResult, Status
from tests.conftest import ROOT, needs_tensorflow, needs_torch, run_parity, run_python
from tests.fakes import patched_worker, wait_until
from tests.process.two_replicas import (
    BEFORE_THE_MODEL,
    DEAF_HANG,
    FIRST_CRASHES,
    FRAMEWORKS,
    FROZEN,
    HANG,
    PATIENT,
    SLOW_END,
    config_of,
    stand_in,
    train,
)

# Without training TensorFlow is not needed. PyTorch's launcher is its own, which imports it in every process.
LAUNCHERS = [pytest.param("torch", marks=[needs_torch, pytest.mark.slow]), "tensorflow"]

ENDS = pytest.mark.parametrize(
    ("fault", "status", "detail"),
    [
        ("raise RuntimeError('no more')", Status.CRASHED, "rank 1: RuntimeError: no more"),
        ("os.kill(os.getpid(), 9)", Status.KILLED, "rank 1: signal 9, likely out of memory"),
        ("os._exit(3)", Status.CRASHED, "rank 1: exit code 3"),
        ("raise OutOfMemory(5, 4, 3)", Status.OOM, "rank 1: OutOfMemory: 5 bytes were asked for, 4 were free"),
    ],
    ids=["raises", "killed", "exits", "out of memory"],
)


@pytest.mark.parametrize("framework", LAUNCHERS)
@ENDS
def test_a_rank_that_ends_without_training(
    fault: str, status: Status, detail: str, framework: str, tmp_path: Path
) -> None:
    row = stand_in(tmp_path, framework, fault)
    assert (row.status, row.detail) == (status, detail)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@ENDS
def test_a_rank_that_ends(fault: str, status: Status, detail: str, framework: str, tmp_path: Path) -> None:
    out_of_memory = "__import__('common.measure.memory').measure.memory.OutOfMemory"
    row = train(tmp_path, framework, fault.replace("OutOfMemory", out_of_memory))
    assert (row.status, row.detail) == (status, detail)


def test_what_a_host_lacks_is_no_replicas_fault() -> None:
    raised = describe_exception(Unsupported("TensorFlow finds 2 of 4 GPUs; give --devices fewer"))
    failed = explain_failure(1, 1, raised)
    assert (failed.status, str(failed)) == (Status.UNSUPPORTED, "TensorFlow finds 2 of 4 GPUs; give --devices fewer")


@pytest.mark.parametrize(
    ("exit_code", "error", "status", "words"),
    [
        (-9, None, Status.KILLED, "rank 1: signal 9, likely out of memory"),
        (-11, None, Status.CRASHED, "rank 1: signal 11 (SIGSEGV)"),
        (-40, None, Status.CRASHED, "rank 1: signal 40 (a real-time signal)"),
        (3, None, Status.CRASHED, "rank 1: exit code 3"),
        (1, RuntimeError("no more"), Status.CRASHED, "rank 1: RuntimeError: no more"),
        (1, RuntimeError("one: two\nthree"), Status.CRASHED, "rank 1: RuntimeError: one: two"),
        (1, RuntimeError(), Status.CRASHED, "rank 1: RuntimeError"),
        (1, RuntimeError("\x1b[31m\udcff"), Status.CRASHED, r"rank 1: RuntimeError: \x1b[31m\udcff"),
        (1, OutOfMemory(5, 4, 3), Status.OOM, "rank 1: OutOfMemory: 5 bytes were asked for, 4 were free"),
        (1, ImportError("broken"), Status.IMPORT_ERROR, "rank 1: ImportError: broken"),
        (1, ModuleNotFoundError("no x"), Status.IMPORT_ERROR, "rank 1: ModuleNotFoundError: no x"),
    ],
)
def test_how_a_rank_ended_is_its_status(
    exit_code: int, error: Exception | None, status: Status, words: str, tmp_path: Path
) -> None:
    """What it raised is the same once it has been in a file."""
    write_json(tmp_path / "raised.json", describe_exception(error) if error else Raised())
    failed = explain_failure(1, exit_code, read_json(tmp_path / "raised.json", Raised))
    assert (failed.status, str(failed)) == (status, words)


LATE_END = """
if replica.rank == 0:
    atexit.register(time.sleep, 3)
    atexit.register(open, {late!r}, "w")
"""


@pytest.mark.parametrize("framework", LAUNCHERS)
def test_a_rank_that_is_slow_to_end_without_training(framework: str, tmp_path: Path) -> None:
    late = tmp_path / "late"
    row = stand_in(tmp_path, framework, "pass", before=LATE_END.format(late=str(late)))
    assert late.exists()
    assert (row.status, row.detail) == (Status.OK, "")


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_rank_that_is_slow_to_end_has_not_failed(framework: str, tmp_path: Path) -> None:
    late = tmp_path / "late"
    python = patched_worker(tmp_path, SLOW_END.format(late=str(late)))
    row = launch_row(Job(config_of(framework), python, tmp_path / "rows" / "row", 60), lambda event: None)
    assert late.exists()
    assert (row.status, row.detail) == (Status.OK, "")


@pytest.mark.parametrize(
    ("framework", "said"),
    [
        pytest.param("torch", "RuntimeError: a collective has timed out", marks=needs_torch),
        ("tensorflow", "Collective has timed out"),
    ],
)
@pytest.mark.parametrize("fault", [HANG, pytest.param(FROZEN, marks=pytest.mark.slow)], ids=["sleeps", "is stopped"])
def test_a_rank_that_is_waited_for_in_vain_without_training(
    fault: str, framework: str, said: str, tmp_path: Path
) -> None:
    row = stand_in(tmp_path, framework, fault, collective_s=2)
    words = f"rank 1 did not answer within 2 s; rank 0, which waited, ended with {said}"
    assert (row.status, row.detail) == (Status.CRASHED, words)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("fault", [HANG, FROZEN], ids=["sleeps", "is stopped"])
def test_a_rank_that_is_waited_for_in_vain(fault: str, framework: str, tmp_path: Path) -> None:
    row = train(tmp_path, framework, fault, collective_s=4)
    assert row.status is Status.CRASHED
    said = {"torch": "RuntimeError", "tensorflow": "Collective"}[framework]
    assert row.detail.startswith(f"rank 1 did not answer within 4 s; rank 0, which waited, ended with {said}")


@pytest.mark.parametrize("framework", LAUNCHERS)
def test_a_rank_that_never_begins_without_training(framework: str, tmp_path: Path) -> None:
    hangs = f"if replica.rank == 1: replica.reach(); {HANG}"
    row = stand_in(tmp_path, framework, "pass", collective_s=2, before=hangs)
    assert row.status is Status.CRASHED
    assert row.detail.startswith("rank 1 did not answer within 2 s; rank 0, which waited, ended with ")


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_rank_that_never_has_a_model(framework: str, tmp_path: Path) -> None:
    row = train(tmp_path, framework, HANG, collective_s=4, where=BEFORE_THE_MODEL)
    assert row.status is Status.CRASHED
    assert row.detail.startswith("rank 1 did not answer within 4 s; rank 0, which waited, ended with ")


TIMED_OUT = Raised("RuntimeError", "timed out")
NO_MEMORY = Raised("OutOfMemory", "5 bytes", Status.OOM)


@pytest.mark.parametrize(
    ("entered", "exit_code", "raised", "status", "words"),
    [
        ([5, 4], 1, NO_MEMORY, Status.OOM, "rank 0: OutOfMemory: 5 bytes"),
        ([5, 4], -9, Raised(), Status.KILLED, "rank 0: signal 9, likely out of memory"),
        ([4, 4], 1, TIMED_OUT, Status.CRASHED, "rank 0: RuntimeError: timed out"),
        ([4, 5], 1, TIMED_OUT, Status.CRASHED, "rank 0: RuntimeError: timed out"),
        (
            [5, 4], 1, TIMED_OUT, Status.CRASHED,
            "rank 1 did not answer within 300 s; rank 0, which waited, ended with RuntimeError: timed out",
        ),
        (
            [5, 4], -6, Raised(), Status.CRASHED,
            "rank 1 did not answer within 300 s; rank 0, which waited, ended with signal 6 (SIGABRT)",
        ),
        (
            [5, 4], -6, TIMED_OUT, Status.CRASHED,
            "rank 1 did not answer within 300 s; rank 0, which waited, ended with signal 6 (SIGABRT)",
        ),
    ],
    ids=[
        "out of memory", "killed", "as far as the other", "behind", "ahead", "ahead, ended by NCCL",
        "ahead, raised, then ended by NCCL",
    ],
)  # fmt: skip
@needs_torch
@pytest.mark.usefixtures("torch_impl")
def test_who_is_at_fault_where_pytorchs_rank_0_ended_first(
    entered: list[int], exit_code: int, raised: Raised, status: Status, words: str
) -> None:
    """It has waited for another only where it has entered more collectives, and does not say what else it died of."""
    from torch_impl.processes import _find_cause

    failed = _find_cause(0, exit_code, raised, entered, 300)
    assert (failed.status, str(failed)) == (status, words)


RAISED = {"raised": Raised("ValueError", "no")}
GAVE_UP = Raised("ReplicaFailed", "rank 1 did not answer within 3 s: timed out")
WAITED = {"raised": GAVE_UP, "waited": True, "said": "timed out"}


WELL = {"row": RowResult(config_of("tensorflow"), Status.OK)}


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        ([(1, 4, RAISED)], "rank 1: ValueError: no"),
        ([(0, 5, WAITED), (1, 4, RAISED)], "rank 1: ValueError: no"),
        ([(0, 5, {"exit_code": -9}), (1, 4, None)], "rank 0: signal 9, likely out of memory"),
        ([(0, 5, {"exit_code": -6}), (1, 4, {"exit_code": 3})], "rank 1: exit code 3"),
        (
            [(0, 4, WAITED), (1, 4, None)],
            "rank 1 did not answer within 3 s; rank 0, which waited, ended with timed out",
        ),
        (
            [(0, 5, {"exit_code": -11}), (1, 4, None)],
            "rank 1 did not answer within 3 s; rank 0, which waited, ended with signal 11 (SIGSEGV)",
        ),
        ([(0, 4, {"exit_code": -11}), (1, 4, None)], "rank 0: signal 11 (SIGSEGV)"),
        ([(0, 5, {"exit_code": -11}), (1, 4, WELL)], "rank 0: signal 11 (SIGSEGV)"),
    ],
    ids=[
        "one raises", "another waited for it", "killed while another hangs", "another was aborted", "waited",
        "crashed while it waited", "crashed, not ahead", "crashed, none hangs",
    ],
)  # fmt: skip
def test_who_is_at_fault_in_tensorflow(replicas: list[tuple[int, int, dict[str, Any] | None]], words: str) -> None:
    """By rank, in the order of their ends, how far they came and how they ended; TensorFlow is not needed to say it."""
    from tf_impl.processes import _Ended, _find_cause, _Replica

    found = [_Replica(rank, entered, _Ended(**how) if how else None) for rank, entered, how in replicas]
    assert str(_find_cause(found, [], 3)) == words


@pytest.mark.parametrize(
    ("elsewhere", "blamed"),
    [([], "rank 0"), ([2], "rank 2"), ([2, 3], "one of the ranks 2, 3")],
    ids=["one host", "one more", "two more"],
)
def test_where_all_of_a_host_have_waited_it_is_another(elsewhere: list[int], blamed: str) -> None:
    """Rank 1 ended first, and blames rank 0, which waited too."""
    from tf_impl.processes import _Ended, _find_cause, _Replica

    said, words = "Collective ops is aborted", "did not answer within 3 s"
    replicas = [
        _Replica(
            rank, 4, _Ended(raised=Raised("ReplicaFailed", f"rank {1 - rank} {words}: {said}"), waited=True, said=said)
        )
        for rank in (1, 0)
    ]
    assert str(_find_cause(replicas, elsewhere, 3)) == f"{blamed} {words}: {said}"


def test_a_rank_that_the_devices_alone_wait_for_without_training(tmp_path: Path) -> None:
    row = stand_in(tmp_path, "tensorflow", HANG, collective_s=2, before="replica.gives_up = False")
    assert (row.status, row.detail) == (Status.CRASHED, "rank 1 did not answer within 2 s")


NEVER_MEETS = "replica.reach(); replica.meets = replica.gives_up = False"


def test_replicas_that_do_not_find_each_other_without_training(tmp_path: Path) -> None:
    row = stand_in(tmp_path, "tensorflow", "pass", collective_s=1, before=NEVER_MEETS)
    assert row.status is Status.CRASHED
    assert re.fullmatch(
        r"the replicas did not meet at (127\.0\.0\.1:\d+), (?!\1)127\.0\.0\.1:\d+ within 1 s", row.detail
    )


@pytest.mark.usefixtures("deadline_at_the_fault")
def test_replicas_that_do_not_find_each_other_until_the_deadline_without_training(tmp_path: Path) -> None:
    row = stand_in(tmp_path, "tensorflow", "pass", before=NEVER_MEETS)
    words = r"ended after 60 s: the replicas had not met at 127\.0\.0\.1:\d+, 127\.0\.0\.1:\d+; --timeout allows more"
    assert row.status is Status.TIMEOUT
    assert re.fullmatch(words, row.detail)


@pytest.mark.parametrize(
    ("entered", "is_so"), [([1, 1], True), ([1, 0], False), ([2, 1], False), ([2, 2], False), ([0, 0], False)]
)
def test_replicas_meet_until_one_has_found_the_others(entered: list[int], is_so: bool) -> None:
    assert is_meeting(entered) is is_so


PROXIES = {"no_proxy": "localhost"}
for proxy in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
    PROXIES |= dict.fromkeys((proxy, proxy.upper()), "http://127.0.0.1:9")  # nobody listens there


def test_proxies_are_hidden_and_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with without_proxies():
        assert set(before) - set(os.environ) == set(PROXIES)
    assert dict(os.environ) == before


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_replicas_meet_where_there_is_a_proxy(framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    row = train(tmp_path, framework, "pass", collective_s=30)
    assert row.status is Status.OK


ELSEWHERE = """
joined = run.distributed.joined
def joined_elsewhere(*arguments):
    open({reached!r}, "w").close()
    {fault}
    return joined(*arguments)
run.distributed.joined = joined_elsewhere
"""


@pytest.mark.slow
@needs_torch
def test_a_store_of_pytorch_that_is_not_there(tmp_path: Path) -> None:
    row = train(tmp_path, "torch", "os.environ['MASTER_PORT'] = '9'", collective_s=4, where=ELSEWHERE)
    assert row.status is Status.CRASHED
    assert re.search(r"rank \d: .* timed out after 4000ms while trying to connect to \(localhost, 9\)", row.detail)


@pytest.mark.slow
@needs_tensorflow
def test_a_host_that_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several devices here; without, the one process waits for good."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hosts = [f"127.0.0.1:{port}", "127.0.0.1:9"]
    tf_config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config))
    words = ["--preset", "smoke", "--device", "cpu", "--devices", "2", "--collective-timeout", "4"]
    process = run_python("-m", "tf_impl", *words, timeout=60)
    assert process.returncode == 3
    assert f"crashed: the replicas did not meet at {hosts[0]}, 127.0.0.1:{port + 1}, 127.0.0.1:9" in process.stdout


@pytest.mark.slow
@needs_tensorflow
def test_a_rank_that_the_devices_alone_wait_for(tmp_path: Path) -> None:
    """As on GPUs, where TensorFlow gives up on no sum: with its time limit taken away."""
    row = train(tmp_path, "tensorflow", HANG, collective_s=4, further=PATIENT)
    assert (row.status, row.detail) == (Status.CRASHED, "rank 1 did not answer within 4 s")


@pytest.fixture
def deadline_at_the_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a row is over a second after its fault, however long its start takes on this machine."""

    @contextmanager
    def deadline(timeout_s: float, expired: threading.Event, end: Callable[[], None]) -> Iterator[None]:
        def expire() -> None:
            wait_until((tmp_path / "reached").exists, within_s=timeout_s)
            time.sleep(1)
            expired.set()
            end()

        threading.Thread(target=expire, daemon=True).start()
        yield

    monkeypatch.setattr(launch_module, "_deadline", deadline)


@pytest.mark.parametrize("framework", LAUNCHERS)
@pytest.mark.usefixtures("deadline_at_the_fault")
def test_a_rank_that_hangs_until_the_deadline_without_training(framework: str, tmp_path: Path) -> None:
    row = stand_in(tmp_path, framework, DEAF_HANG)
    words = "ended after 60 s: rank 1 did not answer; --timeout allows more"
    assert (row.status, row.detail) == (Status.TIMEOUT, words)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.usefixtures("deadline_at_the_fault")
def test_a_rank_that_hangs_until_the_deadline(framework: str, tmp_path: Path) -> None:
    row = train(tmp_path, framework, DEAF_HANG)
    words = "ended after 60 s: rank 1 did not answer; --timeout allows more"
    assert (row.status, row.detail) == (Status.TIMEOUT, words)


CRASHES_WHILE_WAITING = """
def crash():
    while not REACHED.exists():
        time.sleep(0.01)
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGSEGV)
if replica.rank == 0:
    threading.Thread(target=crash, daemon=True).start()
"""


def test_a_rank_that_crashes_while_it_waits_without_training(tmp_path: Path) -> None:
    row = stand_in(tmp_path, "tensorflow", HANG, before=CRASHES_WHILE_WAITING)
    words = "rank 1 did not answer within 60 s; rank 0, which waited, ended with signal 11 (SIGSEGV)"
    assert (row.status, row.detail) == (Status.CRASHED, words)


@pytest.mark.slow
@needs_tensorflow
def test_a_rank_that_crashes_while_it_waits(tmp_path: Path) -> None:
    """As TensorFlow does in one of some twenty times when it gives up waiting."""
    row = train(tmp_path, "tensorflow", HANG, further=FIRST_CRASHES.format(reached=str(tmp_path / "reached")))
    words = "rank 1 did not answer within 60 s; rank 0, which waited, ended with signal 11 (SIGSEGV)"
    assert (row.status, row.detail) == (Status.CRASHED, words)


@contextmanager
def two_hosts(*options: str) -> Iterator[list["subprocess.Popen[str]"]]:
    """Two processes of TensorFlow that take this machine for two; both have ended an epoch."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(2):
        tf_config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tf_impl", "--preset", "smoke", "--device", "cpu", *options],
                env={**os.environ, "TF_CONFIG": json.dumps(tf_config)},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    try:
        assert processes[0].stdout
        assert processes[0].stdout.readline().startswith("Epoch 1/")
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["is killed", "is stopped"])
def test_a_host_that_does_not_answer(number: signal.Signals) -> None:
    with two_hosts("--epochs", "100000", "--collective-timeout", "3") as (first, second):
        second.send_signal(number)
        printed, _ = first.communicate(timeout=60)
    assert first.returncode == 3
    assert re.search(r"^crashed: rank 1 did not answer within 3 s: Collective", printed, re.MULTILINE)


@pytest.mark.parametrize(
    "message",
    [
        "Graph execution error:\n\nDetected at node CollectiveReduceV2 defined at (most recent call last):\n"
        '  File "a.py", line 1, in a\n\n  File "b.py", line 2, in b\n\nCollective has timed out.\n\t [[{{node a}}]]',
        "Graph execution error:\n\nDetected at node a defined at (most recent call last):\n"
        "<stack traces unavailable>\nCollective has timed out.\n\t [[{{node a}}]]",
        "{{function_node __wrapped__CollectiveReduceV2}} Collective has timed out. [Op:CollectiveReduceV2]",
    ],
    ids=["with its stack", "without", "of one operation"],
)
@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_what_tensorflow_says_follows_where(message: str) -> None:
    from tf_impl.distributed import _silence

    failed = _silence(message, ExecutionConfig("cpu", devices=2, collective_timeout_s=3))
    assert str(failed).startswith("rank 1 did not answer within 3 s: Collective has timed out.")
    assert failed.said.startswith("Collective has timed out.")


@pytest.mark.slow
@needs_tensorflow
def test_the_chief_alone_writes(tmp_path: Path) -> None:
    with two_hosts("--result", str(tmp_path / "result.json")) as (first, second):
        printed, other = (process.communicate(timeout=60)[0] for process in (first, second))
    assert "Time to complete" in printed
    assert other == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays.npz", "result.json"]
    row = json.loads((tmp_path / "result.json").read_text())
    assert (row["replicas"]["hosts"], row["replicas"]["backend"]) == (2, "ring")


@pytest.mark.slow
@needs_torch
def test_torchrun_starts_it_too(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--virtual-local-rank"]
    options = ["--preset", "smoke", "--device", "cpu", "--result", str(tmp_path / "result.json")]
    process = run_python(*torchrun, "-m", "torch_impl", *options)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("Epoch 1/3") == process.stdout.count("Time to complete") == 1
    row = json.loads((tmp_path / "result.json").read_text())
    assert (row["replicas"]["replicas"], row["replicas"]["backend"]) == (2, "gloo")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--batch-size", "9"],
            "--batch-size: it is 9; it must be a multiple of 2 replicas, as 8 is, so that each takes an equal share",
        ),
        (
            ["--images", "21"],
            "--images: it is 21; it must be a multiple of 2 replicas, as 20 is, "
            "so that the last batch can be shared too",
        ),
        (["--loop", "fit"], "--loop: it is 'fit', which trains on one device here; 2 replicas need the custom loop"),
    ],
)
def test_what_cannot_be_shared_is_refused(options: list[str], message: str) -> None:
    process = run_parity("--preset", "smoke", "--device", "cpu", "--devices", "2", *options)
    assert (process.returncode, process.stderr) == (2, f"run_parity.py: argument {message}\n")
    assert process.stdout == ""
