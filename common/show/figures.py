"""What a run's results look like: one figure a question, whose title says the finding.

A framework has one colour everywhere, from the palette of Okabe and Ito (https://jfly.uni-koeln.de/color/), which the
colour-blind tell apart; the mode is a strength or a dash. Figures are narrow, to be read on a phone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from common.config import FRAMEWORKS, Mode, Precision, RunConfig
from common.experiment.data import draw_data
from common.proof.bounds import RULES
from common.results.check import worst_first
from common.results.rows import Results, Status, Training
from common.show.canvas import (
    COLOURS,
    INK,
    NAMES,
    WIDTH_INCHES,
    Bar,
    Kind,
    draw_bars,
    draw_legend,
    kind_of,
    legend_inches,
    line_style,
    make_logarithmic,
    make_panels,
    set_title,
)
from common.show.crossover import Gains, unknown_in
from common.show.findings import (
    USUAL,
    compared_steps,
    crossover_finding,
    loss_finding,
    memory_finding,
    parity_finding,
    scaling_finding,
    skip_finding,
    skipped_steps,
    speed_finding,
)
from common.show.lines import Line, group, number
from common.show.verdict import CANT_TELL, is_sound

LARGEST_IMAGE = 2**24  # numbers; more are not drawn again for the sake of a picture


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


def speed(results: Results) -> Figure | None:
    """ms a step of each line, with the spread that the table shows."""
    lines = group(results.rows)
    bars = _measured(lines, "step ms", lambda line: line.spread_ms)
    return draw_bars(bars, "ms a step, with its spread; shorter is better", speed_finding(lines, results.parity))


def memory(results: Results) -> Figure | None:
    """Steady MB of each line."""
    lines = group(results.rows)
    kinds = {row.memory.kind for row in results.rows if row.memory}
    label = "steady MB, allocated on the GPU" if kinds == {"gpu_allocator"} else "steady MB, of the process"
    return draw_bars(
        _measured(lines, "steady MB"), f"{label}; shorter is better", memory_finding(lines, results.parity)
    )


def floor(results: Results) -> Figure | None:
    """Each line's step over the least time that the device's bandwidth and arithmetic allow."""
    lines = group(results.rows)
    bars = _measured(lines, "x floor")
    values = [bar.value for bar in _measured([line for line in lines if is_sound(line, results.parity)], "x floor")]
    title = (
        f"{number(min(values))} to {number(max(values))} times the device's limit"
        if values
        else "How far from the device's limit? Can't tell: no row is steady"
    )
    figure = draw_bars(bars, "step over the least time for it; 1 is the limit", title)
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
    bars = [Bar(config.precision.value, config.mode, size, size, size) for config, size in found.items()]
    float32 = {bar.mode: bar.value for bar in bars if bar.precision == Precision.FLOAT32}
    gains = [
        f"{NAMES[bar.mode.framework]}: {bar.precision} takes {bar.value / float32[bar.mode]:.2f}x the batch"
        for bar in bars
        if bar.precision.startswith("mixed_") and bar.mode == Mode(bar.mode.framework, *USUAL) and bar.mode in float32
    ]
    title = "\n".join(gains) or "no mixed precision to compare with float32"
    return draw_bars(bars, "largest batch, images in one step; longer is better", title)


def epochs(results: Results) -> Figure | None:
    """Seconds of each epoch, the expensive first one included."""
    rows = [row for row in results.rows if row.timing and row.status is Status.OK and row.config.repeat == 0]
    if not any(row.timing.epoch_s[1:] for row in rows):  # type: ignore[union-attr]
        return None
    steady = [line for line in group(results.rows) if line.steady_epochs_s and is_sound(line, results.parity)]
    ratios = [line.first.timing.epoch_s[0] / np.median(line.steady_epochs_s[0]) for line in steady]  # type: ignore[union-attr]
    title = (
        f"The first epoch takes {min(ratios):.2g} to {max(ratios):.3g} times a later one"
        if ratios
        else "How much longer does the first epoch take? Can't tell: no row is steady"
    )
    figure, panels = make_panels(map(kind_of, rows), title)
    for axes, precision in panels:
        for row in (row for row in rows if row.precision == precision):
            assert row.timing is not None
            look = line_style(row.config.mode)
            axes.plot(range(1, len(row.timing.epoch_s) + 1), row.timing.epoch_s, marker=".", **look)
        make_logarithmic(axes)
        axes.set_ylabel("s")
    figure.axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[-1].set_xlabel("epoch; seconds on a logarithmic scale")
    return figure


def loss(results: Results) -> Figure | None:
    """Every step's loss, both frameworks over each other, up to where they can be compared and beyond."""
    rows = [row for row in results.rows if row.training and row.config.repeat == 0 and row.loop == "custom"]
    if not rows:
        return None
    figure, panels = make_panels(map(kind_of, rows), loss_finding(results))
    for axes, precision in panels:
        for row in (row for row in rows if row.precision == precision):
            values = _values(row.training, "loss")
            axes.plot(np.where(values > 0, values, np.nan), **line_style(row.config.mode))
        make_logarithmic(axes)
        if (extent := compared_steps(results.parity, precision)) is not None:
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
    figure = Figure(figsize=(WIDTH_INCHES, 2.2 + legend_inches(modes)), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        scales, skipped, look = _values(row.training, "loss_scale"), skipped_steps(row), line_style(row.config.mode)
        axes.step(range(len(scales)), scales, where="post", **look)
        size = 9 if row.framework == FRAMEWORKS[0] else 6
        axes.plot(skipped, scales[skipped], "x", color=look["color"], alpha=look["alpha"], markersize=size)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    last = max((step for row in rows for step in skipped_steps(row)), default=0)
    steps = max(len(_values(row.training, "loss_scale")) for row in rows)
    axes.set_xlim(-0.5, min(steps, 2 * last + 10))  # from there on nothing happens but growth, every 2000 steps
    axes.set_xlabel("step; a cross is a step that was skipped")
    axes.set_ylabel("loss scale")
    axes.grid()
    set_title(figure, skip_finding(trained))
    draw_legend(figure, modes)
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
    set_title(figure, parity_finding(entries))
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
    set_title(figure, f"The data: uniform noise, {width} x {height}{corner}; labels at random")
    return figure


def crossovers(found: Sequence[Gains], axis: str, label: str) -> Figure:
    """Each precision's speed-up over float32 along the sizes of a sweep, with its interval; 1 is float32."""
    kinds = [kind_of(gains[0].line.first) for gains in found]
    figure, panels = make_panels(kinds, crossover_finding(found, axis), panel_inches=1.9)
    sizes = sorted({gain.size for gains in found for gain in gains})
    smallest, largest = sizes[0], sizes[-1]
    for axes, precision in panels:
        axes.axhline(1, color=INK, linewidth=1)
        for gains in (gains for gains in found if gains[0].line.first.precision == precision):
            look, colour = line_style(gains[0].line.mode), COLOURS[gains[0].line.mode.framework]
            judged = [gain for gain in gains if gain.verdict != CANT_TELL]
            speed_ups = np.array([gain.speed_up for gain in judged], float)
            axes.plot([gain.size for gain in judged], speed_ups, marker="o", markersize=4, **look)
            unknown = [gain for gain in unknown_in(gains) if gain.interval]
            for gain in unknown:
                axes.plot(gain.size, gain.speed_up or 0.0, "x", color=colour, markersize=4)
            for gain in (*judged, *unknown):
                axes.plot([gain.size] * 2, np.array(gain.interval, float)[:2], color=colour, linewidth=1)
        axes.set_xscale("log")
        axes.set_xlim(0.8 * smallest, 1.25 * largest)
        axes.set_xticks(sizes)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_ylabel("times float32's speed")
    has_unknown = any(gain.interval for gains in found for gain in unknown_in(gains))
    figure.axes[-1].set_xlabel(f"{label}; a cross: {CANT_TELL}" if has_unknown else label)
    return figure


def _measured(
    lines: Sequence[Line], measure: str, ends: Callable[[Line], tuple[float, float] | None] = lambda line: None
) -> list[Bar]:
    """A bar for each line that has the measure."""
    return [
        Bar(line.first.precision, line.mode, value, *(ends(line) or (value, value)))
        for line in lines
        if (value := line.median(measure))
    ]


def _scaling(results: Results, measure: str, name: str) -> Figure | None:
    """The efficiencies over the number of replicas. One has 100 % by definition; those on a CPU share its cores."""
    efficiencies: dict[Kind, list[tuple[int, float]]] = {}
    told: dict[Kind, list[tuple[int, float]]] = {}
    lines = group(row for row in results.rows if not (row.memory and row.memory.kind == "host_rss"))
    sound = {(line.first.precision, line.mode) for line in lines if is_sound(line, results.parity)}
    for line in lines:
        if (efficiency := line.median(measure)) is not None:
            alone = Kind(line.first.precision, line.mode._replace(replicas=1))
            efficiencies.setdefault(alone, [(1, 100.0)]).append((line.mode.replicas, efficiency))
            points = told.setdefault(alone, [])
            if {alone, (line.first.precision, line.mode)} <= sound:
                points.append((line.mode.replicas, efficiency))
    if not efficiencies:
        return None
    figure, panels = make_panels(efficiencies, scaling_finding(told, name), panel_inches=1.5)
    ends = [efficiency for points in efficiencies.values() for _, efficiency in points]
    room = 0.1 * (max(ends) - min(ends)) + 1
    for axes, precision in panels:
        axes.axhline(100, color=INK, linewidth=1)
        for kind, points in efficiencies.items():
            if kind.precision == precision:
                axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, **line_style(kind.mode))
        axes.set_ylim(min(ends) - room, max(ends) + room)
        axes.set_ylabel("% of a single one")
    sizes = sorted({replicas for points in efficiencies.values() for replicas, _ in points})
    last = figure.axes[-1]
    last.set_xscale("log", base=2)
    last.set_xticks(sizes, map(str, sizes))
    last.xaxis.set_minor_locator(NullLocator())
    last.set_xlabel("replicas; images a second of each")
    return figure


def _values(training: Training | None, name: str) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in getattr(training, name)], float)
