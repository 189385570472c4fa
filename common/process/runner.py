"""The rows of one experiment: run one after the other, each in its own process, and then held to each other."""

import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone

from common.config import RunConfig
from common.measure.hardware import cpu_name
from common.measure.limits import Ceilings, best_ceilings, find_limits
from common.process.interrupts import Interrupts
from common.process.launch import Job, Launch, launch_row
from common.process.monitor import Monitors
from common.process.progress import Reporter
from common.process.recorder import OnEvent
from common.process.session import Session
from common.process.setting import describe_setting, find_changes, row_key
from common.process.variables import changed_variables, tilting_variables
from common.proof.runs import ArraysOf, check_pairs, complete_checks, judge
from common.results.rows import Results, RowResult, Status, in_order
from common.results.store import Store, StoreError
from common.text import in_one_line, say


def run_experiment(
    session: Session,
    configs: Sequence[RunConfig],
    command: list[str],
    store: Store,
    interrupts: Interrupts,
    reporter: Reporter,
    launch: Launch = launch_row,
) -> tuple[Results, bool]:
    """Run the rows that the store does not have and compare all of them.

    Returns the results, and whether they could be compared and are all on disk; the first signal ends it early.
    """
    earlier = store.read(configs)
    rows = _arranged(earlier.rows)
    results = Results(
        command=command,
        earlier_commands=[*earlier.earlier_commands, *([earlier.command] if earlier.command else [])],
        environment=describe_parent(),
        rows=rows,
        parity=judge(rows),
    )
    results = run_rows(session, configs, results, store, interrupts, reporter, launch)
    if interrupts.number:
        return results, False
    if not session.quiet and any(row.training for row in results.rows):
        say("holding the runs to float64 and to each other")
    is_compared = True
    try:
        with suppress(KeyboardInterrupt), interrupts.calling(_raise_keyboard_interrupt):
            results = compare_runs(results, store.arrays_of)
    except (StoreError, MemoryError) as error:
        say(f"the runs could not be compared: {in_one_line(error) or 'out of memory'}")
        is_compared = False
    store.save(results)
    return results, is_compared and store.is_whole


def run_rows(
    session: Session,
    configs: Sequence[RunConfig],
    results: Results,
    store: Store,
    interrupts: Interrupts,
    reporter: Reporter,
    launch: Launch,
) -> Results:
    """Run one row after the other, each saved when it has ended; a row of `results` stays until it has run again."""
    device, settings = configs[0].execution.device, {}
    with suppress(KeyboardInterrupt), interrupts.calling(_raise_keyboard_interrupt):
        frameworks = dict.fromkeys(config.framework for config in configs)
        settings = {name: describe_setting(name, session.pythons[name], device) for name in frameworks}
    rows = {row.config.row_id: row for row in results.rows}
    session_utc = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    variables = tilting_variables(os.environ)
    is_kept = False
    for config in configs:
        if interrupts.number:
            break
        row, setting = rows.get(config.row_id), settings[config.framework]
        key = row_key(config, setting, variables)
        if row is not None and row.status is Status.OK and (row.config, row.key) == (config, key):
            reporter.keep_row(row)
            continue
        changes = []
        if row and row.status is Status.OK:
            changes = find_changes(config, setting, row.config, row.setting)
            changes += changed_variables(variables, row.variables)
            if not is_kept:
                store.keep()
                is_kept = True
        reporter.start_row(config, changes)
        job = Job(config, session.pythons[config.framework], store.row_folder(config), session.timeout_s)
        row = launch(job, reporter.event, interrupts)
        row = replace(row, setting=setting, variables=variables, key=key, session=session_utc)
        rows[config.row_id] = row
        ordered = _arranged(rows.values())
        results = replace(results, rows=ordered, parity=judge(ordered))
        store.save(results)
        reporter.end_row(row)
    return results


def compare_runs(results: Results, arrays_of: ArraysOf) -> Results:
    """Hold the trained rows to float64 and to each other, and judge them by all their checks."""
    rows = complete_checks(share_limits(results.rows), arrays_of)
    return replace(results, rows=rows, parity=judge(rows, check_pairs(rows, arrays_of)))


def find_efficiencies(rows: Sequence[RowResult]) -> list[RowResult]:
    """Hold every row of several replicas to those of one replica that train the same batch, or the same share of it."""
    single = {
        _same(row, 1, row.config.train.batch_size): row.timing.images_per_s
        for row in rows
        if row.status is Status.OK and row.timing and row.timing.images_per_s and not row.replicas
    }

    def efficiency(row: RowResult, each: float, batch_size: int) -> float | None:
        alone = single.get(_same(row, 1, batch_size))
        return each / alone if alone else None

    def with_efficiencies(row: RowResult) -> RowResult:
        group = row.replicas
        if not group or not group.images_per_s_per_replica:
            return row
        strong, weak = (
            efficiency(row, group.images_per_s_per_replica, batch_size)
            for batch_size in (row.config.train.batch_size, group.batch_per_replica)
        )
        group = replace(group, strong_scaling_efficiency=strong, weak_scaling_efficiency=weak)
        return replace(row, replicas=group)

    return [with_efficiencies(row) for row in rows]


def _arranged(rows: Iterable[RowResult]) -> list[RowResult]:
    """In the order of the table, and with the efficiencies that it shows: an interrupted run has them as well."""
    return find_efficiencies(in_order(rows))


def _same(row: RowResult, replicas: int, batch_size: int) -> tuple[object, ...]:
    """What a row has in common with the one that trains on so many replicas, with this batch."""
    config = row.config
    train = replace(config.train, batch_size=batch_size)
    execution = replace(config.execution, devices=replicas, hosts=1, collective_timeout_s=1.0)  # changes no figure
    return row.framework, config.precision, execution, config.data, config.model, train, config.repeat


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


def describe_parent() -> dict[str, str]:
    """Where the run was started; each row carries the environment of its own process."""
    return {"platform": platform.platform(), "python_version": platform.python_version(), "cpu": cpu_name()}


def _raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def launch_monitored(monitors: Monitors) -> Launch:
    """launch_row with these monitors, each row in a folder of its own."""

    def launch(job: Job, on_event: OnEvent, interrupts: Interrupts) -> RowResult:
        places = {name: str(path.absolute() / job.config.row_id) for name, path in monitors.folders.items()}
        further = [word for name, place in places.items() for word in (f"--{name}", place)]
        return launch_row(replace(job, further=further), on_event, interrupts)

    return launch
