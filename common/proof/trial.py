"""The row's own training, tried on a model so small that NumPy can follow every step of it: C9.

A run of the article's size is too large for that, and a mistake in it would look like roundings that have grown. So
each row first trains this small run by the same functions: its loop and epochs, a smaller last batch if it has one, its
optimizer and loss scaling, compiled and on as many replicas as the row.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from common.config import DataConfig, LossScaleConfig, Precision, RunConfig
from common.experiment.weights import Weights
from common.proof.bounds import (
    FLOAT32_TRAINING,
    LARGEST_SHARE_HELD,
    LEAST_SHARE_OF_PRICE,
    LOSS_CURVE,
    PRICES,
    TRIAL_EXPORT,
    TRIAL_LABEL,
    TRIAL_MOMENTS,
    TRIAL_RULES,
    TRIAL_STORAGE,
    UPDATE,
)
from common.proof.checks import compare, joined, relative_error, rounds
from common.proof.course import WholeRun, numpy_course
from common.proof.probe import PROBE_MODEL
from common.proof.reference import (
    Rounding,
    round_to_bfloat16,
    round_to_float16,
)
from common.proof.runs import check_training
from common.results.check import Check
from common.results.rows import Arrays, RowResult

# Samples of a batch, and of the smaller last one of an epoch; of several replicas enough more for equal shares.
TRIAL_BATCH, TRIAL_LAST_BATCH = 16, 8

# Of longer runs the first steps stand for all; NumPy takes a millisecond for each, four times over.
LARGEST_TRIAL_STEPS = 200
LEAST_TRIAL_BATCHES = 3

# So small that the first steps do not overflow, and growing so often that in each epoch the scale is another.
TRIAL_LOSS_SCALE = LossScaleConfig(initial_scale=256.0, growth_interval=4)

# Below 1, so that nothing overflows that would not without. In a run of few steps one emulation alone may be lucky.
GRIDS = (1.0, 0.81, 0.66)

_NARROWER: dict[str, dict[str, Rounding]] = {
    "float64": {"float32": lambda values: values.astype(np.float32).astype(values.dtype)},
    "float32": {"float16": round_to_float16, "bfloat16": round_to_bfloat16},
}


class TrialEnd(NamedTuple):
    """What is left of a trial: the exported weights, Adam's second moments, and logits (B, 1) of the first batch.

    logits: by the model as it was trained. logits_again: when the exported weights have been loaded into it.
    """

    weights: Weights
    second_moments: Weights
    logits: np.ndarray
    logits_again: np.ndarray


def trial_config(config: RunConfig) -> RunConfig:
    """The row on the probe's model, in as many epochs and batches as the row, as far as LARGEST_TRIAL_STEPS.

    The last batch is smaller only where the row's is: of each shape a compiler makes another program, on a GPU in
    seconds.
    """
    replicas = config.execution.replicas
    batch, smaller = (replicas * math.ceil(samples / replicas) for samples in (TRIAL_BATCH, TRIAL_LAST_BATCH))
    last = smaller if config.data.images % config.train.batch_size else batch
    epochs = min(config.train.epochs, LARGEST_TRIAL_STEPS // LEAST_TRIAL_BATCHES)
    batches = max(LEAST_TRIAL_BATCHES, min(config.steps_per_epoch, LARGEST_TRIAL_STEPS // epochs))
    return replace(
        config,
        data=DataConfig((batches - 1) * batch + last, PROBE_MODEL.image_shape, config.data.seed),
        model=PROBE_MODEL,
        train=replace(config.train, epochs=epochs, batch_size=batch),
        loss_scale=TRIAL_LOSS_SCALE,
    )


def check_trial(row: RowResult, end: TrialEnd) -> list[Check]:
    """C9 on the trained trial: every step of it, and what it left behind.

    Where the settings make even this run chaotic, its first steps alone are compared.
    """
    assert row.training is not None
    course = numpy_course(row.config, row.training.skipped_steps, GRIDS)
    assert course.whole is not None
    precision, of_run = row.config.precision, check_training(row, Arrays({}, end.weights), course)
    checks = [replace(check, name=TRIAL_RULES[check.name].name) for check in of_run if check.name in TRIAL_RULES]
    for what, arrays in (("final weights", end.weights), ("second moments", end.second_moments)):
        checks += _check_storage(precision, what, arrays)
    if any(check.name == UPDATE.name for check in of_run):  # every step could be compared
        checks.append(_check_moments(precision, course.whole, end))
        checks += _check_label(precision, checks)
    equal = np.isclose(end.logits_again, end.logits, rtol=0, atol=0, equal_nan=True)
    return [*checks, compare(TRIAL_EXPORT, int(np.sum(~equal)), 0, "first batch")]


def _check_label(precision: Precision, checks: Sequence[Check]) -> list[Check]:
    """Whether the training itself computed in the precision, and not the probe alone: whether something errs so.

    checks: those of the trial, of whose bounds E0 is a part in PRICES.
    """
    if not rounds(precision):
        return []
    names = {TRIAL_RULES[LOSS_CURVE.name].name, TRIAL_RULES[UPDATE.name].name, TRIAL_MOMENTS.name}
    error = PRICES * max(check.fraction for check in checks if check.name in names)  # in E0
    return [compare(TRIAL_LABEL, 1 / error if error else math.inf, 1 / LEAST_SHARE_OF_PRICE, "all steps")]


def _check_moments(precision: Precision, whole: WholeRun, end: TrialEnd) -> Check:
    moments = joined(end.second_moments, end.second_moments)
    bound = max(PRICES * whole.moments_price if rounds(precision) else 0.0, FLOAT32_TRAINING)
    return compare(TRIAL_MOMENTS, relative_error(moments, whole.second_moments), bound, "the end")


def _check_storage(precision: Precision, what: str, arrays: Weights) -> list[Check]:
    """Numbers that were stored in a narrower type are all numbers that it holds."""
    values = joined(arrays, arrays)
    values = values[np.isfinite(values) & (values != 0)]
    narrower = _NARROWER[precision.variable_dtype].items()
    held = {dtype: float(np.mean(rounding(values) == values)) if len(values) else 0.0 for dtype, rounding in narrower}
    return [compare(TRIAL_STORAGE, share, LARGEST_SHARE_HELD, what, dtype=dtype) for dtype, share in held.items()]
