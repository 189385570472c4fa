"""Did a row run as its label says, in its precision and compiled or not? A wrong label becomes a status.

The probe sees which bits survive; the trial, what carries out its steps.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.config import DataConfig, ExecutionConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.proof.probe import LABEL_SMALL_VALUE, LABEL_VALUE, is_label_true, label_cases, see_precision
from common.proof.reference import ROUNDINGS, loss_and_gradients
from common.results.rows import RowResult, Status
from common.results.store import read_results
from tests.conftest import needs_tensorflow, needs_torch, run_parity
from tests.late import Late

torch, tf = map(Late, ("torch", "tensorflow"))

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


@pytest.mark.parametrize(
    "precision", [*(pytest.param(each, marks=pytest.mark.slow) for each in ON_A_CPU[:-1]), ON_A_CPU[-1]]
)
def test_a_row_runs_in_what_its_label_says(impl: SimpleNamespace, precision: Precision) -> None:
    row = impl.run.run(config(impl, precision))
    assert row.status is Status.OK
    assert row.probe.passed
    assert row.probe.seen == dict.fromkeys(KERNELS, precision.compute_dtype)
    assert row.probe.execution == impl.train.EXECUTION[False]


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


# What carried the steps out. Each change makes it another than the row's label says.


def compiled_row(impl: SimpleNamespace, compile: bool = True) -> RowResult:
    asked = config(impl, Precision.FLOAT32)
    return impl.run.run(replace(asked, execution=ExecutionConfig("cpu", compile)))


def forced_to_be_eager(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another part of the process may have asked for."""
    torch.compiler.set_stance("force_eager")


def functions_run_eagerly(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set to find a fault, and left on."""
    tf.config.run_functions_eagerly(True)


def never_compiled(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option gets lost on its way."""
    right = impl.run.compiled
    monkeypatch.setattr(impl.run, "compiled", lambda *arguments: right(*arguments[:-1], False))


def always_compiled(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    right = impl.run.compiled
    monkeypatch.setattr(impl.run, "compiled", lambda *arguments: right(*arguments[:-1], True))


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """What a change has set for the whole process is set back."""
    yield
    if "tensorflow" in sys.modules:
        tf.config.run_functions_eagerly(False)
    if "torch" in sys.modules:
        torch.compiler.set_stance("default")


@needs_torch
@pytest.mark.parametrize("change", [forced_to_be_eager, pytest.param(never_compiled, marks=pytest.mark.slow)])
def test_a_row_of_torch_that_was_not_compiled(
    torch_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, as_it_was: None, change: Any
) -> None:
    change(torch_impl, monkeypatch)
    row = compiled_row(torch_impl)
    assert (row.status, row.detail) == (
        Status.LABEL_UNTRUE, "carried out by eager PyTorch instead of torch.compile",
    )  # fmt: skip


@needs_tensorflow
@pytest.mark.parametrize(
    ("change", "compile", "detail"),
    [
        (functions_run_eagerly, False, "carried out by eager TensorFlow instead of tf.function"),
        (never_compiled, True, "carried out by tf.function instead of XLA"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (functions_run_eagerly, True, "carried out by eager TensorFlow instead of XLA"),
                (always_compiled, False, "carried out by XLA instead of tf.function"),
            )
        ),
    ],
)
def test_a_row_of_tensorflow_that_ran_otherwise(
    tensorflow_impl: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    as_it_was: None,
    change: Any,
    compile: bool,
    detail: str,
) -> None:
    change(tensorflow_impl, monkeypatch)
    row = compiled_row(tensorflow_impl, compile)
    assert (row.status, row.detail) == (Status.LABEL_UNTRUE, detail)


@pytest.mark.slow
@needs_torch
def test_a_row_of_torch_that_was_compiled_unasked(torch_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    always_compiled(torch_impl, monkeypatch)
    assert compiled_row(torch_impl, compile=False).detail == "carried out by torch.compile instead of eager PyTorch"


@pytest.mark.slow
def test_a_compiled_row_is_as_its_label_says(impl: SimpleNamespace) -> None:
    row = compiled_row(impl)
    assert (row.status, row.probe.execution) == (Status.OK, impl.train.EXECUTION[True])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "compile", "variable", "value", "detail"),
    [
        pytest.param(
            "tensorflow", "off", "TF_XLA_FLAGS", "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
            "carried out by XLA in part instead of tf.function", marks=needs_tensorflow,
        ),
        *(
            pytest.param(
                "torch", "on", variable, "1", "carried out by eager PyTorch instead of torch.compile", marks=needs_torch
            )
            for variable in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
        ),
    ],
)  # fmt: skip
def test_a_variable_of_the_environment_that_changes_it(
    tmp_path: Path, framework: str, compile: str, variable: str, value: str, detail: str
) -> None:
    process = run_parity(
        "--preset", "smoke", "--device", "cpu", "--frameworks", framework, "--precisions", "float32",
        "--compile", compile, "--output", tmp_path / "run", env={**os.environ, variable: value},
    )  # fmt: skip
    (row,) = read_results(tmp_path / "run" / "results.json").rows
    assert (row.status, row.detail) == (Status.LABEL_UNTRUE, detail)
    assert process.returncode == 4  # nothing ran well
