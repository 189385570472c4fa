"""Is the ruler of time right? A clock that ticks by hand, and every reading can be checked by eye."""

import pytest

from common.measure.timing import EpochClock, StepTimes, Timing, seconds_of


class FakeClock:
    """Time that passes only when told to; counts how often the device was waited for."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1

    def train(self, epochs: list[list[float]]) -> tuple[EpochClock, "FakeClock"]:
        """Each inner list is one epoch: the seconds that its steps take. Between epochs a second passes unmeasured."""
        clock = EpochClock(self.wait, lambda: self.now_s)
        for steps in epochs:
            clock.start_epoch()
            for seconds in steps:
                self.now_s += seconds
                clock.end_step()
            clock.end_epoch()
            self.now_s += 1.0
        return clock, self


def test_first_step_epochs_and_total() -> None:
    clock, _ = FakeClock().train([[9.0, 1.0], [2.0, 2.0], [1.0, 1.0]])
    timing = clock.timing(steps_per_epoch=2, images=8)
    assert timing.first_step_s == 9.0
    assert timing.epoch_s == [10.0, 4.0, 2.0]
    assert timing.total_s == 18.0  # with the two seconds between the epochs


def test_steady_steps_leave_the_first_epoch_out() -> None:
    clock, _ = FakeClock().train([[9.0, 1.0], [2.0, 2.0], [1.0, 1.0]])
    timing = clock.timing(steps_per_epoch=2, images=8)
    assert timing.step_s == StepTimes(median=1.5, p05=pytest.approx(1.05), p95=pytest.approx(1.95), n=2)
    assert timing.images_per_s == 8 / 3


def test_one_epoch_has_no_steady_step() -> None:
    clock, _ = FakeClock().train([[9.0, 1.0]])
    assert clock.timing(2, 8) == Timing(first_step_s=9.0, epoch_s=[10.0], step_s=None, total_s=10.0, images_per_s=None)


def test_a_clock_that_stands_still_divides_nothing_by_zero() -> None:
    clock, _ = FakeClock().train([[0.0], [0.0]])
    timing = clock.timing(1, 8)
    assert (timing.step_s, timing.images_per_s) == (None, None)


def test_the_device_is_waited_for_only_around_epochs_and_after_the_first_step() -> None:
    _, fake = FakeClock().train([[1.0] * 50, [1.0] * 50])
    assert fake.waits == 2 * 2 + 1


def test_no_step_no_timing() -> None:
    with pytest.raises(ValueError, match="no step"):
        FakeClock().train([])[0].timing(1, 1)


def test_an_operation_is_timed_until_the_device_is_done() -> None:
    """Launching takes 1 s, the device another 4 s for each: only whoever waits sees them. 2 s were pending before."""
    now_s, pending_s = 0.0, 2.0

    def launch() -> None:
        nonlocal now_s, pending_s
        now_s, pending_s = now_s + 1.0, pending_s + 4.0

    def wait() -> None:
        nonlocal now_s, pending_s
        now_s, pending_s = now_s + pending_s, 0.0

    assert seconds_of(launch, wait, times=3, clock=lambda: now_s) == 5.0
