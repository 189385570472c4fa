"""What TensorFlow's own viewers read: scalars for TensorBoard, and a profile of a few steps."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from common.process.monitor import scalars
from common.results.rows import RowResult


def write_scalars(row: RowResult, folder: Path) -> None:
    """Write the row's losses, accuracies, loss scales and step times as TensorBoard's events.

    Raises ModuleNotFoundError where TensorBoard is not installed.
    Differs from torch_impl: a writer is the default of a block, in which scalars go to it by name.
    """
    importlib.import_module("tensorboard")  # else tf.summary raises an error of its own, which names no package
    folder.mkdir(parents=True, exist_ok=True)
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        for name, step, value in scalars(row):
            tf.summary.scalar(name, value, step)
    writer.close()


def trace_steps(steps: Sequence[Callable[[], object]], device: str, folder: Path) -> None:
    """Profile the steps, each after the other; folder/plugins/profile is for TensorBoard's profile plugin (XProf).

    Differs from torch_impl: TensorFlow profiles every device, and its file holds protocol buffers (.xplane.pb).
    """
    with tf.device(device), tf.profiler.experimental.Profile(str(folder)):
        for number, step in enumerate(steps):
            with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
                step()
