"""The run itself held to the reference: C6, each row against float64, and C8, two rows that train the same.

The probe (parity.py) proves single steps on a small model; this follows the training that the table shows. Training is
a long chain of roundings, each of which the next steps amplify, so a comparison ends where that has gone too far to say
anything, and names the step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from common.config import (
    FRAMEWORKS,
    LOSS_SCALE_BACKOFF,
    LOSS_SCALE_GROWTH,
    DataConfig,
    LossScaleConfig,
    ModelConfig,
    Precision,
    RunConfig,
    TrainConfig,
)
from common.experiment.data import draw_data, split_batches
from common.experiment.weights import Weights, draw_weights
from common.measure.limits import step_flops
from common.proof.bounds import (
    ACCURACY,
    CHAOS,
    EPOCH,
    EPOCH_LOSS,
    FIRST_GRADIENT,
    FLOAT32_TRAINING,
    HALF_A_SAMPLE,
    KERAS_UPDATE,
    LEAST_SHARE_OF_PRICE,
    LOSS_CURVE,
    PAIR_GRADIENT,
    PAIR_LOSS,
    PAIR_RULES,
    PAIR_SKIPPED,
    PAIR_UPDATE,
    PRESENCE,
    PRICES,
    ROUNDOFF,
    RUN_LABEL,
    SCALE_TRACE,
    SKIPPED,
    STEPS_TO_A_DOUBTFUL_SKIP,
    UPDATE,
    rules_of_worker,
)
from common.proof.checks import check_gradients, check_held, compare, gradient_bounds, joined, relative_error, rounds
from common.proof.probe import Case
from common.proof.reference import ROUNDINGS, Evaluation, ReferenceStep, exact, follow_steps, loss_and_gradients
from common.results.check import Check, worst_first, worst_of_each_name
from common.results.rows import Arrays, ParityEntry, RowResult, Status, Training, times

# What NumPy trains in a few seconds, three times the cpu preset; and the largest single step that it is asked for.
LARGEST_RUN_FLOPS = 1e11
LARGEST_STEP_FLOPS = 2e12

ArraysOf = Callable[[RowResult], Arrays]


class WholeRun(NamedTuple):
    """What only a reference that trains the whole run can say.

    correct: in each step, the samples whose logit has the right sign. certainty: in each epoch, the samples' logits, in
    multiples of E0. contradicted: steps whose skip, or its absence, no rounding explains. update: final less starting
    weights, all in one row. update_price: E0 of it. stored: how far storing the weights after each step rounds it.
    """

    correct: np.ndarray
    certainty: list[np.ndarray]
    contradicted: list[int]
    update: np.ndarray
    update_price: float
    stored: float


@dataclass(frozen=True)
class Course:
    """What a run is held to: the reference's loss at each step, and what the dtype's roundings cost (the price E0).

    error: E0 at each step, as a difference of the loss. limit: how many steps can be compared however small the error
    is, and the reason. whole: None where NumPy can't train the run.
    """

    loss: np.ndarray
    error: np.ndarray
    limit: int
    reason: str
    whole: WholeRun | None = None


class FirstBatch(NamedTuple):
    """The run's first batch on its starting weights: the reference's gradients, their bounds, and their usual E0."""

    gradients: Weights
    bounds: dict[str, float]
    price: float
    loss_scale: float


def complete_checks(rows: Sequence[RowResult], arrays_of: ArraysOf) -> list[RowResult]:
    """Add C6 to every row that was trained, well or not; checks of an earlier C6 are replaced."""
    names = {
        rule.name
        for rule in (PRESENCE, FIRST_GRADIENT, RUN_LABEL, LOSS_CURVE, UPDATE, ACCURACY, EPOCH, SCALE_TRACE, SKIPPED)
    }
    own = [replace(row, checks=[check for check in row.checks if check.name not in names]) for row in rows]
    return [
        replace(row, checks=row.checks + check_run(row, arrays_of(row), rows)) if row.training else row for row in own
    ]


def check_pairs(rows: Sequence[RowResult], arrays_of: ArraysOf) -> dict[tuple[str, bool], list[Check]]:
    """C8 on every two trained rows that differ in one thing alone, by precision and compile mode.

    That is their framework, or that one trains on a single replica and the other on several. Model.fit is TensorFlow's
    alone, and is held to the same row of PyTorch.
    """
    checks: dict[tuple[str, bool], list[Check]] = {}
    for one, other in product([row for row in rows if row.training], repeat=2):
        if _train_the_same(one, other) and (_differ_in_framework(one, other) or _differ_in_replicas(one, other)):
            found = check_pair(one, other, arrays_of(one), arrays_of(other), rows)
            named = [
                replace(check, where=f"{one.framework}{times(one)}, {other.framework}{times(other)}: {check.where}")
                for check in found
            ]
            checks.setdefault((one.precision, one.compile), []).extend(named)
    return checks


def check_run(row: RowResult, arrays: Arrays, rows: Sequence[RowResult]) -> list[Check]:
    """C6 on a row that was trained. A run too large for NumPy is held to the float64 rows among `rows`."""
    config, training = row.config, _training(row)
    loss = _array(training.loss)
    checks = [_check_presence(row), _check_epochs(config, training), _check_scale_trace(config, training)]
    if first := _first_batch(row):
        checks += check_gradients(FIRST_GRADIENT, "first batch", arrays.first_gradients, first.gradients, first.bounds)
        checks += _check_label(config, first, arrays.first_gradients)
    course = _course(row, rows)
    if course and (course.whole or config.precision is not Precision.FLOAT64):  # not the ruler by itself
        skips = [] if course.whole else training.skipped_steps  # a float64 row skips nothing
        steps, extent = _extent(row, course, loss, min((step + 1 for step in skips), default=len(loss)))
        bound = _bound(row, _price(course, course.loss[:steps]))
        checks.append(compare(LOSS_CURVE, relative_error(loss[:steps], course.loss[:steps]), bound, extent))
        if course.whole:
            differing = [step for step in course.whole.contradicted if step < steps]
            checks.append(compare(SKIPPED, len(differing), 0, f"steps {differing}" if differing else "all steps"))
            checks += _check_accuracy(row, course.whole, steps)
        if course.whole and steps == len(loss):
            error = relative_error(_update(config, arrays), course.whole.update)
            checks.append(compare(UPDATE, error, _update_bound(row, course.whole), extent))
    return checks


def check_pair(
    one: RowResult, other: RowResult, arrays: Arrays, others: Arrays, rows: Sequence[RowResult]
) -> list[Check]:
    """C8 on two trained rows that train the same; the bounds are those of the first."""
    skipped, skipped_by_other = (_training(row).skipped_steps for row in (one, other))
    loss, reference = (_array(_training(row).loss) for row in (one, other))
    course = _course(one, rows)
    either = loss + reference  # not finite where one of them is not
    within, extent = _extent(one, course, either, len(loss)) if course else (len(loss), "all steps")
    differing = abs(sum(step < within for step in skipped) - sum(step < within for step in skipped_by_other))
    checks = [compare(PAIR_SKIPPED, differing, max(1, within // STEPS_TO_A_DOUBTFUL_SKIP), extent)]
    if first := _first_batch(one):
        checks += check_gradients(
            PAIR_GRADIENT, "first batch", arrays.first_gradients, others.first_gradients, first.bounds
        )
    if course:
        parting = min((step + 1 for step in set(skipped) ^ set(skipped_by_other)), default=len(loss))
        steps, extent = _extent(one, course, either, parting)
        bound = _bound(one, _price(course, reference[:steps]))
        checks.append(compare(PAIR_LOSS, relative_error(loss[:steps], reference[:steps]), bound, extent))
        if course.whole and steps == len(loss):
            error = relative_error(_update(one.config, arrays), _update(one.config, others))
            checks.append(compare(PAIR_UPDATE, error, _update_bound(one, course.whole), extent))
    return checks


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


def _check_presence(row: RowResult) -> Check:
    """A check that the row's own process should have made, and did not, has failed."""
    made = {check.name for check in row.checks}
    missing = [rule.name for rule in rules_of_worker(row.config) if rule.name not in made]
    return compare(PRESENCE, len(missing), 0, ", ".join(missing) or "every check")


def _check_epochs(config: RunConfig, training: Training) -> Check:
    size, images = config.train.batch_size, config.data.images
    sizes = [min(size, images - start) for start in range(0, images, size)]
    means = np.average(_array(training.loss).reshape(-1, len(sizes)), axis=1, weights=sizes)
    finite = np.isfinite(means)
    return compare(EPOCH, relative_error(_array(training.epoch_loss)[finite], means[finite]), EPOCH_LOSS, "all epochs")


def _check_scale_trace(config: RunConfig, training: Training) -> Check:
    expected = follow_scale(config, training.skipped_steps, len(training.loss))[:-1]
    return compare(SCALE_TRACE, int(np.sum(_array(training.loss_scale) != expected)), 0, "all steps")


def _check_accuracy(row: RowResult, whole: WholeRun, steps: int) -> list[Check]:
    """In each epoch whose steps can all be compared."""
    images, epochs = row.config.data.images, steps // row.config.steps_per_epoch
    shape = (row.config.train.epochs, row.config.steps_per_epoch)
    correct = whole.correct.reshape(shape).sum(axis=1)
    doubtful = [np.sum(multiples <= PRICES) for multiples in whole.certainty]
    accuracy = _array(_training(row).epoch_accuracy)
    return [
        compare(
            ACCURACY,
            abs(images * accuracy[epoch] - correct[epoch]),
            doubtful[epoch] + HALF_A_SAMPLE,
            f"epoch {epoch + 1}",
        )
        for epoch in range(epochs)
    ]


def _check_label(config: RunConfig, first: FirstBatch, actual: Weights) -> list[Check]:
    """Whether the run itself computed in its precision, and each convolution of it."""
    if not rounds(config.precision):
        return []
    error = float(np.median([relative_error(actual[name], gradient) for name, gradient in first.gradients.items()]))
    share = first.price / error if error else math.inf
    return [
        compare(RUN_LABEL, share, 1 / LEAST_SHARE_OF_PRICE, "first batch, median of the gradients"),
        *check_held(RUN_LABEL, config.precision, "first batch", actual, first.loss_scale),
    ]


def _extent(row: RowResult, course: Course, loss: np.ndarray, parting: int) -> tuple[int, str]:
    """How many steps can be compared, and why not more. A step's loss is taken before the step is skipped.

    A loss that is not finite ends it: the row's status says so, and why it came to be can't be told from the loss.
    """
    steps = len(course.loss)
    overflow = int(np.argmin(np.append(np.isfinite(loss), False)))
    finite = int(np.argmin(np.append(np.isfinite(course.loss), False)))
    known = _horizon(course.error, course.loss, row.config.precision)
    chaos = max(min(2, finite), known)  # the first update in any case
    return min(
        (steps, f"all {steps} steps"),
        (course.limit, f"{course.limit} of {steps} steps, {course.reason}"),
        (parting, f"{parting} of {steps} steps, then one alone skips"),
        (overflow, f"{overflow} of {steps} steps, then a loss that is not finite"),
        (chaos, f"{chaos} of {steps} steps, then chaos"),
        key=lambda choice: choice[0],
    )


def _bound(row: RowResult, price: float) -> float:
    return PRICES * price if rounds(row.config.precision) else FLOAT32_TRAINING


def _update_bound(row: RowResult, whole: WholeRun) -> float:
    """What float32 may miss by, any precision may: weights are stored in it, and Adam computes in it."""
    return max(_bound(row, whole.update_price), FLOAT32_TRAINING, whole.stored)


def _price(course: Course, loss: np.ndarray) -> float:
    """E0 of these first steps' losses."""
    return float(np.linalg.norm(course.error[: len(loss)]) / np.linalg.norm(loss))


def _first_batch(row: RowResult) -> FirstBatch | None:
    config, training = row.config, _training(row)
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


def _course(row: RowResult, rows: Sequence[RowResult]) -> Course | None:
    config, skipped = row.config, tuple(_training(row).skipped_steps)
    if step_flops(config) * len(_training(row).loss) <= LARGEST_RUN_FLOPS:
        return _numpy_course(
            config.data,
            config.model,
            config.train,
            config.loss_scale,
            config.precision,
            skipped,
            config.execution.replicas,
        )
    return _float64_course(row, rows)


@cache
def _numpy_course(
    data: DataConfig,
    model: ModelConfig,
    train: TrainConfig,
    loss_scale: LossScaleConfig,
    precision: Precision,
    skipped: tuple[int, ...],
    replicas: int,
) -> Course:
    """The run in float64, beside the emulator's: what roundings to 16 bits make of it. Both skip what the row skipped.

    In float32 and float64 what stands for the emulator is float64 with the weights moved by a rounding of float32, and
    the learning rate by Keras' own error.
    """
    weights, batches = draw_weights(model, data.seed), split_batches(*draw_data(data), train.batch_size)
    if rounds(precision):
        moved, moved_train = weights, train
    else:
        signs = np.random.default_rng(data.seed)
        moved = {n: w * (1 + ROUNDOFF[Precision.FLOAT32] * signs.choice([-1, 1], w.shape)) for n, w in weights.items()}
        moved_train = replace(train, learning_rate=train.learning_rate * (1 - KERAS_UPDATE))
    emulated, moved_end = follow_steps(
        moved, batches, moved_train, loss_scale, precision, ROUNDINGS[precision], skipped, replicas
    )
    steps, end = _exact_run(data, model, train, skipped)
    loss, rounded = (np.array([step.loss for step in run]) for run in (steps, emulated))
    labels = [labels for _, labels in batches] * train.epochs
    update, moved_update = (joined(w, weights) - joined(weights, weights) for w in (end, moved_end))
    u, size = ROUNDOFF[Precision(precision.variable_dtype)], np.linalg.norm(joined(end, weights))
    whole = WholeRun(
        correct=np.array([np.sum((step.logits > 0) == (y > 0)) for step, y in zip(steps, labels, strict=True)]),
        certainty=list(map(certainty, _logits(steps, len(batches)), _logits(emulated, len(batches)))),
        contradicted=[number for number, step in enumerate(emulated) if step.contradicted],
        update=update,
        update_price=relative_error(moved_update, update),
        stored=float(u * size * np.sqrt(len(steps)) / np.linalg.norm(update)),
    )
    return Course(loss, np.abs(rounded - loss), len(loss), "", whole)


def _logits(steps: Sequence[ReferenceStep], per_epoch: int) -> list[np.ndarray]:
    """Those of each epoch, (N, 1)."""
    epochs = [steps[at : at + per_epoch] for at in range(0, len(steps), per_epoch)]
    return [np.concatenate([step.logits for step in epoch]) for epoch in epochs]


@cache
def _exact_run(
    data: DataConfig, model: ModelConfig, train: TrainConfig, skipped: tuple[int, ...]
) -> tuple[list[ReferenceStep], Weights]:
    weights, batches = draw_weights(model, data.seed), split_batches(*draw_data(data), train.batch_size)
    return follow_steps(weights, batches, train, LossScaleConfig(), Precision.FLOAT64, exact, skipped)


def _float64_course(row: RowResult, rows: Sequence[RowResult]) -> Course | None:
    """The run in float64 by the row's own framework; None where the two frameworks' float64 rows are not both there.

    All that they differ in is Keras' own error in the update, so the way they grow apart shows how training amplifies
    a known difference. E0 is that of the first gradient, amplified as much; skipped steps amplify nothing. A float64
    row skips nothing, so a row that does is compared up to there; and the two are compared with each other up to the
    first update alone, since beyond it they are the ruler.
    """
    exact_rows = [other for other in rows if other.status is Status.OK and other.precision == Precision.FLOAT64]
    exact_rows = [other for other in exact_rows if _experiment(other) == _experiment(row)]
    losses = {other.framework: _array(_training(other).loss) for other in reversed(exact_rows)}
    first = _first_batch(row)
    if len(losses) < len(FRAMEWORKS) or first is None:
        return None
    reference, loss, skipped = losses[row.framework], _array(_training(row).loss), _training(row).skipped_steps
    apart = np.abs(losses[FRAMEWORKS[0]] - losses[FRAMEWORKS[1]]) / _running_rms(reference)
    growth = np.maximum(1.0, np.maximum.accumulate(apart) / KERAS_UPDATE)
    applied = np.array([step not in skipped for step in range(len(loss))], int)
    price = first.price if rounds(row.config.precision) else KERAS_UPDATE
    error = price * growth[np.cumsum(applied) - applied] * _running_rms(loss)
    if row.precision == Precision.FLOAT64:
        return Course(reference, error, 2, "the first update; beyond it they are the ruler")
    return Course(reference, error, len(loss), "")


def _horizon(error: np.ndarray, loss: np.ndarray, precision: Precision) -> int:
    known = error / _running_rms(loss) < (CHAOS if rounds(precision) else FLOAT32_TRAINING / PRICES)
    lost = ~known  # also where the reference itself is not finite any more
    return int(np.argmax(lost)) if lost.any() else len(loss)


def _running_rms(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.cumsum(values**2) / np.arange(1, len(values) + 1)))


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def _update(config: RunConfig, arrays: Arrays) -> np.ndarray:
    start = draw_weights(config.model, config.data.seed)
    update: np.ndarray = joined(arrays.final_weights, start) - joined(start, start)
    return update


def _training(row: RowResult) -> Training:
    assert row.training is not None  # only rows that were trained come here
    return row.training


def _train_the_same(one: RowResult, other: RowResult) -> bool:
    kinds = [(row.precision, row.compile, row.config.repeat, _experiment(row)) for row in (one, other)]
    return kinds[0] == kinds[1]


def _differ_in_framework(one: RowResult, other: RowResult) -> bool:
    replicas = {row.config.execution.replicas for row in (one, other)}
    return (one.framework, other.framework) == FRAMEWORKS and len(replicas) == 1


def _differ_in_replicas(one: RowResult, other: RowResult) -> bool:
    same = (one.framework, one.loop) == (other.framework, other.loop)
    return same and one.config.execution.replicas == 1 < other.config.execution.replicas


def _experiment(row: RowResult) -> tuple[DataConfig, ModelConfig, TrainConfig, LossScaleConfig]:
    return row.config.data, row.config.model, row.config.train, row.config.loss_scale


def judge(
    rows: Sequence[RowResult], pairs: Mapping[tuple[str, bool], Sequence[Check]] | None = None
) -> list[ParityEntry]:
    """The verdict on each precision and compile mode, from the checks of its rows and of its pairs of rows.

    Those of pairs say in `where` which rows they are of.
    """
    groups: dict[tuple[str, bool], list[Check]] = {}
    for row in rows:
        if row.checks:
            groups.setdefault((row.precision, row.compile), []).extend(_named_checks(row))
    for key, checks in (pairs or {}).items():
        groups[key] += worst_of_each_name(checks)
    return [
        ParityEntry(precision, compile, all(check.passed for check in checks), worst_first(checks))
        for (precision, compile), checks in groups.items()
    ]


def _named_checks(row: RowResult) -> list[Check]:
    where = f"{row.framework}{' fit' if row.loop == 'fit' else ''}{times(row)}"
    return [replace(check, where=f"{where}: {check.where}") for check in worst_of_each_name(row.checks)]


def pair_checks(entry: ParityEntry) -> list[Check]:
    """C8: what holds two rows to each other, and stands in neither."""
    names = {rule.name for rule in PAIR_RULES}
    return [check for check in entry.checks if check.name in names]
