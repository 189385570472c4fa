"""The report of a run: one self-contained HTML page, its figures as files, the tables as text and every row as CSV.

The page holds its figures as SVG and asks the network for nothing. What comes from a results file is escaped.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context

from common.article import T4
from common.config import Precision, RunConfig, experiment_difference
from common.files import require_folder
from common.lines import group, number
from common.plots import COLOURS, FAINT, INK, STYLE, figures, write_figure
from common.results import Results, RowResult, in_order, write_text
from common.table import (
    extents,
    failures,
    log_tails,
    manifest_table,
    notes,
    parity_table,
    speed_table,
    tables,
)
from common.text import printable

ARTICLE = RunConfig("tensorflow", Precision.FLOAT32)  # its sizes are the defaults
TEMPLATE = "page.html.j2"

# What a figure shows, for those who don't see it.
CAPTIONS = {
    "speed": "Milliseconds a step of every row.",
    "memory": "Steady memory of every row.",
    "floor": "Each row's step over the least time that the device allows.",
    "epochs": "Seconds of every epoch. The first holds tracing, compiling and autotuning.",
    "loss": "The loss of every step, TensorFlow's thick below PyTorch's thin. Beyond the dotted line roundings decide.",
    "loss_scale": "The loss scale of mixed_float16 at every step.",
    "parity": "Each check's difference over its bound.",
    "images": "What the network is trained on.",
}


def write_report(results: Results, folder: Path, tablefmt: str) -> Path:
    """Write index.html, tables.txt, rows.csv and each figure as SVG and PNG into the folder; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    require_folder(folder)
    drawn = {}
    with rc_context(STYLE):
        for name, figure in figures(results).items():
            drawn[name] = write_figure(figure, folder, name)
    write_text(folder / "tables.txt", tables(results, tablefmt) + "\n")
    write_text(folder / "rows.csv", to_csv(results.rows))
    write_text(folder / "index.html", to_html(results, drawn))
    return folder / "index.html"


def to_html(results: Results, drawn: dict[str, str]) -> str:
    """The page, with these figures as SVG by their names."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(
        created_utc=printable(results.created_utc),
        command=printable(" ".join(results.command)),
        failed=[entry.precision for entry in results.parity if not entry.passed],
        passed=bool(results.parity) and all(entry.passed for entry in results.parity),
        devices=list(
            dict.fromkeys(printable(row.environment.device["name"]) for row in results.rows if row.environment)
        ),
        figures={name: Markup(_inlined(name, svg)) for name, svg in drawn.items()},
        captions=CAPTIONS,
        speed=_table(speed_table(results.rows, "html")) if results.rows else "",
        notes=notes(results.rows) if results.rows else [],
        parity=_table(parity_table(results.parity, "html")) if results.parity else "",
        parity_notes=[*failures(results.parity), *extents(results.parity)],
        manifest=_table(manifest_table(results.rows, "html")),
        article=list(_article_and_ours(results)),
        log_tails=log_tails(results.rows),
    )


def _article_and_ours(results: Results) -> Iterator[tuple[str, ...]]:
    """The article's lines, and of the same experiment our uncompiled ones of the same precisions."""
    for row in T4:
        figures = (row.step_ms, row.total_s, row.peak_gb, row.used_gb, row.loss, row.accuracy_percent)
        yield "Tesla T4, Model.fit", row.precision, *(f"{figure:g}" for figure in figures)
    for line in group(results.rows):
        config, precisions = line.first.config, [row.precision for row in T4]
        if experiment_difference(config, ARTICLE) or line.first.compile or line.first.precision not in precisions:
            continue
        gigabytes = [line.median(name) for name in ("peak MB", "used MB")]
        yield (
            f"here, {line.first.framework}{', Model.fit' if line.first.loop == 'fit' else ''}",
            line.first.precision,
            *(number(line.median(name)) for name in ("step ms", "total s")),
            *(number(None if size is None else size / 1e3) for size in gigabytes),
            *(number(line.median(name)) for name in ("loss", "acc %")),
        )


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
    yield from (("loop", row.loop), ("repeat", row.config.repeat), ("status", row.status.value))
    timing, memory, training = row.timing, row.memory, row.training
    for name in ("median", "p05", "p95", "n"):
        yield f"step_s_{name}", timing and timing.step_s and getattr(timing.step_s, name)
    for part, names in (
        (timing, ("first_step_s", "total_s", "images_per_s")),
        (memory, ("kind", "baseline_bytes", "peak_bytes", "used_bytes", "steady_used_bytes")),
        (memory, ("device_process_peak_bytes",)),
        (row.limits, ("flops_per_step", "bytes_per_step", "floor_s", "times_floor")),
        (row.gpu, ("energy_per_epoch_j",)),
    ):
        yield from ((f"memory_{name}" if name == "kind" else name, getattr(part, name, None)) for name in names)
    yield "epoch_loss", training and training.epoch_loss[-1]
    yield "epoch_accuracy", training and training.epoch_accuracy[-1]
    yield "skipped_steps", training and len(training.skipped_steps)
    yield "parity", all(check.passed for check in row.checks) if row.checks else None


def _inlined(name: str, svg: str) -> str:
    """Fit to stand in a page: without a document's head, in the page's colours, with names that are its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r'(<svg [^>]*?)\bwidth="[^"]*" height="[^"]*"|(<svg )', r"\1\2", body, count=1)
    return (
        body.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)").replace(COLOURS["torch"].lower(), "var(--torch)")
    )


def _table(html: str) -> Markup:
    """A table of tabulate's, which has escaped its cells."""
    return Markup(html)
