"""Which check catches which porting mistake?

Each line plants one mistake in one implementation's probe, and names the check that must catch it with a factor above
1.5. The right implementations stay at or below 0.9 of every bound, over five seeds.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common import probe as problem
from common.config import ExecutionConfig, Precision, RunConfig
from common.parity import Check, worst_first
from common.reference import round_to_tf32
from common.weights import Weights

CAUGHT_BY = 1.5
RIGHT_WITHIN = 0.9

Plant = Callable[[SimpleNamespace, pytest.MonkeyPatch], None]


def probe(impl: SimpleNamespace, precision: str, compile: bool = False) -> list[Check]:
    config = RunConfig(impl.framework, Precision(precision), execution=ExecutionConfig("cpu", compile))
    return impl.probe.probe(config, impl.cpu)


def in_the_weights(change: Callable[[str, np.ndarray], np.ndarray]) -> Plant:
    """load_weights puts changed weights into the model."""

    def plant(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        right = impl.model.load_weights

        def load_weights(model: Any, weights: Weights) -> None:
            right(model, {name: change(name, array) for name, array in weights.items()})

        monkeypatch.setattr(impl.probe, "load_weights", load_weights)

    return plant


def in_the_optimizer(change: Callable[[Any, Any, Precision], tuple[Any, Any, Precision]]) -> Plant:
    """make_optimizer is given another TrainConfig, LossScaleConfig or precision."""

    def plant(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        right = impl.optimizer.make_optimizer
        monkeypatch.setattr(impl.probe, "make_optimizer", lambda model, *rest: right(model, *change(*rest)))

    return plant


def in_the_model(precision: Precision) -> Plant:
    """The model is built at another precision than the row's label."""

    def plant(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        right = impl.model.build_model
        monkeypatch.setattr(impl.probe, "build_model", lambda model, _, device: right(model, precision, device))

    return plant


def in_the_loss(change: Callable[[Any, Any, Any], Any]) -> Plant:
    """binary_crossentropy is replaced by a function of the right one, the labels and the logits."""

    def plant(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        right = impl.train.binary_crossentropy
        monkeypatch.setattr(impl.train, "binary_crossentropy", lambda labels, logits: change(right, labels, logits))

    return plant


def in_the_gradients(change: Callable[[Any, Any], Any]) -> Plant:
    """apply_gradients is given changed gradients: a function of the scaled gradient and the scale."""

    def plant(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        right = impl.train.apply_gradients

        def apply_gradients(model: Any, optimizer: Any, gradients: Any) -> None:
            scale = impl.optimizer.loss_scale(optimizer)
            right(model, optimizer, [change(gradient, scale) for gradient in gradients])

        monkeypatch.setattr(impl.probe, "apply_gradients", apply_gradients)

    return plant


def swapped(name: str, array: np.ndarray) -> np.ndarray:
    return array.transpose(1, 0, 2, 3) if array.ndim == 4 else array


def reshaped(name: str, array: np.ndarray) -> np.ndarray:
    return array.T.reshape(array.shape) if array.ndim == 4 else array


def channels_first(name: str, array: np.ndarray) -> np.ndarray:
    return array.reshape(9, 7, 16).transpose(2, 0, 1).reshape(array.shape) if name == "dense/kernel" else array


TRAPS = {
    # layouts
    "convolution kernel with H and W swapped": ("float32", in_the_weights(swapped), "C1 logits"),
    "convolution kernel reshaped instead of transposed": ("float32", in_the_weights(reshaped), "C1 logits"),
    "Dense rows in the order C, H, W": ("float32", in_the_weights(channels_first), "C1 logits"),
    "Dense rows in the order C, H, W, in float16": ("mixed_float16", in_the_weights(channels_first), "C1 logits"),
    "a bias left out": ("float32", in_the_weights(lambda n, a: 0 * a if n == "conv2/bias" else a), "C1 logits"),
    # loss
    "sum instead of mean": ("float32", in_the_loss(lambda right, y, z: right(y, z) * 16), "C3 loss"),
    "sum instead of mean, its gradient": ("float32", in_the_loss(lambda right, y, z: right(y, z) * 16), "C2 gradient"),
    "labels the other way round": ("float32", in_the_loss(lambda right, y, z: right(1 - y, z)), "C3 loss"),
    # precision
    "mixed_float16 silently off": ("mixed_float16", in_the_model(Precision.FLOAT32), "C1 precision"),
    "mixed_bfloat16 silently off": ("mixed_bfloat16", in_the_model(Precision.FLOAT32), "C1 precision"),
    "float16 for bfloat16": ("mixed_bfloat16", in_the_model(Precision.MIXED_FLOAT16), "C1 precision"),
    "bfloat16 for float16": ("mixed_float16", in_the_model(Precision.MIXED_BFLOAT16), "C1 logits"),
    "mixed precision where float32 is asked for": ("float32", in_the_model(Precision.MIXED_BFLOAT16), "C1 logits"),
    "TF32 operands in float32": ("float32", in_the_weights(lambda n, a: round_to_tf32(a)), "C1 logits"),
    # Adam
    "learning rate off by 1 percent": (
        "float32", in_the_optimizer(lambda t, s, p: (replace(t, learning_rate=1.01e-3), s, p)), "C4 optimizer",
    ),
    "torch's default epsilon, 1e-8": (
        "float32", in_the_optimizer(lambda t, s, p: (replace(t, epsilon=1e-8), s, p)), "C4 optimizer",
    ),
    "epsilon off by a tenth": (
        "float32", in_the_optimizer(lambda t, s, p: (replace(t, epsilon=1.1e-7), s, p)), "C4 optimizer",
    ),
    "beta_2 of 0.99": ("float32", in_the_optimizer(lambda t, s, p: (replace(t, beta_2=0.99), s, p)), "C4 optimizer"),
    "gradients left scaled": ("mixed_float16", in_the_gradients(lambda g, scale: g * scale), "C4 optimizer"),
    "gradients unscaled twice": ("mixed_float16", in_the_gradients(lambda g, scale: g / scale), "C4 optimizer"),
    # loss scaling
    "no loss scaling": ("mixed_float16", in_the_optimizer(lambda t, s, p: (t, s, Precision.FLOAT32)), "C5 loss scale"),
    "an initial scale of twice the size": (
        "mixed_float16", in_the_optimizer(lambda t, s, p: (t, replace(s, initial_scale=512.0), p)), "C5 loss scale",
    ),
    "another growth interval": (
        "mixed_float16", in_the_optimizer(lambda t, s, p: (t, replace(s, growth_interval=5), p)), "C5 loss scale",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("precision", "plant", "caught_by"), TRAPS.values(), ids=TRAPS)
def test_the_trap_is_caught(
    impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str, plant: Plant, caught_by: str
) -> None:
    plant(impl, monkeypatch)
    fractions = [check.fraction for check in probe(impl, precision) if check.name == caught_by]
    assert max(fractions) > CAUGHT_BY


def test_torch_epsilon_without_keras_bias_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam(eps=1e-7) without the hook: the same number in another place of the formula."""
    pytest.importorskip("torch")
    from tests.conftest import load_implementation

    impl = load_implementation("torch_impl")
    monkeypatch.setattr(
        impl.optimizer, "_use_keras_epsilon", lambda adam, epsilon: adam.param_groups[0].update(eps=epsilon)
    )
    fractions = [check.fraction for check in probe(impl, "float32") if check.name == "C4 optimizer"]
    assert max(fractions) > 1000


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("precision", ["float64", "float32", "mixed_float16", "mixed_bfloat16"])
def test_the_right_implementation_passes(
    impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str, seed: int
) -> None:
    monkeypatch.setattr(impl.probe, "draw_cases", lambda: problem.draw_cases(seed=seed))
    monkeypatch.setattr(impl.probe, "draw_updates", lambda precision: problem.draw_updates(precision, seed=seed))
    worst = worst_first(probe(impl, precision))[0]
    assert worst.fraction <= RIGHT_WITHIN, worst
