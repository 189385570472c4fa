"""What a figure shows, in words: its title."""

from collections.abc import Callable, Mapping, Sequence

from common.config import FRAMEWORKS, Mode
from common.proof.bounds import PAIR_LOSS
from common.results.check import worst_first
from common.results.rows import ParityEntry, Results, RowResult
from common.show.canvas import NAMES, Kind
from common.show.crossover import NOT_JUDGED, Gains, pays_from
from common.show.lines import Line, baselines, interval

USUAL = (False, "custom")  # the mode that a finding is of: uncompiled, in our own loop, on one device


def speed_finding(lines: Sequence[Line]) -> str:
    """The best mixed precision of each framework over its float32, in our own uncompiled loop where it is there."""
    mixed = [line for line in lines if line.first.precision.startswith("mixed_")]
    pairs = [(line, baseline) for line in mixed if (baseline := baselines(lines).get(line.mode))]
    if pairs and not any(interval(*pair) for pair in pairs):
        return "Too few epochs to judge the speed"
    return _best(lines, "step ms", lambda before, after: before / after, lambda gain: f"is {gain:.2f}x as fast")


def scaling_finding(efficiencies: Mapping[Kind, Sequence[tuple[int, float]]], name: str) -> str:
    """For each framework, in our own uncompiled loop where it is there, the most replicas that all precisions have."""
    found = []
    for framework in FRAMEWORKS:
        usual = [dict(points) for kind, points in efficiencies.items() if kind.mode == Mode(framework, *USUAL)]
        if most := max(set.intersection(*map(set, usual)) - {1}, default=0) if usual else 0:
            values = sorted(points[most] for points in usual)
            ends = " to ".join(dict.fromkeys(f"{value:.0f}" for value in (values[0], values[-1])))
            found.append(f"{NAMES[framework]}: {ends} % on {most} replicas")
    return "\n".join([f"{name} scaling{', uncompiled' if found else ''}", *found])


def crossover_finding(found: Sequence[Gains], axis: str) -> str:
    """For each framework, in our own uncompiled loop where it is there, the mixed precision that pays first."""
    findings = []
    for framework in FRAMEWORKS:
        mixed = [gains for gains in found if gains[0].line.first.precision.startswith("mixed_")]
        ours = [gains for gains in mixed if gains[0].line.mode == Mode(framework, *USUAL)]
        paying = [(size, gains[0].line.first.precision) for gains in ours if (size := pays_from(gains)) is not None]
        if paying:
            size, precision = min(paying)
            findings.append(f"{NAMES[framework]}: {precision} pays from {axis} {size}")
        elif any(gain.verdict != NOT_JUDGED for gains in ours for gain in gains):
            findings.append(f"{NAMES[framework]}: no mixed precision pays at the largest {axis}")
        elif ours:
            findings.append(f"{NAMES[framework]}: not judged")
    return "\n".join(findings) or f"Speed-up over float32 along {axis}"


def memory_finding(lines: Sequence[Line]) -> str:
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


def loss_finding(results: Results) -> str:
    checks = [check for entry in results.parity for check in entry.checks if check.name == PAIR_LOSS.name]
    if not checks:
        return "The loss of every step"
    return (
        "Both frameworks' losses agree as far as they can be compared"
        if all(check.passed for check in checks)
        else "The frameworks' losses do NOT agree"
    )


def compared_steps(entries: Sequence[ParityEntry], precision: str) -> int | None:
    """Up to which step the pair was compared, where that is not the whole run."""
    for entry in entries:
        for check in entry.checks:
            if entry.precision == precision and check.name == PAIR_LOSS.name and check.end:
                return check.steps
    return None


def skip_finding(rows: Sequence[RowResult]) -> str:
    of_batch: dict[int, list[tuple[int, ...]]] = {}
    for row in rows:
        of_batch.setdefault(row.config.train.batch_size, []).append(tuple(skipped_steps(row)))
    if any(len(set(skipped)) > 1 for skipped in of_batch.values()):
        return "The rows skip different steps"
    if len({skipped[0] for skipped in of_batch.values()}) > 1:
        return (
            "mixed_float16 skips the same steps in every row of the same batch"
            if any(len(skipped) > 1 for skipped in of_batch.values())
            else "mixed_float16 skips other steps with another batch"
        )
    steps = skipped_steps(rows[0])
    where = f"steps {', '.join(map(str, steps[:12]))}{' ...' if len(steps) > 12 else ''}" if steps else "no step"
    return f"mixed_float16 skips {where}{', in every row' if len(rows) > 1 else ''}"


def parity_finding(entries: Sequence[ParityEntry]) -> str:
    worst = worst_first(check for entry in entries for check in entry.checks)[0]
    failed = sum(not check.passed for entry in entries for check in entry.checks)
    if failed:
        return f"{failed} check{'s' if failed > 1 else ''} FAILED; the worst is {worst.name}"
    return f"Every check passes; the worst takes {worst.fraction:.0%} of its bound"


def skipped_steps(row: RowResult) -> list[int]:
    return row.training.skipped_steps if row.training else []
