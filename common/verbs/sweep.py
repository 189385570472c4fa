"""From which size on mixed precision pays on this device: the whole comparison at each of several sizes.

run_parity.py sweep --over image-size 16 32 64 128
run_parity.py sweep --over batch-size 1 8 64 --precisions float32 mixed_bfloat16 --output runs/batches
run_parity.py sweep --over image-size 16 32 64 128 256 --output runs/sizes --resume      go on, or add a size

Each size is a run of its own, in a folder of its own, with its parity checks. A precision pays at a size where the 95 %
interval of its speed-up over float32 lies beyond 1.
"""

import math
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

from common.config import Precision, RunConfig
from common.crossover import Course, Gain, courses, crossover
from common.exit_codes import EXIT_NO_PARITY, EXIT_NOTHING_RAN, EXIT_OK, EXIT_SOME_FAILED, exit_code
from common.interrupts import Interrupts
from common.launch import launch_undisturbed
from common.lines import NOTHING, number, saved
from common.options import Parser, add_experiment_options, positive_int, repeats_int, resolve_preset
from common.progress import reporting
from common.results import Results, write_text
from common.run_options import add_row_options, add_run_options, plan
from common.runner import run_experiment
from common.store import Store, StoreError
from common.table import draw_cells, failures, parity_of
from common.text import in_one_line, printable, say, show
from common.verbs.drawing import draw

AXES = {  # and what a figure calls it
    "image-size": "image size, pixels high and wide",
    "batch-size": "batch size, images a step",
    "filters": "filters, output channels of each convolution",
}
PRECISIONS = (Precision.FLOAT32, Precision.MIXED_FLOAT16, Precision.MIXED_BFLOAT16)
REPEATS = 3  # of which on an interval shows how far equal processes differ


def main(argv: Sequence[str]) -> int:
    """Run every size, print the table and the crossovers; returns the exit code, as that of a run."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    planned = _plan(parser, arguments)
    if arguments.resume and not arguments.output:
        parser.error("argument --resume: give the --output whose rows are to be kept")
    command = ["run_parity.py", "sweep", *argv]
    moment = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%SZ")
    folder = arguments.output or Path("runs") / f"{moment}-sweep"
    with Interrupts() as interrupts:
        try:
            swept, is_whole = _run_sizes(arguments, planned, command, folder, interrupts)
        except StoreError as reason:
            parser.error(f"argument {'--resume' if arguments.resume else '--output'}: {reason}")
    is_shown = _present(swept, arguments, folder)
    if interrupts.number:
        say("interrupted; the same command with --resume --output goes on")
        return 128 + interrupts.number
    code = _exit_code([exit_code(results) for results in swept.values()])
    return code if is_whole and is_shown else max(code, EXIT_SOME_FAILED)


def _plan(parser: Parser, arguments: Namespace) -> dict[int, list[RunConfig]]:
    """The rows of each size, from the smallest to the largest."""
    name = arguments.over.replace("-", "_")
    if getattr(arguments, name) is not None:
        parser.error(f"argument --{arguments.over}: the sweep sets it; leave it out")
    sizes = sorted(set(arguments.values))
    if len(sizes) < 2:
        parser.error("argument VALUES: a sweep needs two sizes or more")
    arguments.precisions = arguments.precisions or [precision.value for precision in PRECISIONS]
    if Precision.FLOAT32.value not in arguments.precisions:
        parser.error("argument --precisions: what pays is judged against float32; add it")
    if set(arguments.precisions) == {Precision.FLOAT32.value}:
        parser.error("argument --precisions: float32 alone is nothing to compare; add another")
    preset = resolve_preset(arguments)
    steps = math.ceil(preset.images / preset.batch_size)
    planned = {}
    for size in sizes:
        sized = {**vars(arguments), name: size}
        if arguments.over == "batch-size" and arguments.images is None:
            sized["images"] = steps * size  # as many steps at each size, and no smaller last batch
        planned[size] = plan(parser, Namespace(**sized))
    return planned


def _run_sizes(
    arguments: Namespace,
    planned: Mapping[int, Sequence[RunConfig]],
    command: list[str],
    folder: Path,
    interrupts: Interrupts,
) -> tuple[dict[int, Results], bool]:
    """Run one size after the other; returns what there is of each, and whether all of it is compared and on disk."""
    swept, is_whole = {}, True
    with ExitStack() as running:
        stores = {size: Store(folder / f"{arguments.over}-{size}") for size in planned}
        for store in stores.values():
            running.enter_context(store.locked())
            if os.path.lexists(store.path) and not arguments.resume:
                raise StoreError(f"{store.folder} already holds results; give another folder, or --resume to go on")
        rows = [config for configs in planned.values() for config in configs]
        reporter = running.enter_context(reporting(rows, arguments.quiet))
        for size, configs in planned.items():
            if interrupts.number:
                break
            if not arguments.quiet:
                say(f"{arguments.over} {size}")
            swept[size], is_complete = run_experiment(
                arguments, configs, command, stores[size], interrupts, reporter, launch_undisturbed
            )
            is_whole &= is_complete
    return swept, is_whole


def _present(swept: Mapping[int, Results], arguments: Namespace, folder: Path) -> bool:
    """Print the table with the crossovers, and write it and its figure; returns whether all went well."""
    found = courses(swept)
    if not found:
        return True
    text = "\n".join([_table(found, arguments.over, arguments.format), "", *_notes(found, swept, arguments.over)])
    is_shown = show(text)
    try:
        write_text(folder / "sweep.txt", text + "\n")
        if not arguments.no_report:
            draw(lambda plots: plots.crossovers(found, arguments.over, AXES[arguments.over]), folder, "sweep")
    except (OSError, ValueError) as error:
        say(f"{printable(str(folder))} can't be written ({in_one_line(error)})")
        return False
    if not arguments.quiet:
        say(f"sweep: {printable(str(folder))}")
    return is_shown


def _table(found: Sequence[Course], axis: str, tablefmt: str) -> str:
    return draw_cells([_cells(gain, axis) for course in found for gain in course], tablefmt)


def _cells(gain: Gain, axis: str) -> dict[str, str]:
    line, less = gain.line, saved(gain.line, gain.float32)
    return {
        "framework": line.first.framework,
        "precision": line.first.precision,
        "compile": "on" if line.first.compile else "off",
        "loop": line.first.loop,
        axis: str(gain.size),
        "float32 ms": number(gain.float32.median("step ms") if gain.float32 else None),
        "step ms": number(line.median("step ms")),
        "speed-up": NOTHING if gain.speed_up is None else f"{gain.speed_up:.2f}x",
        "95 %": f"{gain.interval[0]:.2f}-{gain.interval[1]:.2f}" if gain.interval else NOTHING,
        "verdict": gain.verdict,
        "saved": NOTHING if less is None else f"{round(100 * less)} %",
        "parity": parity_of(line),
        "status": ", ".join(dict.fromkeys(row.status.value for row in line.rows)),
    }


def _notes(found: Sequence[Course], swept: Mapping[int, Results], axis: str) -> list[str]:
    return [
        *(f"- {course[0].line.name} {crossover(course, axis)}" for course in found),
        *(f"- {axis} {size}: {reason}" for size, results in swept.items() for reason in failures(results.parity)),
    ]


def _exit_code(codes: Sequence[int]) -> int:
    """A check that failed at any size is the worst; then rows that did."""
    if EXIT_NO_PARITY in codes:
        return EXIT_NO_PARITY
    if set(codes) == {EXIT_OK}:
        return EXIT_OK
    return EXIT_NOTHING_RAN if set(codes) == {EXIT_NOTHING_RAN} else EXIT_SOME_FAILED


def _make_parser() -> Parser:
    parser = Parser(prog="run_parity.py sweep", description=__doc__)
    parser.add_argument("--over", choices=tuple(AXES), required=True, help="the size that is another in each run")
    parser.add_argument("values", nargs="+", type=positive_int, metavar="VALUES", help="its sizes, two or more")
    rows = add_row_options(parser)
    rows.add_argument(
        "--repeats", type=repeats_int, default=REPEATS, metavar="N", help="processes of each row (default: %(default)s)"
    )
    add_experiment_options(parser)
    run = add_run_options(parser)
    run.add_argument("--resume", action="store_true", help="keep the rows of --output that ended ok")
    run.add_argument("--no-report", action="store_true", help="draw no figure")
    return parser
