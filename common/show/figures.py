"""What a run's results look like: one figure a question, whose title says the finding.

A framework has one colour everywhere, from the palette of Okabe and Ito (https://jfly.uni-koeln.de/color/), which the
colour-blind tell apart; the mode is a strength or a dash. Figures are narrow, to be read on a phone.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
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

from common.config import FRAMEWORKS, Mode, Precision, RunConfig
from common.experiment.data import draw_data
from common.proof.bounds import PAIR_LOSS, RULES
from common.results.check import worst_first
from common.results.files import write_text, written_whole
from common.results.rows import ParityEntry, Results, RowResult, Status, Training
from common.show.crossover import NOT_JUDGED, Gains, pays_from
from common.show.lines import Line, baselines, group, interval, number

COLOURS = {"tensorflow": "#E69F00", "torch": "#0072B2"}
NAMES = {"tensorflow": "TensorFlow", "torch": "PyTorch"}
STRENGTHS = {(False, "custom"): 1.0, (True, "custom"): 0.6, (False, "fit"): 0.3, (True, "fit"): 0.15}
DASHES = {(False, "custom"): "-", (True, "custom"): "--", (False, "fit"): ":", (True, "fit"): "-."}
USUAL = (False, "custom")  # the mode that a finding is of: uncompiled, in our own loop, on one device
# Of text, axes and grid: a page replaces them by its own, light or dark.
INK, FAINT = "#1a1b1c", "#8a8b8c"
WIDTH_INCHES = 4.8
PNG_DPI = 130
LEGEND_COLUMNS = 2
TITLE_SIZE, TITLE_WIDTH = 9.5, 52  # points; characters, of which the figure holds as many
LARGEST_IMAGE = 2**24  # numbers; more are not drawn again for the sake of a picture
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


def figures(results: Results) -> dict[str, Figure]:
    """Every figure that these results have something for, by the name of its files."""
    draw: dict[str, Callable[[Results], Figure | None]] = {
        "speed": speed,
        "memory": memory,
        "floor": floor,
        "strong_scaling": strong_scaling,
        "weak_scaling": weak_scaling,
        "epochs": epochs,
        "loss": loss,
        "loss_scale": loss_scale,
        "parity": parity,
        "images": images,
    }
    return {name: figure for name, function in draw.items() if (figure := function(results))}


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


def speed(results: Results) -> Figure | None:
    """ms a step of each line, with the spread that the table shows."""
    lines = group(results.rows)
    bars = _measured(lines, "step ms", lambda line: line.spread_ms)
    return _bars(bars, "ms a step, with its spread; shorter is better", _speed_finding(lines))


def memory(results: Results) -> Figure | None:
    """Steady MB of each line."""
    lines = group(results.rows)
    kinds = {row.memory.kind for row in results.rows if row.memory}
    label = "steady MB, allocated on the GPU" if kinds == {"gpu_allocator"} else "steady MB, of the process"
    return _bars(_measured(lines, "steady MB"), f"{label}; shorter is better", _memory_finding(lines))


def floor(results: Results) -> Figure | None:
    """Each line's step over the least time that the device's bandwidth and arithmetic allow."""
    bars = _measured(group(results.rows), "x floor")
    values = [bar.value for bar in bars]
    title = f"{number(min(values))} to {number(max(values))} times the device's limit" if values else ""
    figure = _bars(bars, "step over the least time for it; 1 is the limit", title)
    if figure:
        figure.axes[0].axvline(1, color=INK, linewidth=1)
    return figure


def strong_scaling(results: Results) -> Figure | None:
    """What each of several replicas does for a shared batch, in percent of what one does that has all of it."""
    return _scaling(results, "strong %", "Strong")


def weak_scaling(results: Results) -> Figure | None:
    """What each of several replicas does for a share of a batch, in percent of what one does that has no more."""
    return _scaling(results, "weak %", "Weak")


def largest_batches(found: Mapping[RunConfig, int]) -> Figure | None:
    """The largest batch that trains of each row."""
    bars = [_Bar(config.precision.value, config.mode, size, size, size) for config, size in found.items()]
    float32 = {bar.mode: bar.value for bar in bars if bar.precision == Precision.FLOAT32}
    gains = [
        f"{NAMES[bar.mode.framework]}: {bar.precision} takes {bar.value / float32[bar.mode]:.2f}x the batch"
        for bar in bars
        if bar.precision.startswith("mixed_") and bar.mode == Mode(bar.mode.framework, *USUAL) and bar.mode in float32
    ]
    title = "\n".join(gains) or "no mixed precision to compare with float32"
    return _bars(bars, "largest batch, images in one step; longer is better", title)


def epochs(results: Results) -> Figure | None:
    """Seconds of each epoch, the expensive first one included."""
    rows = [row for row in results.rows if row.timing and row.status is Status.OK and row.config.repeat == 0]
    ratios = [row.timing.epoch_s[0] / np.median(row.timing.epoch_s[1:]) for row in rows if row.timing.epoch_s[1:]]  # type: ignore[union-attr]
    if not ratios:
        return None
    title = f"The first epoch takes {min(ratios):.2g} to {max(ratios):.3g} times a later one"
    figure, panels = _panels(map(_kind, rows), title)
    for axes, precision in panels:
        for row in (row for row in rows if row.precision == precision):
            assert row.timing is not None
            look = _look(row.config.mode)
            axes.plot(range(1, len(row.timing.epoch_s) + 1), row.timing.epoch_s, marker=".", **look)
        _logarithmic(axes)
        axes.set_ylabel("s")
    figure.axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[-1].set_xlabel("epoch; seconds on a logarithmic scale")
    return figure


def loss(results: Results) -> Figure | None:
    """Every step's loss, both frameworks over each other, up to where they can be compared and beyond."""
    rows = [row for row in results.rows if row.training and row.config.repeat == 0 and row.loop == "custom"]
    if not rows:
        return None
    figure, panels = _panels(map(_kind, rows), _loss_finding(results))
    for axes, precision in panels:
        for row in (row for row in rows if row.precision == precision):
            values = _values(row.training, "loss")
            axes.plot(np.where(values > 0, values, np.nan), **_look(row.config.mode))
        _logarithmic(axes)
        if (extent := _extent(results.parity, precision)) is not None:
            axes.axvline(extent, color=INK, linewidth=0.8, linestyle=":")
            axes.annotate(" compared up to here", (extent, 0.02), xycoords=("data", "axes fraction"), fontsize=7)
    figure.axes[-1].set_xlabel("step; loss before its update, on a logarithmic scale")
    return figure


def loss_scale(results: Results) -> Figure | None:
    """The loss scale of each step; a cross where the step was skipped, since a gradient overflowed."""
    trained = [row for row in results.rows if row.training and row.precision == Precision.MIXED_FLOAT16]
    rows = [row for row in trained if row.config.repeat == 0]
    if not rows:
        return None
    modes = [row.config.mode for row in rows]
    figure = Figure(figsize=(WIDTH_INCHES, 2.2 + _legend_inches(modes)), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        scales, skipped, look = _values(row.training, "loss_scale"), _skipped(row), _look(row.config.mode)
        axes.step(range(len(scales)), scales, where="post", **look)
        size = 9 if row.framework == FRAMEWORKS[0] else 6
        axes.plot(skipped, scales[skipped], "x", color=look["color"], alpha=look["alpha"], markersize=size)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    last = max((step for row in rows for step in _skipped(row)), default=0)
    steps = max(len(_values(row.training, "loss_scale")) for row in rows)
    axes.set_xlim(-0.5, min(steps, 2 * last + 10))  # from there on nothing happens but growth, every 2000 steps
    axes.set_xlabel("step; a cross is a step that was skipped")
    axes.set_ylabel("loss scale")
    axes.grid()
    _title(figure, _skip_finding(trained))
    _legend(figure, modes)
    return figure


def parity(results: Results) -> Figure | None:
    """Each kind of check as a fraction of its bound, for each precision and compile mode."""
    entries = [entry for entry in results.parity if entry.checks]
    if not entries:
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 1.5 + 0.28 * len(entries)), layout="constrained")
    axes = figure.subplots()
    parts = list(dict.fromkeys(rule.part for rule in RULES))
    for part, marker in zip(parts, "osD^v<>P*Xhp", strict=False):
        kinds = {rule.name for rule in RULES if rule.part == part}
        found = [
            (checks[0].fraction, place)
            for place, entry in enumerate(entries)
            if (checks := worst_first(check for check in entry.checks if check.name in kinds))
        ]
        if found:
            axes.plot(*zip(*found, strict=True), marker, color=INK, alpha=0.6, markersize=5, label=part)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(
        range(len(entries)), [f"{entry.precision}{' compiled' if entry.compile else ''}" for entry in entries]
    )
    axes.invert_yaxis()
    axes.set_xlim(left=-0.02)
    axes.set_xlabel("difference over bound; 1 is the limit")
    axes.grid(axis="x")
    _title(figure, _parity_finding(entries))
    figure.legend(loc="outside lower left", ncols=4)
    return figure


def images(results: Results) -> Figure | None:
    """The first images of the run."""
    if not results.rows:
        return None
    data = results.rows[0].config.data
    height, width, channels = data.image_shape
    if height * width * channels > LARGEST_IMAGE:
        return None
    count = min(4, data.images)
    figure = Figure(figsize=(WIDTH_INCHES, 1.5), layout="constrained")
    few, _ = draw_data(replace(data, images=count))  # those that a longer draw begins with
    for image, axes in zip(few, figure.subplots(1, count, squeeze=False)[0], strict=True):
        axes.imshow(image[:64, :64], interpolation="nearest")
        axes.set_axis_off()
    corner = "" if max(height, width) <= 64 else ", their first 64 x 64 pixels"
    _title(figure, f"The data: uniform noise, {width} x {height}{corner}; labels at random")
    return figure


def crossovers(courses: Sequence[Gains], axis: str, label: str) -> Figure:
    """Each precision's speed-up over float32 along the sizes of a sweep, with its interval; 1 is float32."""
    kinds = [_kind(course[0].line.first) for course in courses]
    figure, panels = _panels(kinds, _crossover_finding(courses, axis), panel_inches=1.9)
    sizes = sorted({gain.size for course in courses for gain in course})
    smallest, largest = sizes[0], sizes[-1]
    for axes, precision in panels:
        axes.axhline(1, color=INK, linewidth=1)
        for course in (course for course in courses if course[0].line.first.precision == precision):
            look, colour = _look(course[0].line.mode), COLOURS[course[0].line.mode.framework]
            judged = [gain for gain in course if gain.verdict != NOT_JUDGED]
            speed_ups = np.array([gain.speed_up for gain in judged], float)
            axes.plot([gain.size for gain in judged], speed_ups, marker="o", markersize=4, **look)
            for gain in judged:
                axes.plot([gain.size] * 2, np.array(gain.interval, float), color=colour, linewidth=1)
        axes.set_xscale("log")
        axes.set_xlim(0.8 * smallest, 1.25 * largest)
        axes.set_xticks(sizes)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_ylabel("times float32's speed")
    figure.axes[-1].set_xlabel(label)
    return figure


class _Kind(NamedTuple):
    """What a panel is for, and whose line in it."""

    precision: str
    mode: Mode


class _Bar(NamedTuple):
    """One bar. low and high: the ends of its spread."""

    precision: str
    mode: Mode
    value: float
    low: float
    high: float


def _measured(
    lines: Sequence[Line], measure: str, ends: Callable[[Line], tuple[float, float] | None] = lambda line: None
) -> list[_Bar]:
    """A bar for each line that has the measure."""
    return [
        _Bar(line.first.precision, line.mode, value, *(ends(line) or (value, value)))
        for line in lines
        if (value := line.median(measure))
    ]


def _bars(bars: Sequence[_Bar], label: str, title: str) -> Figure | None:
    """The bars grouped by precision, each with its number beside it."""
    bars = sorted(bars, key=lambda bar: list(Precision).index(Precision(bar.precision)))
    if not bars:
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 1.3 + 0.24 * len(bars)), layout="constrained")
    axes = figure.subplots()
    places, ticks = _places(bars)
    for place, bar in zip(places, bars, strict=True):
        axes.barh(place, bar.value, 0.86, **_style(bar.mode))
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
    _title(figure, title)
    patches = [Patch(label=_mode(mode), **_style(mode)) for mode in dict.fromkeys(bar.mode for bar in bars)]
    figure.legend(handles=patches, loc="outside lower left", ncols=LEGEND_COLUMNS)
    return figure


def _places(bars: Sequence[_Bar]) -> tuple[list[float], dict[str, float]]:
    """Where each bar stands, a gap after each precision, and where each precision's name does."""
    places, members = [], dict[str, list[float]]()
    for index, bar in enumerate(bars):
        place = index + 0.5 * len({other.precision for other in bars[: index + 1]})
        places.append(place)
        members.setdefault(bar.precision, []).append(place)
    return places, {precision: float(np.mean(found)) for precision, found in members.items()}


def _scaling(results: Results, measure: str, name: str) -> Figure | None:
    """The efficiencies over the number of replicas. One has 100 % by definition; those on a CPU share its cores."""
    courses: dict[_Kind, list[tuple[int, float]]] = {}
    for line in group(row for row in results.rows if not (row.memory and row.memory.kind == "host_rss")):
        if (efficiency := line.median(measure)) is not None:
            alone = _Kind(line.first.precision, line.mode._replace(replicas=1))
            courses.setdefault(alone, [(1, 100.0)]).append((line.mode.replicas, efficiency))
    if not courses:
        return None
    figure, panels = _panels(courses, _scaling_finding(courses, name), panel_inches=1.5)
    ends = [efficiency for course in courses.values() for _, efficiency in course]
    room = 0.1 * (max(ends) - min(ends)) + 1
    for axes, precision in panels:
        axes.axhline(100, color=INK, linewidth=1)
        for kind, course in courses.items():
            if kind.precision == precision:
                axes.plot(*zip(*sorted(course), strict=True), marker="o", markersize=4, **_look(kind.mode))
        axes.set_ylim(min(ends) - room, max(ends) + room)
        axes.set_ylabel("% of a single one")
    sizes = sorted({replicas for course in courses.values() for replicas, _ in course})
    last = figure.axes[-1]
    last.set_xscale("log", base=2)
    last.set_xticks(sizes, map(str, sizes))
    last.xaxis.set_minor_locator(NullLocator())
    last.set_xlabel("replicas; images a second of each")
    return figure


def _panels(
    kinds: Iterable[_Kind], title: str, panel_inches: float = 1.15
) -> tuple[Figure, Iterator[tuple[Axes, str]]]:
    """A small panel for each precision, one below the other."""
    kinds = list(kinds)
    precisions = [precision.value for precision in Precision if any(kind.precision == precision for kind in kinds)]
    modes = [kind.mode for kind in kinds]
    height = 0.7 + panel_inches * len(precisions) + _legend_inches(modes)
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    panels = figure.subplots(len(precisions), sharex=True, squeeze=False)[:, 0]
    for axes, precision in zip(panels, precisions, strict=True):
        axes.set_title(precision, fontsize=8.5, weight="normal", pad=2)
        axes.grid()
    _title(figure, title)
    _legend(figure, modes)
    return figure, zip(panels, precisions, strict=True)


def _title(figure: Figure, title: str) -> None:
    lines = [wrapped for line in title.splitlines() for wrapped in wrap(line, TITLE_WIDTH)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=TITLE_SIZE, weight="bold")


def _logarithmic(axes: Axes) -> None:
    """Without small ticks and set formulas, which would take half of the time to draw."""
    axes.set_yscale("log")
    lowest, highest = axes.get_ylim()
    has_two_powers = math.floor(math.log10(highest)) > math.ceil(math.log10(lowest))
    axes.yaxis.set_major_locator(LogLocator(numticks=5) if has_two_powers else MaxNLocator(4))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _legend_inches(modes: Sequence[Mode]) -> float:
    return 0.2 * math.ceil(len(set(modes)) / LEGEND_COLUMNS)


def _legend(figure: Figure, modes: Sequence[Mode]) -> None:
    handles = [Line2D([], [], label=_mode(mode), **_look(mode)) for mode in dict.fromkeys(modes)]
    figure.legend(handles=handles, loc="outside lower left", ncols=LEGEND_COLUMNS)


def _kind(row: RowResult) -> _Kind:
    return _Kind(row.precision, row.config.mode)


def _look(mode: Mode) -> dict[str, Any]:
    """The second framework is drawn thin over the first, so that both are seen where they agree."""
    return {
        "color": COLOURS[mode.framework],
        "linestyle": DASHES[mode.compile, mode.loop],
        "linewidth": 2.6 if mode.framework == FRAMEWORKS[0] else 1.0,
        "alpha": max(0.3, mode.replicas**-0.5),
    }


def _mode(mode: Mode) -> str:
    replicas = f", {mode.replicas} replicas" if mode.replicas > 1 else ""
    fit = ", Model.fit" if mode.loop == "fit" else ""
    return f"{NAMES[mode.framework]}{', compiled' if mode.compile else ''}{fit}{replicas}"


def _style(mode: Mode) -> dict[str, Any]:
    hatch = "/" * min(mode.replicas, 6) if mode.replicas > 1 else None  # the denser, the more
    return {
        "facecolor": COLOURS[mode.framework],
        "edgecolor": "white" if hatch else COLOURS[mode.framework],
        "linewidth": 0,
        "alpha": STRENGTHS[mode.compile, mode.loop],
        "hatch": hatch,
    }


def _speed_finding(lines: Sequence[Line]) -> str:
    """The best mixed precision of each framework over its float32, in our own uncompiled loop where it is there."""
    mixed = [line for line in lines if line.first.precision.startswith("mixed_")]
    pairs = [(line, baseline) for line in mixed if (baseline := baselines(lines).get(line.mode))]
    if pairs and not any(interval(*pair) for pair in pairs):
        return "Too few epochs to judge the speed"
    return _best(lines, "step ms", lambda before, after: before / after, lambda gain: f"is {gain:.2f}x as fast")


def _scaling_finding(courses: Mapping[_Kind, Sequence[tuple[int, float]]], name: str) -> str:
    """For each framework, in our own uncompiled loop where it is there, the most replicas that all precisions have."""
    found = []
    for framework in FRAMEWORKS:
        usual = [dict(course) for kind, course in courses.items() if kind.mode == Mode(framework, *USUAL)]
        if most := max(set.intersection(*map(set, usual)) - {1}, default=0) if usual else 0:
            values = sorted(course[most] for course in usual)
            ends = " to ".join(dict.fromkeys(f"{value:.0f}" for value in (values[0], values[-1])))
            found.append(f"{NAMES[framework]}: {ends} % on {most} replicas")
    return "\n".join([f"{name} scaling{', uncompiled' if found else ''}", *found])


def _crossover_finding(courses: Sequence[Gains], axis: str) -> str:
    """For each framework, in our own uncompiled loop where it is there, the mixed precision that pays first."""
    found = []
    for framework in FRAMEWORKS:
        mixed = [course for course in courses if course[0].line.first.precision.startswith("mixed_")]
        ours = [course for course in mixed if course[0].line.mode == Mode(framework, *USUAL)]
        paying = [(size, course[0].line.first.precision) for course in ours if (size := pays_from(course)) is not None]
        if paying:
            size, precision = min(paying)
            found.append(f"{NAMES[framework]}: {precision} pays from {axis} {size}")
        elif any(gain.verdict != NOT_JUDGED for course in ours for gain in course):
            found.append(f"{NAMES[framework]}: no mixed precision pays at the largest {axis}")
        elif ours:
            found.append(f"{NAMES[framework]}: not judged")
    return "\n".join(found) or f"Speed-up over float32 along {axis}"


def _memory_finding(lines: Sequence[Line]) -> str:
    def words(gain: float) -> str:
        return f"takes {abs(gain):.0%} {'less' if gain >= 0 else 'more'} memory"

    return _best(lines, "steady MB", lambda before, after: 1 - after / before, words)


def _best(
    lines: Sequence[Line], measure: str, gain: Callable[[float, float], float], words: Callable[[float], str]
) -> str:
    of_mode, found = baselines(lines), []
    for framework in FRAMEWORKS:
        gains = [
            (gain(before, after), line)
            for line in lines
            if line.mode == Mode(framework, *USUAL)
            and line.first.precision.startswith("mixed_")
            and line.mode in of_mode
            and (before := of_mode[line.mode].median(measure))
            and (after := line.median(measure))
        ]
        if gains:
            best, line = max(gains, key=lambda pair: pair[0])
            found.append(f"{NAMES[framework]}: {line.first.precision} {words(best)}")
    return "\n".join(found) or "no mixed precision beside float32, uncompiled and on one device"


def _loss_finding(results: Results) -> str:
    checks = [check for entry in results.parity for check in entry.checks if check.name == PAIR_LOSS.name]
    if not checks:
        return "The loss of every step"
    return (
        "Both frameworks' losses agree as far as they can be compared"
        if all(check.passed for check in checks)
        else "The frameworks' losses do NOT agree"
    )


def _extent(entries: Sequence[ParityEntry], precision: str) -> int | None:
    """Up to which step the pair was compared, where that is not the whole run."""
    for entry in entries:
        for check in entry.checks:
            if entry.precision == precision and check.name == PAIR_LOSS.name and check.end:
                return check.steps
    return None


def _skip_finding(rows: Sequence[RowResult]) -> str:
    of_batch: dict[int, list[tuple[int, ...]]] = {}
    for row in rows:
        of_batch.setdefault(row.config.train.batch_size, []).append(tuple(_skipped(row)))
    if any(len(set(skipped)) > 1 for skipped in of_batch.values()):
        return "The rows skip different steps"
    if len({skipped[0] for skipped in of_batch.values()}) > 1:
        return (
            "mixed_float16 skips the same steps in every row of the same batch"
            if any(len(skipped) > 1 for skipped in of_batch.values())
            else "mixed_float16 skips other steps with another batch"
        )
    steps = _skipped(rows[0])
    where = f"steps {', '.join(map(str, steps[:12]))}{' ...' if len(steps) > 12 else ''}" if steps else "no step"
    return f"mixed_float16 skips {where}{', in every row' if len(rows) > 1 else ''}"


def _parity_finding(entries: Sequence[ParityEntry]) -> str:
    worst = worst_first(check for entry in entries for check in entry.checks)[0]
    failed = sum(not check.passed for entry in entries for check in entry.checks)
    if failed:
        return f"{failed} check{'s' if failed > 1 else ''} FAILED; the worst is {worst.name}"
    return f"Every check passes; the worst takes {worst.fraction:.0%} of its bound"


def _values(training: Training | None, name: str) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in getattr(training, name)], float)


def _skipped(row: RowResult) -> list[int]:
    return row.training.skipped_steps if row.training else []
