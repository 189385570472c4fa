"""The tables that a run prints: speed and memory, then the manifest of what could tilt the comparison."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tabulate import tabulate as draw

from common.measure.statistics import instability
from common.process.variables import tilts, value_of
from common.proof.bounds import GRADIENT, REPLICAS, RULES
from common.results.check import Check, worst_first
from common.results.rows import ParityEntry, Results, RowResult, Status
from common.show.disturbance import cause_of, disturbances, unlikely_floors
from common.show.extents import extents, label_of, parity_cell
from common.show.lines import NOTHING, Line, baselines, group, interval, number, saved, speed_up
from common.show.verdict import INTERVALS, doubts, interval_cells
from common.show.words import place_of, variables_set
from common.text import LONGEST_FACT, printable

MANIFEST_WIDTH = 44  # characters in a column of the manifest
# Of a terminal; in Markdown and its like a second line would be another row.
WRAPPED_FORMATS = (
    "simple",
    "plain",
    "grid",
    "outline",
    "rounded",
    "heavy",
    "mixed",
    "double",
    "fancy",
    "psql",
    "presto",
)

# Left out of a table in which no row has them.
WORDS = (
    "sums by",
    "framework",
    "precision",
    "compile",
    "loop",
    "verdict",
    "parity",
    "status",
)  # columns that hold no numbers
GPU_ONLY = ("device MB", "J/epoch")
REPLICAS_ONLY = ("replicas", "hosts", "sums by", "batch each", "images/s each", "peak MB each", "strong %", "weak %")


def tables(results: Results, tablefmt: str) -> str:
    """The speed table, what it can't say itself, the parity table, the manifest, and the logs' ends of failed rows."""
    if not results.rows:
        return "no row has ended"
    lines = [speed_table(results.rows, tablefmt), "", *(f"- {note}" for note in notes(results.rows, results.parity))]
    if results.parity:
        lines += [
            "\nparity: difference over bound, the worst of both frameworks; 1 is the limit, 0.00 an exact agreement",
            f"\n{parity_table(results.parity, tablefmt)}\n",
            *(f"- {note}" for note in [*failures(results.parity), *extents(results.parity)]),
        ]
    if manifest := manifest_table(results.rows, tablefmt):
        lines.append(f"\n{manifest}")
    return "\n".join([*lines, *(f"\n{tail}" for tail in log_tails(results.rows))])


def speed_table(rows: Sequence[RowResult], tablefmt: str) -> str:
    """One line for each framework, precision, compile mode and loop; --repeats are summed up by their median.

    speed-up and saved compare with float32 of the same framework, compile mode and loop; saved is of the steady memory,
    since what autotuning takes in the first epoch is another for every precision.
    """
    lines = group(rows)
    of_mode = baselines(lines)
    table = [_cells(line, of_mode.get(line.mode)) for line in lines]
    if not any(line.mode.replicas > 1 for line in lines):
        table = [{name: cell for name, cell in cells.items() if name not in REPLICAS_ONLY} for cells in table]
    leave_out(table, [column for column in (*GPU_ONLY, *REPLICAS_ONLY, *INTERVALS) if column in table[0]])
    return draw_cells(table, tablefmt)


def notes(rows: Sequence[RowResult], parity: Sequence[ParityEntry] = ()) -> list[str]:
    """What the numbers can't say: why a row is slow or missing, how memory was read, whether the starts agree."""
    lines = group(rows)
    said = [
        *(
            f"{names}: {printable(detail)}"
            for detail, names in _named(lines, lambda line: [row.detail for row in line.rows])
        ),
        *unsteady(lines),
        *doubts(lines, parity),
        *(f"no steady step: {names}: {reason}" for reason, names in _named(lines, _untimed)),
        *(
            f"clocks held down at some time by {printable(cause)}: {names}"
            for cause, names in _named(lines, _slowed_by)
        ),
        *disturbances(lines),
        *(f"device MB: {source}: {names}" for source, names in _named(lines, _not_of_the_process)),
        *(
            f"label untrue, with these variables set: {names}: {variables}"
            for variables, names in _named(lines, _untrue_with)
        ),
        *_unlike_settings(rows),
    ]
    if any(row.memory and row.memory.kind == "gpu_allocator" and not row.gpu for row in rows):
        said.append("no device MB and J/epoch: the driver's NVML can't be read, or nvidia-ml-py is not installed")
    said += unlikely_floors(lines)
    repeats = max(len(line.rows) for line in lines)
    if repeats > 1:
        said.append(
            f"lines of up to {repeats} processes: their median; the spread is from the fastest to the slowest of them"
        )
    if any(row.memory and row.memory.kind == "host_rss" for row in rows):
        said.append(
            "no GPU was used: memory is the resident set of the process, libraries included. A GPU would add tf32, the "
            "allocator's own memory, and energy"
        )
    if any(row.replicas and row.memory and row.memory.kind == "host_rss" for row in rows):
        said.append("replicas on a CPU share its cores: strong % and weak % say nothing about several devices")
    trainings = {row.config.row_id: row.training for row in rows if row.training}
    return [
        *said,
        _agreement("data", {row_id: training.data_sha256 for row_id, training in trainings.items()}),
        _agreement("starting weights", {row_id: t.initial_weights_sha256 for row_id, t in trainings.items()}),
    ]


def unsteady(lines: Sequence[Line]) -> list[str]:
    """Which lines' times are not steady, and why."""
    return [f"UNSTABLE: {names}: {reason}" for reason, names in _named(lines, lambda line: [_unstable(line)])]


def parity_table(entries: Sequence[ParityEntry], tablefmt: str) -> str:
    """One line for each precision and compile mode: the worst of each kind of check, as difference / bound.

    1 is the limit. Exact checks are 0 where they hold. Beside it stands the gradient that is worst.
    """
    table = []
    for entry in entries:
        cells = {"precision": entry.precision, "compile": "on" if entry.compile else "off"}
        for part in dict.fromkeys(rule.part for rule in RULES):
            names = {rule.name for rule in RULES if rule.part == part}
            checks = worst_first(check for check in entry.checks if check.name in names)
            cells[part] = f"{checks[0].fraction:.2f}" if checks else NOTHING
            if part == GRADIENT.part and checks:
                cells[part] += f" {checks[0].tensor}"
        table.append({**cells, "parity": "pass" if entry.passed else "FAIL"})
    leave_out(table, [REPLICAS.part])
    return draw_table([list(cells.values()) for cells in table], list(table[0]), tablefmt)


def leave_out(table: list[dict[str, str]], columns: Sequence[str]) -> None:
    """Those of the columns in which no line has anything."""
    for column in columns:
        if all(cells[column] == NOTHING for cells in table):
            for cells in table:
                del cells[column]


def failures(entries: Sequence[ParityEntry]) -> list[str]:
    """Every check that failed, worst first: its name, tensor and difference / bound."""
    return [
        f"{label_of(entry)}: {printable(check.name)} failed, {printable(place_of(check))}: "
        f"{_difference(check)}, bound {check.bound:.3g}, {check.fraction:.3g} times"
        for entry in entries
        for check in worst_first(entry.checks)
        if not check.passed
    ]


def manifest_table(rows: Sequence[RowResult], tablefmt: str) -> str:
    """One line a fact, one column for each framework, compile mode and loop; what differs by precision says where.

    "" where no row came as far as to describe where it ran.
    """
    columns: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        if row.environment:
            replicas = f", x{row.config.execution.replicas}" if row.replicas else ""
            fit = ", fit" if row.loop == "fit" else ""
            header = f"{row.framework}{', compile' if row.compile else ''}{fit}{replicas}"
            facts = {
                "version": row.environment.framework_version,
                **{f"device {name}": value for name, value in row.environment.device.items()},
                **row.environment.manifest,
                **({} if row.variables is None else {"variables": variables_set(row.variables)}),
            }
            for fact, value in facts.items():
                columns.setdefault(header, {}).setdefault(fact, {})[row.precision] = value
    if not columns:
        return ""
    return draw_table(
        [
            [fact, *(_by_precision(column.get(fact, {})) for column in columns.values())]
            for fact in dict.fromkeys(fact for column in columns.values() for fact in column)
        ],
        ["manifest", *columns],
        tablefmt,
        maxcolwidths=[None, *[MANIFEST_WIDTH] * len(columns)] if tablefmt.startswith(WRAPPED_FORMATS) else None,
    )


def log_tails(rows: Sequence[RowResult]) -> list[str]:
    """Of each row that failed with something in its log: where that lies, and its last lines."""
    return [
        "\n".join(
            [
                f"{row.config.row_id}: {row.status}; the end of {printable(row.log or '')}:",
                *map(_indented, row.log_tail),
            ]
        )
        for row in rows
        if row.log_tail
    ]


def _indented(line: str) -> str:
    return f"    {printable(line)}"


def draw_table(table: Sequence[Sequence[str]], headers: Sequence[str], tablefmt: str, **layout: Any) -> str:
    """A table of cells that stay cells whatever is in them."""

    def cell(text: str) -> str:
        return printable(text).replace("|", "\\|") if tablefmt in ("github", "pipe") else printable(text)

    rows = [[cell(text) for text in row] for row in table]
    return draw(rows, [cell(text) for text in headers], tablefmt=tablefmt, disable_numparse=True, **layout)


def draw_cells(table: Sequence[dict[str, str]], tablefmt: str) -> str:
    """A table of lines whose cells have names, the same in each; numbers stand to the right."""
    return draw_table(
        [list(cells.values()) for cells in table],
        list(table[0]),
        tablefmt,
        colalign=["left" if column in WORDS else "right" for column in table[0]],
    )


def _cells(line: Line, baseline: Line | None) -> dict[str, str]:
    gain, less = speed_up(line, baseline), saved(line, baseline)
    return {
        "framework": line.first.framework,
        "precision": line.first.precision,
        "compile": "on" if line.first.compile else "off",
        "loop": line.first.loop,
        "replicas": str(line.mode.replicas),
        "hosts": number(line.median("hosts")),
        "sums by": line.first.replicas.backend if line.first.replicas else NOTHING,
        "batch each": number(line.median("batch each")),
        "step ms": number(line.median("step ms")),
        "spread ms": _spread(line),
        "speed-up": NOTHING if gain is None else f"{gain:.2f}x",
        **interval_cells(interval(line, baseline) if baseline and baseline is not line else None),
        "x floor": number(line.median("x floor")),
        "first s": number(line.median("first s")),
        "total s": number(line.median("total s")),
        "images/s": number(line.median("images/s")),
        "images/s each": number(line.median("images/s each")),
        "strong %": number(line.median("strong %")),
        "weak %": number(line.median("weak %")),
        "base MB": number(line.median("base MB")),
        "peak MB": number(line.median("peak MB")),
        "peak MB each": number(line.median("peak MB each")),
        "used MB": number(line.median("used MB")),
        "steady MB": number(line.median("steady MB")),
        "device MB": number(line.median("device MB")),
        "J/epoch": number(line.median("J/epoch")),
        "saved": NOTHING if less is None else f"{round(100 * less)} %",
        "loss": number(line.median("loss")),
        "acc %": number(line.median("acc %")),
        "skips": number(line.median("skips")),
        "parity": parity_cell(line),
        "status": ", ".join(dict.fromkeys(row.status.value for row in line.rows)),
    }


def _unstable(line: Line) -> str:
    """What is unsteady about its times, and what the system and the driver know about the cause."""
    reason = instability(line.steady_epochs_s, line.first.config.steps_per_epoch, cause_of(line))
    if reason and (causes := _slowed_by(line)):
        reason += f"; its clocks were held down by {printable(' and '.join(causes))}"
    return reason


def _untimed(line: Line) -> list[str]:
    """Why rows that were trained have no steady step."""
    epochs = line.first.config.train.epochs
    reason = (
        "there was one epoch alone; give --epochs 2 or more" if epochs < 2 else "the clock stood still or went back"
    )
    return [reason for row in line.rows if row.status is Status.OK and row.timing and not row.timing.step_s]


def _not_of_the_process(line: Line) -> list[str]:
    used = [row.gpu for row in line.rows if row.gpu and row.gpu.process_peak_bytes]
    is_growth = any(gpu.memory_source != "process" for gpu in used)
    return ["the growth of the whole device, since the driver did not name the row's processes"] if is_growth else []


def _untrue_with(line: Line) -> list[str]:
    return [variables_set(row.variables) for row in line.rows if row.status is Status.LABEL_UNTRUE and row.variables]


def _unlike_settings(rows: Sequence[RowResult]) -> list[str]:
    """A resumed run keeps rows that it isn't asked for, though versions, variables or code have changed since."""
    said = []
    for framework in dict.fromkeys(row.framework for row in rows):
        trained = [row for row in rows if row.framework == framework and row.status is Status.OK and row.setting]
        for fact in dict.fromkeys(fact for row in trained for fact in _setting(row)):
            found = _named(group(trained), partial(_setting_values, fact=fact))
            if len(found) > 1:
                values = "; ".join(f"{printable(value[:LONGEST_FACT])} of {names}" for value, names in found)
                said.append(f"UNLIKE: {printable(fact)} is not the same for all: {values}")
    return said


def _setting_values(line: Line, fact: str) -> list[str]:
    def missing(row: RowResult) -> str:
        return "" if row.variables is None and tilts(fact) else "none"

    return [_setting(row).get(fact, missing(row)) for row in line.rows]


def _setting(row: RowResult) -> dict[str, str]:
    variables = {name: value_of(row.variables, name) for name in row.variables} if row.variables else {}
    return {**row.setting, **variables, "threads": str(row.config.execution.threads)}


def _slowed_by(line: Line) -> list[str]:
    return sorted({cause for row in line.rows if row.gpu for cause in row.gpu.slowed_by})


def _named(lines: Sequence[Line], texts_of: Callable[[Line], Sequence[str]]) -> list[tuple[str, str]]:
    """Each text that is said of some lines, once, with the names of those lines."""
    names: dict[str, list[str]] = {}
    for line in lines:
        for text in dict.fromkeys(texts_of(line)):
            if text:
                names.setdefault(text, []).append(line.name)
    return [(text, ", ".join(named)) for text, named in names.items()]


def _spread(line: Line) -> str:
    return "-".join(map(number, line.spread_ms)) if line.spread_ms else NOTHING


def _difference(check: Check) -> str:
    return "not finite" if check.difference is None else f"{check.difference:.3g}"


def _agreement(what: str, hashes: dict[str, str]) -> str:
    distinct = set(hashes.values())
    if len(distinct) == 1:
        everywhere = (
            f"in all {len(hashes)} rows that ran, bit for bit" if len(hashes) > 1 else "in the one row that ran"
        )
        return f"{what}: sha256 {printable(min(distinct)[:16])}... {everywhere}"
    differing = ", ".join(f"{row_id} {printable(digest[:16])}" for row_id, digest in hashes.items())
    return f"{what}: NOT EQUAL: {differing}" if distinct else f"{what}: no row ran"


def _by_precision(values: dict[str, str]) -> str:
    """The value that most precisions share, then what differs and where."""
    if not values:
        return NOTHING
    common, _ = Counter(values.values()).most_common(1)[0]
    others = [f"{precision}: {value}" for precision, value in values.items() if value != common]
    return "; ".join([common, *others])
