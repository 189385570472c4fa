"""What every figure is drawn with: its colours, panels, bars and legend, and the files that it becomes."""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from common.config import FRAMEWORKS, Mode, Precision
from common.results.files import write_text, written_whole
from common.results.rows import RowResult
from common.show.lines import number

COLOURS = {"tensorflow": "#E69F00", "torch": "#0072B2"}

NAMES = {"tensorflow": "TensorFlow", "torch": "PyTorch"}

STRENGTHS = {(False, "custom"): 1.0, (True, "custom"): 0.6, (False, "fit"): 0.3, (True, "fit"): 0.15}

DASHES = {(False, "custom"): "-", (True, "custom"): "--", (False, "fit"): ":", (True, "fit"): "-."}

# Of text, axes and grid: a page replaces them by its own, light or dark.
INK = "#1a1b1c"

FAINT = "#8a8b8c"

WIDTH_INCHES = 4.8

PNG_DPI = 130

LEGEND_COLUMNS = 2

TITLE_SIZE = 9.5  # points

TITLE_WIDTH = 52  # characters, of which the figure holds as many

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "mixed-precision-parity",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def write_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write NAME.png, and NAME.svg on a transparent ground, into the folder; returns the SVG.

    By the canvases' own methods: Figure.savefig would draw everything a second time, to lay it out.
    """
    figure.set_dpi(PNG_DPI)
    with written_whole(folder / f"{name}.png") as file:
        FigureCanvasAgg(figure).print_png(file, pil_kwargs={"compress_level": 3})  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")  # it stays as it was laid out
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    svg = io.StringIO()
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    write_text(folder / f"{name}.svg", svg.getvalue())
    return svg.getvalue()


class Kind(NamedTuple):
    """What a panel is for, and whose line in it."""

    precision: str
    mode: Mode


class Bar(NamedTuple):
    """One bar. low and high: the ends of its spread."""

    precision: str
    mode: Mode
    value: float
    low: float
    high: float


def draw_bars(bars: Sequence[Bar], label: str, title: str) -> Figure | None:
    """The bars grouped by precision, each with its number beside it."""
    bars = sorted(bars, key=lambda bar: list(Precision).index(Precision(bar.precision)))
    if not bars:
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 1.3 + 0.24 * len(bars)), layout="constrained")
    axes = figure.subplots()
    places, ticks = _places(bars)
    for place, bar in zip(places, bars, strict=True):
        axes.barh(place, bar.value, 0.86, **bar_style(bar.mode))
        if bar.high > bar.low:
            axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=1)
        end = (max(bar.value, bar.high), place)
        axes.annotate(number(bar.value), end, (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(list(ticks.values()), list(ticks))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    set_title(figure, title)
    patches = [Patch(label=mode_name(mode), **bar_style(mode)) for mode in dict.fromkeys(bar.mode for bar in bars)]
    figure.legend(handles=patches, loc="outside lower left", ncols=LEGEND_COLUMNS)
    return figure


def _places(bars: Sequence[Bar]) -> tuple[list[float], dict[str, float]]:
    """Where each bar stands, a gap after each precision, and where each precision's name does."""
    places, members = [], dict[str, list[float]]()
    for index, bar in enumerate(bars):
        place = index + 0.5 * len({other.precision for other in bars[: index + 1]})
        places.append(place)
        members.setdefault(bar.precision, []).append(place)
    return places, {precision: float(np.mean(found)) for precision, found in members.items()}


def make_panels(
    kinds: Iterable[Kind], title: str, panel_inches: float = 1.15
) -> tuple[Figure, Iterator[tuple[Axes, str]]]:
    """A small panel for each precision, one below the other."""
    kinds = list(kinds)
    precisions = [precision.value for precision in Precision if any(kind.precision == precision for kind in kinds)]
    modes = [kind.mode for kind in kinds]
    height = 0.7 + panel_inches * len(precisions) + legend_inches(modes)
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    panels = figure.subplots(len(precisions), sharex=True, squeeze=False)[:, 0]
    for axes, precision in zip(panels, precisions, strict=True):
        axes.set_title(precision, fontsize=8.5, weight="normal", pad=2)
        axes.grid()
    set_title(figure, title)
    draw_legend(figure, modes)
    return figure, zip(panels, precisions, strict=True)


def set_title(figure: Figure, title: str) -> None:
    lines = [wrapped for line in title.splitlines() for wrapped in wrap(line, TITLE_WIDTH)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=TITLE_SIZE, weight="bold")


def make_logarithmic(axes: Axes) -> None:
    """Without small ticks and set formulas, which would take half of the time to draw."""
    axes.set_yscale("log")
    lowest, highest = axes.get_ylim()
    has_two_powers = math.floor(math.log10(highest)) > math.ceil(math.log10(lowest))
    axes.yaxis.set_major_locator(LogLocator(numticks=5) if has_two_powers else MaxNLocator(4))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def legend_inches(modes: Sequence[Mode]) -> float:
    return 0.2 * math.ceil(len(set(modes)) / LEGEND_COLUMNS)


def draw_legend(figure: Figure, modes: Sequence[Mode]) -> None:
    handles = [Line2D([], [], label=mode_name(mode), **line_style(mode)) for mode in dict.fromkeys(modes)]
    figure.legend(handles=handles, loc="outside lower left", ncols=LEGEND_COLUMNS)


def kind_of(row: RowResult) -> Kind:
    return Kind(row.precision, row.config.mode)


def line_style(mode: Mode) -> dict[str, Any]:
    """The second framework is drawn thin over the first, so that both are seen where they agree."""
    return {
        "color": COLOURS[mode.framework],
        "linestyle": DASHES[mode.compile, mode.loop],
        "linewidth": 2.6 if mode.framework == FRAMEWORKS[0] else 1.0,
        "alpha": max(0.3, mode.replicas**-0.5),
    }


def mode_name(mode: Mode) -> str:
    replicas = f", {mode.replicas} replicas" if mode.replicas > 1 else ""
    fit = ", Model.fit" if mode.loop == "fit" else ""
    return f"{NAMES[mode.framework]}{', compiled' if mode.compile else ''}{fit}{replicas}"


def bar_style(mode: Mode) -> dict[str, Any]:
    hatch = "/" * min(mode.replicas, 6) if mode.replicas > 1 else None  # the denser, the more
    return {
        "facecolor": COLOURS[mode.framework],
        "edgecolor": "white" if hatch else COLOURS[mode.framework],
        "linewidth": 0,
        "alpha": STRENGTHS[mode.compile, mode.loop],
        "hatch": hatch,
    }
