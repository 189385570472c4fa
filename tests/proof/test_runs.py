"""Is the run itself held to float64, and does each check see the mistake that it is for?

The rows here need no framework: NumPy's own run stands in for one, so each planted mistake is all that differs.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.config import (
    DataConfig,
    ExecutionConfig,
    LossScaleConfig,
    ModelConfig,
    Precision,
    RunConfig,
    TrainConfig,
)  # fmt: skip
from common.experiment.data import draw_data, split_batches
from common.experiment.weights import Weights, draw_weights
from common.proof import course as course_module
from common.proof import reference
from common.proof.bounds import rules_of_worker
from common.proof.checks import check_case
from common.proof.course import RULERS, certainty, course_of, follow_scale, moved_weights
from common.proof.probe import draw_cases
from common.proof.reference import ROUNDINGS, binary_accuracy, exact, loss_and_gradients, train_steps
from common.proof.runs import check_pairs, check_run, complete_checks
from common.results.check import Check
from common.results.rows import Arrays, Environment, RowResult, Ruler, Status, Training
from common.show.words import place_of

SHAPE, SEED = (6, 7, 3), 12


def train(framework: str, precision: str, scale: float = 2.0**15, **settings: Any) -> tuple[RowResult, Arrays]:
    """A row as NumPy's emulator would have trained it: 10 images in batches of 4, so three steps an epoch."""
    config = RunConfig(
        framework,
        Precision(precision),
        DataConfig(10, SHAPE, SEED),
        ModelConfig(SHAPE, filters=8),
        TrainConfig(**{"epochs": 3, "batch_size": 4, **settings}),
        LossScaleConfig(scale, growth_interval=4),
        ExecutionConfig("cpu", threads=1),
    )
    weights, batches = draw_weights(config.model, SEED), split_batches(*draw_data(config.data), 4)
    rounding = ROUNDINGS[config.precision]
    steps, end = train_steps(weights, batches, config.train, config.loss_scale, config.precision, rounding)
    loss = [step.loss for step in steps]
    labels = [labels for _, labels in batches] * config.train.epochs
    correct = [binary_accuracy(y, step.logits) for step, y in zip(steps, labels, strict=True)]
    training = Training(
        loss=[*loss],
        epoch_loss=epoch_means(loss),
        epoch_accuracy=epoch_means(correct),
        loss_scale=[step.loss_scale for step in steps],
        skipped_steps=[i for i, t in enumerate(np.diff([s.applied_steps for s in steps], prepend=0)) if not t],
        data_sha256="",
        initial_weights_sha256="",
    )
    _, _, gradients = loss_and_gradients(weights, *batches[0], rounding, 1024.0)
    environment = Environment("", "", "", "", {"kind": "gpu", "compute_capability": "9.0"})
    made = [Check(rule.name, 0.0, 1.0, True, "") for rule in rules_of_worker(config)]
    row = RowResult(config, Status.OK, training=training, environment=environment, checks=made)
    return row, Arrays(gradients, end)


def epoch_means(values: list[float]) -> list[float | None]:
    return [float(np.average(values[first : first + 3], weights=[4, 4, 2])) for first in range(0, len(values), 3)]


def checks_of(row: RowResult, arrays: Arrays) -> dict[str, float]:
    """The worst fraction of each check, by name."""
    (complete,) = complete_checks([row], lambda row: arrays)
    return worst([check for check in complete.checks if check.name.startswith("C6") or not check.passed])


def worst(checks: list[Check]) -> dict[str, float]:
    return {name: max(c.fraction for c in checks if c.name == name) for name in {c.name for c in checks}}


@pytest.mark.parametrize("precision", ["float64", "float32", "mixed_float16", "mixed_bfloat16"])
def test_the_right_run_passes(precision: str) -> None:
    fractions = checks_of(*train("torch", precision))
    if precision.startswith("mixed"):
        assert fractions.pop("C6 precision") <= 0.34
    assert set(fractions) == {
        "C6 first gradient", "C6 loss curve", "C6 update", "C6 accuracy", "C6 epoch loss", "C6 scale trace", "C6 skips",
    }  # fmt: skip
    assert max(fractions.values()) <= 0.34  # the emulator itself makes 1 E0 of the 3 allowed


def changed_training(**changes: Callable[[list[Any]], list[Any]]) -> Callable[..., tuple[RowResult, Arrays]]:
    def plant(row: RowResult, arrays: Arrays) -> tuple[RowResult, Arrays]:
        assert row.training
        changed = {name: change(getattr(row.training, name)) for name, change in changes.items()}
        return replace(row, training=replace(row.training, **changed)), arrays

    return plant


def scaled(factor: float, weights: Weights) -> Weights:
    return {name: factor * array for name, array in weights.items()}


MISTAKES = {
    "epochs average over batches, not over samples": (
        changed_training(epoch_loss=lambda values: [values[0] * 1.001, *values[1:]]), "C6 epoch loss",
    ),
    "a check that was not made": (
        lambda row, arrays: (replace(row, checks=[c for c in row.checks if c.name != "C2 gradient"]), arrays),
        "C7 presence",
    ),
    "float32 under a label of float16": (
        lambda row, arrays: (row, train("torch", "float32")[1]),
        "C6 precision",
    ),
    "one sample counted on the wrong side": (
        changed_training(epoch_accuracy=lambda values: [values[0] - 0.1, *values[1:]]), "C6 accuracy",
    ),
    "batches in another order": (changed_training(loss=lambda loss: loss[::-1]), "C6 loss curve"),
    "one loss a hundredth off": (changed_training(loss=lambda loss: [*loss[:-1], 1.01 * loss[-1]]), "C6 loss curve"),
    "a scale that does not halve": (
        changed_training(loss_scale=lambda scale: scale[:1] * len(scale)), "C6 scale trace",
    ),
    "steps skipped for no reason": (changed_training(skipped_steps=lambda steps: [*steps, 7, 8]), "C6 skips"),
    "one overflow not skipped": (changed_training(skipped_steps=lambda steps: steps[1:]), "C6 skips"),
    "final weights of another run": (
        lambda row, arrays: (row, arrays._replace(final_weights=scaled(1.01, arrays.final_weights))),
        "C6 update",
    ),
    "gradients of another batch": (
        lambda row, arrays: (row, arrays._replace(first_gradients=scaled(1.1, arrays.first_gradients))),
        "C6 first gradient",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("plant", "caught_by"), MISTAKES.values(), ids=MISTAKES)
def test_the_mistake_is_caught(plant: Callable[..., tuple[RowResult, Arrays]], caught_by: str) -> None:
    """In float16 from a scale of 2**22, which overflows until it has halved often enough."""
    right = train("torch", "mixed_float16", scale=2.0**22)
    assert right[0].training
    assert 0 < len(right[0].training.skipped_steps) < 7
    assert checks_of(*right).get(caught_by, 0.0) <= 0.34
    assert checks_of(*plant(*right))[caught_by] > 1.5


def test_labels_that_balance_excuse_no_bias() -> None:
    """Of confidently wrong samples float16 holds every term, so 4 u is too far off, however much the terms cancel."""
    config = train("torch", "mixed_float16")[0].config
    case = next(case for case in draw_cases() if case.name == "wrong")
    right = loss_and_gradients(case.weights, case.images, case.labels, ROUNDINGS[config.precision], 1024.0)
    for off, caught in ((0.0, []), (2.0**-9, ["wrong, dense/bias"])):
        bias = right.gradients["dense/bias"] * (1 + off)
        actual = right._replace(gradients={**right.gradients, "dense/bias": bias})
        assert [place_of(check) for check in check_case(config, case, 1024.0, actual) if not check.passed] == caught


def test_a_learning_rate_of_one_frameworks_own_is_seen_by_the_pair() -> None:
    rows = {name: train(name, "float32") for name in ("tensorflow", "torch")}
    _, other = train("torch", "float32", learning_rate=1.01e-3)
    mistaken = {"tensorflow": rows["tensorflow"][1], "torch": other}
    checks = check_pairs([row for row, _ in rows.values()], lambda row: mistaken[row.framework])
    assert worst(checks["float32", False])["C8 update"] > 1.5


@pytest.mark.parametrize(("fourth", "passed"), [(1.0, True), (1.5, False)])
def test_a_run_whose_loss_is_lost_is_compared_until_then(fourth: float, passed: bool) -> None:
    """What comes before still has to be right."""
    row, arrays = train("torch", "float32")
    assert row.training
    first = [loss or 0.0 for loss in row.training.loss[:4]]
    loss = [*first[:3], fourth * first[3], *[None] * 5]
    diverged = replace(row, status=Status.NONFINITE, training=replace(row.training, loss=loss))
    curve = next(check for check in check_run(diverged, arrays, [diverged]) if check.name == "C6 loss curve")
    assert place_of(curve) == "4 of 9 steps, then a loss that is not finite"
    assert curve.passed is passed


def test_a_run_that_is_right_to_overflow_passes_until_then() -> None:
    """A learning rate of 1e200: the loss leaves float64 as well."""
    row, arrays = train("torch", "mixed_bfloat16", learning_rate=1e200)
    (complete,) = complete_checks([row], lambda row: arrays)
    assert next(check for check in complete.checks if check.name == "C6 loss curve").passed


def test_a_run_whose_first_loss_is_not_finite_has_nothing_to_compare() -> None:
    row, arrays = train("torch", "mixed_bfloat16")
    assert row.training
    row = replace(row, training=replace(row.training, loss=[None, *row.training.loss[1:]]))
    (complete,) = complete_checks([row], lambda row: arrays)
    curve = next(check for check in complete.checks if check.name == "C6 loss curve")
    assert (place_of(curve), curve.passed) == ("0 of 9 steps, then a loss that is not finite", True)


@pytest.mark.parametrize("precision", ["float64", "float32", "mixed_bfloat16"])
def test_a_skip_without_a_loss_scale_fails(precision: str) -> None:
    """The last step of the run, which no scale shows."""
    row, arrays = train("torch", precision)
    assert row.training
    row = replace(row, training=replace(row.training, skipped_steps=[8]))
    assert checks_of(row, arrays)["C6 skips"] > 1.5


def test_a_pair_is_of_the_same_experiment() -> None:
    rows = [train("tensorflow", "float32"), train("torch", "float32", epochs=4)]
    assert check_pairs([row for row, _ in rows], lambda row: rows[0][1]) == {}


@pytest.mark.parametrize(("epoch", "samples", "passed"), [(0, 1, True), (0, 2, False), (1, 1, False)])
def test_a_sample_whose_logit_is_2_e0_may_be_on_either_side(epoch: int, samples: int, passed: bool) -> None:
    """In bfloat16 there is one such in the first epoch, and none in the second; a sample is a tenth of the images."""
    row, arrays = train("torch", "mixed_bfloat16")
    assert row.training
    accuracy = [value or 0.0 for value in row.training.epoch_accuracy]
    accuracy[epoch] -= samples / 10
    row = replace(row, training=replace(row.training, epoch_accuracy=[*accuracy]))
    assert (checks_of(row, arrays)["C6 accuracy"] <= 1) == passed


def test_a_logit_whose_own_roundings_cancel_is_as_doubtful_as_its_epoch() -> None:
    """E0 is the rms of 0.06, 0 and 0.06, about 0.05; the second is exact here, and 0.02 from 0."""
    logits, rounded = np.array([[1.0], [0.02], [-1.0]]), np.array([[1.06], [0.02], [-0.94]])
    assert np.round(certainty(logits, rounded), 1).ravel().tolist() == [20.4, 0.4, 20.4]


def test_a_run_that_diverges_is_compared_until_then() -> None:
    """A learning rate of 1 throws the loss from side to side, until roundings decide what it is."""
    row, arrays = train("torch", "mixed_bfloat16", learning_rate=1.0, epochs=20)
    (complete,) = complete_checks([row], lambda row: arrays)
    curve = next(check for check in complete.checks if check.name == "C6 loss curve")
    assert curve.passed
    assert place_of(curve).endswith("of 60 steps, then chaos")
    assert "C6 update" not in {check.name for check in complete.checks}


def with_rulers(row: RowResult, steps: int = 10**6) -> RowResult:
    """A float64 row of NumPy's, with the run from moved weights; its rulers end after so many steps."""
    config, rulers = row.config, []
    batches = split_batches(*draw_data(config.data), 4)
    exactly = loss_and_gradients(draw_weights(config.model, SEED), *batches[0]).gradients
    for number in range(RULERS):
        weights = moved_weights(config, number)
        taken, _ = train_steps(weights, batches, config.train, config.loss_scale, config.precision, exact)
        moved = loss_and_gradients(weights, *batches[0]).gradients
        distances = [np.linalg.norm(moved[name] - exactly[name]) / np.linalg.norm(exactly[name]) for name in exactly]
        rulers.append(Ruler([step.loss for step in taken[:steps]], float(np.median(distances))))
    assert row.training
    return replace(row, training=replace(row.training, rulers=rulers))


def mistaken(framework: str, precision: str, mistake: Callable[[int], float], **settings: Any) -> RowResult:
    """A row whose learning rate is another at each step, by the factor that `mistake` makes of the step's number."""
    with pytest.MonkeyPatch.context() as patch:
        apply, numbers = reference.apply_gradients, iter(range(10**6))

        def apply_wrongly(state: Any, gradients: Weights, train: TrainConfig, loss_scale: Any) -> None:
            rate = train.learning_rate * mistake(next(numbers))
            apply(state, gradients, replace(train, learning_rate=rate), loss_scale)

        patch.setattr(reference, "apply_gradients", apply_wrongly)
        row, _ = train(framework, precision, **settings)
        return with_rulers(row) if precision == "float64" else row


def falls(step: int) -> float:
    """By a tenth after every third step."""
    return 0.1 ** ((step + 1) // 3)


@pytest.fixture
def as_if_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course_module, "LARGEST_RUN_FLOPS", 0)


def test_a_large_run_is_held_to_the_float64_row_of_its_framework(as_if_too_large: None) -> None:
    ruler, (right, arrays) = with_rulers(train("torch", "float64")[0]), train("torch", "mixed_bfloat16")
    wrong = replace(train("torch", "mixed_bfloat16", learning_rate=1.3e-3)[0], config=right.config)
    for row, within in ((right, True), (wrong, False)):
        complete = complete_checks([ruler, row], lambda row: arrays)[-1]
        curve = next(check for check in complete.checks if check.name == "C6 loss curve")
        assert (place_of(curve), curve.passed) == ("all 9 steps", within)


@pytest.mark.parametrize("precision", ["float64", "float32", "mixed_bfloat16"])
def test_a_mistake_in_all_large_runs_of_a_framework_shows_against_the_other(
    as_if_too_large: None, precision: str
) -> None:
    """It is in the framework's ruler too, and cancels out there: it does not look like amplification."""
    right, (_, arrays) = with_rulers(train("tensorflow", "float64")[0]), train("torch", "float64")
    wrong = mistaken("torch", "float64", falls)
    rows = [right, wrong] if precision == "float64" else [
        right, train("tensorflow", precision)[0], wrong, mistaken("torch", precision, falls)
    ]  # fmt: skip
    checks = check_pairs(rows, lambda row: arrays)[precision, False]
    curve = next(check for check in checks if check.name == "C8 loss curve")
    assert place_of(curve) == "tensorflow, torch: all 9 steps"
    assert curve.fraction > 1.5


def test_nothing_is_compared_beyond_the_rulers(as_if_too_large: None) -> None:
    ruler, (row, arrays) = with_rulers(train("torch", "float64")[0], steps=6), train("torch", "mixed_bfloat16")
    complete = complete_checks([ruler, row], lambda row: arrays)[-1]
    curve = next(check for check in complete.checks if check.name == "C6 loss curve")
    assert (place_of(curve), curve.passed) == ("6 of 9 steps, as far as float64 was trained again", True)


def test_a_large_float64_row_is_held_to_the_other_frameworks(as_if_too_large: None) -> None:
    """Not to itself: a batch in the wrong place shows in the pair."""
    (mine, arrays), (other, _) = train("tensorflow", "float64"), train("torch", "float64")
    mine, other = with_rulers(mine), with_rulers(other)
    assert mine.training
    wrong = replace(mine, training=replace(mine.training, loss=mine.training.loss[::-1]))
    for row, within in ((mine, True), (wrong, False)):
        rows = complete_checks([row, other], lambda row: arrays)
        assert "C6 loss curve" not in {check.name for check in rows[0].checks}
        checks = check_pairs(rows, lambda row: arrays)["float64", False]
        curve = next(check for check in checks if check.name == "C8 loss curve")
        assert (place_of(curve), curve.passed) == ("tensorflow, torch: all 9 steps", within)


def test_where_nothing_can_be_compared_runs_still_end_alike(as_if_too_large: None) -> None:
    """Without a float64 row: one framework stops learning after six steps, and its loss stays near 0.7."""
    rate = {"epochs": 16, "learning_rate": 0.02}
    mine, arrays = train("tensorflow", "mixed_bfloat16", **rate)
    right, wrong = train("torch", "mixed_bfloat16", **rate)[0], mistaken("torch", "mixed_bfloat16", falls, **rate)
    for other, within in ((right, True), (wrong, False)):
        checks = check_pairs([mine, other], lambda row: arrays)["mixed_bfloat16", False]
        late = next(check for check in checks if check.name == "C8 late loss")
        assert (late.passed, late.fraction > 1.5) == (within, not within), late


@pytest.mark.parametrize(("factor", "within"), [(1.0, True), (0.7, True), (0.2, False), (5.0, False)])
def test_where_nothing_can_be_compared_the_updates_are_of_one_size(
    as_if_too_large: None, factor: float, within: bool
) -> None:
    """Other weights of one framework: the starting ones, and this part of what training adds."""
    (mine, arrays), (other, _) = (train(name, "mixed_bfloat16", epochs=16) for name in ("tensorflow", "torch"))
    start = draw_weights(mine.config.model, SEED)
    moved = {name: start[name] + factor * (end - start[name]) for name, end in arrays.final_weights.items()}
    of_other = arrays._replace(final_weights=moved)
    checks = check_pairs([mine, other], lambda row: of_other if row is other else arrays)["mixed_bfloat16", False]
    assert next(check.passed for check in checks if check.name == "C8 update size") is within


def test_a_run_that_stops_learning_beyond_the_rulers_ends_elsewhere(as_if_too_large: None) -> None:
    """The rulers see six steps of 48; from then on the rate is a tenth, and later a hundredth."""
    rate = {"epochs": 16, "learning_rate": 0.02}
    ruler = with_rulers(train("torch", "float64", **rate)[0], steps=6)
    right, arrays = train("torch", "mixed_bfloat16", **rate)
    wrong = mistaken("torch", "mixed_bfloat16", lambda step: falls(max(0, step - 5)), **rate)
    for row, within in ((right, True), (wrong, False)):
        complete = complete_checks([ruler, row], lambda row: arrays)[-1]
        checks = {check.name: check for check in complete.checks}
        assert place_of(checks["C6 loss curve"]) == "6 of 48 steps, as far as float64 was trained again"
        assert checks["C6 loss curve"].passed
        assert (checks["C6 late loss"].passed, checks["C6 late loss"].fraction > 1.5) == (within, not within)


def test_without_float64_rows_a_large_run_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course_module, "LARGEST_RUN_FLOPS", 0)
    assert "C6 loss curve" not in checks_of(*train("torch", "float32"))


def test_rows_that_compute_the_same_share_the_reference() -> None:
    """Whoever trains them, and however often; what changes a bit of it does not share."""
    row, _ = train("torch", "float32")
    alike = [
        replace(row, config=replace(row.config, framework="tensorflow")),
        replace(row, config=replace(row.config, repeat=2)),
        replace(row, config=replace(row.config, execution=ExecutionConfig("gpu", compile=True, threads=4))),
    ]
    others = [
        replace(row, config=replace(row.config, execution=ExecutionConfig("cpu", devices=2))),
        replace(row, config=replace(row.config, precision=Precision.TF32)),
        replace(row, config=replace(row.config, train=replace(row.config.train, learning_rate=2e-3))),
    ]
    course = course_of(row, [])
    assert all(course_of(same, []) is course for same in alike)
    assert not any(course_of(other, []) is course for other in others)


def test_checks_of_an_earlier_look_are_replaced() -> None:
    row, arrays = train("torch", "float32")
    once = complete_checks([row], lambda row: arrays)
    assert complete_checks(once, lambda row: arrays) == once


@pytest.mark.parametrize(
    ("skipped", "trace"),
    [
        ([], [1024, 1024, 1024, 1024, 2048, 2048]),  # grows after four finite steps
        ([0, 1], [1024, 512, 256, 256, 256, 256]),
        ([4], [1024, 1024, 1024, 1024, 2048, 1024]),  # halves what it had just doubled
    ],
)
def test_the_scale_follows_from_the_skips(skipped: list[int], trace: list[float]) -> None:
    config, _ = train("torch", "mixed_float16", scale=1024)
    assert follow_scale(config.config, skipped, 5) == trace
