"""The process that trains one row, whichever framework it uses: by hand, or as run_parity.py starts it.

By hand it takes the options of a run and prints the article's lines. Started by run_parity.py it takes a config file,
prints one JSON event a line, and writes its result to a file.
"""

import json
import os
import signal
import sys
import threading
import traceback
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common.cli.options import Parser, add_experiment_options, add_monitor_options, make_config, new_file, positive_int
from common.config import LOOPS, Precision, RunConfig
from common.measure.footprint import largest_batch
from common.measure.hardware import Unsupported, require_support
from common.measure.memory import OutOfMemory
from common.process.install import install_command
from common.process.monitor import Monitors
from common.process.recorder import OnArrays, OnEvent
from common.process.replicas import ReplicaFailed, devices_and_hosts, is_chief
from common.process.setting import MODULES
from common.results.coding import read_json, write_arrays, write_json
from common.results.rows import RowResult, Status
from common.text import escape_what_stdout_lacks, in_one_line

# The packages whose absence means that the framework is not installed.
PACKAGES = {"tensorflow": ("tensorflow", "keras"), "torch": ("torch",)}

Run = Callable[..., RowResult]  # of a config, on_event, on_arrays and, where some are asked for, monitors


def main(framework: str, run: Run, describe: Run, argv: list[str] | None = None) -> int:
    """Train one row as the arguments say, or describe where it would run.

    Returns the exit code: 0 trained, 2 usage, 3 not trained.
    """
    escape_what_stdout_lacks()
    parser = _make_parser(framework)
    arguments = parser.parse_args(argv)
    monitors = Monitors(arguments.tensorboard, arguments.trace)
    if arguments.config:
        config = _read_config(parser, arguments, framework)
        if arguments.run_id:
            _end_with_parent()

        write = partial(_write, arguments.result, arguments.run_id)
        monitored = partial(run, monitors=monitors._replace(on_measured=write)) if monitors.folders else run
        do = describe if arguments.describe else monitored
        row = train_row(config, do, _print_event, partial(write_arrays, arguments.result.with_name("arrays.npz")))
        write(row)
        return 0
    precision, compile = Precision(arguments.precision), arguments.compile == "on"
    devices, hosts = _read_devices(parser, arguments, framework)
    config = make_config(
        parser, arguments, framework, precision, compile=compile, loop=arguments.loop, devices=devices, hosts=hosts
    )
    on_arrays = partial(write_arrays, arguments.result.with_name("arrays.npz")) if arguments.result else None
    row = train_row(config, partial(run, monitors=monitors), _print_epoch, on_arrays)
    if is_chief(framework):
        if arguments.result:
            write_json(arguments.result, row)
        print(describe_row(row))
    elif row.status is not Status.OK:
        print(describe_row(row), file=sys.stderr)  # the others may be ended before they can say why
    return 0 if row.status is Status.OK else 3


def train_row(config: RunConfig, run: Run, on_event: OnEvent, on_arrays: OnArrays | None = None) -> RowResult:
    """Run the row; what keeps it from being trained becomes its status. Other exceptions are bugs and pass through."""
    try:
        if config.execution.device == "cpu":
            require_support(config.precision, {"kind": "cpu"})  # known without importing the framework
        return run(config, on_event, on_arrays)
    except Unsupported as reason:
        return RowResult(config, Status.UNSUPPORTED, str(reason))
    except ReplicaFailed as failure:
        return RowResult(config, failure.status, str(failure))
    except OutOfMemory as error:
        traceback.print_exc()
        return RowResult(config, Status.OOM, "; ".join([str(error), *_advice(config, error)]))
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES[config.framework]:
            return RowResult(
                config, Status.NOT_INSTALLED, f"install it with: {install_command(config.framework, sys.executable)}"
            )
        traceback.print_exc()
        return RowResult(config, Status.IMPORT_ERROR, str(error).partition("\n")[0])


def describe_row(row: RowResult) -> str:
    """The article's closing lines: time to complete, and current, peak and used memory in GB (1e9 bytes)."""
    lines = [f"{row.status}: {row.detail}"] if row.detail else []
    if row.timing and row.memory:
        source = "allocated on the GPU" if row.memory.kind == "gpu_allocator" else "resident set of the process"
        lines += [
            f"Time to complete: {row.timing.total_s:.2f} s (first step {row.timing.first_step_s:.2f} s)",
            f"Memory before the model: {row.memory.baseline_bytes / 1e9:.2f} GB, "
            f"peak: {row.memory.peak_bytes / 1e9:.2f} GB, used: {row.memory.used_bytes / 1e9:.2f} GB ({source})",
        ]
    if row.replicas:
        group = row.replicas
        lines.append(
            f"{group.replicas} replicas on {group.hosts} host{'s' if group.hosts > 1 else ''}, each with "
            f"{group.batch_per_replica} images of a batch; gradients summed by {group.backend}"
        )
    if row.training and row.training.skipped_steps:
        steps = ", ".join(map(str, row.training.skipped_steps))
        lines.append(f"Steps skipped because a scaled gradient overflowed: {steps}")
    return "\n".join(lines)


def _make_parser(framework: str) -> Parser:
    parser = Parser(prog=f"python -m {MODULES[framework]}", description=f"Train the experiment once in {framework}.")
    parser.add_argument(
        "--precision",
        choices=[precision.value for precision in Precision],
        default=Precision.FLOAT32.value,
        help="default: %(default)s",
    )
    parser.add_argument("--compile", choices=("off", "on"), default="off", help="fuse with XLA or torch.compile")
    loops = LOOPS if framework == "tensorflow" else ("custom",)
    parser.add_argument("--loop", choices=loops, default="custom", help="a loop of our own, or Keras' Model.fit")
    parser.add_argument(
        "--devices", type=positive_int, metavar="N", help="train on N devices of this host (default: 1)"
    )
    add_experiment_options(parser)
    add_monitor_options(parser)
    parser.add_argument("--result", type=new_file, metavar="FILE", help="write the row here, and arrays.npz beside it")
    worker = parser.add_argument_group("as run_parity.py starts it")
    worker.add_argument("--config", type=Path, metavar="FILE", help="take everything from this RunConfig in JSON")
    worker.add_argument("--describe", action="store_true", help="say where the row would run, and train nothing")
    worker.add_argument("--run-id", metavar="ID", help="write this into the row; end when stdin closes")
    return parser


def _read_config(parser: Parser, arguments: Namespace, framework: str) -> RunConfig:
    if not arguments.result:
        parser.error("argument --config: the row needs a place; give --result too")
    try:
        config = read_json(arguments.config, RunConfig)
    except (OSError, ValueError) as error:
        parser.error(f"argument --config: {arguments.config} can't be read ({in_one_line(error)}); give a RunConfig")
    if config.framework != framework:
        parser.error(f"argument --config: it is of {config.framework}; run python -m {MODULES[config.framework]}")
    return config


def _read_devices(parser: Parser, arguments: Namespace, framework: str) -> tuple[int, int]:
    """Devices of this host, and hosts: as asked for, and as a launcher has told this process."""
    try:
        devices, hosts = devices_and_hosts(framework)
    except ValueError as error:
        parser.error(str(error))
    if devices and arguments.devices not in (None, devices):
        parser.error(f"argument --devices: {arguments.devices} is not what torchrun has started; leave it out")
    return devices or arguments.devices or 1, hosts


def _write(path: Path, run_id: str | None, row: RowResult) -> None:
    write_json(path, replace(row, run_id=run_id))


def _end_with_parent() -> None:
    """End this process and all that it started as soon as the parent is gone: its end of our stdin closes with it."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        if os.getpgrp() == os.getpid():  # by hand it may be in its shell's group
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _advice(config: RunConfig, error: OutOfMemory) -> list[str]:
    """What to change: the largest batch that should fit into the memory that was free when the row began."""
    if error.free_at_start_bytes is None:
        return []
    size = largest_batch(config, error.free_at_start_bytes)
    if size == 0:
        return ["by the memory model not even --batch-size 1 fits; give a smaller --image-size or fewer --images"]
    if size < config.train.batch_size:
        return [f"by the memory model --batch-size {size} would fit"]
    return ["by the memory model it should fit: is something else using the memory?"]


def _print_event(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def _print_epoch(event: dict[str, Any]) -> None:
    print(
        f"Epoch {event['epoch']}/{event['epochs']} - {event['seconds']:.2f} s"
        f" - loss: {event['loss']:.4g} - accuracy: {event['accuracy']:.4f}",
        flush=True,
    )
