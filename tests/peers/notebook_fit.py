"""The article's notebook in Keras: a Sequential model, the global dtype policy and Model.fit, with Keras' own defaults.

It leaves everything else to TensorFlow and Keras as well: the order of the images (shuffled), TF32 in float32 on a GPU
(allowed), and the wrapping of Adam for loss scaling. Its jit_compile="auto" is XLA on a GPU and none on a CPU.
"""

import os
import sys
import time
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"  # before Keras is loaded

import keras
import tensorflow as tf

from common.config import ModelConfig, RunConfig
from common.experiment.data import draw_data
from common.measure.hardware import cpu_name
from tests.peers import USUAL_PRECISIONS, make_configs, make_parser, print_line, step_times

JIT = {"auto": "auto", "off": False, "on": True}


class EpochTimes(keras.callbacks.Callback):
    """Seconds of every epoch. At the end of one Keras fetches its metrics, and with that waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch_s: list[float] = []
        self._start_s = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._start_s = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch_s.append(time.perf_counter() - self._start_s)


def main() -> int:
    parser = make_parser("notebook_fit", __doc__, USUAL_PRECISIONS)
    parser.add_argument("--jit", choices=tuple(JIT), default="auto", help="jit_compile (default: auto, Keras' default)")
    arguments = parser.parse_args()
    device = select_device()
    for config in make_configs("tensorflow", arguments.preset, arguments.epochs, arguments.precisions):
        keras.backend.clear_session()  # frees the model before; the policy it resets is set again below
        print_line(train(config, device, arguments.jit))
    return 0


def train(config: RunConfig, device: str, jit: str) -> dict[str, Any]:
    """Train once as the notebook does, and return what it took; the peak of memory includes the data."""
    with tf.device(device):
        images, labels = map(tf.constant, draw_data(config.data))
    if device.startswith("GPU"):
        tf.config.experimental.reset_memory_stats(device)
    keras.mixed_precision.set_global_policy(str(config.precision))
    model = build_model(config.model)
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"], jit_compile=JIT[jit])
    times = EpochTimes()
    history = model.fit(
        images,
        labels,
        batch_size=config.train.batch_size,
        epochs=config.train.epochs,
        verbose=0,
        callbacks=[times],
    )
    return {
        "peer": "notebook fit",
        "framework": "tensorflow",
        "version": tf.__version__,
        "keras_version": keras.__version__,
        "precision": str(config.precision),
        "compile": bool(model.jit_compile),
        "jit_compile": jit,
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "optimizer": type(model.optimizer).__name__,
        **step_times(times.epoch_s, config.steps_per_epoch),
        "first_epoch_s": times.epoch_s[0],
        "last_epoch_loss": history.history["loss"][-1],
        "peak_memory_bytes": peak_memory(device),
        "device": describe_device(device),
    }


def build_model(config: ModelConfig) -> keras.Sequential:
    """The article's network, images (B, H, W, C) to probabilities (B, 1) in float32, in the global dtype policy."""
    return keras.Sequential(
        [
            keras.Input(config.image_shape),
            *(keras.layers.Conv2D(config.filters, size) for size in config.kernel_sizes),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
            keras.layers.Activation("sigmoid", dtype="float32"),
        ]
    )


def select_device() -> str:
    """Return the first GPU, told to take memory as it needs it, or the CPU where there is none."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return "GPU:0" if gpus else "CPU:0"


def describe_device(device: str) -> str:
    """The name of the GPU or of the processor."""
    if device.startswith("CPU"):
        return cpu_name()
    gpu = tf.config.list_physical_devices("GPU")[0]
    return str(tf.config.experimental.get_device_details(gpu)["device_name"])


def peak_memory(device: str) -> int | None:
    """Peak bytes of the GPU's allocator; TensorFlow can't say it of a CPU."""
    return tf.config.experimental.get_memory_info(device)["peak"] if device.startswith("GPU") else None


if __name__ == "__main__":
    sys.exit(main())
