"""Look at results: a page that needs no network, its figures as SVG and PNG, the tables as text and every row as CSV.

run_parity.py report results/h100
run_parity.py report runs/before runs/after --output pages --format github
"""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate_formats

from common.cli.exit_codes import EXIT_OK, EXIT_SOME_FAILED
from common.cli.options import PROGRAM, Parser
from common.process.install import missing
from common.process.interrupts import Interrupts
from common.results.files import require_folder
from common.results.rows import Results
from common.results.store import StoreError, read_results, results_file
from common.show.export import write_exports
from common.text import in_one_line, printable, say, show

EXIT_CODES = "exit codes: 0 written, 2 usage, 3 a page could not be written"


def main(argv: Sequence[str]) -> int:
    """Write a report for each of the results; returns the exit code: 0, 2 usage, 3 where one can't be written."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    files = [results_file(path) for path in arguments.results]
    try:
        found = [read_results(file) for file in files]
    except StoreError as reason:
        parser.error(f"argument RESULTS: {reason}")
    folders = _folders(files, arguments.output)
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        parser.error(f"argument RESULTS: two of them would be drawn into {twice}; give one at a time, with --output")
    is_whole = True
    with Interrupts() as interrupts:
        for results, folder in zip(found, folders, strict=True):
            if not interrupts.number:
                page = report(results, folder, arguments.format)
                is_whole &= page is not None and show(printable(str(page)))
    if interrupts.number:
        return 128 + interrupts.number
    return EXIT_OK if is_whole else EXIT_SOME_FAILED


def report(results: Results, folder: Path, tablefmt: str) -> Path | None:
    """Write the report into the folder and return the page's path; None, and one line on stderr, where it can't be.

    The tables and the CSV need no further package, and are written first.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_folder(folder)
        write_exports(results, folder, tablefmt)
        from common.show.page import write_page

        return write_page(results, folder)
    except ModuleNotFoundError as error:
        say(f"no page: {missing(error, 'report')}")
        return None
    except (OSError, ValueError) as error:
        say(f"no report: {printable(str(folder))} can't be written ({in_one_line(error)})")
        return None


def _make_parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} report", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="a results.json, or the folder of one")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: report/ beside each results.json")
    parser.add_argument("--format", choices=tabulate_formats, default="simple", metavar="NAME", help="of tables.txt")
    return parser


def _folders(files: Sequence[Path], output: Path | None) -> list[Path]:
    """Where each report goes: beside its results, or into the output, in a folder of its own if there are several."""
    if output is None:
        return [file.parent / "report" for file in files]
    if len(files) == 1:
        return [output.resolve()]
    names = [file.absolute().parent.name or "results" for file in files]
    return [
        output.resolve() / (name if names.count(name) == 1 else f"{name}-{index + 1}")
        for index, name in enumerate(names)
    ]
