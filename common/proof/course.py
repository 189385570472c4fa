"""What a run is held to: its first batch in float64, and the course of the whole training, with the price of roundings.

A run that NumPy can train is followed step by step; a larger one is held to the float64 row of its own framework."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from common.config import (
    FRAMEWORKS,
    LOSS_SCALE_BACKOFF,
    LOSS_SCALE_GROWTH,
    DataConfig,
    ExecutionConfig,
    LossScaleConfig,
    ModelConfig,
    Precision,
    RunConfig,
    TrainConfig,
)
from common.experiment.data import draw_data, split_batches
from common.experiment.weights import Weights, draw_weights
from common.measure.limits import step_flops
from common.proof.bounds import KERAS_UPDATE, ROUNDOFF
from common.proof.checks import gradient_bounds, joined, relative_error, rounds
from common.proof.probe import Case
from common.proof.reference import (
    ROUNDINGS,
    Evaluation,
    ReferenceStep,
    State,
    exact,
    follow_steps,
    loss_and_gradients,
    on_grid,
)
from common.results.rows import RowResult, Status, Training

# What NumPy trains in a few seconds, three times the cpu preset; and the largest single step that it is asked for.
LARGEST_RUN_FLOPS = 1e11
LARGEST_STEP_FLOPS = 2e12

# A larger run's amplification is measured by trainings in float64. At the article's size roundings in five precisions
# had grown 8 to 28 times after 15 steps. Of single trainings one saw 1.5; the largest of three saw 12, so that twice of
# what they see is taken. Of longer runs the first 200 steps are compared.
RULERS = 3
RULER_STEPS = 200
RULERS_SEE = 0.5


class WholeRun(NamedTuple):
    """What only a reference that trains the whole run can say.

    correct: in each step, the samples whose logit has the right sign. certainty: in each epoch, the samples' logits, in
    multiples of E0. contradicted: steps whose skip, or its absence, no rounding explains. update: final less starting
    weights, all in one row. update_price: E0 of it. stored: how far storing the weights after each step rounds it.
    second_moments: Adam's, all in one row. moments_price: E0 of them.
    """

    correct: np.ndarray
    certainty: list[np.ndarray]
    contradicted: list[int]
    update: np.ndarray
    update_price: float
    stored: float
    second_moments: np.ndarray
    moments_price: float


@dataclass(frozen=True)
class Course:
    """What a run is held to: the reference's loss at each step, and what the dtype's roundings cost (the price E0).

    error: E0 at each step, as a difference of the loss; infinite where it is not known. late_error: that of the late
    loss, whose size alone is known. whole: None where NumPy can't train the run.
    """

    loss: np.ndarray
    error: np.ndarray
    late_error: float
    whole: WholeRun | None = None


class FirstBatch(NamedTuple):
    """The run's first batch on its starting weights: the reference's gradients, their bounds, and their usual E0."""

    gradients: Weights
    bounds: dict[str, float]
    price: float
    loss_scale: float


@np.errstate(divide="ignore", invalid="ignore")  # logits that the roundings leave alone are certain
def certainty(logits: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    """How far each logit of an epoch is from 0, in E0; logits and rounded (N, 1).

    E0 is the rms over the epoch: a sample's own roundings may happen to cancel, in one framework and not in the other.
    """
    multiples: np.ndarray = np.abs(logits) / np.sqrt(np.mean((rounded - logits) ** 2))
    return multiples


def follow_scale(config: RunConfig, skipped: Sequence[int], steps: int) -> list[float]:
    """The loss scale before each step, and after the last, as it follows from the steps that were skipped."""
    scale = config.loss_scale.initial_scale if config.precision.scales_loss else 1.0
    trace, finite = [scale], 0
    for step in range(steps):
        finite = 0 if step in skipped else finite + 1
        if step in skipped:
            scale *= LOSS_SCALE_BACKOFF
        elif config.precision.scales_loss and finite == config.loss_scale.growth_interval:
            scale, finite = scale * LOSS_SCALE_GROWTH, 0
        trace.append(scale)
    return trace


def first_batch(row: RowResult) -> FirstBatch | None:
    config, training = row.config, training_of(row)
    if step_flops(config) > LARGEST_STEP_FLOPS:
        return None
    scale = min(follow_scale(config, training.skipped_steps, len(training.loss))[:-1])
    case, reference, emulated = _first_pass(
        config.data, config.model, config.train.batch_size, config.precision, scale, config.execution.replicas
    )
    bounds = gradient_bounds(config, case, reference, emulated)
    prices = [relative_error(emulated.gradients[name], gradient) for name, gradient in reference.gradients.items()]
    return FirstBatch(reference.gradients, bounds, float(np.median(prices)), scale)


@cache
def _first_pass(
    data: DataConfig, model: ModelConfig, batch_size: int, precision: Precision, loss_scale: float, replicas: int
) -> tuple[Case, Evaluation, Evaluation]:
    images, labels = draw_data(data)
    case = Case("first batch", draw_weights(model, data.seed), images[:batch_size], labels[:batch_size])
    emulated = loss_and_gradients(*case[1:], ROUNDINGS[precision], loss_scale, replicas)
    exactly = precision if not rounds(precision) else Precision.FLOAT64
    return (
        case,
        emulated if exactly is precision else _first_pass(data, model, batch_size, exactly, 1.0, 1)[1],
        emulated,
    )


def course_of(row: RowResult, rows: Sequence[RowResult]) -> Course | None:
    """What the row's training is held to; None where it is too large for NumPy and `rows` lacks its float64 row."""
    if can_follow(row.config):
        return numpy_course(row.config, training_of(row).skipped_steps)
    return _float64_course(row, rows)


def can_follow(config: RunConfig) -> bool:
    """Whether NumPy can train the run."""
    return step_flops(config) * config.steps_per_epoch * config.train.epochs <= LARGEST_RUN_FLOPS


def ruler_config(config: RunConfig) -> RunConfig:
    """The run that a ruler trains: as many epochs of it as RULER_STEPS need."""
    epochs = math.ceil(RULER_STEPS / config.steps_per_epoch)
    return replace(config, train=replace(config.train, epochs=min(config.train.epochs, epochs)))


def moved_weights(config: RunConfig, ruler: int) -> Weights:
    """The starting weights in float64, every value moved by a rounding of float32; each ruler has others."""
    return _moved(draw_weights(config.model, config.data.seed), np.random.default_rng([config.data.seed, ruler]))


def _moved(weights: Weights, signs: np.random.Generator) -> Weights:
    u = ROUNDOFF[Precision.FLOAT32]
    return {name: array * (1 + u * signs.choice([-1.0, 1.0], array.shape)) for name, array in weights.items()}


def numpy_course(config: RunConfig, skipped: Sequence[int], grids: Sequence[float] = (1.0,)) -> Course:
    """The run as NumPy trains it, which skips the steps that the row skipped.

    grids: by what factors the roundings' grid is moved, where there is one. Each makes errors of its own, and E0 is the
    largest.
    """
    grids = tuple(grids) if rounds(config.precision) else (1.0,)
    return _numpy_course(_computation(config), tuple(skipped), grids)


def _computation(config: RunConfig) -> RunConfig:
    """One config for all rows that NumPy follows alike, whatever framework or loop trains them."""
    execution = ExecutionConfig(devices=config.execution.replicas)
    return replace(config, framework=FRAMEWORKS[0], execution=execution, repeat=0)


@cache
@np.errstate(over="ignore", invalid="ignore")  # where a run overflows, so does its reference
def _numpy_course(config: RunConfig, skipped: tuple[int, ...], grids: tuple[float, ...]) -> Course:
    """The run in float64, beside the emulator's: what roundings to 16 bits make of it. Both skip what the row skipped.

    In float32 and float64 what stands for the emulator is float64 with the weights moved by a rounding of float32, and
    the learning rate by Keras' own error.
    """
    data, train, precision = config.data, config.train, config.precision
    weights, batches = draw_weights(config.model, data.seed), split_batches(*draw_data(data), train.batch_size)
    if rounds(precision):
        moved, moved_train = weights, train
    else:
        moved = _moved(weights, np.random.default_rng(data.seed))
        moved_train = replace(train, learning_rate=train.learning_rate * (1 - KERAS_UPDATE))
    runs = [
        follow_steps(
            moved, batches, moved_train, config.loss_scale, precision, on_grid(ROUNDINGS[precision], grid), skipped,
            config.execution.replicas,
        )
        for grid in grids
    ]  # fmt: skip
    emulated = runs[0][0]
    steps, end = _exact_run(data, config.model, train, skipped)
    loss = np.array([step.loss for step in steps])
    rounded = np.array([[step.loss for step in run] for run, _ in runs])
    labels = [labels for _, labels in batches] * train.epochs
    start = joined(weights, weights)
    update, moved_updates = joined(end.weights, weights) - start, [joined(s.weights, weights) - start for _, s in runs]
    moments, moved_moments = joined(end.second_moments, weights), [joined(s.second_moments, weights) for _, s in runs]
    u, size = ROUNDOFF[Precision(precision.variable_dtype)], np.linalg.norm(joined(end.weights, weights))
    whole = WholeRun(
        correct=np.array([np.sum((step.logits > 0) == (y > 0)) for step, y in zip(steps, labels, strict=True)]),
        certainty=list(map(certainty, _logits(steps, len(batches)), _logits(emulated, len(batches)))),
        contradicted=[number for number, step in enumerate(emulated) if step.contradicted],
        update=update,
        update_price=max(relative_error(moved_update, update) for moved_update in moved_updates),
        stored=float(u * size * np.sqrt(len(steps)) / np.linalg.norm(update)),
        second_moments=moments,
        moments_price=max(relative_error(moved, moments) for moved in moved_moments),
    )
    return Course(loss, np.abs(rounded - loss).max(axis=0), max(abs(late(run) - late(loss)) for run in rounded), whole)


def _logits(steps: Sequence[ReferenceStep], per_epoch: int) -> list[np.ndarray]:
    """Those of each epoch, (N, 1)."""
    epochs = [steps[at : at + per_epoch] for at in range(0, len(steps), per_epoch)]
    return [np.concatenate([step.logits for step in epoch]) for epoch in epochs]


@cache
def _exact_run(
    data: DataConfig, model: ModelConfig, train: TrainConfig, skipped: tuple[int, ...]
) -> tuple[list[ReferenceStep], State]:
    weights, batches = draw_weights(model, data.seed), split_batches(*draw_data(data), train.batch_size)
    return follow_steps(weights, batches, train, LossScaleConfig(), Precision.FLOAT64, exact, skipped)


def _float64_course(row: RowResult, rows: Sequence[RowResult]) -> Course | None:
    """The run in float64 by the row's own framework, as far as its rulers reach; None where that row is not there.

    E0 is that of the first gradient, amplified as a training in float64 amplifies a known one; skipped steps amplify
    nothing. A float64 row skips nothing, so a row that does is compared up to there.
    """
    ruled = [other for other in rows if _has_rulers(other) and experiment_of(other) == experiment_of(row)]
    exact_row = next((other for other in ruled if other.framework == row.framework), None)
    first = first_batch(row)
    if exact_row is None or first is None:
        return None
    training, reference = training_of(row), as_array(training_of(exact_row).loss)
    growth = np.min([_growth(training_of(other)) for other in ruled], axis=0)
    applied = np.array([step not in training.skipped_steps for step in range(len(reference))], int)
    price = first.price if rounds(row.config.precision) else KERAS_UPDATE
    error = price * growth[np.cumsum(applied) - applied] * running_rms(as_array(training.loss))
    return Course(reference, error, min(_late_distance(training_of(other)) for other in ruled))


def _has_rulers(row: RowResult) -> bool:
    return row.status is Status.OK and row.training is not None and bool(row.training.rulers)


def _growth(training: Training) -> np.ndarray:
    """By what factor an error of the first gradient has grown before each step, as an error of the loss; at least 1.

    That is the largest of the rulers': one alone may be moved in a direction that nothing amplifies. Beyond their ends
    it is not known. A mistake of the framework is in all of its trainings, and so does not look like growth. One that
    is another each time does; then the other framework's rulers show less.
    """
    loss = as_array(training.loss)
    growth = np.ones(len(loss))
    for ruler in training.rulers:
        apart = np.full(len(loss), np.inf)
        apart[: len(ruler.loss)] = np.abs(as_array(ruler.loss) - loss[: len(ruler.loss)])
        growth = np.maximum(growth, np.maximum.accumulate(apart / running_rms(loss)) / (RULERS_SEE * ruler.moved_by))
    return growth


def _late_distance(training: Training) -> float:
    """How far the rulers' late losses are from the run's, as far as they reach."""
    rulers, loss = [as_array(ruler.loss) for ruler in training.rulers], as_array(training.loss)
    return max(abs(late(ruler) - late(loss[: len(ruler)])) for ruler in rulers)


def late(loss: np.ndarray) -> float:
    """The median of a run's second half, in which single steps may be anything."""
    return float(np.median(loss[len(loss) // 2 :]))


def running_rms(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.cumsum(values**2) / np.arange(1, len(values) + 1)))


def as_array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def training_of(row: RowResult) -> Training:
    assert row.training is not None  # only rows that were trained come here
    return row.training


def experiment_of(row: RowResult) -> tuple[DataConfig, ModelConfig, TrainConfig, LossScaleConfig]:
    return row.config.data, row.config.model, row.config.train, row.config.loss_scale
