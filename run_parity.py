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
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from tabulate import tabulate_formats

from common.agreement import ArraysOf, check_pairs, complete_checks
from common.config import FRAMEWORKS, LOOPS, Precision, RunConfig
from common.hardware import cpu_name
from common.launch import arrays_file, launch_row
from common.limits import Ceilings, best_ceilings, find_limits
from common.options import Parser, add_experiment_options, make_config, positive_float, positive_int, resolve_preset
from common.progress import reporting
from common.results import (
    Arrays,
    Results,
    RowResult,
    Status,
    in_order,
    judge,
    make_row,
    read_arrays,
    read_json,
    write_json,
)
from common.table import extents, failures, manifest_table, notes, parity_table, speed_table
from common.weights import draw_weights

EXIT_OK, EXIT_NO_PARITY, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_NOTHING_RAN, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130

EXIT_CODES = """exit codes:
  0    every row ran, or can't be run on this device, and computes what it should
  1    a parity check failed; the parity table says which
  2    the command line was wrong
  3    some rows failed; the table says which
  4    nothing ran
  130  interrupted; the rows so far are in the table and on disk"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run every row, print the tables; returns the exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    configs = plan(parser, arguments)
    output = prepare_output(parser, arguments.output, arguments.resume)
    earlier = read_earlier(parser, output, configs) if arguments.resume else Results([], {})
    refuse_another_experiment(parser, output, earlier.rows, configs)
    finished = {row.config: row for row in earlier.rows if row.status is Status.OK}
    results = Results(
        command=[Path(sys.argv[0]).name, *(sys.argv[1:] if argv is None else argv)],
        earlier_commands=[*earlier.earlier_commands, *([earlier.command] if earlier.rows else [])],
        environment=describe_parent(),
        rows=beside(earlier.rows, configs),
    )
    pythons = {"tensorflow": arguments.tf_python, "torch": arguments.torch_python}

    interrupted = False
    with reporting(configs, arguments.quiet) as reporter:
        for config in configs:
            reporter.start_row(config)
            try:
                folder = output / "rows" / config.row_id
                python = pythons[config.framework]
                row = finished.get(config) or launch_row(config, python, folder, arguments.timeout, reporter.event)
            except KeyboardInterrupt:
                row, interrupted = make_row(config, Status.INTERRUPTED, "Ctrl-C"), True
            reporter.end_row(row)
            rows = in_order([*results.rows, row])
            results = replace(results, rows=rows, parity=judge(rows))
            write_json(output / "results.json", results)
            if interrupted:
                break

    if not interrupted:
        if not arguments.quiet:
            print("holding the runs to float64 and to each other", file=sys.stderr)
        try:
            results = compare_runs(results, partial(arrays_in, output))
            write_json(output / "results.json", results)
        except KeyboardInterrupt:
            interrupted = True
    print_tables(results, arguments.format)
    if not arguments.quiet:
        print(f"results: {output / 'results.json'}", file=sys.stderr)
    return EXIT_INTERRUPTED if interrupted else exit_code(results, arguments.allow_missing)


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
    rows.add_argument("--repeats", type=positive_int, default=1, metavar="N", help="run each row in N fresh processes")
    add_experiment_options(parser)
    run = parser.add_argument_group("the run")
    run.add_argument("--output", type=Path, metavar="DIR", help="default: runs/ and the time")
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


def interpreter(text: str) -> str:
    """The path of a program that can be run; ArgumentTypeError otherwise."""
    found = shutil.which(text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} can't be run; give the path of a Python interpreter")
    return found


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


def prepare_output(parser: Parser, folder: Path | None, resume: bool) -> Path:
    """Make the output folder; refuse one that is no folder, can't be written, or holds results that would be lost."""
    output = folder or Path("runs") / datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%SZ")
    try:
        (output / "rows").mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        parser.error(f"argument --output: {output} is or lies in a file; give a folder")
    except OSError as error:
        parser.error(f"argument --output: {output} can't be written ({error.strerror}); give another folder")
    if not os.access(output, os.W_OK):
        parser.error(f"argument --output: {output} can't be written; give another folder")
    if (output / "results.json").exists() and not resume:
        parser.error(f"argument --output: {output} already holds results; give another folder, or --resume to go on")
    return output


def read_earlier(parser: Parser, output: Path, configs: Sequence[RunConfig]) -> Results:
    """The results of the run that is resumed, without rows that are asked for again and whose arrays are damaged."""
    path = output / "results.json"
    if not path.exists():
        return Results([], {})
    try:
        results = read_json(path, Results)
    except (OSError, ValueError) as error:
        parser.error(f"argument --resume: {path} can't be read ({error}); give another --output")
    asked = {config.row_id for config in configs}
    for row in results.rows:
        if row.training and row.config.row_id not in asked and not has_arrays(output, row):
            parser.error(
                f"argument --resume: {arrays_file(output / 'rows' / row.config.row_id)} is missing or damaged; "
                "ask for that row again, or give another --output"
            )
    return replace(results, rows=[row for row in results.rows if not row.training or has_arrays(output, row)])


def arrays_in(output: Path, row: RowResult) -> Arrays:
    """What the row computed, from its folder in the output."""
    return read_arrays(arrays_file(output / "rows" / row.config.row_id))


def has_arrays(output: Path, row: RowResult) -> bool:
    """Whether they are still there and of the row's model; without them the row can't be compared."""
    shapes = {name: array.shape for name, array in draw_weights(row.config.model, row.config.data.seed).items()}
    try:
        arrays = arrays_in(output, row)
    except (OSError, ValueError):
        return False
    return all({name: array.shape for name, array in weights.items()} == shapes for weights in arrays)


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


def refuse_another_experiment(
    parser: Parser, output: Path, earlier: Sequence[RowResult], configs: Sequence[RunConfig]
) -> None:
    """Rows of two experiments can't stand in one table, and those that are there are not to be lost."""
    asked = configs[0]
    for row in earlier:
        for part in ("data", "model", "train"):
            theirs, ours = asdict(getattr(row.config, part)), asdict(getattr(asked, part))
            if differing := [name for name in theirs if theirs[name] != ours[name]]:
                name = differing[0]
                parser.error(
                    f"argument --resume: {output} holds another experiment, with {name} {theirs[name]} "
                    f"and not {ours[name]}; give another --output"
                )


def beside(earlier: Sequence[RowResult], configs: Sequence[RunConfig]) -> list[RowResult]:
    """The earlier rows that stay as they are: those that are not asked for again."""
    asked = {config.row_id for config in configs}
    return [row for row in earlier if row.config.row_id not in asked]


def describe_parent() -> dict[str, str]:
    """Where the run was started; each row carries the environment of its own process."""
    return {"platform": platform.platform(), "python_version": platform.python_version(), "cpu": cpu_name()}


def print_tables(results: Results, tablefmt: str) -> None:
    """The speed table, what it can't say itself, the parity table, and the manifest."""
    print(speed_table(results.rows, tablefmt))
    print()
    for note in notes(results.rows):
        print(f"- {note}")
    if results.parity:
        print("\nparity: difference over bound, the worst of both frameworks; 1 is the limit, 0.00 an exact agreement")
        print(f"\n{parity_table(results.parity, tablefmt)}")
        print()
        for note in [*failures(results.parity), *extents(results.parity)]:
            print(f"- {note}")
    print(f"\n{manifest_table(results.rows, tablefmt)}")


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
