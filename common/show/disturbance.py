"""What disturbed a row, in words: other work on its cores or its GPU, a quota, clocks below their maximum."""

from collections.abc import Callable, Iterator, Sequence

from common.measure.contention import Cause, Contention
from common.measure.nvml import GpuUse
from common.measure.statistics import PROCESSES_DIFFER
from common.results.rows import RowResult
from common.show.lines import Line, number

# Where a step is a millisecond of work or more, what a framework adds is small beside it. Of 148 such rows in results/
# of which no note says that they are slow, none takes more than 6.9 times the least: Model.fit in float16, on an H200.
MUCH_WORK_S, FAR_ABOVE_FLOOR = 1e-3, 10

# In the reason why a row's times are not steady.
CLAUSES = {
    Cause.OTHERS: "other work on its cores",
    Cause.HOST: "the host of this virtual machine took its cores",
    Cause.QUOTA: "its CPU quota ran out",
    Cause.THREADS: "it had more threads than cores",
}


def disturbances(lines: Sequence[Line]) -> list[str]:
    """What slowed rows down, as far as it was seen: each cause once, with its lines and the worst that was read."""
    seen = [*_on_the_cpu(lines), *_on_the_gpu(lines)]
    return [f"NOISY: {', '.join(dict.fromkeys(names))}: {text}" for names, text in seen]


def cause_of(line: Line) -> str:
    """What is known to have kept the line's processes from the CPU; "" where nothing is."""
    causes = {cause for row in line.rows if row.contention for cause in row.contention.causes}
    return " and ".join(clause for cause, clause in CLAUSES.items() if cause in causes)


def unlikely_floors(lines: Sequence[Line]) -> list[str]:
    """Which lines took less than is possible, or far more than their work without a reason that their notes give."""
    times = [(line, line.median("x floor") or 0.0) for line in lines]
    below = [line.name for line, floors in times if 0 < floors < 1]
    above = [line.name for line, floors in times if floors > FAR_ABOVE_FLOOR and _should_be_near(line.first)]
    said = []
    if below:
        said.append(f"x floor below 1: {', '.join(below)}: the device was busy while its ceilings were measured")
    if above:
        text = "steps took far longer than their work, as they do beside other work or under a quota"
        said.append(f"x floor above {FAR_ABOVE_FLOOR}: {', '.join(above)}: {text}")
    return said


def _on_the_cpu(lines: Sequence[Line]) -> Iterator[tuple[list[str], str]]:
    for cause, describe in _DESCRIBED.items():
        found = [
            (line.name, row.contention)
            for line in lines
            for row in line.rows
            if row.contention and cause in row.contention.causes
        ]
        if found:
            yield [name for name, _ in found], describe([contention for _, contention in found])


def _on_the_gpu(lines: Sequence[Line]) -> Iterator[tuple[list[str], str]]:
    uses = [(line.name, row.gpu) for line in lines for row in line.rows if row.gpu]
    if found := [(name, use) for name, use in uses if use.other_processes > 0]:
        yield [name for name, _ in found], _others_on_the_gpu([use for _, use in found])
    if found := [(name, use) for name, use in uses if _share_of_clock(use) < 1 / PROCESSES_DIFFER]:
        lowest = min((use for _, use in found), key=_share_of_clock)
        text = f"the SM clock was at {number(lowest.sm_clock_mhz)} of {number(lowest.max_sm_clock_mhz)} MHz"
        yield [name for name, _ in found], text


def _should_be_near(row: RowResult) -> bool:
    """Whether the row's least time is much work, which no note on the row says to be slow here."""
    return bool(row.limits and row.limits.floor_s >= MUCH_WORK_S and not row.detail)


def _others(found: Sequence[Contention]) -> str:
    taken, cores = max((_cores(each.others_s, each), each.cores) for each in found)
    ran = _percent(min(each.busy_share for each in found))
    return f"other processes took up to {number(taken)} of {cores} cores; the worst-hit threads ran {ran} of the time"


def _host(found: Sequence[Contention]) -> str:
    kept, cores = max((_cores(each.stolen_s, each), each.cores) for each in found)
    return f"the host of this virtual machine kept up to {number(kept)} of {cores} cores for others"


def _quota(found: Sequence[Contention]) -> str:
    worst = max(found, key=lambda each: _cores(each.stopped_s, each))
    share, whole = (worst.stopped_periods or 0) / (worst.periods or 1), int(worst.quota_cores or 0)
    advice = f"; --threads {whole} would stay within it" if 0 < whole < worst.threads else ""
    return f"its quota of {number(worst.quota_cores)} cores ran out in up to {_percent(share)} of its periods{advice}"


def _threads(found: Sequence[Contention]) -> str:
    worst = max(found, key=lambda each: each.threads / each.cores)
    return f"{worst.threads} threads of it waited for {worst.cores} cores; --threads {worst.cores} gives each its own"


def _cores(seconds: float | None, contention: Contention) -> float:
    """How many cores' time it is, in the mean."""
    return (seconds or 0.0) / contention.wall_s


_DESCRIBED: dict[Cause, Callable[[Sequence[Contention]], str]] = {
    Cause.OTHERS: _others,
    Cause.HOST: _host,
    Cause.QUOTA: _quota,
    Cause.THREADS: _threads,
}


def _others_on_the_gpu(found: Sequence[GpuUse]) -> str:
    most = max(use.other_processes for use in found)
    held = max((use.other_bytes or 0 for use in found), default=0)
    memory = f", with up to {number(held / 1e6)} MB" if held else ""
    return f"up to {most} other process{'es' if most > 1 else ''} used the GPU beside it{memory}"


def _share_of_clock(use: GpuUse) -> float:
    return use.sm_clock_mhz / use.max_sm_clock_mhz if use.sm_clock_mhz and use.max_sm_clock_mhz else 1.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
