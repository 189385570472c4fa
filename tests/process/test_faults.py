"""What goes wrong on other people's machines, and what becomes of it? A fault a test, real processes and signals.

A row is lost and nothing else: it gets a status and a reason, the other rows run, what has ended is on disk, and no
process stays behind. Stand-ins take a framework's place where the fault is not the framework's.
"""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.cli.worker import train_row
from common.config import DataConfig, ExecutionConfig, LossScaleConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.measure.hardware import Unsupported, has_gpu, require_support, slow_reason
from common.measure.memory import Memory, OutOfMemory
from common.measure.nvml import DeviceWatch, GpuUse
from common.measure.timing import EpochClock, StepTimes, Timing
from common.process import launch as launch_module
from common.process import row as row_module
from common.process.launch import Job, launch_row
from common.process.log import FIRST_BYTES, LAST_BYTES
from common.results.coding import read_json, write_json
from common.results.rows import Results, RowResult, Status
from common.results.store import Store
from common.show.table import notes, speed_table, tables
from tests.conftest import ROOT, needs_tensorflow, needs_torch, run_parity
from tests.fakes import fake_python, fake_worker, is_alive, say_versions, started, wait_until

needs_gpu = pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU")

CONFIG = RunConfig("torch", Precision.FLOAT32)
SOON_S = 2.0  # by when a dead worker has to be noticed
BOTH = ["--preset", "smoke", "--device", "cpu", "--no-report", "--precisions", "float32"]
TORCH = ["--preset", "smoke", "--device", "cpu", "--frameworks", "torch", "--no-report"]
FLOAT64, FLOAT32, FLOAT16 = (f"torch-{name}-custom-compile-off-r0" for name in ("float64", "float32", "mixed_float16"))


def launch(folder: Path, body: str, timeout_s: float = 30) -> RowResult:
    """The row of a process that does what `body` says."""
    return launch_row(Job(CONFIG, fake_python(folder, body), folder / "rows" / "one", timeout_s), lambda event: None)


def rows_in(output: Path) -> dict[str, RowResult]:
    return {row.config.row_id: row for row in read_json(output / "results.json", Results).rows}


def statuses(output: Path) -> list[str]:
    return [str(row.status) for row in rows_in(output).values()]


def small(impl: SimpleNamespace, precision: Precision = Precision.FLOAT32, **parts: Any) -> RunConfig:
    """A real row of three steps."""
    shape = (6, 6, 3)
    model, train = ModelConfig(shape, filters=4), parts.pop("train", TrainConfig(epochs=3, batch_size=8))
    execution = ExecutionConfig("cpu")
    return RunConfig(impl.framework, precision, DataConfig(8, shape), model, train, execution=execution, **parts)


def train(impl: SimpleNamespace, config: RunConfig) -> RowResult:
    """The row as its worker would train it, in this process."""
    return train_row(config, impl.run.run, lambda event: None)


@contextmanager
def program(output: Path, python: str, *arguments: str, **settings: Any) -> Iterator["subprocess.Popen[str]"]:
    """run_parity.py at work in the background, with `python` as its torch."""
    command = [sys.executable, "run_parity.py", *TORCH, "--output", str(output), "--torch-python", python, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# Out of memory


def allocate_too_much(framework: str) -> None:
    """2**50 bytes, from the framework's own allocator."""
    if framework == "torch":
        import torch

        torch.empty(2**50, dtype=torch.uint8)
    else:
        import tensorflow as tf

        with tf.device("CPU:0"):
            tf.zeros([2**25, 2**25], tf.uint8)


def test_out_of_memory_says_what_was_asked_what_was_free_and_what_would_fit(
    impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_module, "train", lambda impl, config, *_: allocate_too_much(config.framework))
    monkeypatch.setattr(impl.device, "free_memory", lambda device: 1_200_000_000)
    row = train(impl, RunConfig(impl.framework, Precision.FLOAT32, execution=ExecutionConfig("cpu")))
    assert row.status is Status.OOM
    assert row.detail == (
        "1,125,899,906,842,624 bytes were asked for, 1,200,000,000 were free; "
        "by the memory model --batch-size 1 would fit"
    )


@needs_torch
@pytest.mark.usefixtures("torch_impl")
def test_out_of_memory_on_a_gpu_is_known_by_its_exception() -> None:
    import torch

    from torch_impl import device

    message = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 16.00 GiB"
    cpu = torch.device("cpu")
    with pytest.raises(OutOfMemory, match="21,474,836,480 bytes were asked for"), device.memory_errors(cpu):
        raise torch.OutOfMemoryError(message)
    with pytest.raises(RuntimeError, match="shapes"), device.memory_errors(cpu):
        raise RuntimeError("shapes do not match")


def test_after_a_row_out_of_memory_the_others_run(tmp_path: Path) -> None:
    body = "if config.precision == 'float32': raise OutOfMemory(4096, 1000, 10**9)\nreturn ok(config)"
    process = run_parity(
        *TORCH, "--precisions", "float32", "float64", "--output", tmp_path / "run",
        "--torch-python", fake_worker(tmp_path, body),
    )  # fmt: skip
    assert process.returncode == 3
    assert statuses(tmp_path / "run") == ["ok", "oom"]
    assert "4,096 bytes were asked for, 1,000 were free" in process.stdout


@needs_gpu
@pytest.mark.parametrize("framework", ["tensorflow", "torch"])
def test_out_of_memory_on_a_gpu(tmp_path: Path, framework: str) -> None:
    """3000 images of 256 x 256 in one batch ask for 400 GB of activations."""
    sizes = ["--preset", "article", "--images", "3000", "--batch-size", "3000", "--epochs", "1"]
    process = run_parity(*sizes, "--frameworks", framework, "--precisions", "float32", "--output", tmp_path / "run")
    (row,) = rows_in(tmp_path / "run").values()
    assert (process.returncode, row.status) == (4, Status.OOM)
    assert "by the memory model --batch-size" in row.detail


# Ends that come suddenly


def test_a_worker_that_is_killed_is_noticed_at_once(tmp_path: Path) -> None:
    start_s = time.monotonic()
    row = launch(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert (row.status, row.detail) == (Status.KILLED, "signal 9, likely out of memory")
    assert time.monotonic() - start_s < SOON_S


@pytest.mark.parametrize(
    ("death", "name"), [("os.kill(os.getpid(), signal.SIGSEGV)", "11 (SIGSEGV)"), ("os.abort()", "6 (SIGABRT)")]
)
def test_a_crash_in_native_code_leaves_its_last_lines(tmp_path: Path, death: str, name: str) -> None:
    row = launch(tmp_path, f"for n in range(30): print('line', n, file=sys.stderr, flush=True)\n{death}")
    assert (row.status, row.detail) == (Status.CRASHED, f"signal {name}; line 29")
    assert row.log_tail == [f"line {n}" for n in range(10, 30)]
    report = tables(Results([], {}, [row]), "simple")
    assert "rows/one/log.txt" in report
    assert "    line 10\n" in report


# Ends that don't come


@pytest.mark.parametrize("deaf", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN); "], ids=["hears", "ignores"])
def test_a_worker_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: str) -> None:
    monkeypatch.setattr(launch_module, "GRACE_S", 0.5)
    pid_file, start_s = tmp_path / "pid", time.monotonic()
    row = launch(tmp_path, f"{deaf}open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)", timeout_s=0.5)
    assert (row.status, row.detail) == (Status.TIMEOUT, "ended after 0.5 s; --timeout allows more")
    assert time.monotonic() - start_s < 0.5 + 0.5 + SOON_S
    assert not is_alive(int(pid_file.read_text()))


@pytest.mark.parametrize("end", ["sys.exit(1)", "time.sleep(60)"], ids=["worker ends", "worker hangs"])
def test_what_a_worker_started_ends_with_it(tmp_path: Path, end: str) -> None:
    """The child holds the worker's output open and ignores SIGTERM."""
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    pid_file, start_s = tmp_path / "pid", time.monotonic()
    body = (
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(0.3)\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid)); {end}"
    )
    launch(tmp_path, body, timeout_s=1)
    assert time.monotonic() - start_s < 1 + SOON_S
    wait_until(lambda: not is_alive(int(pid_file.read_text())), 1)


# Results that are none


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("os._exit(0)", "left no result"),
        ("open(result, 'w').write('{\"framework\":')", "left no result"),
        ("open(result, 'w').write('{}')", "missing required field"),
        ("open(result, 'w').write('[' * 100000)", "nested too deeply"),
    ],
    ids=["no file", "half a file", "no row", "garbage"],
)
def test_a_clean_exit_without_a_result_is_not_ok(tmp_path: Path, body: str, detail: str) -> None:
    row = launch(tmp_path, body)
    assert row.status is Status.NO_RESULT
    assert detail in row.detail


def test_a_result_that_was_there_before_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "rows" / "one").mkdir(parents=True)
    write_json(tmp_path / "rows" / "one" / "result.json", RowResult(CONFIG, Status.OK))
    assert launch(tmp_path, "").status is Status.NO_RESULT


@pytest.mark.parametrize(
    "other",
    [RowResult(CONFIG, Status.OK, run_id="of yesterday"), RowResult(replace(CONFIG, repeat=1), Status.OK)],
    ids=["run", "config"],
)
def test_a_result_of_another_run_or_config_is_not_taken(tmp_path: Path, other: RowResult) -> None:
    write_json(tmp_path / "other.json", other)
    row = launch(tmp_path, f"os.replace({str(tmp_path / 'other.json')!r}, result)")
    assert (row.status, row.detail) == (Status.NO_RESULT, "the result is of another config or another run")


# Losses and gradients beyond a dtype's range


def test_a_loss_that_is_not_finite(impl: SimpleNamespace, tmp_path: Path) -> None:
    row = train(impl, small(impl, train=TrainConfig(epochs=3, batch_size=8, learning_rate=1e30)))
    assert row.status is Status.NONFINITE
    assert row.detail == "the loss was not finite at step 1"
    assert "not comparable" in speed_table([row], "simple")
    write_json(tmp_path / "row.json", row)
    json.loads((tmp_path / "row.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


@pytest.mark.slow
@needs_torch
def test_a_loss_that_is_not_finite_is_a_failed_row_and_no_failed_parity(tmp_path: Path) -> None:
    process = run_parity(
        *TORCH, "--precisions", "float32", "mixed_bfloat16", "--learning-rate", "1e30", "--output", tmp_path / "run"
    )
    assert statuses(tmp_path / "run") == ["nonfinite", "nonfinite"]
    assert process.returncode == 4  # nothing ran well


def test_when_every_step_is_skipped_no_speed_is_claimed(impl: SimpleNamespace) -> None:
    config = small(impl, Precision.MIXED_FLOAT16, loss_scale=LossScaleConfig(initial_scale=2.0**60))
    row = train(impl, config)
    assert row.status is Status.ALL_STEPS_SKIPPED
    assert row.detail.startswith("every one of 3 steps overflowed")
    assert row.training is not None
    assert row.training.skipped_steps == [0, 1, 2]
    cells = speed_table([row], "tsv").splitlines()[1].split("\t")
    assert cells[4].strip() == "-"


def test_an_overflow_that_recovers_is_counted_in_both_frameworks(impl: SimpleNamespace) -> None:
    config = small(impl, Precision.MIXED_FLOAT16, loss_scale=LossScaleConfig(initial_scale=2.0**19))
    row = train(impl, config)
    assert row.status is Status.OK
    assert row.training is not None
    assert row.training.skipped_steps == [0]
    assert row.training.loss_scale == [2.0**19, 2.0**18, 2.0**18]


# Frameworks that are missing or broken


def test_the_reason_of_a_crash_is_what_was_raised_and_not_the_hint_after_it(tmp_path: Path) -> None:
    hint = "import atexit; atexit.register(print, 'Set VERBOSE=1 for more', file=sys.stderr)"
    row = launch(tmp_path, f"{hint}\nraise OSError('the compiler is broken\\nOutput:\\n  and more')")
    assert (row.status, row.detail) == (Status.CRASHED, "exit code 1; OSError: the compiler is broken")
    assert row.log_tail[-1] == "Set VERBOSE=1 for more"


def test_the_reason_of_a_signal_is_the_last_line_and_no_earlier_exception(tmp_path: Path) -> None:
    body = """
try:
    raise OSError("handled")
except OSError:
    import traceback
    traceback.print_exc()
print("Check failed: memory", file=sys.stderr, flush=True)
os.abort()
"""
    row = launch(tmp_path, body)
    assert (row.status, row.detail) == (Status.CRASHED, "signal 6 (SIGABRT); Check failed: memory")


@pytest.mark.slow
@needs_torch
def test_a_broken_compiler_is_named(tmp_path: Path) -> None:
    """PyTorch's exception goes on for pages, and ends with a hint."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'g++ (GCC) 12.2.0'\n[ $1 = --version ]\n")
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    words = ["--precisions", "float32", "--compile", "on", "--output", tmp_path / "run"]
    process = run_parity(*TORCH, *words, env=environment)
    (row,) = rows_in(tmp_path / "run").values()
    assert process.returncode == 4
    assert row.status is Status.CRASHED
    assert "CppCompileError: C++ compile error" in row.detail
    assert "TORCHDYNAMO_VERBOSE" not in row.detail


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("variable", ["KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"])
def test_a_limit_of_every_fit_is_named(tmp_path: Path, variable: str) -> None:
    words = ["--frameworks", "tensorflow", "--precisions", "float32", "--loop", "fit", "--output", tmp_path / "run"]
    run_parity("--preset", "smoke", "--device", "cpu", "--no-report", *words, env={**os.environ, variable: "1"})
    (row,) = rows_in(tmp_path / "run").values()
    assert (row.status, f"is 1, and 3 are planned; unset {variable}" in row.detail) == (Status.CRASHED, True)


@pytest.mark.parametrize(
    ("missing", "allowed", "code"),
    [(["torch"], False, 3), (["torch"], True, 0), (["tensorflow", "torch"], True, 4)],
    ids=["one", "one, allowed", "both"],
)
def test_a_missing_framework_is_a_row_with_the_command_that_installs_it(
    tmp_path: Path, missing: list[str], allowed: bool, code: int
) -> None:
    body = f"if config.framework in {missing}: raise ModuleNotFoundError(name=config.framework)\nreturn ok(config)"
    worker = fake_worker(tmp_path, body)
    process = run_parity(
        "--preset", "smoke", "--device", "cpu", "--no-report", "--precisions", "float32", "--output", tmp_path / "run",
        "--tf-python", worker, "--torch-python", worker, *(["--allow-missing"] if allowed else []),
    )  # fmt: skip
    expected = ["not_installed" if name in missing else "ok" for name in ("tensorflow", "torch")]
    assert (statuses(tmp_path / "run"), process.returncode) == (expected, code)
    advice = rows_in(tmp_path / "run")[FLOAT32].detail
    assert f"-m pip install -c {ROOT / 'constraints.txt'} -e '{ROOT}[torch]'" in advice


@pytest.mark.parametrize("has_numpy", [True, False], ids=["with NumPy", "without NumPy"])
def test_an_interpreter_without_any_package_has_no_framework(tmp_path: Path, has_numpy: bool) -> None:
    """Found out by a real worker, from what Python itself raises."""
    numpy_home = Path(np.__file__).resolve().parent
    (tmp_path / "packages").mkdir()
    for source in (numpy_home, numpy_home.with_name("numpy.libs")) if has_numpy else ():
        if source.exists():
            (tmp_path / "packages" / source.name).symlink_to(source)
    bare = tmp_path / "bare python"
    bare.write_text(f"#!/bin/sh\nPYTHONPATH='{tmp_path}/packages:{ROOT}' exec {sys.executable} -S \"$@\"\n")
    bare.chmod(0o755)
    process = run_parity(
        *BOTH, "--output", tmp_path / "run", "--tf-python", bare, "--torch-python", bare, "--allow-missing"
    )
    assert (process.returncode, statuses(tmp_path / "run")) == (4, ["not_installed", "not_installed"])
    assert f"-m pip install -c {ROOT / 'constraints.txt'} -e '{ROOT}[torch]'" in process.stdout


def test_a_framework_that_is_broken_is_an_import_error(tmp_path: Path) -> None:
    """As where its cuDNN is missing; the other one runs."""
    shim = tmp_path / "shim" / "torch"
    shim.mkdir(parents=True)
    (shim / "__init__.py").write_text("raise ImportError('libcudnn.so.9: cannot open it\\nand more')")
    environment = {**os.environ, "PYTHONPATH": str(shim.parent)}
    process = run_parity(*BOTH, "--output", tmp_path / "run", "--tf-python", fake_worker(tmp_path), env=environment)
    row = rows_in(tmp_path / "run")[FLOAT32]
    assert (process.returncode, statuses(tmp_path / "run")) == (3, ["ok", "import_error"])
    assert row.detail == "libcudnn.so.9: cannot open it"
    assert row.log_tail[-1] == "and more"
    assert f"rows/{FLOAT32}/log.txt" in process.stdout


# Devices that can't, and labels that are untrue


@needs_torch
def test_without_a_gpu_it_runs_on_the_cpu_and_says_what_a_gpu_would_add(tmp_path: Path) -> None:
    arguments = ["--preset", "smoke", "--frameworks", "torch", "--precisions", "float32", "tf32"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = run_parity(*arguments, "--output", tmp_path / "run", env=environment)
    memory = rows_in(tmp_path / "run")[FLOAT32].memory
    assert (process.returncode, statuses(tmp_path / "run")) == (0, ["ok", "unsupported"])
    assert memory is not None
    assert memory.kind == "host_rss"
    assert "A GPU would add tf32" in process.stdout


def test_a_precision_that_the_gpu_lacks() -> None:
    """A T4: TF32 would silently be float32 there, bfloat16 is only slow."""
    t4 = {"kind": "gpu", "name": "Tesla T4", "compute_capability": "7.5"}
    with pytest.raises(Unsupported, match=r"tf32 needs compute capability 8\.0 or later; Tesla T4 has 7\.5"):
        require_support(Precision.TF32, t4)
    require_support(Precision.MIXED_BFLOAT16, t4)
    assert "no speed to expect" in slow_reason(Precision.MIXED_BFLOAT16, t4)


def test_a_row_that_computes_in_another_precision(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    right = impl.model.autocast
    monkeypatch.setattr(impl.model, "autocast", lambda _, device: right(Precision.MIXED_BFLOAT16, device))
    row = train(impl, small(impl))
    assert (row.status, row.detail) == (Status.LABEL_UNTRUE, "computed in bfloat16 instead of float32")


# Disks that are full or forbidden


@pytest.mark.parametrize("output", ["/dev/full", "/dev/full/below", "/proc/below", ""], ids=repr)
def test_an_output_that_cannot_be_written_is_found_before_the_first_row(tmp_path: Path, output: str) -> None:
    process = run_parity(*TORCH, "--output", output, "--torch-python", fake_worker(tmp_path))
    assert process.returncode == 2
    assert process.stderr.startswith("run_parity.py: argument --output: ")
    assert process.stderr.count("\n") == 1
    assert started(tmp_path) == []


def test_a_folder_without_permission_is_found_before_the_first_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(Exception, match=r"can't be written \(Permission denied\); give another folder"):
        Store(tmp_path / "run")


def test_a_disk_that_fills_during_the_run_costs_the_file_and_not_the_table(tmp_path: Path) -> None:
    """No file may grow beyond 5000 bytes: enough for one row, too little for the results of all."""
    process = run_parity(
        *TORCH, "--repeats", "4", "--precisions", "float32", "--output", tmp_path / "run",
        "--torch-python", fake_worker(tmp_path),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )  # fmt: skip
    assert process.returncode == 3
    assert process.stderr.count("results.json can't be written: File too large") == 1
    assert "lines of up to 4 processes" in process.stdout
    assert 1 <= len(statuses(tmp_path / "run")) < 4  # the last whole one is kept


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2> >(true)", "2>&-"], ids=["full", "closed pipe", "closed"])
def test_progress_that_cannot_be_printed_costs_no_row(tmp_path: Path, stderr: str) -> None:
    command = [*TORCH, "--precisions", "float64", "float32", "--output", str(tmp_path / "run")]
    command += ["--torch-python", fake_worker(tmp_path)]
    line = f"exec '{sys.executable}' run_parity.py {shlex.join(command)} {stderr}"
    process = subprocess.run(["bash", "-c", line], cwd=ROOT, stdout=subprocess.DEVNULL, timeout=60)
    assert (process.returncode, statuses(tmp_path / "run")) == (0, ["ok", "ok"])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("results.json", os.mkfifo),
        ("results.json", os.mkdir),
        ("results.json", lambda path: path.symlink_to(path)),
        (".lock", os.mkfifo),
        (".lock", os.mkdir),
        (".lock", lambda path: path.symlink_to("/dev/null")),
    ],
    ids=["results, pipe", "results, folder", "results, loop", "lock, pipe", "lock, folder", "lock, link"],
)
def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    """A pipe would be waited for without end."""
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / name)
    process = run_parity(*TORCH, "--output", tmp_path / "run", "--resume", timeout=20)
    assert process.returncode == 2
    assert process.stderr.startswith(f"run_parity.py: argument --resume: {tmp_path / 'run' / name} ")
    assert process.stderr.count("\n") == 1


def test_tables_that_cannot_be_printed(tmp_path: Path) -> None:
    command = [*TORCH, "--precisions", "float32", "--output", tmp_path / "run", "--quiet"]
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "run_parity.py", *map(str, command), "--torch-python", fake_worker(tmp_path)],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (process.returncode, process.stderr) == (3, "the tables can't be printed: No space left on device\n")
    assert statuses(tmp_path / "run") == ["ok"]


# Signals, and the death of the parent

SLOW_THIRD = """
if config.precision == "mixed_float16":
    (HERE / "pid").write_text(str(os.getpid()))
    {}time.sleep(60)
return ok(config)
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
FOUR = ["--precisions", "float64", "float32", "mixed_float16", "mixed_bfloat16"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_an_interrupt_ends_the_run_in_order(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with program(tmp_path / "run", fake_worker(tmp_path, SLOW_THIRD.format("")), *FOUR) as process:
        wait_until((tmp_path / "pid").exists)
        assert statuses(tmp_path / "run") == ["ok", "ok"]  # on disk before the signal
        start_s = time.monotonic()
        process.send_signal(number)
        stdout, _ = process.communicate(timeout=15)
    assert process.returncode == code
    assert time.monotonic() - start_s < SOON_S
    assert statuses(tmp_path / "run") == ["ok", "ok", "interrupted"]
    assert [line.split()[1] for line in stdout.splitlines() if line.startswith("torch")] == FOUR[1:4]
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_an_interrupted_run_counts_the_rows_that_it_was_asked_for(tmp_path: Path) -> None:
    worker = fake_worker(tmp_path, SLOW_THIRD.format(""))
    with program(tmp_path / "run", worker, *FOUR[:3]) as process:
        process.communicate(timeout=15)
    with program(tmp_path / "run", worker, "--precisions", "mixed_float16", "--resume") as process:
        wait_until((tmp_path / "pid").exists)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=15)
    assert statuses(tmp_path / "run") == ["ok", "ok", "interrupted"]
    assert "Interrupted: 0 of 1 rows finished" in stderr


def test_a_worker_that_ignores_the_interrupt_is_ended_after_the_grace_period(tmp_path: Path) -> None:
    with program(tmp_path / "run", fake_worker(tmp_path, SLOW_THIRD.format(DEAF)), *FOUR) as process:
        wait_until((tmp_path / "pid").exists)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
    assert process.returncode == 130
    assert not is_alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("more", [1, 5], ids=["second", "any more"])
def test_a_second_interrupt_ends_everything_at_once(tmp_path: Path, more: int) -> None:
    with program(tmp_path / "run", fake_worker(tmp_path, SLOW_THIRD.format(DEAF)), *FOUR) as process:
        wait_until((tmp_path / "pid").exists)
        time.sleep(0.2)
        start_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        for _ in range(more):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, stderr = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert time.monotonic() - start_s < 0.3 + SOON_S
    assert statuses(tmp_path / "run") == ["ok", "ok"]
    wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())), 1)


def test_a_worker_ends_when_its_parent_is_killed_and_the_run_goes_on_where_it_was(tmp_path: Path) -> None:
    worker = fake_worker(tmp_path, SLOW_THIRD.format(DEAF))
    with program(tmp_path / "run", worker, *FOUR) as process:
        wait_until((tmp_path / "pid").exists)
        process.kill()
        process.communicate()
    wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())), SOON_S)
    assert statuses(tmp_path / "run") == ["ok", "ok"]
    (tmp_path / "started.txt").unlink()
    fake_worker(tmp_path)
    again = run_parity(*TORCH, *FOUR, "--output", tmp_path / "run", "--torch-python", worker, "--resume")
    assert (again.returncode, statuses(tmp_path / "run")) == (0, ["ok"] * 4)
    assert [name.split("-")[1] for name in started(tmp_path)] == FOUR[3:]


# Runs that go on, and runs that meet


def test_resume_runs_what_failed_or_is_of_another_setting(tmp_path: Path) -> None:
    fails = "if config.precision == 'float32': sys.exit('no')\nreturn ok(config)"
    worker = fake_worker(tmp_path, fails)
    command = [*TORCH, "--precisions", "float64", "float32", "--output", tmp_path / "run", "--torch-python", worker]
    assert run_parity(*command).returncode == 3
    assert run_parity(*command).returncode == 2  # it already holds results
    assert started(tmp_path) == [FLOAT64, FLOAT32]

    worker = fake_worker(tmp_path)
    after_a_failure = run_parity(*command, "--resume")
    assert (after_a_failure.returncode, "is run again" in after_a_failure.stderr) == (0, False)
    assert started(tmp_path)[2:] == [FLOAT32]
    assert run_parity(*command, "--resume").returncode == 0
    assert started(tmp_path)[3:] == []

    say_versions(tmp_path, {"torch": "1.1"})
    at_other_versions = run_parity(*command, "--resume")
    assert at_other_versions.returncode == 0
    assert f"{FLOAT64} is run again: torch was 1.0 and is 1.1\n" in at_other_versions.stderr
    assert started(tmp_path)[3:] == [FLOAT64, FLOAT32]
    (kept,) = (tmp_path / "run").glob("results.until-*.json")  # what those versions measured is not lost
    assert [row.setting["torch"] for row in read_json(kept, Results).rows] == ["1.0", "1.0"]

    another_batch = run_parity(*command, "--resume", "--batch-size", "4")
    assert another_batch.returncode == 2
    assert "holds another experiment, with batch_size 8 and not 4" in another_batch.stderr
    assert statuses(tmp_path / "run") == ["ok", "ok"]


def test_an_interrupted_resume_loses_no_row(tmp_path: Path) -> None:
    """The first row is run again, for it failed; the two behind it stay."""
    fails = "if config.precision == 'float64': sys.exit('no')\nreturn ok(config)"
    command = ["--precisions", "float64", "float32", "mixed_float16"]
    with program(tmp_path / "run", fake_worker(tmp_path, fails), *command) as process:
        process.communicate(timeout=30)
    slow = "if config.precision == 'float64': (HERE / 'pid').touch(); time.sleep(60)\nreturn ok(config)"
    with program(tmp_path / "run", fake_worker(tmp_path, slow), *command, "--resume") as process:
        wait_until((tmp_path / "pid").exists)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
    assert statuses(tmp_path / "run") == ["interrupted", "ok", "ok"]


def test_a_second_run_is_kept_out_of_the_folder(tmp_path: Path) -> None:
    slow = "(HERE / 'pid').touch(); time.sleep(60)"
    with program(tmp_path / "run", fake_worker(tmp_path, slow), "--precisions", "float32") as first:
        wait_until((tmp_path / "pid").exists)
        second = run_parity(*TORCH, "--output", tmp_path / "run", "--resume")
        assert second.returncode == 2
        assert f"is locked by pid {first.pid}, another run" in second.stderr
        first.kill()
        first.communicate()
    third = run_parity(
        *TORCH, "--precisions", "float32", "--output", tmp_path / "run", "--torch-python", fake_worker(tmp_path)
    )
    assert third.returncode == 0  # the lock went with the process


# What the driver knows, or doesn't

ON_GPU = replace(
    RowResult(replace(CONFIG, execution=ExecutionConfig("gpu")), Status.OK),
    memory=Memory("gpu_allocator", 10**6, 3 * 10**6, 2 * 10**6, 2 * 10**6),
    timing=Timing(1.0, [2.0, 1.0, 1.0, 1.0], StepTimes(1.0, 1.0, 1.0, 3), 5.0, 16.0),
)


def test_another_process_on_the_gpu_is_a_warning() -> None:
    row = replace(ON_GPU, gpu=GpuUse("process", 10**9, 50.0, [], other_processes=1))
    assert "NOISY: torch float32: up to 1 other process used the GPU beside it" in notes([row])


def test_without_nvml_the_reason_is_given() -> None:
    assert any(note.startswith("no device MB and J/epoch: the driver's NVML can't be read") for note in notes([ON_GPU]))


def test_nvml_that_raises_costs_its_readings_alone() -> None:
    class Raising:
        class NVMLError(Exception):
            pass

        def __getattr__(self, name: str) -> Any:
            raise self.NVMLError

    watch = DeviceWatch(Raising(), pid=1)
    watch.sample()
    watch.end_epoch()
    assert watch.use() == GpuUse("growth of the device", None, None, [], 0)


# Clocks, and times that scatter


@pytest.mark.parametrize("readings", [[5.0] * 9, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]], ids=["stands still", "goes back"])
def test_a_clock_that_jumps(readings: list[float]) -> None:
    ticks = iter(readings)
    clock = EpochClock(lambda: None, lambda: next(ticks))
    for _ in range(2):
        clock.start_epoch()
        clock.end_step()
        clock.end_epoch()
    timing = clock.timing(steps_per_epoch=1, images=8)
    assert (timing.step_s, timing.images_per_s) == (None, None)
    row = RowResult(replace(CONFIG, train=TrainConfig(epochs=2)), Status.OK, timing=timing)
    assert "no steady step: torch float32: the clock stood still or went back" in notes([row])


def test_one_epoch_has_no_steady_step_and_claims_nothing() -> None:
    row = RowResult(replace(CONFIG, train=TrainConfig(epochs=1)), Status.OK, timing=Timing(1.0, [2.0], None, 2.0, None))
    other = replace(row, config=replace(row.config, precision=Precision.MIXED_BFLOAT16))
    for line in speed_table([row, other], "tsv").splitlines()[1:]:
        assert [cell.strip() for cell in line.split("\t")[4:8]] == ["-"] * 4  # step, spread, speed-up, x floor
    assert any("there was one epoch alone; give --epochs 2 or more" in note for note in notes([row]))


def test_an_outlier_moves_no_median_and_is_named() -> None:
    epoch_s = [9.0, 1.0, 1.0, 10.0, 1.0, 1.0]
    clock, now_s = EpochClock(lambda: None, lambda: now_s), 0.0
    for seconds in epoch_s:
        clock.start_epoch()
        now_s += seconds
        clock.end_step()
        clock.end_epoch()
    timing = clock.timing(steps_per_epoch=1, images=8)
    assert timing.step_s is not None
    assert timing.step_s.median == 1.0
    row = RowResult(replace(CONFIG, data=DataConfig(50), train=TrainConfig(epochs=6)), Status.OK, timing=timing)
    assert any(note.startswith("UNSTABLE: torch float32: epochs scatter") for note in notes([row]))


# Floods, odd letters, wrong options


def test_fifty_megabytes_of_output_block_nothing_and_are_capped(tmp_path: Path) -> None:
    body = (
        "sys.stderr.write('first\\n' + 'x' * 50_000_000 + '\\nlast\\n')\nsys.stdout.write('y' * 5_000_000)\nsys.exit(1)"
    )
    start_s = time.monotonic()
    row = launch(tmp_path, body)
    log = (tmp_path / "rows" / "one" / "log.txt").read_bytes()
    assert row.status is Status.CRASHED
    assert time.monotonic() - start_s < 10
    assert log.startswith(b"first\n")
    assert b" bytes left out ...]" in log
    assert len(log) <= FIRST_BYTES + LAST_BYTES + 100


def test_bytes_of_no_encoding_and_a_path_of_any_letters(tmp_path: Path) -> None:
    folder = tmp_path / "ünï cödé"
    folder.mkdir()
    row = launch(folder, "sys.stderr.buffer.write(b'\\xff\\xfe broken \\x1b[31mred'); sys.exit(1)")
    assert row.log_tail == ["\ufffd\ufffd broken \x1b[31mred"]
    assert "\\x1b[31mred" in tables(Results([], {}, [row]), "simple")  # written out, for a terminal would obey it
    process = run_parity(
        *TORCH, "--precisions", "float32", "--output", folder / "run", "--torch-python", fake_worker(folder)
    )
    assert (process.returncode, statuses(folder / "run")) == (0, ["ok"])


@pytest.mark.parametrize("option", [["--batch-size", "0"], ["--precisions", "half"], ["--batch-size", "21"]])
def test_a_wrong_config_is_refused_before_any_worker_starts(tmp_path: Path, option: list[str]) -> None:
    process = run_parity(*TORCH, *option, "--output", tmp_path / "run", "--torch-python", fake_worker(tmp_path))
    assert (process.returncode, started(tmp_path)) == (2, [])
    assert process.stderr.startswith(f"run_parity.py: argument {option[0]}: ")
    assert process.stderr.count("\n") == 1


# Mistakes that have to be seen


def test_weights_that_are_copied_wrongly_fail_the_proof(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense weights in the order of the other framework's Flatten."""
    load = impl.model.load_weights

    def load_channels_first(model: Any, weights: dict[str, np.ndarray]) -> None:
        kernel = weights["dense/kernel"]
        wrong = kernel.reshape(4, -1).T.reshape(kernel.shape) if kernel.size % 4 == 0 else kernel[::-1]
        load(model, {**weights, "dense/kernel": wrong})

    monkeypatch.setattr(impl.model, "load_weights", load_channels_first)
    row = train(impl, small(impl))
    failed = [check for check in row.checks if not check.passed]
    assert any(check.tensor == "dense/kernel" for check in failed)


def test_a_seed_that_is_ignored_fails_the_start(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = row_module.draw_data
    monkeypatch.setattr(row_module, "draw_data", lambda config: draw(replace(config, seed=config.seed + 1)))
    failed = [check for check in train(impl, small(impl)).checks if not check.passed]
    (start,) = (check for check in failed if not check.name.startswith("C9"))  # the trial has its data by the same way
    assert (start.name, start.what) == ("C7 start", "data on the device")


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_results_of_another_schema_are_refused(tmp_path: Path, version: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps({"schema_version": version, "rows": [{"old": 1}]}))
    process = run_parity(*TORCH, "--output", tmp_path / "run", "--resume")
    assert process.returncode == 2
    assert f"its schema_version is {version!r}; this program reads 1 and 2" in process.stderr
    assert process.stderr.count("\n") == 1
