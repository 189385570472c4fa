"""What is measured while a row trains: the clock, the memory and the trace of the steps, told from outside.

Both frameworks' loops, and Keras' own `fit`, report to the same recorder, so that nothing is timed in two ways.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.config import RunConfig
from common.measure.contention import Contention, CpuReading, contention_between, read_cpu
from common.measure.memory import Memory, MemoryReading, return_freed_host_memory, summarize_memory
from common.measure.timing import EpochClock, Timing
from common.results.rows import Arrays, Status, Training

# What a row tells while it runs: {"event": "epoch", "epoch": 1, "epochs": 10, "seconds": ..., "loss": ..., ...}.
OnEvent = Callable[[dict[str, Any]], None]

# Given what a row computed, once it is trained.
OnArrays = Callable[[Arrays], None]

# Each step's loss, accuracy, loss scale and number of updates so far, as four lists.
Columns = Sequence[Sequence[float]]


class Recorder:
    """Records one row. Make it when the data lie on the device and there is no model yet: that is the baseline.

    fetch brings the steps of one epoch to the host; synchronize, memory_stats and reset_peak_memory are the device's.
    """

    def __init__(
        self,
        config: RunConfig,
        on_event: OnEvent,
        *,
        fetch: Callable[[Sequence[Any]], Columns],
        synchronize: Callable[[], None],
        memory_stats: Callable[[], MemoryReading],
        reset_peak_memory: Callable[[], bool],
    ) -> None:
        self._config = config
        self._on_event = on_event
        self._fetch = fetch
        self._memory_stats = memory_stats
        self._reset_peak_memory = reset_peak_memory
        self._clock = EpochClock(synchronize)
        return_freed_host_memory()
        self._reset_peak_memory()
        self._baseline = memory_stats()
        self._cold: MemoryReading | None = None
        self._has_steady = False
        self._steady_start: CpuReading | None = None
        self._loss: list[float] = []
        self._loss_scale: list[float] = []
        self._applied_steps: list[float] = []
        self._epoch_loss: list[float] = []
        self._epoch_accuracy: list[float] = []

    def start_epoch(self) -> None:
        self._clock.start_epoch()

    def end_step(self) -> None:
        self._clock.end_step()

    def end_epoch(self, steps: Sequence[Any]) -> None:
        """Stop the clock, then fetch what the epoch's steps left on the device; ValueError for too few or too many."""
        seconds = self._clock.end_epoch()
        loss, accuracy, loss_scale, applied_steps = self._fetch(steps)
        _require_planned(f"steps in epoch {len(self._epoch_loss) + 1}", len(loss), self._config.steps_per_epoch)
        self._loss += loss
        self._loss_scale += loss_scale
        self._applied_steps += applied_steps
        batch_sizes = self._batch_sizes()
        self._epoch_loss.append(float(np.average(loss, weights=batch_sizes)))
        self._epoch_accuracy.append(float(np.average(accuracy, weights=batch_sizes)))
        if self._cold is None:
            self._cold = self._memory_stats()
            self._has_steady = self._config.train.epochs > 1 and self._reset_peak_memory()
            self._steady_start = read_cpu() if self._config.train.epochs > 1 else None
        self._on_event(
            {
                "event": "epoch",
                "epoch": len(self._epoch_loss),
                "epochs": self._config.train.epochs,
                "seconds": seconds,
                "loss": self._epoch_loss[-1],
                "accuracy": self._epoch_accuracy[-1],
            }
        )

    def timing(self) -> Timing:
        _require_planned("epochs", len(self._epoch_loss), self._config.train.epochs)
        return self._clock.timing(self._config.steps_per_epoch, self._config.data.images)

    def memory(self) -> Memory:
        if self._cold is None:
            raise ValueError("no epoch was recorded")
        return summarize_memory(self._baseline, self._cold, self._memory_stats() if self._has_steady else None)

    def contention(self, load_before: float | None) -> Contention | None:
        """Over the steady epochs, so call it when the last one has ended; None where there was one epoch alone."""
        if self._steady_start is None:
            return None
        execution = self._config.execution
        threads = max(1, execution.threads // execution.devices)
        return contention_between(self._steady_start, read_cpu(), threads, load_before)

    def training(self, data_sha256: str = "", initial_weights_sha256: str = "") -> Training:
        return Training(
            loss=list(self._loss),
            epoch_loss=list(self._epoch_loss),
            epoch_accuracy=list(self._epoch_accuracy),
            loss_scale=list(self._loss_scale),
            skipped_steps=[int(step) for step in np.flatnonzero(np.diff(self._applied_steps, prepend=0) == 0)],
            data_sha256=data_sha256,
            initial_weights_sha256=initial_weights_sha256,
        )

    def least_loss_scale(self) -> float:
        return min(self._loss_scale)

    def status(self) -> tuple[Status, str]:
        """Judge the trained row: its status and, where that is not ok, why."""
        finite = np.isfinite(self._loss)
        if not finite.all():
            return Status.NONFINITE, f"the loss was not finite at step {int(np.argmin(finite))}"
        if not any(self._applied_steps):
            return Status.ALL_STEPS_SKIPPED, (
                f"every one of {len(self._loss)} steps overflowed; the loss scale fell to {self._loss_scale[-1]:g}"
            )
        return Status.OK, ""

    def _batch_sizes(self) -> list[int]:
        images, batch_size = self._config.data.images, self._config.train.batch_size
        return [min(batch_size, images - start) for start in range(0, images, batch_size)]


def _require_planned(what: str, number: int, planned: int) -> None:
    if number != planned:
        raise ValueError(f"there were {number} {what} instead of {planned}; the loop, or a limit, has changed that")
