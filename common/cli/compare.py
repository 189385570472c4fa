"""Two results of one experiment, row by row: what became faster or slower, and what else changed.

run_parity.py compare results/before results/after
run_parity.py compare main.json branch.json --fail-above 5     exit code 1 where a row is slower by more than 5 %
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate_formats

from common.cli.exit_codes import EXIT_OK, EXIT_SOME_FAILED
from common.cli.options import PROGRAM, Parser, positive_float
from common.config import Mode, any_experiment_difference
from common.measure.statistics import LEAST_PROCESSES, PROCESSES_DIFFER
from common.process.variables import value_of
from common.proof.runs import pair_checks
from common.results.rows import Results, RowResult, Status
from common.results.store import StoreError, read_results, results_file
from common.show.disturbance import disturbances
from common.show.extents import parity_of
from common.show.lines import NOTHING, Interval, Line, group, interval, number
from common.show.table import draw_cells, failures, leave_out
from common.show.verdict import CANT_TELL, INTERVALS, NO_DIFFERENCE, Verdict, interval_cells, judge
from common.text import printable, show

EXIT_SLOWER = 1  # with --fail-above
EXIT_CODES = "exit codes: 0 compared, 1 --fail-above failed, 2 usage, 3 the table could not be printed"


class Change(NamedTuple):
    """One line of the table in both results. ratio is new over old time, interval that of it."""

    old: Line
    new: Line
    ratio: float | None
    interval: Interval | None
    said: Verdict

    @property
    def verdict(self) -> str:
        return self.said.word

    def may_be_slower(self, percent: float) -> bool:
        """Whether it can't be told that it is not, by more than this."""
        within = self.said.is_wide and self.interval is not None and self.interval.high <= 1 + percent / 100
        return self.verdict == CANT_TELL and not within

    @property
    def is_lost(self) -> bool:
        """It was trained, or passed, and does not any more."""
        return (is_ok(self.old) and not is_ok(self.new)) or (
            parity_of(self.old) == "pass" and parity_of(self.new) not in ("pass", NOTHING)
        )


def main(argv: Sequence[str]) -> int:
    """Compare as the arguments say; returns the exit code: 0, 1 for what --fail-above fails, 2 usage."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    try:
        old, new = (read_results(results_file(path)) for path in (arguments.old, arguments.new))
    except StoreError as reason:
        parser.error(str(reason))
    if difference := any_experiment_difference(*([row.config for row in results.rows] for results in (new, old))):
        parser.error(f"argument NEW: it is of another experiment, with {difference}; only equal ones can be compared")
    changes = compare(old, new)
    if not changes:
        parser.error("argument NEW: it has no row that OLD has")
    failing = [] if arguments.fail_above is None else [*fail_above(changes, arguments.fail_above), *lost(old, new)]
    lines = [_table(changes, arguments.format), "", *(f"- {note}" for note in notes(old, new, changes))]
    is_shown = show("\n".join([*lines, *(f"- FAIL: {reason}" for reason in failing)]))
    return EXIT_SLOWER if failing else EXIT_OK if is_shown else EXIT_SOME_FAILED


def compare(old: Results, new: Results) -> list[Change]:
    """The lines that both have, in the order of the table."""
    earlier = {_place(line): line for line in group(old.rows)}
    return [_change(earlier[_place(line)], line) for line in group(new.rows) if _place(line) in earlier]


def fail_above(changes: Sequence[Change], percent: float) -> list[str]:
    """Why a slow-down of more than this fails, one clause a line; a row that is lost or can't be judged does too.

    What is in one of the results alone does not.
    """
    return (
        [
            f"{change.new.name} is slower by {100 * (change.ratio - 1):.3g} %, more than {percent:g} %"
            for change in changes
            if change.verdict == "slower" and change.ratio is not None and change.ratio > 1 + percent / 100
        ]
        + [
            f"{change.new.name} can't be judged: {change.said.why}"
            for change in changes
            if change.ratio is not None and change.may_be_slower(percent) and not change.is_lost
        ]
        + [
            f"{change.new.name} was {_state(change.old)} and is {_state(change.new)}"
            for change in changes
            if change.is_lost
        ]
    )


def lost(old: Results, new: Results) -> list[str]:
    """The checks of two rows together that have passed in OLD and fail in NEW."""
    passed = {
        (entry.precision, entry.compile, check.name)
        for entry in old.parity
        for check in pair_checks(entry)
        if check.passed
    }
    return failures(
        [
            replace(
                entry,
                checks=[
                    check for check in pair_checks(entry) if (entry.precision, entry.compile, check.name) in passed
                ],
            )
            for entry in new.parity
        ]
    )


def notes(old: Results, new: Results, changes: Sequence[Change]) -> list[str]:
    """What the table can't say: rows in one alone or not judged, rows that were disturbed, what has changed."""
    return [
        *_only_in(old, new, "NEW"),
        *_only_in(new, old, "OLD"),
        *_doubts(changes),
        *(f"OLD: {note}" for note in disturbances([change.old for change in changes])),
        *(f"NEW: {note}" for note in disturbances([change.new for change in changes])),
        *_changed_facts(old, new),
    ]


def is_ok(line: Line) -> bool:
    return all(row.status is Status.OK for row in line.rows)


def _make_parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} compare", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("old", type=Path, metavar="OLD", help="a results.json, or the folder of one")
    parser.add_argument("new", type=Path, metavar="NEW", help="likewise")
    parser.add_argument(
        "--fail-above",
        type=positive_float,
        metavar="PCT",
        help="exit code 1 if a row is significantly slower, by more than this many percent, can't be judged, or failed",
    )
    parser.add_argument("--format", choices=tabulate_formats, default="simple", metavar="NAME", help="of the table")
    return parser


def _place(line: Line) -> tuple[str, Mode]:
    return line.first.precision, line.mode


def _change(old: Line, new: Line) -> Change:
    before, after = old.median("step ms"), new.median("step ms")
    gain = interval(new, baseline=old)
    ends = Interval(1 / gain.high, 1 / gain.low, gain.over_processes) if gain else None
    said = judge(new, old, names=("NEW ", "OLD "), of_one_run=False)
    return Change(old, new, after / before if before and after else None, ends, said)


def _table(changes: Sequence[Change], tablefmt: str) -> str:
    table = [_cells(change) for change in changes]
    leave_out(table, ["replicas", *INTERVALS])
    return draw_cells(table, tablefmt)


def _cells(change: Change) -> dict[str, str]:
    old, new = change.old, change.new
    before, after = old.median("steady MB"), new.median("steady MB")
    return {
        "framework": new.first.framework,
        "precision": new.first.precision,
        "compile": "on" if new.first.compile else "off",
        "loop": new.first.loop,
        "replicas": str(new.mode.replicas) if new.mode.replicas > 1 else NOTHING,
        "old ms": number(old.median("step ms")),
        "new ms": number(new.median("step ms")),
        "new / old": f"{change.ratio:.3f}" if change.ratio else NOTHING,
        **interval_cells(change.interval, decimals=3),
        "verdict": f"{change.said.word} {change.said.why}" if change.verdict == NO_DIFFERENCE else change.verdict,
        "old MB": number(before),
        "new MB": number(after),
        "memory": f"{after / before:.3f}" if before and after else NOTHING,
        "parity": _arrow(parity_of(old), parity_of(new)),
        "status": _arrow(_status(old), _status(new)),
    }


def _only_in(one: Results, other: Results, missing_from: str) -> list[str]:
    there = {_place(line) for line in group(other.rows)}
    names = [line.name for line in group(one.rows) if _place(line) not in there]
    return [f"not in {missing_from}: {', '.join(names)}"] if names else []


def _doubts(changes: Sequence[Change]) -> Iterator[str]:
    judged = [change for change in changes if change.verdict != CANT_TELL]
    if few := [change.new.name for change in judged if change.interval and not change.interval.over_processes]:
        yield (
            f"of fewer than {LEAST_PROCESSES} processes a side only differences above "
            f"{round(100 * (PROCESSES_DIFFER - 1))} % count; --repeats {LEAST_PROCESSES} judges closer: "
            f"{', '.join(few)}"
        )
    unknown: dict[str, list[str]] = {}
    for change in changes:
        if change.ratio and change.verdict == CANT_TELL:
            unknown.setdefault(change.said.why, []).append(change.new.name)
    for why, names in unknown.items():
        yield f"{CANT_TELL}: {', '.join(names)}: {why}"


def _changed_facts(old: Results, new: Results) -> Iterator[str]:
    names = sorted({name for row in [*old.rows, *new.rows] for name in row.variables or {}})
    before, after = (_facts(results.rows, names) for results in (old, new))
    changed: dict[str, list[str]] = {}
    for (framework, fact), value in after.items():
        earlier = before.get((framework, fact))
        if earlier is not None and earlier != value:
            changed.setdefault(f"{printable(fact)}: {printable(earlier)} -> {printable(value)}", []).append(framework)
    for text, frameworks in changed.items():
        yield f"changed, {' and '.join(frameworks)}: {text}"


def _facts(rows: Sequence[RowResult], variables: Sequence[str]) -> dict[tuple[str, str], str]:
    """Of each framework what its first row says of it, and of these variables."""
    facts: dict[tuple[str, str], str] = {}
    for row in rows:
        if row.environment:
            said = {
                "version": row.environment.framework_version,
                "Python": row.environment.python_version,
                "NumPy": row.environment.numpy_version,
                **{f"device {name}": value for name, value in row.environment.device.items()},
                **row.environment.manifest,
                **({name: value_of(row.variables, name) for name in variables} if row.variables is not None else {}),
            }
            for fact, value in said.items():
                facts.setdefault((row.framework, fact), value)
    return facts


def _arrow(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"


def _status(line: Line) -> str:
    return ", ".join(dict.fromkeys(row.status.value for row in line.rows))


def _state(line: Line) -> str:
    return _status(line) if not is_ok(line) else f"ok, parity {parity_of(line)}"
