"""The run itself held to the reference: C6, each row against float64, and C8, two rows that train the same.

The probe (checks.py) proves single steps on a small model; this follows the training that the table shows. Training is
a long chain of roundings, each of which the next steps amplify, so a comparison ends where that has gone too far to say
anything, and names the step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from common.config import FRAMEWORKS, Precision, RunConfig
from common.experiment.weights import Weights, draw_weights
from common.proof.bounds import (
    ACCURACY,
    EPOCH,
    EPOCH_LOSS,
    FIRST_GRADIENT,
    FLOAT32_TRAINING,
    HALF_A_SAMPLE,
    LATE,
    LATE_LOSS,
    LEAST_SHARE_OF_PRICE,
    LOSS_CURVE,
    PAIR_GRADIENT,
    PAIR_LATE,
    PAIR_LOSS,
    PAIR_RULES,
    PAIR_SIZE,
    PAIR_SKIPPED,
    PAIR_UPDATE,
    PRESENCE,
    PRICES,
    RUN_LABEL,
    RUN_RULES,
    SCALE_TRACE,
    SKIPPED,
    STEPS_TO_A_DOUBTFUL_SKIP,
    UPDATE,
    UPDATE_SIZE,
    Rule,
    rules_of_worker,
)
from common.proof.checks import check_gradients, check_held, compare, joined, relative_error, rounds
from common.proof.course import (
    Course,
    FirstBatch,
    WholeRun,
    as_array,
    course_of,
    experiment_of,
    first_batch,
    follow_scale,
    late,
    running_rms,
    training_of,
)
from common.proof.extent import Extent, compare_over, find_extent
from common.results.check import Check, worst_first, worst_of_each_name
from common.results.rows import Arrays, ParityEntry, RowResult, Training, times

ArraysOf = Callable[[RowResult], Arrays]


def complete_checks(rows: Sequence[RowResult], arrays_of: ArraysOf) -> list[RowResult]:
    """Add C6 to every row that was trained, well or not; checks of an earlier C6 are replaced."""
    names = {rule.name for rule in (PRESENCE, *RUN_RULES)}
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
                replace(check, rows=(f"{one.framework}{times(one)}", f"{other.framework}{times(other)}"))
                for check in found
            ]
            checks.setdefault((one.precision, one.compile), []).extend(named)
    return checks


def check_run(row: RowResult, arrays: Arrays, rows: Sequence[RowResult]) -> list[Check]:
    """C6 on a row that was trained. A run too large for NumPy is held to the float64 rows among `rows`."""
    checks = [_check_presence(row)]
    if first := first_batch(row):
        checks += check_gradients(FIRST_GRADIENT, "first batch", arrays.first_gradients, first.gradients, first.bounds)
        checks += _check_label(row.config, first, arrays.first_gradients)
    return checks + check_training(row, arrays, course_of(row, rows))


def check_training(row: RowResult, arrays: Arrays, course: Course | None) -> list[Check]:
    """C6 but for the first batch: the reports of a trained row and, where there is a course, every step to compare."""
    config, training = row.config, training_of(row)
    loss = as_array(training.loss)
    checks = [_check_epochs(config, training), _check_scale_trace(config, training)]
    if not config.precision.scales_loss:
        checks.append(compare(SKIPPED, len(training.skipped_steps), 0, "without a loss scale"))
    if course and (course.whole or config.precision is not Precision.FLOAT64):  # not the ruler by itself
        skips = [] if course.whole else training.skipped_steps  # a float64 row skips nothing
        extent = find_extent(row, course, loss, min((step + 1 for step in skips), default=len(loss)))
        steps = extent.steps
        bound = _bound(row, _price(course, course.loss[:steps]))
        checks.append(compare_over(extent, LOSS_CURVE, relative_error(loss[:steps], course.loss[:steps]), bound))
        if course.whole:
            differing = [step for step in course.whole.contradicted if step < steps]
            checks.append(compare(SKIPPED, len(differing), 0, f"steps {differing}" if differing else "all steps"))
            checks += _check_accuracy(row, course.whole, steps)
        if course.whole and steps == len(loss):
            error = relative_error(_update(config, arrays), course.whole.update)
            checks.append(compare_over(extent, UPDATE, error, _update_bound(row, course.whole)))
        if extent.has_an_end(loss):
            checks.append(_check_late(LATE, loss, course.loss, course))
    return checks


def check_pair(
    one: RowResult, other: RowResult, arrays: Arrays, others: Arrays, rows: Sequence[RowResult]
) -> list[Check]:
    """C8 on two trained rows that train the same; the bounds are those of the first."""
    skipped, skipped_by_other = (training_of(row).skipped_steps for row in (one, other))
    loss, reference = (as_array(training_of(row).loss) for row in (one, other))
    course = course_of(one, rows)
    either = loss + reference  # not finite where one of them is not
    extent = find_extent(one, course, either, len(loss)) if course else Extent(0, len(loss))
    within = extent.steps if course else len(loss)
    differing = abs(sum(step < within for step in skipped) - sum(step < within for step in skipped_by_other))
    checks = [compare_over(extent, PAIR_SKIPPED, differing, max(1, within // STEPS_TO_A_DOUBTFUL_SKIP))]
    if first := first_batch(one):
        checks += check_gradients(
            PAIR_GRADIENT, "first batch", arrays.first_gradients, others.first_gradients, first.bounds
        )
    if course:
        parting = min((step + 1 for step in set(skipped) ^ set(skipped_by_other)), default=len(loss))
        extent = find_extent(one, course, either, parting)
        steps = extent.steps
        bound = _bound(one, _price(course, reference[:steps]))
        checks.append(compare_over(extent, PAIR_LOSS, relative_error(loss[:steps], reference[:steps]), bound))
        if course.whole and steps == len(loss):
            error = relative_error(_update(one.config, arrays), _update(one.config, others))
            checks.append(compare_over(extent, PAIR_UPDATE, error, _update_bound(one, course.whole)))
    if extent.has_an_end(either):
        checks.append(_check_late(PAIR_LATE, loss, reference, course))
        smaller, larger = sorted(float(np.linalg.norm(_update(one.config, each))) for each in (arrays, others))
        excess = larger / smaller - 1 if smaller else math.inf if larger else 0.0
        checks.append(compare(PAIR_SIZE, excess, UPDATE_SIZE, "final less starting weights"))
    return checks


def _check_late(rule: Rule, loss: np.ndarray, reference: np.ndarray, course: Course | None) -> Check:
    size = float(running_rms(reference)[-1])
    price = course.late_error / size if course else 0.0
    return compare(rule, abs(late(loss) - late(reference)) / size, max(LATE_LOSS, PRICES * price), "second half")


def _check_presence(row: RowResult) -> Check:
    """A check that the row's own process should have made, and did not, has failed."""
    made = {check.name for check in row.checks}
    missing = [rule.name for rule in rules_of_worker(row.config) if rule.name not in made]
    return compare(PRESENCE, len(missing), 0, ", ".join(missing) or "every check")


def _check_epochs(config: RunConfig, training: Training) -> Check:
    size, images = config.train.batch_size, config.data.images
    sizes = [min(size, images - start) for start in range(0, images, size)]
    means = np.average(as_array(training.loss).reshape(-1, len(sizes)), axis=1, weights=sizes)
    finite = np.isfinite(means)
    return compare(
        EPOCH, relative_error(as_array(training.epoch_loss)[finite], means[finite]), EPOCH_LOSS, "all epochs"
    )


def _check_scale_trace(config: RunConfig, training: Training) -> Check:
    expected = follow_scale(config, training.skipped_steps, len(training.loss))[:-1]
    return compare(SCALE_TRACE, int(np.sum(as_array(training.loss_scale) != expected)), 0, "all steps")


def _check_accuracy(row: RowResult, whole: WholeRun, steps: int) -> list[Check]:
    """In each epoch whose steps can all be compared."""
    images, epochs = row.config.data.images, steps // row.config.steps_per_epoch
    shape = (row.config.train.epochs, row.config.steps_per_epoch)
    correct = whole.correct.reshape(shape).sum(axis=1)
    doubtful = [np.sum(multiples <= PRICES) for multiples in whole.certainty]
    accuracy = as_array(training_of(row).epoch_accuracy)
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


def _bound(row: RowResult, price: float) -> float:
    return PRICES * price if rounds(row.config.precision) else FLOAT32_TRAINING


def _update_bound(row: RowResult, whole: WholeRun) -> float:
    """What float32 may miss by, any precision may: weights are stored in it, and Adam computes in it."""
    return max(_bound(row, whole.update_price), FLOAT32_TRAINING, whole.stored)


def _price(course: Course, loss: np.ndarray) -> float:
    """E0 of these first steps' losses; of none it is 0."""
    if len(loss) == 0:
        return 0.0
    return float(np.linalg.norm(course.error[: len(loss)]) / np.linalg.norm(loss))


def _update(config: RunConfig, arrays: Arrays) -> np.ndarray:
    start = draw_weights(config.model, config.data.seed)
    update: np.ndarray = joined(arrays.final_weights, start) - joined(start, start)
    return update


def _train_the_same(one: RowResult, other: RowResult) -> bool:
    kinds = [(row.precision, row.compile, row.config.repeat, experiment_of(row)) for row in (one, other)]
    return kinds[0] == kinds[1]


def _differ_in_framework(one: RowResult, other: RowResult) -> bool:
    replicas = {row.config.execution.replicas for row in (one, other)}
    return (one.framework, other.framework) == FRAMEWORKS and len(replicas) == 1


def _differ_in_replicas(one: RowResult, other: RowResult) -> bool:
    same = (one.framework, one.loop) == (other.framework, other.loop)
    return same and one.config.execution.replicas == 1 < other.config.execution.replicas


def judge(
    rows: Sequence[RowResult], pairs: Mapping[tuple[str, bool], Sequence[Check]] | None = None
) -> list[ParityEntry]:
    """The verdict on each precision and compile mode, from the checks of its rows and of its pairs of rows.

    Those of pairs say which rows they are of.
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
    label = f"{row.framework}{' fit' if row.loop == 'fit' else ''}{times(row)}"
    return [replace(check, rows=(label,)) for check in worst_of_each_name(row.checks)]


def pair_checks(entry: ParityEntry) -> list[Check]:
    """C8: what holds two rows to each other, and stands in neither."""
    names = {rule.name for rule in PAIR_RULES}
    return [check for check in entry.checks if check.name in names]
