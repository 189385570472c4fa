"""What PyTorch's own viewers read: scalars for TensorBoard, and a profile of a few steps."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from common.process.monitor import scalars
from common.results.rows import RowResult


def write_scalars(row: RowResult, folder: Path) -> None:
    """Write the row's losses, accuracies, loss scales and step times as TensorBoard's events.

    Raises ModuleNotFoundError where TensorBoard is not installed.
    Differs from tf_impl: a writer is asked by its own method.
    """
    from torch.utils.tensorboard import SummaryWriter  # which imports TensorBoard, and that TensorFlow if it is there

    with SummaryWriter(str(folder)) as writer:
        for name, step, value in scalars(row):
            writer.add_scalar(name, value, step)


def trace_steps(steps: Sequence[Callable[[], object]], device: torch.device, folder: Path) -> None:
    """Profile the steps, each after the other; folder/trace.json is for Perfetto (https://ui.perfetto.dev).

    Differs from tf_impl: the devices to be profiled are named, and the file is Chrome's trace format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, record_shapes=True) as profiler:
        for number, step in enumerate(steps):
            with record_function(f"train {number}"):
                step()
    file = folder / "trace.json"
    profiler.export_chrome_trace(str(file))
    if not file.exists() or file.stat().st_size == 0:  # on a full disk nothing is raised
        raise OSError(f"{file} could not be written")
