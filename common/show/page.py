"""The page of a run: one self-contained HTML page, and its figures as files.

The page holds its figures as SVG and asks the network for nothing. What comes from a results file is escaped.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context

from common.config import Precision, RunConfig, experiment_difference
from common.experiment.article import T4
from common.results.files import write_text
from common.results.rows import Results
from common.show.canvas import COLOURS, FAINT, INK, STYLE, write_figure
from common.show.extents import extents
from common.show.figures import figures
from common.show.lines import group, number
from common.show.table import (
    failures,
    log_tails,
    manifest_table,
    notes,
    parity_table,
    speed_table,
)
from common.text import printable

ARTICLE = RunConfig("tensorflow", Precision.FLOAT32)  # its sizes are the defaults
TEMPLATE = "page.html.j2"

# What a figure shows, for those who don't see it.
CAPTIONS = {
    "speed": "Milliseconds a step of every row.",
    "memory": "Steady memory of every row.",
    "floor": "Each row's step over the least time that the device allows.",
    "strong_scaling": "Images a second of each replica that has a share of a batch, in percent of one with all of it.",
    "weak_scaling": "Images a second of each replica, in percent of a single one with as many images to a batch.",
    "epochs": "Seconds of every epoch. The first holds tracing, compiling and autotuning.",
    "loss": "The loss of every step, TensorFlow's thick below PyTorch's thin. Beyond the dotted line roundings decide.",
    "loss_scale": "The loss scale of mixed_float16 at every step.",
    "parity": "Each check's difference over its bound.",
    "images": "What the network is trained on.",
}


def write_page(results: Results, folder: Path) -> Path:
    """Write index.html and each figure as SVG and PNG into the folder; returns the page."""
    drawn = {}
    with rc_context(STYLE):
        for name, figure in figures(results).items():
            drawn[name] = write_figure(figure, folder, name)
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
        notes=notes(results.rows, results.parity) if results.rows else [],
        parity=_table(parity_table(results.parity, "html")) if results.parity else "",
        parity_notes=[*failures(results.parity), *extents(results.parity)],
        manifest=_table(manifest_table(results.rows, "html")),
        article=list(_article_and_ours(results)),
        log_tails=log_tails(results.rows),
    )


def _article_and_ours(results: Results) -> Iterator[tuple[str, ...]]:
    """The article's lines, and of the same experiment our uncompiled ones of one device and of the same precisions."""
    for row in T4:
        figures = (row.step_ms, row.total_s, row.peak_gb, row.used_gb, row.loss, row.accuracy_percent)
        yield "Tesla T4, Model.fit", row.precision, *(f"{figure:g}" for figure in figures)
    for line in group(results.rows):
        is_usual = not line.mode.compile and line.mode.replicas == 1
        is_there = line.first.precision in {row.precision for row in T4}
        if experiment_difference(line.first.config, ARTICLE) or not (is_usual and is_there):
            continue
        gigabytes = [line.median(name) for name in ("peak MB", "used MB")]
        yield (
            f"here, {line.first.framework}{', Model.fit' if line.first.loop == 'fit' else ''}",
            line.first.precision,
            *(number(line.median(name)) for name in ("step ms", "total s")),
            *(number(None if size is None else size / 1e3) for size in gigabytes),
            *(number(line.median(name)) for name in ("loss", "acc %")),
        )


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
