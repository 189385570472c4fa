"""From which size on mixed precision pays on this device: the whole comparison at each of several sizes.

run_parity.py sweep --over image-size 16 32 64 128
run_parity.py sweep --over batch-size 1 8 64 --precisions float32 mixed_bfloat16 --output runs/batches
run_parity.py sweep --over image-size 16 32 64 128 256 --output runs/sizes --resume      go on, or add a size

Each size is a run of its own, in a folder of its own, with its parity checks; repeats run by turns. A precision pays at
a size where the 95 % interval of its speed-up over float32 lies beyond 1. With fewer than three processes a row, what
its epochs show has to lie beyond 1.1. Of rows that are not steady it can't be told. For another batch size there are as
many more images, so that an epoch has as many steps.
"""

import math
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from common.cli.exit_codes import EXIT_NO_PARITY, EXIT_NOTHING_RAN, EXIT_OK, EXIT_SOME_FAILED, exit_code
from common.cli.options import (
    PROGRAM,
    Parser,
    add_experiment_options,
    positive_int,
    repeats_int,
    resolve_preset,
)
from common.cli.plan import add_row_options, add_run_options, make_session, plan
from common.config import Precision, RunConfig
from common.measure.statistics import LEAST_EPOCHS, LEAST_PROCESSES
from common.process.interrupts import Interrupts
from common.process.launch import launch_undisturbed
from common.process.progress import reporting
from common.process.runner import run_experiment
from common.process.session import Session
from common.results.coding import LARGEST_INT
from common.results.files import write_text
from common.results.rows import Results
from common.results.store import Store, StoreError, read_results
from common.show.crossover import Gain, Gains, crossover, gains_along
from common.show.disturbance import disturbances
from common.show.drawing import draw
from common.show.extents import parity_cell
from common.show.lines import NOTHING, group, number, saved
from common.show.table import draw_cells, failures, leave_out, unsteady
from common.show.verdict import INTERVALS, NO_DIFFERENCE, interval_cells
from common.text import in_one_line, printable, resume_options, say, show, time_stamp

AXES = {  # and what a figure calls it
    "image-size": "image size, pixels high and wide",
    "batch-size": "batch size, images a step",
    "filters": "filters, output channels of each convolution",
}
PRECISIONS = (Precision.FLOAT32, Precision.MIXED_FLOAT16, Precision.MIXED_BFLOAT16)
EXIT_CODES = "exit codes: those of run_parity.py; a check that failed at any size is 1"
MOST_SIZES = 100  # each has a lock of its own, and a process may open a few hundred files
REPEATS = LEAST_PROCESSES  # rows of a sweep are short, and a verdict is what it is for


def main(argv: Sequence[str]) -> int:
    """Run every size, print the table and the crossovers; returns the exit code, as that of a run."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    planned, axis, session = _plan(parser, arguments), arguments.over, make_session(arguments)
    if arguments.resume and not arguments.output:
        parser.error("argument --resume: give the --output whose rows are to be kept")
    command = ["run_parity.py", "sweep", *argv]
    folder = arguments.output or Path("runs") / f"{time_stamp()}-sweep"
    with Interrupts() as interrupts:
        try:
            _require_own(folder, axis, planned, session)
            swept, is_whole = _run_sizes(session, axis, planned, command, folder, interrupts)
        except StoreError as reason:
            parser.error(f"argument {'--resume' if arguments.resume else '--output'}: {reason}")
        is_shown = _present(swept, axis, folder, session)
    if interrupts.number:
        say(f"Interrupted. Resume with: {resume_options(folder)}")
        return 128 + interrupts.number
    code = _exit_code([exit_code(results) for results in swept.values()])
    return code if is_whole and is_shown else max(code, EXIT_SOME_FAILED)


def describe(swept: Mapping[int, Results], axis: str, tablefmt: str) -> str:
    """The table of a sweep over the axis, and under it the crossovers and what is to be said of its runs."""
    found = gains_along(swept)
    return "\n".join([_table(found, axis, tablefmt), "", *_notes(found, swept, axis)])


def _plan(parser: Parser, arguments: Namespace) -> dict[int, list[RunConfig]]:
    """The rows of each size, from the smallest to the largest."""
    axis = arguments.over.replace("-", "_")
    if getattr(arguments, axis) is not None:
        parser.error(f"argument --{arguments.over}: the sweep sets it; leave it out")
    if arguments.over == "batch-size" and arguments.batch_per_replica:
        parser.error("argument --batch-per-replica: the sweep sets the batch of all replicas; leave it out")
    sizes = sorted(set(arguments.values))
    if not 2 <= len(sizes) <= MOST_SIZES:
        parser.error(f"argument VALUES: {len(sizes)} sizes were given; give 2 to {MOST_SIZES}")
    precisions = [Precision(name) for name in arguments.precisions or PRECISIONS]
    if Precision.FLOAT32 not in precisions:
        parser.error("argument --precisions: what pays is judged against float32; add it")
    if set(precisions) == {Precision.FLOAT32}:
        parser.error("argument --precisions: float32 alone is nothing to compare; add another")
    preset = resolve_preset(arguments)
    if preset.epochs <= LEAST_EPOCHS:
        parser.error(
            f"argument --epochs: {preset.epochs} are too few to judge a speed-up; give {LEAST_EPOCHS + 1} or more"
        )
    steps = math.ceil(preset.images / preset.batch_size)
    planned = {}
    for size in sizes:
        sized = replace(preset, **{axis: size})
        if axis == "batch_size" and arguments.images is None:
            sized = replace(sized, images=steps * size)  # as many steps at each size, and no smaller last batch
            if steps * size > LARGEST_INT:
                parser.error(f"argument VALUES: {size} is too large a batch; give {LARGEST_INT // steps} or less")
        planned[size] = plan(parser, arguments, precisions, sized)
    return planned


def _run_sizes(
    session: Session,
    axis: str,
    planned: Mapping[int, Sequence[RunConfig]],
    command: list[str],
    folder: Path,
    interrupts: Interrupts,
) -> tuple[dict[int, Results], bool]:
    """Run one size after the other; returns what there is of each, and whether all of it is compared and on disk."""
    swept, is_whole = {}, True
    with ExitStack() as running:
        stores = {size: Store(folder / f"{axis}-{size}") for size in planned}
        for size, store in stores.items():
            running.enter_context(store.locked())
            store.require_same(planned[size])
            if os.path.lexists(store.path) and not session.resume:
                raise StoreError(f"{store.folder} already holds results; give another folder, or --resume to go on")
        rows = [config for configs in planned.values() for config in configs]
        reporter = running.enter_context(reporting(rows, session.quiet))
        for size, configs in planned.items():
            if interrupts.number:
                break
            if not session.quiet:
                say(f"{axis} {size}")
            swept[size], is_complete = run_experiment(
                session, configs, command, stores[size], interrupts, reporter, launch_undisturbed
            )
            is_whole &= is_complete
    return _with_earlier(swept, stores), is_whole


def _with_earlier(swept: dict[int, Results], stores: Mapping[int, Store]) -> dict[int, Results]:
    """An interrupted sweep also shows what an earlier one has left of the sizes that it did not reach."""
    earlier = {size: store.path for size, store in stores.items() if size not in swept and store.path.exists()}
    return swept | {size: read_results(path) for size, path in earlier.items()}


def _require_own(folder: Path, axis: str, planned: Iterable[int], session: Session) -> None:
    """StoreError where the folder holds another sweep, whose table and figure would be lost."""
    if os.path.lexists(folder / "sweep.txt") and not session.resume:
        raise StoreError(f"{folder} already holds a sweep; give another folder, or --resume to go on")
    for other in AXES:
        if other != axis and any(folder.glob(f"{other}-*")):
            raise StoreError(f"{folder} holds a sweep over {other}; give another folder")
    asked = {f"{axis}-{size}" for size in planned}
    there = {file.parent.name for file in folder.glob(f"{axis}-*/results.json")}
    if others := ", ".join(sorted(there - asked)):
        raise StoreError(f"{folder} holds {others} too, which its table would lose; name all sizes")
    for place in folder.glob(f"{axis}-*"):
        if place.is_symlink():
            raise StoreError(f"{place} is a link, and none is followed; remove it")


def _present(swept: Mapping[int, Results], axis: str, folder: Path, session: Session) -> bool:
    """Print the table with the crossovers, and write it and its figure; returns whether all went well."""
    found = gains_along(swept)
    if not found:
        return True
    text = describe(swept, axis, session.tablefmt)
    is_shown = show(text)
    try:
        write_text(folder / "sweep.txt", text + "\n")
    except OSError as error:
        say(f"{printable(str(folder))}/sweep.txt can't be written ({in_one_line(error)})")
        is_shown = False
    is_drawn = not session.with_report or draw(
        lambda figures: figures.crossovers(found, axis, AXES[axis]), folder, "sweep"
    )
    if not session.quiet:
        say(f"sweep: {printable(str(folder))}")
    return is_shown and is_drawn


def _table(found: Sequence[Gains], axis: str, tablefmt: str) -> str:
    table = [_cells(gain, axis) for gains in found for gain in gains]
    leave_out(table, ["replicas", *INTERVALS])
    return draw_cells(table, tablefmt)


def _cells(gain: Gain, axis: str) -> dict[str, str]:
    line, less = gain.line, saved(gain.line, gain.float32)
    return {
        "framework": line.first.framework,
        "precision": line.first.precision,
        "compile": "on" if line.first.compile else "off",
        "loop": line.first.loop,
        "replicas": str(line.mode.replicas) if line.mode.replicas > 1 else NOTHING,
        axis: str(gain.size),
        "float32 ms": number(gain.float32.median("step ms") if gain.float32 else None),
        "step ms": number(line.median("step ms")),
        "speed-up": NOTHING if gain.speed_up is None else f"{gain.speed_up:.2f}x",
        **interval_cells(gain.interval),
        "verdict": f"{gain.said.word} {gain.said.why}" if gain.verdict == NO_DIFFERENCE else gain.verdict,
        "saved": NOTHING if less is None else f"{round(100 * less)} %",
        "parity": parity_cell(line),
        "status": ", ".join(dict.fromkeys(row.status.value for row in line.rows)),
    }


def _notes(found: Sequence[Gains], swept: Mapping[int, Results], axis: str) -> list[str]:
    return [
        *(f"- {gains[0].line.name} {crossover(gains, axis)}" for gains in found),
        *(f"- {axis} {size}: {reason}" for size, results in swept.items() for reason in failures(results.parity)),
        *(f"- {axis} {size}: {note}" for size, results in swept.items() for note in unsteady(group(results.rows))),
        *(f"- {axis} {size}: {note}" for size, results in swept.items() for note in disturbances(group(results.rows))),
    ]


def _exit_code(codes: Sequence[int]) -> int:
    """A check that failed at any size is the worst; then rows that did."""
    if EXIT_NO_PARITY in codes:
        return EXIT_NO_PARITY
    if set(codes) == {EXIT_OK}:
        return EXIT_OK
    return EXIT_NOTHING_RAN if set(codes) == {EXIT_NOTHING_RAN} else EXIT_SOME_FAILED


def _make_parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} sweep", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("--over", choices=tuple(AXES), required=True, help="the size that is another in each run")
    parser.add_argument("values", nargs="+", type=positive_int, metavar="VALUES", help="its sizes, two or more")
    rows = add_row_options(parser, ", ".join(PRECISIONS))
    rows.add_argument(
        "--repeats", type=repeats_int, default=REPEATS, metavar="N", help="processes of each row (default: %(default)s)"
    )
    add_experiment_options(parser)
    run = add_run_options(parser)
    run.add_argument("--resume", action="store_true", help="keep the rows of --output that ended ok")
    run.add_argument("--no-report", action="store_true", help="draw no figure")
    return parser
