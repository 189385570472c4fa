"""Does the interval hold the true speed-up as often as it says, and is what is unsteady about a row named with figures?

Epochs of 1000 steps: the seconds of an epoch are the milliseconds of a step.
"""

from functools import cache

import numpy as np
import pytest

from common.measure.statistics import instability, interval_over_processes, interval_within

TRUE_SPEED_UP = 2.0


def measure(
    epoch_s: float, generator: np.random.Generator, processes: int, processes_differ: float, epochs_differ: float
) -> list[list[float]]:
    """Five epochs of each process, around `epoch_s`; both deviations are relative."""
    of_process = generator.normal(0, processes_differ, (processes, 1))
    return (epoch_s * np.exp(of_process + generator.normal(0, epochs_differ, (processes, 5)))).tolist()


def interval(
    seed: int, processes: int = 8, processes_differ: float = 0.03, epochs_differ: float = 0.01
) -> tuple[float, float]:
    """The interval of one experiment, with noise of that seed on both sides."""
    generator = np.random.default_rng(seed)
    baseline, row = (
        measure(epoch_s, generator, processes, processes_differ, epochs_differ) for epoch_s in (TRUE_SPEED_UP, 1.0)
    )
    found = interval_within(baseline, row)
    assert found
    return found


@cache
def intervals(processes: int) -> list[tuple[float, float]]:
    """Those of 300 experiments."""
    return [interval(seed, processes) for seed in range(300)]


def share_that_holds(speed_up: float, processes: int) -> float:
    """In what share of 300 experiments the interval holds this speed-up."""
    return float(np.mean([low <= speed_up <= high for low, high in intervals(processes)]))


def width(processes_differ: float, epochs_differ: float) -> float:
    low, high = interval(0, processes_differ=processes_differ, epochs_differ=epochs_differ)
    return high - low


def test_times_without_noise_leave_no_doubt() -> None:
    assert interval_within([[4.0, 4.0], [4.0, 4.0]], [[2.0, 2.0, 2.0]]) == (2.0, 2.0)


def test_two_epochs_are_drawn_in_every_combination() -> None:
    assert interval_within([[4.0, 8.0]], [[2.0, 2.0]]) == (2.0, 4.0)


def test_two_processes_are_drawn_in_every_combination() -> None:
    assert interval_within([[4.0, 4.0], [8.0, 8.0]], [[2.0, 2.0]]) == (2.0, 4.0)


def test_one_epoch_far_off_among_many_does_not_count() -> None:
    assert interval_within([[4.0] * 20 + [400.0]], [[2.0] * 20]) == (2.0, 2.0)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    assert 0.88 <= share_that_holds(TRUE_SPEED_UP, processes=8) <= 0.99


def test_a_speed_up_that_is_not_true_is_seldom_held() -> None:
    assert share_that_holds(1.1 * TRUE_SPEED_UP, processes=8) < 0.2


def test_one_process_cannot_speak_for_others() -> None:
    assert share_that_holds(TRUE_SPEED_UP, processes=1) < 0.5


def test_noise_of_either_kind_widens_the_interval() -> None:
    assert width(0.01, 0.01) < width(0.05, 0.01)
    assert width(0.01, 0.01) < width(0.01, 0.05)


def test_the_same_times_give_the_same_interval() -> None:
    assert interval(7) == interval(7) != interval(8)


def over(seed: int, processes: int, turns_differ: float = 0.0, by_turns: bool = True) -> tuple[float, float]:
    """The interval over processes of one experiment; turns_differ: what both sides of a turn have in common."""
    generator = np.random.default_rng(seed)
    turns = np.exp(generator.normal(0, turns_differ, (processes, 1)))
    baseline, row = (
        (turns * measure(epoch_s, generator, processes, 0.03, 0.01)).tolist() for epoch_s in (TRUE_SPEED_UP, 1.0)
    )
    found = interval_over_processes(baseline, row, by_turns=by_turns)
    assert found
    return found


@pytest.mark.parametrize("by_turns", [True, False])
@pytest.mark.parametrize("processes", [3, 4, 5, 8])
def test_an_interval_over_processes_holds_the_truth_in_95_of_100(processes: int, by_turns: bool) -> None:
    """However few they are, from three on."""
    found = [over(seed, processes, by_turns=by_turns) for seed in range(300)]
    assert 0.92 <= np.mean([low <= TRUE_SPEED_UP <= high for low, high in found]) <= 0.99


def test_what_a_turn_has_in_common_is_not_in_the_interval() -> None:
    """Turns that differ by 30 %: pairs see through them."""
    assert np.median([high / low for low, high in (over(seed, 5, 0.3) for seed in range(50))]) < 1.2
    assert np.median([high / low for low, high in (over(seed, 5, 0.3, by_turns=False) for seed in range(50))]) > 1.5


def test_epochs_make_no_processes() -> None:
    """A process counts once, however many epochs it has, and however little they scatter."""
    long, short = ([[pace] * epochs for pace in (2.0, 2.1, 2.2)] for epochs in (200, 3))
    row = [[1.0] * 3] * 3
    assert interval_over_processes(long, row, by_turns=True) == interval_over_processes(short, row, by_turns=True)


def test_an_interval_over_three_by_hand() -> None:
    """Speed-ups 2, 2.1 and 2.2: a mean of logarithms, 4.303 times its standard error to either side."""
    gains = np.log([2.0, 2.1, 2.2])
    half = 4.303 * gains.std(ddof=1) / 3**0.5
    found = interval_over_processes([[2.0], [2.1], [2.2]], [[1.0]] * 3, by_turns=True)
    assert found == pytest.approx(np.exp([gains.mean() - half, gains.mean() + half]), rel=1e-3)


@pytest.mark.parametrize("by_turns", [True, False])
def test_two_processes_have_no_interval_over_them(by_turns: bool) -> None:
    for processes in ([], [[2.0]], [[2.0], [2.0]], [[2.0], [2.0], []], [[2.0], [2.0], [0.0]]):
        assert interval_over_processes(processes, [[1.0]] * 3, by_turns=by_turns and len(processes) == 3) is None
        assert interval_over_processes([[1.0]] * 3, processes, by_turns=by_turns and len(processes) == 3) is None
    assert interval_over_processes([[2.0]] * 3, [[1.0]] * 3, by_turns=by_turns) == pytest.approx((2.0, 2.0))


SIDE = [[2.0, 2.0]]


@pytest.mark.parametrize(
    ("baseline", "row"),
    [
        pytest.param([], SIDE, id="no process"),
        pytest.param(SIDE, [[]], id="no steady epoch"),
        pytest.param(SIDE, [[1.0, 1.0], []], id="no steady epoch in one process"),
        pytest.param(SIDE, [[1.0], [1.0]], id="one epoch in every process"),
        pytest.param(SIDE, [[0.0, 1.0]], id="a clock that stood still"),
    ],
)
def test_no_interval_from_nothing(baseline: list[list[float]], row: list[list[float]]) -> None:
    assert interval_within(baseline, row) is None
    assert interval_within(row, baseline) is None


STEADY = [5.0, 5.1, 4.9, 5.0, 5.1, 4.9]
IN_HALVES = "in the second half of its epochs than in the first"


@pytest.mark.parametrize(
    ("processes", "reason"),
    [
        ([STEADY], ""),
        ([[5.0] * 3, [5.4] * 3], ""),
        ([[5.4] * 3, [5.1] * 3, [6.3] * 3], "its processes differ: 5.1 to 6.3 ms a step"),
        ([[5.1] * 3, [120.0] * 3], "its processes differ: 5.1 to 120 ms a step"),
        ([[5.0] * 3 + [5.6] * 3], f"slower by 12 % {IN_HALVES}: heat, a power limit or memory"),
        ([[5.0] * 3 + [5.3] + [5.6] * 3], f"slower by 12 % {IN_HALVES}: heat, a power limit or memory"),
        ([[6.0] * 3 + [5.4] * 3], f"faster by 10 % {IN_HALVES}: still warming up"),
        ([[5.0] * 3 + [5.2] * 3], ""),
        ([[5.1, 7.0] * 5], "epochs scatter from 5.1 to 7 ms a step: too short, or not alone"),
        ([STEADY, [5.1, 5.1, 7.0] * 4], "epochs scatter from 5.1 to 7 ms a step: too short, or not alone"),
        ([[5.0] * 3], ""),
        ([[5.0] * 2], "rests on 2 epochs only: give --epochs 4 or more"),
        ([[5.0]], "rests on 1 epoch only: give --epochs 4 or more"),
        ([[5.0] * 3, [5.0] * 2], "rests on 2 epochs a process only: give --epochs 4 or more"),
    ],
)
def test_what_is_unsteady(processes: list[list[float]], reason: str) -> None:
    assert instability(processes, 1000) == reason


@pytest.mark.parametrize(
    ("processes", "reason"),
    [
        ([[5.0] * 3 + [7.0] * 3, [9.0] * 6], "its processes differ"),
        ([[5.0] * 3 + [7.0] * 3], "slower"),
        ([[5.0, 7.0]], "rests on 2 epochs only"),
        ([[5.0, 7.0, 5.0, 7.0, 5.0, 7.0]], "epochs scatter"),
    ],
)
def test_the_gravest_reason_comes_first(processes: list[list[float]], reason: str) -> None:
    assert instability(processes, 1000).startswith(reason)


def test_the_same_epochs_in_turns_are_no_trend() -> None:
    assert instability([[5.0] * 5 + [5.6] * 5], 1000).startswith("slower by 12 %")
    assert instability([[5.0, 5.6] * 5], 1000) == ""


def test_figures_are_of_a_step() -> None:
    assert instability([[0.51] * 3, [0.63] * 3], 100) == "its processes differ: 5.1 to 6.3 ms a step"


@pytest.mark.parametrize("processes", [[], [[]], [[0.0, 0.0]]])
def test_nothing_is_said_of_a_row_that_was_not_measured(processes: list[list[float]]) -> None:
    assert instability(processes, 1000) == ""
