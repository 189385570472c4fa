"""The largest batch that trains, for each framework and precision: each trial two steps in a fresh process.

run_parity.py max-batch                                   on a GPU, within its memory
run_parity.py max-batch --device cpu --memory-limit 2GB   on a CPU, within a resident set of that size

The search begins where the memory model expects the end, doubles its step until a batch fits and another doesn't, and
bisects between them, to within 1 %: some six trials a row, each of 10 s on a CPU and of 15 to 60 s on a GPU.
"""

import os
import re
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from common.cli.exit_codes import EXIT_NOTHING_RAN, EXIT_OK, EXIT_SOME_FAILED
from common.cli.options import PROGRAM, Parser, add_experiment_options
from common.cli.plan import add_row_options, add_run_options, make_session, plan
from common.config import Precision, RunConfig
from common.measure.footprint import largest_single_batch
from common.measure.nvml import free_gpu_memory
from common.process.interrupts import Interrupts
from common.process.launch import Job, launch_undisturbed
from common.process.session import Session
from common.results.coding import LARGEST_INT, arrays_file, read_json, write_json
from common.results.files import require_folder
from common.results.rows import RowResult, Status
from common.results.store import Store, StoreError
from common.show.drawing import draw
from common.show.lines import NOTHING
from common.show.table import draw_cells
from common.text import printable, say, show, time_stamp

EXIT_CODES = "exit codes: 0, 2 usage, 3 some rows failed, 4 all did; 130 or 143 ended by Ctrl-C or SIGTERM"
RESOLUTION = 0.01
FIRST_STEP = 0.02  # of where the memory model expects the end; doubled from there
UNITS = {"": 1, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, slots=True)
class Trial:
    """One process: whether a batch of this size trained within the memory, the most that it took, and its status."""

    batch_size: int
    fits: bool
    status: Status
    detail: str
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class LargestBatch:
    """One line of the table. batch_size: the largest that fits, 0 if none does; None where a trial failed otherwise."""

    config: RunConfig
    expected: int
    batch_size: int | None = None
    detail: str = ""
    trials: list[Trial] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.config.row_id.removesuffix("-r0")


@dataclass(frozen=True, slots=True)
class Found:
    """The whole of max_batch.json. memory_limit_bytes is None where the device's own memory is the limit."""

    command: list[str]
    memory_limit_bytes: int | None
    lines: list[LargestBatch]


class TrialError(Exception):
    """A trial ended otherwise than by training or by running out of memory."""


def main(argv: Sequence[str]) -> int:
    """Search for every row; returns the exit code: 0, 2 usage, 3 some failed, 4 all did, 130 or 143 for signals."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    if arguments.devices != [1]:
        parser.error("argument --devices: max-batch tries one device; leave it out")
    for option in ("images", "batch_size", "batch_per_replica", "epochs"):
        if getattr(arguments, option) is not None:
            parser.error(f"argument --{option.replace('_', '-')}: max-batch chooses it itself; leave it out")
    configs, session = plan(parser, arguments), make_session(arguments)
    free_bytes = arguments.memory_limit or (free_gpu_memory() if configs[0].execution.device != "cpu" else None)
    if free_bytes is None and configs[0].execution.device == "gpu":
        parser.error("argument --device: no NVIDIA GPU is seen; leave it out")
    if free_bytes is None:
        parser.error("argument --memory-limit: needed on a CPU, whose memory others use too; give one, such as 2GB")
    lines = [LargestBatch(config, expected=largest_single_batch(config, free_bytes)) for config in configs]
    found = Found(["run_parity.py", "max-batch", *argv], arguments.memory_limit, lines)
    with Interrupts() as interrupts:
        try:
            store = Store(arguments.output or Path("runs") / f"{time_stamp()}-max-batch")
            with store.locked():
                if os.path.lexists(store.folder / "max_batch.json"):
                    raise StoreError(f"{store.folder} already holds a search; give another folder")
                found = _search_all(session, found, store.folder, interrupts)
                is_whole = _present(found, session, store.folder)
        except StoreError as reason:
            parser.error(f"argument --output: {reason}")
    if interrupts.number:
        return 128 + interrupts.number
    known = [line for line in found.lines if line.batch_size is not None]
    if not known:
        return EXIT_NOTHING_RAN
    return EXIT_OK if len(known) == len(found.lines) and is_whole else EXIT_SOME_FAILED


def search(fits: Callable[[int], bool], start: int) -> int:
    """The largest size that fits, to within RESOLUTION, looked for from `start` on; 0 if 1 does not fit."""
    size, step = start, max(1, round(start * FIRST_STEP))
    low, high = 0, 0  # the largest known to fit, and the smallest known not to; 0 is none
    while not (low and high):
        if fits(size):
            low = size
            size += step
        elif size == 1:
            return 0
        else:
            high = size
            size = max(1, size - step)
        step *= 2
    while high - low > max(1, RESOLUTION * low):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _search_all(session: Session, found: Found, folder: Path, interrupts: Interrupts) -> Found:
    """Search line by line; what is known is on disk after every trial."""
    progress = _Progress(len(found.lines), session.quiet)
    for index, line in enumerate(found.lines):
        save = partial(_save, folder, found, index)
        attempt = partial(_try, session, folder=folder, limit_bytes=found.memory_limit_bytes, interrupts=interrupts)
        ended = _search_line(line, found.memory_limit_bytes, attempt, save, partial(progress.tell, index))
        found = save(ended)
        if interrupts.number:
            break
    return found


def _search_line(
    line: LargestBatch,
    limit_bytes: int | None,
    attempt: Callable[[RunConfig, int], Trial],
    save: Callable[[LargestBatch], object],
    tell: Callable[[LargestBatch, Trial], None],
) -> LargestBatch:
    """Find the largest batch of one line. On a CPU a first trial tells what the libraries take of the limit."""
    trials: list[Trial] = []

    def fits(size: int) -> bool:
        known = [trial.fits for trial in trials if trial.batch_size == size]
        if known:
            return known[0]
        trial = attempt(line.config, size)
        trials.append(trial)
        save(replace(line, trials=list(trials)))
        tell(line, trial)
        if not trial.fits and trial.status not in (Status.OK, Status.OOM, Status.KILLED):
            raise TrialError(f"{trial.status}: {trial.detail}" if trial.detail else str(trial.status))
        return trial.fits

    try:
        if line.config.execution.device == "cpu" and limit_bytes:
            if not fits(1):
                return replace(line, batch_size=0, trials=trials)
            line = replace(line, expected=largest_single_batch(line.config, limit_bytes - (trials[0].peak_bytes or 0)))
        return replace(line, batch_size=search(fits, line.expected), trials=trials)
    except TrialError as reason:
        return replace(line, detail=str(reason), trials=trials)


def _save(folder: Path, found: Found, index: int, line: LargestBatch) -> Found:
    """Write all that is found, with this line as it is by now; returns it."""
    found = replace(found, lines=[*found.lines[:index], line, *found.lines[index + 1 :]])
    try:
        write_json(folder / "max_batch.json", found)
    except OSError as error:  # a full disk costs the file and not the table
        say(f"{printable(str(folder))}/max_batch.json can't be written: {error.strerror}")
    return found


def _try(
    session: Session, config: RunConfig, size: int, folder: Path, limit_bytes: int | None, interrupts: Interrupts
) -> Trial:
    """Train two steps of this batch."""
    trial = replace(
        config,
        data=replace(config.data, images=size),
        train=replace(config.train, batch_size=size, epochs=2),
    )
    place = folder / "rows" / f"{config.row_id}-b{size}"
    job = Job(trial, session.pythons[config.framework], place, session.timeout_s)
    row = launch_undisturbed(job, lambda event: None, interrupts)
    with suppress(OSError, ValueError):
        require_folder(place)
        arrays_file(place).unlink()  # nobody compares them
    return _judge(row, size, limit_bytes)


def _judge(row: RowResult, size: int, limit_bytes: int | None) -> Trial:
    """A row that was trained fits, whatever else is wrong with so short a training."""
    peak_bytes = row.memory.peak_bytes if row.memory else None
    trained = row.training is not None and peak_bytes is not None
    fits = trained and (limit_bytes is None or (peak_bytes or 0) <= limit_bytes)
    status = Status.OK if trained else row.status
    return Trial(size, fits, status, "" if trained else row.detail, peak_bytes)


class _Progress:
    """A line for each trial, with the time that is left if the lines to come take as many as those so far."""

    EXPECTED_TRIALS = 6

    def __init__(self, lines: int, quiet: bool) -> None:
        self._lines, self._quiet = lines, quiet
        self._trials = 0
        self._start_s = time.monotonic()

    def tell(self, index: int, line: LargestBatch, trial: Trial) -> None:
        self._trials += 1
        elapsed_s = time.monotonic() - self._start_s
        a_line = max(self.EXPECTED_TRIALS, self._trials / (index + 1))
        left_s = elapsed_s / self._trials * (1 + a_line * (self._lines - index - 1))
        if not self._quiet:
            word = "fits" if trial.fits else "does not fit" if trial.status is Status.OK else str(trial.status)
            say(f"[{index + 1}/{self._lines}] {line.name}: {trial.batch_size} {word}, about {left_s:.0f} s left")


def _present(found: Found, session: Session, folder: Path) -> bool:
    """Print the table and draw it; returns whether all of it is shown and on disk."""
    is_shown = show(_report(found, session.tablefmt))
    sizes = {line.config: line.batch_size for line in found.lines if line.batch_size}
    is_drawn = not sizes or draw(lambda figures: figures.largest_batches(sizes), folder, "max_batch")
    if not session.quiet:
        say(f"max-batch: {printable(str(folder))}")
    return is_shown and is_drawn and _is_saved(found, folder)


def _is_saved(found: Found, folder: Path) -> bool:
    with suppress(OSError, ValueError):
        return read_json(folder / "max_batch.json", Found) == found
    return False


def _report(found: Found, tablefmt: str) -> str:
    float32 = {line.config.mode: line for line in found.lines if line.config.precision is Precision.FLOAT32}
    drawn = draw_cells([_cells(line, float32.get(line.config.mode)) for line in found.lines], tablefmt)
    limit = found.memory_limit_bytes
    where = f"within {limit:,} bytes, libraries included" if limit else "within the device's memory"
    notes = [f"images in one step, {where}, two steps in a process of its own; to within {RESOLUTION:.0%}"]
    notes += [f"{line.name}: {printable(line.detail)}" for line in found.lines if line.detail]
    notes += [f"{line.name}: {_too_little(line)}" for line in found.lines if line.batch_size == 0]
    return "\n".join([drawn, "", *(f"- {note}" for note in notes)])


def _too_little(line: LargestBatch) -> str:
    """Why not even one image fits."""
    peak_bytes = line.trials[-1].peak_bytes
    return f"one image takes {peak_bytes:,} bytes, libraries included" if peak_bytes else "one image is too many"


def _cells(line: LargestBatch, float32: LargestBatch | None) -> dict[str, str]:
    config, size = line.config, line.batch_size
    base = float32.batch_size if float32 else None
    peak = next((trial.peak_bytes for trial in line.trials if trial.fits and trial.batch_size == size), None)
    return {
        "framework": config.framework,
        "precision": config.precision.value,
        "compile": "on" if config.execution.compile else "off",
        "loop": config.execution.loop,
        "largest batch": NOTHING if size is None else str(size),
        "over float32": f"{size / base:.2f}x" if size and base else NOTHING,
        "peak MB": f"{peak / 1e6:.0f}" if peak else NOTHING,
        "by the model": str(line.expected),
        "trials": str(len(line.trials)),
    }


def _make_parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} max-batch", description=__doc__, epilog=EXIT_CODES)
    add_row_options(parser)
    add_experiment_options(parser)
    run = add_run_options(parser)
    run.add_argument(
        "--memory-limit", type=_bytes, metavar="SIZE", help="the most that a row may take, such as 1500MB or 2GB"
    )
    return parser


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?(MB|GB|)", text, re.ASCII)
    size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if not 0 < size <= LARGEST_INT:
        raise ArgumentTypeError(f"{text!r:.40} is no size; give one such as 1500MB or 2GB")
    return size
