"""Did a row run in the precision on its label? The probe sees which bits survive; a wrong label becomes a status."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import DataConfig, ExecutionConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.proof.probe import LABEL_SMALL_VALUE, LABEL_VALUE, is_label_true, label_cases, see_precision
from common.proof.reference import ROUNDINGS, loss_and_gradients
from common.results.rows import Status

SHAPE = (6, 5, 3)
MODEL = ModelConfig(SHAPE, filters=8)
KERNELS = ["conv1/kernel", "conv2/kernel", "conv3/kernel", "dense/kernel"]
ON_A_CPU = [Precision.FLOAT64, Precision.FLOAT32, Precision.MIXED_FLOAT16, Precision.MIXED_BFLOAT16]


def config(impl: SimpleNamespace, precision: Precision) -> RunConfig:
    return RunConfig(
        impl.framework,
        precision,
        DataConfig(4, SHAPE),
        MODEL,
        TrainConfig(epochs=1, batch_size=4),
        execution=ExecutionConfig("cpu"),
    )


def test_bits_that_survive() -> None:
    """1 + 2**-7 + 2**-10 + 2**-23 + 2**-40, and 2**-30, in each type."""
    assert float(np.float32(LABEL_VALUE)) == 1 + 2.0**-7 + 2.0**-10 + 2.0**-23
    assert float(np.float16(LABEL_VALUE)) == 1 + 2.0**-7 + 2.0**-10
    assert (float(np.float16(LABEL_SMALL_VALUE)), float(np.float32(LABEL_SMALL_VALUE))) == (0.0, 2.0**-30)


@pytest.mark.parametrize("precision", [Precision.TF32, Precision.MIXED_FLOAT16, Precision.MIXED_BFLOAT16])
def test_the_emulator_is_seen_as_what_it_emulates(precision: Precision) -> None:
    cases = label_cases(MODEL, 2)
    logits = [loss_and_gradients(*case[1:], rounding=ROUNDINGS[precision]).logits for case in cases]
    assert set(see_precision(cases, logits).values()) == {precision.value.removeprefix("mixed_")}


@pytest.mark.parametrize("precision", ON_A_CPU)
def test_a_row_runs_in_what_its_label_says(impl: SimpleNamespace, precision: Precision) -> None:
    row = impl.run.run(config(impl, precision))
    assert row.status is Status.OK
    assert row.probe.passed
    assert row.probe.seen == dict.fromkeys(KERNELS, precision.compute_dtype)


@pytest.mark.parametrize("planted", [Precision.FLOAT32, Precision.MIXED_BFLOAT16])
def test_a_label_that_is_untrue_is_a_status(
    impl: SimpleNamespace, planted: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers are told another precision than the row's float16."""
    right = impl.model.autocast
    monkeypatch.setattr(impl.model, "autocast", lambda precision, device: right(planted, device))
    row = impl.run.run(config(impl, Precision.MIXED_FLOAT16))
    assert (row.status, row.detail) == (
        Status.LABEL_UNTRUE,
        f"computed in {planted.compute_dtype} instead of mixed_float16",
    )


def test_one_layer_in_another_precision_is_seen() -> None:
    """Only what comes out of a coarse layer is coarse: here everything up to the second convolution."""
    seen = dict(zip(KERNELS, ["tf32", "tf32", "float32", "float32"], strict=True))
    assert not is_label_true(Precision.FLOAT32, seen)
    assert is_label_true(Precision.TF32, seen)  # TF32 is a permission


@pytest.mark.parametrize(
    ("precision", "everywhere"),
    [
        (Precision.FLOAT32, "tf32"), (Precision.FLOAT32, "float64"), (Precision.TF32, "float32"),
        (Precision.TF32, "float16"), (Precision.MIXED_FLOAT16, "tf32"), (Precision.MIXED_FLOAT16, "float32"),
        (Precision.MIXED_BFLOAT16, "float16"), (Precision.FLOAT64, "float32"), (Precision.FLOAT32, "unknown (nan)"),
    ],
)  # fmt: skip
def test_another_precision_is_untrue(precision: Precision, everywhere: str) -> None:
    assert not is_label_true(precision, dict.fromkeys(KERNELS, everywhere))


def test_what_no_precision_gives_is_unknown() -> None:
    cases = label_cases(MODEL, 1)
    logits = [np.array([[1.5]])] * len(cases)
    assert set(see_precision(cases, logits).values()) == {"unknown (1.5)"}


def test_the_cases_have_the_shape_of_the_run() -> None:
    for case in label_cases(replace(MODEL, filters=16), 3):
        assert case.images.shape == (3, *SHAPE)
        assert case.weights["conv3/kernel"].shape == (1, 1, 16, 16)
