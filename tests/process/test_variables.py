"""Which variables of the environment does a row remember, and who is told of them?"""

import sys

import pytest

from common.cli.compare import notes
from common.config import Precision, RunConfig
from common.process.setting import describe_setting, find_changes
from common.process.variables import describe_variables
from common.results.rows import Environment, Results, RowResult, Status
from common.show.table import manifest_table


@pytest.mark.parametrize(
    "name",
    [
        "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", "KERAS_HOME", "TORCHDYNAMO_DISABLE", "TORCH_LOGS",
        "PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG",
        "NCCL_NVLS_ENABLE", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_AFFINITY", "MKL_NUM_THREADS",
        "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "LD_PRELOAD",
    ],
)  # fmt: skip
def test_a_variable_that_tilts_a_measurement(name: str) -> None:
    assert describe_variables({"HOME": "/root", name: "1"}) == f"{name}=1"


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "no_proxy", "NVIDIA_API_KEY", "TORCH_TOKEN"])
def test_a_value_that_may_be_a_secret_is_not_kept(name: str) -> None:
    assert describe_variables({name: "http://me:secret@host"}) == name


def test_others_are_nobodys_business() -> None:
    assert describe_variables({"HOME": "/root", "PATH": "/bin", "MY_TF_NOTES": "x", "OPENAI": "x"}) == "none"


def test_a_resumed_run_sees_one_that_is_set_since(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig("torch", Precision.FLOAT32)
    before, now = {"variables": "none"}, {"variables": "TF_XLA_FLAGS=--tf_xla_auto_jit=2"}
    assert find_changes(config, now, config, before) == ["variables was none and is TF_XLA_FLAGS=--tf_xla_auto_jit=2"]


def test_the_setting_of_a_row_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_setting("torch", sys.executable, "cpu")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "OMP_WAIT_POLICY=ACTIVE" in describe_setting("torch", sys.executable, "cpu")["variables"]
    assert "OMP_WAIT_POLICY" not in before["variables"]


def row(**setting: str) -> RowResult:
    environment = Environment("1.0", "3.12", "2.2", "Linux")
    return RowResult(RunConfig("torch", Precision.FLOAT32), Status.OK, environment=environment, setting=setting)


def test_the_manifest_shows_them() -> None:
    assert "OMP_NUM_THREADS=2" in manifest_table([row(variables="OMP_NUM_THREADS=2")], "simple")
    assert "variables" not in manifest_table([row()], "simple")  # a file of before: not recorded is not none


def test_compare_names_a_change() -> None:
    before, after = (Results([], {}, [row(variables=text)]) for text in ("none", "OMP_NUM_THREADS=2"))
    assert notes(before, after, [])[-1] == "changed, torch: variables: none -> OMP_NUM_THREADS=2"
    assert notes(Results([], {}, [row()]), after, []) == []
