"""Results as files that need no further package: the tables as text, every row as CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.results.files import write_text
from common.results.rows import Results, RowResult, in_order
from common.show.table import tables


def write_exports(results: Results, folder: Path, tablefmt: str) -> None:
    """Write tables.txt and rows.csv into the folder; raises OSError where it can't be written."""
    write_text(folder / "tables.txt", tables(results, tablefmt) + "\n")
    write_text(folder / "rows.csv", to_csv(results.rows))


def to_csv(rows: Sequence[RowResult]) -> str:
    """Every row as it was measured, in the units of results.json; empty where it was not."""
    lines = [dict(_facts(row)) for row in in_order(rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _facts(row: RowResult) -> Iterator[tuple[str, Any]]:
    yield from (("framework", row.framework), ("precision", row.precision), ("compile", row.compile))
    yield from (
        ("loop", row.loop),
        ("repeat", row.config.repeat),
        ("status", row.status.value),
        ("session", row.session),
    )
    timing, memory, training = row.timing, row.memory, row.training
    for name in ("median", "p05", "p95", "n"):
        yield f"step_s_{name}", timing and timing.step_s and getattr(timing.step_s, name)
    for part, names in (
        (timing, ("first_step_s", "total_s", "images_per_s")),
        (memory, ("kind", "baseline_bytes", "peak_bytes", "used_bytes", "steady_used_bytes")),
        (memory, ("device_process_peak_bytes",)),
        (row.config.train, ("batch_size",)),
        (row.config.execution, ("replicas", "hosts")),
        (row.replicas, ("backend", "images_per_s_per_replica")),
        (row.replicas, ("strong_scaling_efficiency", "weak_scaling_efficiency")),
        (row.limits, ("flops_per_step", "bytes_per_step", "floor_s", "times_floor")),
        (row.gpu, ("energy_per_epoch_j",)),
    ):
        yield from ((f"memory_{name}" if name == "kind" else name, getattr(part, name, None)) for name in names)
    yield "epoch_loss", training and training.epoch_loss[-1]
    yield "epoch_accuracy", training and training.epoch_accuracy[-1]
    yield "skipped_steps", training and len(training.skipped_steps)
    yield "parity", all(check.passed for check in row.checks) if row.checks else None
