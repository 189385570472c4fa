"""The options of run_parity.py and of its verbs that run rows: which rows, and how they are run."""

import os
import shutil
import sys
from argparse import ArgumentTypeError, Namespace, _ArgumentGroup
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate_formats

from common.cli.options import Parser, make_config, positive_float, positive_int
from common.config import FRAMEWORKS, LOOPS, Precision, Preset, RunConfig
from common.process.session import Session


def add_row_options(parser: Parser, precisions: str = "all") -> _ArgumentGroup:
    """Which rows: framework, precision and mode; returns the group, for what one verb has alone.

    `precisions` says which are the default.
    """
    rows = parser.add_argument_group("the rows")
    rows.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS, help="default: both")
    rows.add_argument(
        "--precisions",
        nargs="+",
        choices=[precision.value for precision in Precision],
        metavar="PRECISION",
        help=f"of {', '.join(Precision)} (default: {precisions})",
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
    rows.add_argument(
        "--devices",
        nargs="+",
        type=positive_int,
        default=[1],
        metavar="N",
        help="train on N devices of this host; several N give rows of each (default: 1)",
    )
    parser.set_defaults(repeats=1)
    return rows


def add_run_options(parser: Parser) -> _ArgumentGroup:
    """How the rows are run, and where their files go; returns the group, for what one verb has alone."""
    run = parser.add_argument_group("the run")
    run.add_argument("--output", type=folder, metavar="DIR", help="default: runs/ and the time")
    run.add_argument(
        "--timeout", type=positive_float, default=3600.0, metavar="S", help="seconds for one row (default: %(default)g)"
    )
    run.add_argument(
        "--format", choices=tabulate_formats, default="simple", metavar="NAME", help="one of tabulate's table formats"
    )
    run.add_argument("--quiet", action="store_true", help="no progress, tables only")
    add_interpreters(run)
    parser.set_defaults(resume=False, no_report=False)  # of those that have no such options
    return run


def add_interpreters(group: _ArgumentGroup) -> None:
    """The two frameworks may need environments of their own."""
    for framework, option in (("TensorFlow", "--tf-python"), ("PyTorch", "--torch-python")):
        group.add_argument(
            option, type=interpreter, default=sys.executable, metavar="EXE", help=f"the Python that has {framework}"
        )


def plan(
    parser: Parser, arguments: Namespace, precisions: Sequence[Precision] = (), sizes: Preset | None = None
) -> list[RunConfig]:
    """One config for each row, as they run: a first repeat of every row, then a second.

    By turns, so that what disturbs the machine for a while does not hit all processes of one row and none of those that
    it is compared with. precisions and sizes: instead of those of the options.
    """
    precisions = precisions or [Precision(name) for name in arguments.precisions or Precision]
    compiles = {"off": [False], "on": [True], "both": [False, True]}[arguments.compile]
    if arguments.loop != "custom" and "tensorflow" not in arguments.frameworks:
        parser.error(f"argument --loop: {arguments.loop} needs Keras' Model.fit; add tensorflow to --frameworks")
    loops = {"tensorflow": LOOPS if arguments.loop == "both" else (arguments.loop,), "torch": ("custom",)}
    return [
        make_config(
            parser, arguments, framework, precision,
            compile=compile, loop=loop, sizes=sizes, devices=devices, repeat=repeat,
        )
        for repeat in range(arguments.repeats)
        for framework in dict.fromkeys(arguments.frameworks)
        for compile in compiles
        for loop in loops[framework]
        for precision in dict.fromkeys(precisions)
        for devices in dict.fromkeys(arguments.devices)
        if devices == 1 or loop == "custom" or arguments.loop == "fit"  # of both, fit is one device's
    ]  # fmt: skip


def make_session(arguments: Namespace) -> Session:
    """How the rows are run, by the options of add_run_options."""
    pythons = {"tensorflow": arguments.tf_python, "torch": arguments.torch_python}
    return Session(
        pythons, arguments.timeout, arguments.quiet, arguments.format, arguments.resume, not arguments.no_report
    )


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
