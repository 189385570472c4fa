"""For other viewers: what a row left, as scalars for TensorBoard, and a few steps more under the framework's profiler.

Both come after the row has been measured, so that nothing of them is timed. One that fails costs no row.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from common.process.install import missing
from common.results.rows import RowResult
from common.text import in_one_line

TRACED_STEPS = 3  # enough to tell a step from its neighbours


def ignore(*arguments: object) -> None:
    """Do nothing."""


class Monitors(NamedTuple):
    """The folders of what was asked for; on_measured is told of the row before anything is written to them.

    on_collective is told before this process waits for other replicas.
    """

    tensorboard: Path | None = None
    trace: Path | None = None
    on_measured: Callable[[RowResult], object] = ignore
    on_collective: Callable[[], object] = ignore

    @property
    def folders(self) -> dict[str, Path]:
        """By the names of their options, those that were asked for."""
        return {name: path for name, path in (("tensorboard", self.tensorboard), ("trace", self.trace)) if path}

    def of_rank(self, rank: int) -> "Monitors":
        """What remains of them where the replica of rank 0 reports: a trace of its own, since all go the same steps."""
        return Monitors(trace=self.trace and self.trace / f"rank-{rank}", on_collective=self.on_collective)


NO_MONITORS = Monitors()


def attempt(row: RowResult, name: str, write: Callable[[Path], object], folder: Path | None) -> RowResult:
    """Call write(folder), if one was asked for; the row, with a note where that fails."""
    if folder is None:
        return row
    try:
        write(folder)
    except ModuleNotFoundError as error:
        reason = missing(error, "tensorboard")
    except (Exception, SystemExit) as error:  # whatever a profiler raises, the row has been measured
        reason = in_one_line(error) or type(error).__name__
    else:
        return row
    return replace(row, detail="; ".join(filter(None, [row.detail, f"no {name}: {reason}"])))


def scalars(row: RowResult) -> Iterator[tuple[str, int, float]]:
    """Name, step and value: each step's loss and loss scale; at the last step of an epoch its means and ms a step."""
    if row.training is None or row.timing is None:
        return
    per_epoch = row.config.steps_per_epoch
    ends = range(per_epoch - 1, per_epoch * len(row.timing.epoch_s), per_epoch)
    step_ms = [seconds / per_epoch * 1e3 for seconds in row.timing.epoch_s]
    for name, steps, values in (
        ("loss", range(len(row.training.loss)), row.training.loss),
        ("loss scale", range(len(row.training.loss_scale)), row.training.loss_scale),
        ("epoch/loss", ends, row.training.epoch_loss),
        ("epoch/accuracy", ends, row.training.epoch_accuracy),
        ("epoch/step ms", ends, step_ms),
    ):
        yield from ((name, step, value) for step, value in zip(steps, values, strict=True) if value is not None)
