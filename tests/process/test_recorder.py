"""Are epoch means, skipped steps and the status made rightly from what the steps report?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from common.config import DataConfig, ExecutionConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.measure.contention import CpuReading
from common.measure.memory import MemoryReading
from common.process import recorder as recorder_module
from common.process.recorder import Recorder
from common.results.rows import Status

# 24 + 24 + 16 images: the last batch counts less.
CONFIG = RunConfig(
    "torch",
    Precision.MIXED_FLOAT16,
    DataConfig(images=64, image_shape=(4, 4, 3)),
    ModelConfig(image_shape=(4, 4, 3)),
    TrainConfig(epochs=2, batch_size=24),
)


def record(
    *epochs: list[list[float]],
    on_event: Callable[[dict[str, Any]], object] = lambda event: None,
    reset_peak_memory: Callable[[], bool] = lambda: True,
    execution: ExecutionConfig = CONFIG.execution,
) -> Recorder:
    """Each epoch: four lists, the loss, accuracy, scale and updates so far of its steps."""
    recorder = Recorder(
        replace(CONFIG, train=replace(CONFIG.train, epochs=len(epochs)), execution=execution),
        on_event,
        fetch=lambda columns: columns,
        synchronize=lambda: None,
        memory_stats=lambda: MemoryReading("host_rss", 1, 1),
        reset_peak_memory=reset_peak_memory,
    )
    for columns in epochs:
        recorder.start_epoch()
        recorder.end_step()
        recorder.end_epoch(columns)
    return recorder


FIRST = [[1.0, 2.0, 4.0], [0.5, 0.5, 1.0], [8, 8, 4], [1, 1, 2]]  # step 1 was skipped
SECOND = [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [4, 4, 2], [3, 3, 4]]  # step 4 was skipped


def test_epoch_means_are_over_samples() -> None:
    training = record(FIRST).training("", "")
    assert training.epoch_loss == [(24 * 1 + 24 * 2 + 16 * 4) / 64]
    assert training.epoch_accuracy == [(24 * 0.5 + 24 * 0.5 + 16 * 1) / 64]


def test_traces_run_on_over_epochs() -> None:
    training = record(FIRST, SECOND).training("", "")
    assert training.loss == [1, 2, 4, 1, 1, 1]
    assert training.loss_scale == [8, 8, 4, 4, 4, 2]


def test_skipped_steps_are_those_without_an_update() -> None:
    assert record(FIRST, SECOND).training("", "").skipped_steps == [1, 4]


def test_a_skipped_first_step() -> None:
    assert record([[1, 1, 1], [1, 1, 1], [8, 4, 4], [0, 1, 2]]).training("", "").skipped_steps == [0]


@pytest.mark.parametrize(
    ("columns", "status", "detail"),
    [
        (FIRST, Status.OK, ""),
        ([[1, float("nan"), 2], [1, 1, 1], [1, 1, 1], [1, 2, 3]], Status.NONFINITE, "at step 1"),
        ([[1, 2, float("inf")], [1, 1, 1], [1, 1, 1], [1, 2, 3]], Status.NONFINITE, "at step 2"),
        ([[1, 1, 1], [1, 1, 1], [8, 4, 2], [0, 0, 0]], Status.ALL_STEPS_SKIPPED, "every one of 3 steps"),
    ],
)
def test_status(columns: list[list[float]], status: Status, detail: str) -> None:
    found, said = record(columns).status()
    assert found is status
    assert detail in said


def test_the_peak_of_the_first_epoch_is_forgotten_where_there_is_a_second() -> None:
    """Else nothing would be left of it. Before the first epoch all that was before is forgotten."""
    one, two = Mock(return_value=True), Mock(return_value=True)
    record(FIRST, reset_peak_memory=one)
    record(FIRST, SECOND, reset_peak_memory=two)
    assert (one.call_count, two.call_count) == (1, 2)


def test_every_epoch_is_told() -> None:
    events: list[dict[str, Any]] = []
    record(FIRST, SECOND, on_event=events.append)
    assert [(event["epoch"], event["epochs"], event["loss"]) for event in events] == [(1, 2, 2.125), (2, 2, 1.0)]


def test_what_the_cpu_is_shared_with_counts_from_the_second_epoch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first one it is traced and compiled, on as many cores as there are."""
    readings = (CpuReading(10.0 * n, 7.0 * n, {}, {}, None, None, None, None) for n in range(1, 99))
    monkeypatch.setattr(recorder_module, "read_cpu", lambda: next(readings))
    recorder = record(FIRST)
    assert recorder.contention(load_before=0.5) is None
    assert next(readings).wall_s == 10.0  # it was not read at all

    found = record(FIRST, SECOND, SECOND).contention(load_before=0.5)
    assert found is not None
    assert (found.wall_s, found.cpu_s, found.threads, found.load_before) == (10.0, 7.0, 1, 0.5)


def test_replicas_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([CpuReading(1.0 * n, 1.0 * n, {}, {}, None, None, None, None) for n in range(2)])
    monkeypatch.setattr(recorder_module, "read_cpu", lambda: next(readings))
    recorder = record(FIRST, SECOND, execution=ExecutionConfig(threads=8, devices=2))
    found = recorder.contention(load_before=None)
    assert found is not None
    assert found.threads == 4


def test_an_epoch_of_fewer_steps_is_named() -> None:
    """As where a loop drops the smaller last batch."""
    with pytest.raises(ValueError, match=r"^there were 2 steps in epoch 2 instead of 3; "):
        record(FIRST, [column[:2] for column in SECOND])


def test_fewer_epochs_are_named() -> None:
    recorder = record(FIRST, SECOND)
    recorder._config = replace(CONFIG, train=replace(CONFIG.train, epochs=3))
    with pytest.raises(ValueError, match=r"^there were 2 epochs instead of 3; "):
        recorder.timing()
