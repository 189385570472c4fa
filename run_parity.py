"""Compare TensorFlow and PyTorch at every precision: one process a row, one table of speed and memory.

python run_parity.py                                   every precision, sized for this machine
python run_parity.py --preset smoke --quiet            every precision, in a minute or two
python run_parity.py --frameworks torch --precisions float32 mixed_bfloat16 --compile both

Verbs, each with a --help of its own:

python run_parity.py env                               what this machine can run, and what is missing
python run_parity.py sweep --over image-size 32 64     from which size on mixed precision pays
python run_parity.py max-batch                         the largest batch that trains, in each precision
python run_parity.py report RESULTS                    a page, figures, tables and a CSV of any results
python run_parity.py compare OLD NEW                   two results row by row
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from common.cli import compare, env, max_batch, report, sweep
    from common.cli.exit_codes import EXIT_SOME_FAILED, exit_code
    from common.cli.options import PROGRAM, Parser, add_experiment_options, add_monitor_options, repeats_int
    from common.cli.plan import add_row_options, add_run_options, make_session, plan
    from common.config import RunConfig
    from common.process.interrupts import Interrupts
    from common.process.monitor import Monitors
    from common.process.progress import reporting
    from common.process.runner import launch_monitored, run_experiment
    from common.process.session import Session
    from common.results.rows import Results, Status
    from common.results.store import Store, StoreError
    from common.show.table import tables
    from common.text import escape_what_stdout_lacks, printable, resume_options, say, show, time_stamp
except ModuleNotFoundError as error:  # as outside of the environment that make has made
    from common.process.install import without_packages

    print(f"run_parity.py: {without_packages(error.name or '')}", file=sys.stderr)
    sys.exit(2)
except ImportError as error:  # as of an old Python
    print(f"run_parity.py: {error}", file=sys.stderr)
    sys.exit(2)

VERBS = {
    "report": report.main,
    "compare": compare.main,
    "sweep": sweep.main,
    "max-batch": max_batch.main,
    "env": env.main,
}

EXIT_CODES = """exit codes:
  0    every row ran, or can't be run on this device, and computes what it should
  1    a parity check failed; the parity table says which
  2    the command line was wrong
  3    some rows failed, and the table says which; or the results could not be written
  4    nothing ran
  130  interrupted by Ctrl-C; the rows so far are in the table and on disk. A second Ctrl-C ends everything at once
  143  likewise, by SIGTERM"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run every row, print the tables, or do what the verb says; returns the exit code."""
    escape_what_stdout_lacks()
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in VERBS:
        return VERBS[words[0]](words[1:])
    parser = make_parser()
    arguments = parser.parse_args(words)
    configs, session = plan(parser, arguments), make_session(arguments)
    if arguments.resume and not arguments.output:
        parser.error("argument --resume: give the --output whose rows are to be kept")
    command = [Path(sys.argv[0]).name, *words]
    with Interrupts() as interrupts:
        try:
            store = Store(arguments.output or Path("runs") / time_stamp())
            with store.locked():
                if os.path.lexists(store.path) and not arguments.resume:
                    raise StoreError(f"{store.folder} already holds results; give another folder, or --resume to go on")
                monitors = Monitors(arguments.tensorboard, arguments.trace)
                results, is_whole = run(session, monitors, configs, command, store, interrupts)
        except StoreError as reason:
            parser.error(f"argument {'--resume' if arguments.resume else '--output'}: {reason}")
    if interrupts.number:
        return 128 + interrupts.number
    code = exit_code(results, arguments.allow_missing)
    return code if is_whole else max(code, EXIT_SOME_FAILED)


def run(
    session: Session,
    monitors: Monitors,
    configs: Sequence[RunConfig],
    command: list[str],
    store: Store,
    interrupts: Interrupts,
) -> tuple[Results, bool]:
    """Run the rows that the store does not have, print the tables; returns the results, and whether all went well."""
    with reporting(configs, session.quiet) as reporter:
        launch = launch_monitored(monitors)
        results, is_complete = run_experiment(session, configs, command, store, interrupts, reporter, launch)
    is_printed = show(tables(results, session.tablefmt))
    places = {"results": store.path, **monitors.folders}
    if results.rows and session.with_report and not interrupts.number:
        page = report.report(results, store.folder / "report", session.tablefmt)
        places |= {"report": page} if page else {}
    if not session.quiet:
        for name, path in places.items():
            say(f"{name}: {printable(str(path))}")
    if interrupts.number:
        asked = {config.row_id for config in configs}
        ended = sum(row.status is not Status.INTERRUPTED for row in results.rows if row.config.row_id in asked)
        say(f"Interrupted: {ended} of {len(configs)} rows finished. Resume with: {resume_options(store.folder)}")
    return results, is_complete and is_printed


def make_parser() -> Parser:
    parser = Parser(VERBS, prog=PROGRAM, description=__doc__, epilog=EXIT_CODES)
    rows = add_row_options(parser)
    rows.add_argument(
        "--repeats", type=repeats_int, default=1, metavar="N", help="run each row in N fresh processes, by turns"
    )
    add_experiment_options(parser)
    run = add_run_options(parser)
    run.add_argument("--resume", action="store_true", help="keep the rows of --output that ended ok")
    run.add_argument("--no-report", action="store_true", help="write no page and figures beside the results")
    add_monitor_options(run)
    run.add_argument("--allow-missing", action="store_true", help="exit 0 even if a framework is not installed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
