"""What a figure shows, in words: its title."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from common.config import FRAMEWORKS, Mode
from common.proof.bounds import PAIR_LOSS
from common.results.check import worst_first
from common.results.rows import ParityEntry, Results, RowResult
from common.show.canvas import NAMES, Kind
from common.show.crossover import Gains, crossover_in_short, pays_from, rests_on_few, unknown_in
from common.show.lines import Line, baselines, interval, speed_up
from common.show.verdict import CANT_TELL, FEW_PROCESSES, NO_DIFFERENCE, TOO_FEW_EPOCHS, Verdict, fault, judge

USUAL = (False, "custom")  # the mode that a finding is of: uncompiled, in our own loop, on one device
NOTHING_TO_COMPARE = "no mixed precision beside float32, uncompiled and on one device"


class Judged(NamedTuple):
    """A mixed precision, the float32 of its mode, and what can be said of the two."""

    line: Line
    float32: Line
    verdict: Verdict


def speed_finding(lines: Sequence[Line], parity: Sequence[ParityEntry]) -> str:
    """The best mixed precision of each framework over its float32, in our own uncompiled loop where it is there."""
    of_framework = {name: _verdicts(lines, parity, Mode(name, *USUAL)) for name in FRAMEWORKS}
    judged = [each for said in of_framework.values() for each in said]
    if not judged:
        return NOTHING_TO_COMPARE
    if {each.verdict.why for each in judged} == {TOO_FEW_EPOCHS}:
        return "Too few epochs to judge the speed"
    found = [f"{NAMES[name]}: {_best_speed(said)}" for name, said in of_framework.items() if said]
    named = [best for said in of_framework.values() if (best := _fastest(said))]
    if any((ends := interval(best.line, best.float32)) and not ends.over_processes for best in named):
        found.append(_sentence(FEW_PROCESSES))
    return "\n".join(found)


def scaling_finding(efficiencies: Mapping[Kind, Sequence[tuple[int, float]]], name: str) -> str:
    """For each framework, in our own uncompiled loop where it is there, the most replicas that all precisions have.

    efficiencies: those that a title may rest on, with an empty list for lines that have others alone.
    """
    found = []
    for framework in FRAMEWORKS:
        usual = [dict(points) for kind, points in efficiencies.items() if kind.mode == Mode(framework, *USUAL)]
        if most := max(set.intersection(*map(set, usual)) - {1}, default=0) if usual else 0:
            values = sorted(points[most] for points in usual)
            ends = " to ".join(dict.fromkeys(f"{value:.0f}" for value in (values[0], values[-1])))
            found.append(f"{NAMES[framework]}: {ends} % on {most} replicas")
        elif usual:
            found.append(f"{NAMES[framework]}: {CANT_TELL}: not every precision is steady")
    return "\n".join([f"{name} scaling{', uncompiled' if found else ''}", *found])


def crossover_finding(found: Sequence[Gains], axis: str) -> str:
    """For each framework, in our own uncompiled loop where it is there, the mixed precision that pays first."""
    findings, few = [], False
    for framework in FRAMEWORKS:
        mixed = [gains for gains in found if gains[0].line.first.precision.startswith("mixed_")]
        ours = [gains for gains in mixed if gains[0].line.mode == Mode(framework, *USUAL)]
        paying = [gains for gains in ours if pays_from(gains) is not None]
        if paying:
            best = min(paying, key=lambda gains: (pays_from(gains), gains[0].line.first.precision))
            findings.append(f"{NAMES[framework]}: {best[0].line.first.precision} {crossover_in_short(best, axis)}")
        elif any(_is_told(gain.said) for gains in ours for gain in gains):
            that = " that was judged" if any(unknown_in(gains) for gains in ours) else ""
            findings.append(f"{NAMES[framework]}: no mixed precision pays at the largest {axis}{that}")
        elif ours:
            reasons = dict.fromkeys(gain.said.why for gains in ours for gain in gains)
            findings.append(f"{NAMES[framework]}: {CANT_TELL}: {', '.join(reasons)}")
        few |= any(rests_on_few(gains) for gains in ours)
    if few:
        findings.append(_sentence(FEW_PROCESSES))
    return "\n".join(findings) or f"Speed-up over float32 along {axis}"


def memory_finding(lines: Sequence[Line], parity: Sequence[ParityEntry]) -> str:
    found = []
    for framework in FRAMEWORKS:
        pairs = _mixed(lines, Mode(framework, *USUAL))
        gains = [
            (1 - after / before, line.first.precision)
            for line, float32 in pairs
            if not fault(line, float32, parity)
            and (before := float32.median("steady MB"))
            and (after := line.median("steady MB"))
        ]
        if gains:
            gain, precision = max(gains, key=lambda pair: pair[0])
            words = f"takes {abs(gain):.0%} {'less' if gain >= 0 else 'more'} memory"
            found.append(f"{NAMES[framework]}: {precision} {words}")
        elif faults := dict.fromkeys(filter(None, (fault(*pair, parity) for pair in pairs))):
            found.append(f"{NAMES[framework]}: {CANT_TELL}: {', '.join(faults)}")
    return "\n".join(found) or NOTHING_TO_COMPARE


def _mixed(lines: Sequence[Line], mode: Mode) -> list[tuple[Line, Line]]:
    """The mixed precisions of the mode, each with its float32."""
    float32 = baselines(lines).get(mode)
    mixed = [line for line in lines if line.mode == mode and line.first.precision.startswith("mixed_")]
    return [(line, float32) for line in mixed] if float32 else []


def _verdicts(lines: Sequence[Line], parity: Sequence[ParityEntry], mode: Mode) -> list[Judged]:
    return [Judged(line, float32, judge(line, float32, parity)) for line, float32 in _mixed(lines, mode)]


def _fastest(said: Sequence[Judged]) -> Judged | None:
    """Of those of which something can be said."""
    told = [each for each in said if _is_told(each.verdict)]
    return max(told, key=lambda each: speed_up(each.line, each.float32) or 0.0, default=None)


def _best_speed(said: Sequence[Judged]) -> str:
    """What can be said of the fastest of those of which something can, and of which nothing can."""
    unknown: dict[str, list[str]] = {}
    for each in said:
        if not _is_told(each.verdict):
            unknown.setdefault(each.verdict.why, []).append(each.line.first.precision)
    best = _fastest(said)
    if not best:
        reasons = [why if why.startswith("float32") else f"{', '.join(names)} {why}" for why, names in unknown.items()]
        return f"{CANT_TELL}: {'; '.join(reasons)}"
    line, float32, verdict = best
    gain = f"{speed_up(line, float32):.2f}x as fast"
    pace = f"as fast as float32 {verdict.why}" if verdict.word == NO_DIFFERENCE else gain
    others = "".join(f"; {CANT_TELL} of {', '.join(names)}: {why}" for why, names in unknown.items())
    return f"{line.first.precision} is {pace}{others}"


def _is_told(verdict: Verdict) -> bool:
    return verdict.word != CANT_TELL


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


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
