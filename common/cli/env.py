"""What this machine can run: each framework's device and versions, the precisions that run there, and what is missing.

run_parity.py env
run_parity.py env --tf-python .venv-tf/bin/python --torch-python .venv-torch/bin/python
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from tabulate import tabulate_formats

from common.cli.exit_codes import EXIT_NOTHING_RAN, EXIT_OK, EXIT_SOME_FAILED
from common.cli.options import PROGRAM, Parser
from common.cli.plan import add_interpreters
from common.config import DEVICES, FRAMEWORKS, ExecutionConfig, Precision, RunConfig
from common.measure.hardware import Unsupported, available_cores, has_gpu, require_support, slow_reason
from common.process.install import install_command
from common.process.interrupts import Interrupts
from common.process.launch import Job, launch_row
from common.results.rows import RowResult, Status
from common.show.table import draw_table, log_tails, manifest_table
from common.text import printable, show

LONGEST_S = 300.0  # a framework is imported in seconds; from a slow network drive in minutes

# What our own interpreter may lack, and what that costs.
OPTIONAL = {"matplotlib": "no page and no figures", "jinja2": "no page"}

EXIT_CODES = "exit codes: 0, 2 usage, 3 not printed, 4 no framework works; 130 or 143 ended by Ctrl-C or SIGTERM"


def main(argv: Sequence[str]) -> int:
    """Print what the machine can run; returns the exit code: 0, 2 usage, 4 where no framework works."""
    parser = Parser(prog=f"{PROGRAM} env", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto (the default) takes a GPU if there is one"
    )
    parser.add_argument("--format", choices=tabulate_formats, default="simple", metavar="NAME", help="of the tables")
    add_interpreters(parser.add_argument_group("the frameworks"))
    arguments = parser.parse_args(argv)
    with Interrupts() as interrupts, tempfile.TemporaryDirectory() as folder:
        pythons = {"tensorflow": arguments.tf_python, "torch": arguments.torch_python}
        rows = {
            name: describe(name, pythons[name], arguments.device, Path(folder), interrupts)
            for name in FRAMEWORKS
            if not interrupts.number
        }
    if interrupts.number:
        return 128 + interrupts.number
    is_shown = show("\n".join(_lines(rows, arguments.format)))
    if not any(row.status is Status.OK for row in rows.values()):
        return EXIT_NOTHING_RAN
    return EXIT_OK if is_shown else EXIT_SOME_FAILED


def describe(framework: str, python: str, device: str, folder: Path, interrupts: Interrupts) -> RowResult:
    """A row of this framework that says where it would run, in `environment`, or why it would not."""
    execution = ExecutionConfig(device, threads=available_cores())
    config = RunConfig(framework, Precision.FLOAT32, execution=execution)
    job = Job(config, python, folder / "rows" / framework, LONGEST_S, ["--describe"])
    return launch_row(job, lambda event: None, interrupts)


def verdict(row: RowResult, precision: Precision) -> tuple[str, str]:
    """Whether the row's framework runs this precision here, in a word, and the reason where it doesn't, or is slow."""
    if row.environment is None:
        return str(row.status), row.detail
    try:
        require_support(precision, row.environment.device)
    except Unsupported as reason:
        return "no", str(reason)
    slow = slow_reason(precision, row.environment.device)
    return ("emulated", slow) if slow else ("yes", "")


def _lines(rows: Mapping[str, RowResult], tablefmt: str) -> Iterator[str]:
    verdicts = {(name, precision): verdict(row, precision) for name, row in rows.items() for precision in Precision}
    table = [[precision.value, *(verdicts[name, precision][0] for name in rows)] for precision in Precision]
    yield draw_table(table, ["precision", *rows], tablefmt)
    yield ""
    for text in dict.fromkeys(reason for _, reason in verdicts.values() if reason):
        names = [f"{name} {precision}" for (name, precision), (_, reason) in verdicts.items() if reason == text]
        yield f"- {_who(names, rows)}: {printable(text)}"
    for row in rows.values():
        if has_gpu() and row.environment and row.environment.device["kind"] == "cpu":
            yield f"- {row.framework}: there is an NVIDIA GPU, which it does not see; is its CUDA build installed?"
    for package, cost in OPTIONAL.items():
        if find_spec(package) is None:
            yield f"- {cost}: {package} is not installed; add it with: {install_command('report', sys.executable)}"
    if facts := manifest_table(list(rows.values()), tablefmt):
        yield f"\n{facts}"
    yield from (f"\n{tail}" for tail in log_tails(list(rows.values())))


def _who(names: Sequence[str], rows: Mapping[str, RowResult]) -> str:
    """A framework that lacks every precision is named once."""
    for framework in rows:
        if set(names) == {f"{framework} {precision}" for precision in Precision}:
            return framework
    return ", ".join(names)
