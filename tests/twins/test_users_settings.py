"""Does a run compute the same whatever the user's program has set for the whole framework, and does it leave that so?

The settings are those of a program that imports an implementation as a library. Those of a row's own process come from
the user's environment: a configuration file of Keras, and a site customization.
"""

import json
import math
import os
import runpy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from common.config import DataConfig, ExecutionConfig, LossScaleConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.results.coding import read_json
from common.results.rows import Arrays, RowResult, Status
from tests.conftest import ROOT, needs_tensorflow, needs_torch, run_python
from tests.late import Late
from tests.twins.one_weight import OneWeight

torch, keras = Late("torch"), Late("keras")

SHAPE = (9, 12, 3)


class Setting(NamedTuple):
    """How a value is set for the whole process, and read back."""

    set: Callable[[Any], None]
    get: Callable[[], Any]


def of_keras(name: str) -> Setting:
    return Setting(lambda value: getattr(keras.config, f"set_{name}")(value), lambda: getattr(keras.config, name)())


KERAS = {name: of_keras(name) for name in ("floatx", "image_data_format", "epsilon")}
KERAS["policy"] = Setting(
    lambda name: keras.config.set_dtype_policy(name), lambda: keras.config.dtype_policy().name
)  # which the first layer that has no dtype takes from floatx
TORCH = {
    "default_dtype": Setting(
        lambda name: torch.set_default_dtype(getattr(torch, name)),
        lambda: str(torch.get_default_dtype()).removeprefix("torch."),
    ),
    "default_device": Setting(
        lambda name: torch.set_default_device(None if name == "cpu" else name), lambda: str(torch.get_default_device())
    ),
    "float32_matmul_precision": Setting(
        lambda name: torch.set_float32_matmul_precision(name), lambda: torch.get_float32_matmul_precision()
    ),
    "products of oneDNN": Setting(
        lambda name: setattr(torch.backends.mkldnn.matmul, "fp32_precision", name),
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
    ),
}


@contextmanager
def having_set(settings: Mapping[str, Setting], values: Mapping[str, Any]) -> Iterator[None]:
    """In the block the user has set the values; they must still be set at its end."""
    before = {name: settings[name].get() for name in values}
    try:
        for name, value in values.items():
            settings[name].set(value)
        yield
        assert {name: settings[name].get() for name in values} == values
    finally:
        for name, value in before.items():
            settings[name].set(value)


def train(impl: SimpleNamespace, loop: str = "custom") -> tuple[list[float], Arrays]:
    """Each step's loss, and the trained weights."""
    arrays: list[Arrays] = []
    config = RunConfig(
        impl.framework, Precision.FLOAT32, DataConfig(10, SHAPE), ModelConfig(SHAPE, filters=8), TrainConfig(2, 4),
        execution=ExecutionConfig("cpu", loop=loop),
    )  # fmt: skip
    row = impl.run.run(config, on_arrays=arrays.append)
    assert (row.status, [check for check in row.checks if not check.passed]) == (Status.OK, [])
    assert row.training
    return row.training.loss, arrays[0]


def assert_alike(one: tuple[list[float], Arrays], other: tuple[list[float], Arrays]) -> None:
    """Bit for bit."""
    assert one[0] == other[0]
    for name, weight in one[1].final_weights.items():
        assert np.array_equal(other[1].final_weights[name], weight), name


@needs_tensorflow
@pytest.mark.parametrize("loop", ["custom", pytest.param("fit", marks=pytest.mark.slow)])
def test_keras(tensorflow_impl: SimpleNamespace, loop: str) -> None:
    plain = train(tensorflow_impl, loop)
    values = {"policy": "float16", "floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.1}
    with having_set(KERAS, values):
        assert_alike(train(tensorflow_impl, loop), plain)


@needs_tensorflow
def test_another_backend_of_keras_is_refused_in_a_line(
    tensorflow_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    reason = (
        r"^Keras runs on jax in this process, and tf_impl needs TensorFlow; import tf_impl before Keras, with KERAS_"
    )
    with pytest.raises(ImportError, match=reason):
        runpy.run_path(str(ROOT / "tf_impl" / "precision.py"))


@needs_torch
@pytest.mark.parametrize(
    "values",
    [
        {"default_dtype": "float64", "default_device": "meta"},
        {"default_dtype": "float16", "float32_matmul_precision": "medium"},
    ],
    ids=lambda values: " ".join(values.values()),
)
def test_torch(torch_impl: SimpleNamespace, values: dict[str, str]) -> None:
    plain = train(torch_impl)
    with having_set(TORCH, values):
        assert_alike(train(torch_impl), plain)


@needs_torch
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_bytes_that_are_copied_are_those_asked_for(
    torch_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Else a default of half the size would double the bandwidth of the row's limit."""
    copied: list[Any] = []
    monkeypatch.setattr(torch_impl.device, "seconds_of", lambda copy, *_: copied.append(copy()) or 0.0)
    with having_set(TORCH, {"default_dtype": dtype}):
        torch_impl.device.copy_seconds(4096, torch_impl.cpu)
    assert [tensor.nbytes for tensor in copied] == [4096]


@needs_torch
def test_steps_are_counted_beyond_what_a_default_of_16_bits_holds(torch_impl: SimpleNamespace) -> None:
    """Adam's epsilon depends on the step."""
    with having_set(TORCH, {"default_dtype": "bfloat16"}):
        one = OneWeight(torch_impl, Precision.FLOAT32, LossScaleConfig())
        one.step(1e-3)
        for state in one.optimizer.adam.state.values():
            state["step"].fill_(1000)
        one.step(1e-3)  # the 1001st, which bfloat16 holds as 1000
        one.step(1e-3)
    (group,) = one.optimizer.adam.param_groups
    assert group["eps"] == TrainConfig().epsilon / math.sqrt(1 - TrainConfig().beta_2 ** 1002)


@needs_torch
def test_tf32_is_left_as_the_user_had_set_it(torch_impl: SimpleNamespace) -> None:
    with having_set(TORCH, {"products of oneDNN": "bf16"}):
        for enabled in (True, False):
            with torch_impl.device.tf32(enabled):
                assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if enabled else "ieee")
                assert torch.backends.cudnn.conv.fp32_precision == ("tf32" if enabled else "ieee")


KERAS_JSON = [
    {"floatx": "float16", "epsilon": 0.1, "backend": "jax", "image_data_format": "channels_first"},
    {"floatx": "bfloat16"},  # which Keras refuses when it is imported
]


def run_row(module: str, folder: Path, environment: dict[str, str]) -> list[float]:
    """Each step's loss of a row in a process of its own."""
    words = ["--preset", "smoke", "--device", "cpu", "--threads", "1", "--result", folder / "row.json"]
    process = run_python("-m", module, *words, env={**os.environ, **environment})
    assert process.returncode == 0, process.stderr
    training = read_json(folder / "row.json", RowResult).training
    assert training
    return training.loss


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("config", KERAS_JSON, ids=json.dumps)
def test_a_row_leaves_out_keras_configuration_file(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "keras.json").write_text(json.dumps(config))
    settings = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    assert run_row("tf_impl", tmp_path, settings) == run_row("tf_impl", tmp_path, {"KERAS_HOME": os.devnull})
    assert json.loads((tmp_path / "keras.json").read_text()) == config


@pytest.mark.slow
@needs_torch
def test_a_row_computes_the_same_below_a_site_customization(tmp_path: Path) -> None:
    """Which runs in every process of the user's Python; PYTHONSTARTUP does in those alone that are interactive."""
    plain = run_row("torch_impl", tmp_path, {})
    lines = ["import torch", "torch.set_default_dtype(torch.float64)", "torch.set_default_device('meta')"]
    lines += ["torch.set_float32_matmul_precision('medium')", "print('customized')"]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    (tmp_path / "startup.py").write_text("raise SystemExit('interactive')")
    settings = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "startup.py")}
    assert run_row("torch_impl", tmp_path, settings) == plain
