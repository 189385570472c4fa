"""Training through Keras' Model.fit, the article's own path; it has no twin, since PyTorch has no fit.

The same layers, loss and optimizer as in train.py (not the stock ones), so that what fit adds is all that differs.
"""

from typing import Any

import keras
import tensorflow as tf

from common.config import RunConfig
from common.process.recorder import Recorder
from tf_impl.model import ConvNet
from tf_impl.optimizer import Optimizer, applied_steps, loss_scale
from tf_impl.precision import float32_by_default
from tf_impl.train import Step, binary_accuracy, binary_crossentropy


def fit(
    model: ConvNet,
    optimizer: Optimizer,
    images: tf.Tensor,
    labels: tf.Tensor,
    config: RunConfig,
    recorder: Recorder,
) -> None:
    """Train on images (N, H, W, C) and labels (N, 1) with Model.fit and tell the recorder about every step.

    Raises ValueError where the user has limited every fit, as is done to try a program out.
    """
    _require_whole_fits(config)
    loss = _LastValue(binary_crossentropy, "step_loss", images.dtype)
    accuracy = _LastValue(binary_accuracy, "step_accuracy", images.dtype)
    model.logits.compile(
        optimizer=optimizer,
        loss=_BinaryCrossentropy(dtype=images.dtype.name),
        metrics=[loss, accuracy],
        jit_compile=config.execution.compile,
        auto_scale_loss=False,  # make_optimizer has decided
    )
    with float32_by_default():  # else a user's floatx would round the images
        model.logits.fit(
            images,
            labels,
            batch_size=config.train.batch_size,
            epochs=config.train.epochs,
            shuffle=False,
            verbose=0,
            callbacks=[_StepReporter(optimizer, loss, accuracy, recorder)],
        )


def fit_more(model: ConvNet, images: tf.Tensor, labels: tf.Tensor, batch_size: int) -> None:
    """One epoch more on images (N, H, W, C) and labels (N, 1), by the graph that fit has made; nobody is told."""
    with float32_by_default():
        model.logits.fit(images, labels, batch_size=batch_size, shuffle=False, verbose=0)


def _require_whole_fits(config: RunConfig) -> None:
    planned = {"max_epochs": config.train.epochs, "max_steps_per_epoch": config.steps_per_epoch}
    for name, number in planned.items():
        limit = getattr(keras.config, name, lambda: None)()  # Keras 3.10 has no such limit
        if limit is not None and limit < number:
            raise ValueError(f"Keras' {name} is {limit}, and {number} are planned; unset KERAS_{name.upper()}")


class _BinaryCrossentropy(keras.losses.Loss):
    """The loss of train.py as a Keras loss, which casts what it is given to its own dtype."""

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return binary_crossentropy(y_true, y_pred)


class _LastValue(keras.metrics.Metric):
    """A metric's value on the latest batch alone: Keras' own metrics report running means over the epoch."""

    def __init__(self, function: Any, name: str, dtype: tf.DType) -> None:
        super().__init__(name=name, dtype=dtype.name)
        self._function = function
        self.value = self.add_variable((), keras.initializers.Zeros(), dtype=dtype.name, name="value")

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None) -> None:
        self.value.assign(self._function(tf.cast(y_true, self.dtype), tf.cast(y_pred, self.dtype)))

    def result(self) -> tf.Tensor:
        return self.value.value


class _StepReporter(keras.callbacks.Callback):
    """Tells the recorder about epochs and steps without waiting for the device.

    A step is read when the next one begins: at on_train_batch_end Keras would fetch the logs of every step.
    """

    def __init__(self, optimizer: Optimizer, loss: _LastValue, accuracy: _LastValue, recorder: Recorder) -> None:
        super().__init__()
        self._optimizer = optimizer
        self._loss = loss
        self._accuracy = accuracy
        self._recorder = recorder
        self._steps: list[Step] = []
        self._loss_scale = tf.ones(())

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps = []
        self._recorder.start_epoch()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch > 0:
            self._end_step()
        self._loss_scale = loss_scale(self._optimizer)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._end_step()
        self._recorder.end_epoch(self._steps)

    def _end_step(self) -> None:
        self._steps.append(
            Step(
                loss=tf.identity(self._loss.value.value),
                accuracy=tf.identity(self._accuracy.value.value),
                loss_scale=self._loss_scale,
                applied_steps=applied_steps(self._optimizer),
            )
        )
        self._recorder.end_step()
