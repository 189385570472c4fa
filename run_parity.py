"""Compare TensorFlow and PyTorch at every precision: one process a row, one table of speed and memory.

python run_parity.py                                   every precision, sized for this machine
python run_parity.py --preset smoke --quiet            every precision, in a minute
python run_parity.py --frameworks torch --precisions float32 mixed_bfloat16 --compile both
"""

import os
import platform
import shutil
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from tabulate import tabulate_formats

from common.agreement import ArraysOf, check_pairs, complete_checks
from common.config import FRAMEWORKS, LOOPS, Precision, RunConfig
from common.hardware import cpu_name
from common.interrupts import Interrupts
from common.launch import launch_row
from common.limits import Ceilings, best_ceilings, find_limits
from common.options import Parser, add_experiment_options, make_config, positive_float, repeats_int, resolve_preset
from common.progress import reporting
from common.results import (
    Results,
    RowResult,
    Status,
    in_order,
    judge,
)
from common.setting import describe_setting, row_key
from common.store import Store, StoreError
from common.table import extents, failures, log_tails, manifest_table, notes, parity_table, speed_table
from common.text import forgive_letters, in_one_line, printable, say

EXIT_OK, EXIT_NO_PARITY, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_NOTHING_RAN = 0, 1, 2, 3, 4

EXIT_CODES = """exit codes:
  0    every row ran, or can't be run on this device, and computes what it should
  1    a parity check failed; the parity table says which
  2    the command line was wrong
  3    some rows failed, and the table says which; or the results could not be written
  4    nothing ran
  130  interrupted by Ctrl-C; the rows so far are in the table and on disk. A second Ctrl-C ends everything at once
  143  likewise, by SIGTERM"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run every row, print the tables; returns the exit code."""
    forgive_letters()
    parser = make_parser()
    arguments = parser.parse_args(argv)
    configs = plan(parser, arguments)
    command = [Path(sys.argv[0]).name, *(sys.argv[1:] if argv is None else argv)]
    with Interrupts() as interrupts:
        try:
            store = Store(arguments.output or Path("runs") / datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%SZ"))
            with store.locked():
                if os.path.lexists(store.path) and not arguments.resume:
                    raise StoreError(f"{store.folder} already holds results; give another folder, or --resume to go on")
                code = run(arguments, configs, command, store, interrupts)
        except StoreError as reason:
            parser.error(f"argument {'--resume' if arguments.resume else '--output'}: {reason}")
    return 128 + interrupts.number if interrupts.number else code


def run(
    arguments: Namespace, configs: Sequence[RunConfig], command: list[str], store: Store, interrupts: Interrupts
) -> int:
    """Run the rows that the store does not have, compare them, print the tables; returns the exit code."""
    earlier = store.read(configs)
    results = Results(
        command=command,
        earlier_commands=[*earlier.earlier_commands, *([earlier.command] if earlier.rows else [])],
        environment=describe_parent(),
        rows=in_order(earlier.rows),
    )
    results = run_rows(arguments, configs, results, store, interrupts)
    is_compared = True
    if not interrupts.number:
        if not arguments.quiet:
            say("holding the runs to float64 and to each other")
        try:
            with suppress(KeyboardInterrupt), interrupts.calling(_raise_keyboard_interrupt):
                results = compare_runs(results, store.arrays_of)
        except (StoreError, MemoryError) as error:
            say(f"the runs could not be compared: {in_one_line(error) or 'out of memory'}")
            is_compared = False
        store.save(results)
    is_printed = print_tables(results, arguments.format)
    if not arguments.quiet:
        say(f"results: {printable(str(store.path))}")
    code = exit_code(results, arguments.allow_missing)
    return code if is_compared and is_printed and store.is_whole else max(code, EXIT_SOME_FAILED)


def run_rows(
    arguments: Namespace, configs: Sequence[RunConfig], results: Results, store: Store, interrupts: Interrupts
) -> Results:
    """Run one row after the other, each saved when it has ended; a row of `results` stays until it has run again."""
    pythons = {"tensorflow": arguments.tf_python, "torch": arguments.torch_python}
    device, settings = configs[0].execution.device, {}
    with suppress(KeyboardInterrupt), interrupts.calling(_raise_keyboard_interrupt):
        settings = {name: describe_setting(name, pythons[name], device) for name in arguments.frameworks}
    rows = {row.config.row_id: row for row in results.rows}
    is_kept = False
    with reporting(configs, arguments.quiet) as reporter:
        for config in configs:
            if interrupts.number:
                break
            reporter.start_row(config)
            row, setting = rows.get(config.row_id), settings[config.framework]
            key = row_key(config, setting)
            if row is None or row.status is not Status.OK or (row.config, row.key) != (config, key):
                if row and row.status is Status.OK and not is_kept:
                    store.keep()
                    is_kept = True
                python, folder = pythons[config.framework], store.row_folder(config)
                row = launch_row(config, python, folder, arguments.timeout, reporter.event, interrupts)
                rows[config.row_id] = row = replace(row, setting=setting, key=key)
            ordered = in_order(rows.values())
            results = replace(results, rows=ordered, parity=judge(ordered))
            store.save(results)
            reporter.end_row(row)
    return results


def make_parser() -> Parser:
    parser = Parser(prog="run_parity.py", description=__doc__, epilog=EXIT_CODES)
    rows = parser.add_argument_group("the rows")
    rows.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS, help="default: both")
    rows.add_argument(
        "--precisions",
        nargs="+",
        choices=[precision.value for precision in Precision],
        metavar="PRECISION",
        help=f"of {', '.join(Precision)} (default: what the preset names)",
    )
    rows.add_argument(
        "--compile", choices=("off", "on", "both"), default="off", help="fuse with XLA and torch.compile (default: off)"
    )
    rows.add_argument(
        "--loop",
        choices=(*LOOPS, "both"),
        default="custom",
        help="TensorFlow: our own loop, Model.fit as in the article, or both (default: custom)",
    )
    rows.add_argument("--repeats", type=repeats_int, default=1, metavar="N", help="run each row in N fresh processes")
    add_experiment_options(parser)
    run = parser.add_argument_group("the run")
    run.add_argument("--output", type=folder, metavar="DIR", help="default: runs/ and the time")
    run.add_argument("--resume", action="store_true", help="keep the rows of --output that ended ok")
    run.add_argument(
        "--timeout", type=positive_float, default=3600.0, metavar="S", help="seconds for one row (default: %(default)g)"
    )
    run.add_argument(
        "--format", choices=tabulate_formats, default="simple", metavar="NAME", help="one of tabulate's table formats"
    )
    run.add_argument("--quiet", action="store_true", help="no progress, tables only")
    for framework, option in (("TensorFlow", "--tf-python"), ("PyTorch", "--torch-python")):
        run.add_argument(
            option, type=interpreter, default=sys.executable, metavar="EXE", help=f"the Python that has {framework}"
        )
    run.add_argument("--allow-missing", action="store_true", help="exit 0 even if a framework is not installed")
    return parser


def folder(text: str) -> Path:
    """A path that is not empty; ArgumentTypeError otherwise."""
    if not text.strip():
        raise ArgumentTypeError("it is empty; give a folder")
    return Path(text)


def interpreter(text: str) -> str:
    """The absolute path of a program that can be run; ArgumentTypeError otherwise."""
    found = shutil.which(text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} can't be run; give the path of a Python interpreter")
    return os.path.abspath(found)  # a worker's folder is another; a link stays one, for a venv is known by it


def plan(parser: Parser, arguments: Namespace) -> list[RunConfig]:
    """One config for each row, in the order of the table."""
    precisions = [Precision(name) for name in arguments.precisions or resolve_preset(arguments).precisions]
    compiles = {"off": [False], "on": [True], "both": [False, True]}[arguments.compile]
    if arguments.loop != "custom" and "tensorflow" not in arguments.frameworks:
        parser.error(f"argument --loop: {arguments.loop} needs Keras' Model.fit; add tensorflow to --frameworks")
    loops = {"tensorflow": LOOPS if arguments.loop == "both" else (arguments.loop,), "torch": ("custom",)}
    return [
        make_config(parser, arguments, framework, precision, compile=compile, loop=loop, repeat=repeat)
        for framework in dict.fromkeys(arguments.frameworks)
        for compile in compiles
        for loop in loops[framework]
        for precision in dict.fromkeys(precisions)
        for repeat in range(arguments.repeats)
    ]


def compare_runs(results: Results, arrays_of: ArraysOf) -> Results:
    """Hold the trained rows to float64 and to each other, and judge them by all their checks."""
    rows = complete_checks(share_limits(results.rows), arrays_of)
    return replace(results, rows=rows, parity=judge(rows, check_pairs(rows, arrays_of)))


def share_limits(rows: Sequence[RowResult]) -> list[RowResult]:
    """Hold all rows of one device and precision to one limit, the best that any of them measured."""

    def same(row: RowResult) -> tuple[str, str]:
        return row.environment.device["name"] if row.environment else "", row.precision

    measured: dict[tuple[str, str], list[Ceilings]] = {}
    for row in rows:
        if row.limits:
            measured.setdefault(same(row), []).append(row.limits.ceilings)
    return [
        replace(row, limits=find_limits(row.config, best_ceilings(measured[same(row)]), row.timing.step_s))
        if row.limits and row.timing
        else row
        for row in rows
    ]


def describe_parent() -> dict[str, str]:
    """Where the run was started; each row carries the environment of its own process."""
    return {"platform": platform.platform(), "python_version": platform.python_version(), "cpu": cpu_name()}


def print_tables(results: Results, tablefmt: str) -> bool:
    """Print them all; return False where stdout leads to a full disk. A reader that has gone (`| head`) is fine."""
    try:
        print(tables(results, tablefmt), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        say(f"the tables can't be printed: {error.strerror}")
        return False
    return True


def tables(results: Results, tablefmt: str) -> str:
    """The speed table, what it can't say itself, the parity table, the manifest, and the logs' ends of failed rows."""
    if not results.rows:
        return "no row has ended"
    lines = [speed_table(results.rows, tablefmt), "", *(f"- {note}" for note in notes(results.rows))]
    if results.parity:
        lines += [
            "\nparity: difference over bound, the worst of both frameworks; 1 is the limit, 0.00 an exact agreement",
            f"\n{parity_table(results.parity, tablefmt)}\n",
            *(f"- {note}" for note in [*failures(results.parity), *extents(results.parity)]),
        ]
    if manifest := manifest_table(results.rows, tablefmt):
        lines.append(f"\n{manifest}")
    return "\n".join([*lines, *(f"\n{tail}" for tail in log_tails(results.rows))])


def _raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def exit_code(results: Results, allow_missing: bool) -> int:
    """A row that the device can't run is no failure; a framework that is missing is one, unless allowed."""
    rows = results.rows
    if not all(entry.passed for entry in results.parity):
        return EXIT_NO_PARITY
    if not any(row.status is Status.OK for row in rows):
        return EXIT_NOTHING_RAN
    accepted = {Status.OK, Status.UNSUPPORTED, *([Status.NOT_INSTALLED] if allow_missing else [])}
    return EXIT_OK if all(row.status in accepted for row in rows) else EXIT_SOME_FAILED


if __name__ == "__main__":
    sys.exit(main())
