"""Does a row's trial, the small run of its own training, see a mistake that is in the training alone?

The probe is right here, and so is each part of a step: the mistakes lie between the steps of a run. Each is planted
into the row's loop at each precision, and misses the named check by a factor above 1.5. Three steps are an epoch.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from common.config import DataConfig, ExecutionConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.process import row as row_module
from common.process.recorder import Recorder
from common.proof.bounds import rules_of_worker
from common.proof.reference import round_to_bfloat16
from common.proof.trial import trial_config
from common.results.check import Check, worst_first
from tests.conftest import needs_tensorflow, on_host
from tests.late import Late

torch = Late("torch")

CAUGHT_BY = 1.5
RIGHT_WITHIN = 0.9
SHAPE = (9, 12, 3)
EVERY = ["float64", "float32", "mixed_float16", "mixed_bfloat16"]


def try_training(
    impl: Any, precision: str, compile: bool = False, loop: str = "custom", seed: int = 12, **settings: Any
) -> list[Check]:
    config = RunConfig(
        impl.framework,
        Precision(precision),
        DataConfig(10, SHAPE, seed),
        ModelConfig(SHAPE),
        TrainConfig(**{"epochs": 4, "batch_size": 4, **settings}),
        execution=ExecutionConfig("cpu", compile, loop),
    )
    with impl.distributed.joined(config.execution, impl.cpu, lambda: None) as replicas:
        execution, checks = row_module.try_training(impl.run.IMPLEMENTATION, trial_config(config), impl.cpu, replicas)
    assert execution == impl.train.EXECUTION[compile]
    return checks


def assert_right(checks: list[Check]) -> None:
    worst = worst_first(checks)[0]
    assert worst.fraction <= RIGHT_WITHIN, worst


@pytest.mark.parametrize("precision", EVERY)
def test_a_right_row_passes(impl: Any, precision: str) -> None:
    checks = try_training(impl, precision)
    assert_right(checks)
    assert {check.name for check in checks} == {
        "C9 loss curve", "C9 update", "C9 accuracy", "C9 epoch loss", "C9 scale trace", "C9 skips",
        "C9 moments", "C9 storage", "C9 export", *(["C9 precision"] if precision.startswith("mixed") else []),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("replicas", "images", "batches"),
    [(1, 8, (16, 16)), (1, 10, (16, 8)), (3, 24, (18, 18)), (3, 30, (18, 9))],  # of batches of 4 each
)
def test_the_last_batch_is_smaller_where_the_rows_is(replicas: int, images: int, batches: tuple[int, int]) -> None:
    """Of three replicas all can share 18 and 9."""
    config = RunConfig(
        "torch",
        Precision.FLOAT32,
        DataConfig(images, SHAPE),
        ModelConfig(SHAPE),
        TrainConfig(batch_size=4 * replicas),
        execution=ExecutionConfig("cpu", devices=replicas),
    )
    small = trial_config(config)
    batch = small.train.batch_size
    assert (batch, small.data.images - 2 * batch) == batches


@pytest.mark.parametrize(
    ("epochs", "batches", "trial"),
    [(10, 16, (10, 16)), (4, 2, (4, 3)), (100, 16, (66, 3)), (1, 1000, (1, 200))],
)
def test_the_trial_is_as_long_as_the_row(epochs: int, batches: int, trial: tuple[int, int]) -> None:
    """Up to 200 steps, and three batches an epoch at least."""
    sizes = DataConfig(batches, SHAPE), ModelConfig(SHAPE), TrainConfig(epochs, batch_size=1)
    small = trial_config(RunConfig("torch", Precision.FLOAT32, *sizes))
    assert (small.train.epochs, small.steps_per_epoch) == trial


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("precision", EVERY)
def test_right_rows_pass(impl: Any, precision: str, seed: int, compile: bool) -> None:
    assert_right(try_training(impl, precision, compile, seed=seed, epochs=10))


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("precision", EVERY)
def test_right_rows_of_fit_pass(tensorflow_impl: Any, precision: str) -> None:
    assert_right(try_training(tensorflow_impl, precision, loop="fit"))


@pytest.mark.parametrize("precision", [*(pytest.param(name, marks=pytest.mark.slow) for name in EVERY[:-1]), EVERY[-1]])
@pytest.mark.parametrize("rate", [*(pytest.param(rate, marks=pytest.mark.slow) for rate in (1e-6, 0.01)), 10.0])
def test_a_run_that_its_settings_make_chaotic_is_no_false_alarm(impl: Any, precision: str, rate: float) -> None:
    """At a rate of 10 roundings soon decide what is computed; the first steps are compared all the same."""
    checks = try_training(impl, precision, learning_rate=rate)
    assert_right(checks)
    required = {rule.name for rule in rules_of_worker(RunConfig(impl.framework, Precision(precision)))}
    assert {name for name in required if name.startswith("C9")} <= {check.name for check in checks}


# Mistakes in the training. Each is a step as it is taken instead of the right one.


class Place(NamedTuple):
    """Where in the run a step stands: steps were taken before it."""

    impl: Any
    model: Any
    optimizer: Any
    steps: int


Take = Callable[[], Any]
Mistake = Callable[[Place, Take], Any]
Plant = Callable[[Any, pytest.MonkeyPatch], None]


def adam_of(optimizer: Any) -> Any:
    return getattr(optimizer, "adam", getattr(optimizer, "inner_optimizer", optimizer))


def moments(optimizer: Any) -> list[Any]:
    """Adam's variables, as each framework keeps them; PyTorch's has none before the first step."""
    adam = adam_of(optimizer)
    if hasattr(adam, "_velocities"):
        return [*adam._momentums, *adam._velocities]
    return [state[name] for state in adam.state.values() for name in ("exp_avg", "exp_avg_sq")]


def put(variable: Any, array: np.ndarray) -> None:
    if hasattr(variable, "assign"):
        variable.assign(array)
    else:
        variable.copy_(torch.from_numpy(array))


def rate_times(optimizer: Any, factor: float) -> None:
    adam = adam_of(optimizer)
    if hasattr(adam, "learning_rate"):
        adam.learning_rate.assign(adam.learning_rate * factor)
    else:
        adam.param_groups[0]["lr"] *= factor


def a_falling_rate(at: Place, step: Take) -> Any:
    if at.steps and at.steps % 3 == 0:
        rate_times(at.optimizer, 0.1)
    return step()


def a_rising_rate(at: Place, step: Take) -> Any:
    if at.steps == 6:
        rate_times(at.optimizer, 2.0)
    return step()


def a_schedule(at: Place, step: Take) -> Any:
    rate_times(at.optimizer, 0.96)
    return step()


def moments_forgotten(at: Place, step: Take) -> Any:
    if at.steps % 3 == 0:
        for variable in moments(at.optimizer):
            put(variable, 0 * on_host(variable))
    return step()


def moments_in_bfloat16(at: Place, step: Take) -> Any:
    report = step()
    for variable in moments(at.optimizer):
        put(variable, round_to_bfloat16(on_host(variable)))
    return report


def weights_decayed(at: Place, step: Take) -> Any:
    """By a thousandth a step."""
    weights = at.impl.model.export_weights(at.model)
    at.impl.model.load_weights(at.model, {name: 0.999 * array for name, array in weights.items()})
    return step()


def a_scale_set_back(at: Place, step: Take) -> Any:
    if at.steps and at.steps % 3 == 0:
        at.impl.optimizer.set_loss_scale(at.optimizer, 256.0)
    return step()


def a_scale_too_large_once(at: Place, step: Take) -> Any:
    """So that a step is skipped in which nothing overflows at the scale that follows from the steps before."""
    if at.steps == 4:
        at.impl.optimizer.set_loss_scale(at.optimizer, 2.0**40)
    return step()


def a_step_twice(at: Place, step: Take) -> Any:
    if at.steps == 4:
        step()
    return step()


def a_step_left_out(at: Place, step: Take) -> Any:
    """Once: its loss is reported, and what it changed is put back."""
    if at.steps != 4:
        return step()
    weights, before = at.impl.model.export_weights(at.model), list(map(on_host, moments(at.optimizer)))
    report = step()
    at.impl.model.load_weights(at.model, weights)
    for variable, array in zip(moments(at.optimizer), before, strict=True):
        put(variable, array)
    return report


def in_the_steps(mistake: Mistake) -> Plant:
    def plant(impl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        right = impl.run.compiled

        def compiled(function: Any, model: Any, optimizer: Any, compile: bool) -> Any:
            step, numbers = right(function, model, optimizer, compile), iter(range(10**6))
            return lambda *batch: mistake(Place(impl, model, optimizer, next(numbers)), lambda: step(*batch))

        monkeypatch.setattr(impl.run, "compiled", compiled)

    return plant


def batches_in_another_order(impl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = impl.run.train_epochs
    monkeypatch.setattr(impl.run, "train_epochs", lambda calls, *rest: right([calls[1], calls[0], *calls[2:]], *rest))


def gradients_times(factor: float) -> Plant:
    """Between the backward pass and the update, of the training step alone. Adam's step hides it."""

    def plant(impl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        right_step, right_apply = impl.train.train_step, impl.train.apply_gradients

        def apply_gradients(model: Any, optimizer: Any, gradients: Any) -> None:
            right_apply(model, optimizer, [factor * gradient for gradient in gradients])

        def train_step(*arguments: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(impl.train, "apply_gradients", apply_gradients)
                return right_step(*arguments)

        monkeypatch.setattr(impl.run, "train_step", train_step)

    return plant


def accuracy_of_the_other_class(impl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = impl.train.binary_accuracy
    monkeypatch.setattr(impl.train, "binary_accuracy", lambda labels, logits: right(labels, -logits))


def averaged_over_batches(impl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "_batch_sizes", lambda self: [1] * self._config.steps_per_epoch)


def exported(choose: Callable[[list[Any]], Any]) -> Plant:
    """Not the weights at the end, but a choice of those before each step."""

    def plant(impl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        right, before = impl.model.export_weights, []

        def keep(at: Place, step: Take) -> Any:
            before.append(right(at.model))
            return step()

        in_the_steps(keep)(impl, monkeypatch)
        monkeypatch.setattr(impl.model, "export_weights", lambda model: choose(before) if before else right(model))

    return plant


def mean_of_three(before: list[Any]) -> Any:
    return {name: np.mean([weights[name] for weights in before[-3:]], axis=0) for name in before[0]}


def in_float32(impl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of the training is told float32, and no part of it that is probed."""
    right = row_module.build

    def build(implementation: Any, config: RunConfig, device: Any) -> Any:
        return right(implementation, replace(config, precision=Precision.FLOAT32), device)

    def build_with_its_scale(implementation: Any, config: RunConfig, device: Any) -> Any:
        model, _ = build(implementation, config, device)
        return model, impl.optimizer.make_optimizer(model, config.train, config.loss_scale, config.precision)

    monkeypatch.setattr(row_module, "build", build_with_its_scale)


# Those that are tried each time, in the precision that hides most.
QUICK = {
    "mixed precision off in the training alone",
    "a rate that falls by a tenth after each epoch",
    "moments kept in bfloat16",
    "a step taken twice",
    "batches in another order",
    "gradients larger by a twentieth",
    "weights exported of the step before",
    "a loss scale set back in each epoch",
}

MISTAKES = {
    "mixed precision off in the training alone": (["mixed_float16", "mixed_bfloat16"], in_float32, "C9 precision"),
    "a rate that falls by a tenth after each epoch": (EVERY, in_the_steps(a_falling_rate), "C9 update"),
    "a rate that doubles after two epochs": (EVERY, in_the_steps(a_rising_rate), "C9 update"),
    "a rate that falls by 4 percent a step": (EVERY, in_the_steps(a_schedule), "C9 update"),
    "moments forgotten in each epoch": (EVERY, in_the_steps(moments_forgotten), "C9 moments"),
    "moments kept in bfloat16": (EVERY, in_the_steps(moments_in_bfloat16), "C9 storage"),
    "weights decayed": (EVERY, in_the_steps(weights_decayed), "C9 update"),
    "a step taken twice": (EVERY, in_the_steps(a_step_twice), "C9 loss curve"),
    "a step left out": (EVERY, in_the_steps(a_step_left_out), "C9 loss curve"),
    "batches in another order": (EVERY, batches_in_another_order, "C9 loss curve"),
    "gradients twice as large": (EVERY, gradients_times(2.0), "C9 moments"),
    "gradients larger by a twentieth": (EVERY, gradients_times(1.05), "C9 moments"),
    "weights exported of the step before": (EVERY, exported(lambda before: before[-1]), "C9 export"),
    "weights exported as a mean of three steps": (EVERY, exported(mean_of_three), "C9 export"),
    "accuracy of the other class": (EVERY, accuracy_of_the_other_class, "C9 accuracy"),
    "an epoch's loss averaged over its batches": (EVERY, averaged_over_batches, "C9 epoch loss"),
    "a loss scale that is too large once": (["mixed_float16"], in_the_steps(a_scale_too_large_once), "C9 skips"),
    "a loss scale set back in each epoch": (["mixed_float16"], in_the_steps(a_scale_set_back), "C9 scale trace"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "plant", "caught_by"),
    [
        pytest.param(
            precision,
            plant,
            caught_by,
            id=f"{name}-{precision}",
            marks=[] if name in QUICK and precision == precisions[-1] else pytest.mark.slow,
        )
        for name, (precisions, plant, caught_by) in MISTAKES.items()
        for precision in precisions
    ],
)
def test_the_mistake_is_caught(
    impl: Any, monkeypatch: pytest.MonkeyPatch, precision: str, plant: Plant, caught_by: str
) -> None:
    plant(impl, monkeypatch)
    failed = {check.name: check.fraction for check in reversed(worst_first(try_training(impl, precision)))}
    print(f"{caught_by}: {failed[caught_by]:.3g} times its bound")
    assert failed[caught_by] > CAUGHT_BY, failed
