"""Which variables of the environment does a row remember, and who is told of them?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli.compare import notes
from common.config import Precision, RunConfig
from common.process.replicas import LAUNCHER_VARIABLES
from common.process.setting import row_key
from common.process.variables import Variables, changed_variables, tilting_variables
from common.results.coding import read_json, write_json
from common.results.rows import Environment, Results, RowResult, Status
from common.show.table import manifest_table
from common.show.table import notes as notes_of_table


@pytest.mark.parametrize(
    "name",
    [
        "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", "KERAS_HOME", "TORCHDYNAMO_DISABLE", "TORCH_LOGS",
        "PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG",
        "NCCL_NVLS_ENABLE", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_AFFINITY", "MKL_NUM_THREADS",
        "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "LD_PRELOAD", "LD_LIBRARY_PATH", "ATEN_CPU_CAPABILITY",
        "GLIBC_TUNABLES", "TF_DATA_EXPERIMENT_OPT_IN",
    ],
)  # fmt: skip
def test_a_variable_that_tilts_a_measurement(name: str) -> None:
    assert tilting_variables({"HOME": "/root", name: "1"}) == {name: "1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "1") for name in ("http_proxy", "HTTPS_PROXY", "no_proxy", "NVIDIA_API_KEY", "TORCH_TOKEN")),
        ("TORCH_HOME", "https://me:secret@host/models"),
    ],
)
def test_a_value_that_may_be_a_secret_is_not_kept(name: str, value: str) -> None:
    assert tilting_variables({name: value}) == {name: None}


@pytest.mark.parametrize(
    "name",
    [
        "HOME", "PATH", "MY_TF_NOTES", "OPENAI", "tf_notes", "__KMP_REGISTERED_LIB_7", *LAUNCHER_VARIABLES,
        "TF_VAR_db", "TF_CLI_CONFIG_FILE", "TF_TOKEN_app_terraform_io", "TF_LOG", "TF_ENCRYPTION",
    ],
)  # fmt: skip
def test_others_are_nobodys_business(name: str) -> None:
    assert tilting_variables({name: "1"}) == {}


def test_what_no_file_could_hold_is_written_out() -> None:
    """An environment is bytes: those that are no text come as lone surrogates."""
    assert tilting_variables({"TF_X": "a\udcffb"}) == {"TF_X": r"a\udcffb"}


@pytest.mark.parametrize(
    ("before", "now", "changes"),
    [
        ({}, {}, []),
        ({}, {"TF_X": "2"}, ["TF_X was not set and is 2"]),
        ({"TF_X": "2"}, {}, ["TF_X was 2 and is not set"]),
        ({"TF_X": "2", "OMP_X": "1"}, {"TF_X": "3", "OMP_X": "1"}, ["TF_X was 2 and is 3"]),
        ({"https_proxy": None}, {}, ["https_proxy was set and is not set"]),
        ({"https_proxy": None}, {"https_proxy": None}, []),
        (None, {"TF_X": "2"}, []),
    ],
    ids=["none", "more", "fewer", "another value", "a secret", "the same secret", "not recorded"],
)
def test_a_row_that_is_run_again_names_the_variable(
    before: Variables | None, now: Variables, changes: list[str]
) -> None:
    assert list(changed_variables(now, before)) == changes


@pytest.mark.parametrize("now", [{}, {"TF_X": "1"}, {"TF_X": None}, {"TF_X": "2", "OMP_X": "2"}])
def test_they_are_part_of_a_rows_key(now: Variables) -> None:
    config = RunConfig("torch", Precision.FLOAT32)
    assert row_key(config, {}, now) != row_key(config, {}, {"TF_X": "2"})


def row(variables: Mapping[str, str | None] | None, framework: str = "torch", status: Status = Status.OK) -> RowResult:
    environment = Environment("1.0", "3.12", "2.2", "Linux")
    setting = {"code": "ab12"}
    return RowResult(
        RunConfig(framework, Precision.FLOAT32), status, environment=environment, setting=setting,
        variables=None if variables is None else dict(variables),
    )  # fmt: skip


@pytest.mark.parametrize("variables", [None, {}, {"TF_X": "2", "https_proxy": None}])
def test_a_file_tells_none_from_not_recorded(tmp_path: Path, variables: Variables | None) -> None:
    write_json(tmp_path / "row.json", row(variables))
    assert read_json(tmp_path / "row.json", RowResult).variables == variables


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"OMP_X": "2", "https_proxy": None}, "variables   OMP_X=2, https_proxy"),
        ({}, "variables   none"),
    ],
)
def test_the_manifest_shows_them(variables: Variables, line: str) -> None:
    assert line in manifest_table([row(variables)], "simple")


def test_the_manifest_says_nothing_of_a_file_of_before() -> None:
    assert "variables" not in manifest_table([row(None)], "simple")


def test_rows_of_one_table_that_differ_in_one_are_named() -> None:
    """A resumed run keeps the rows that it is not asked for."""
    said = notes_of_table([row({}, "torch"), replace_precision(row({"OMP_X": "2"}, "torch"))])
    assert "UNLIKE: OMP_X is not the same for all: none of torch float32; 2 of torch tf32" in said
    assert not any("OMP_X" in note for note in notes_of_table([row(None), replace_precision(row({"OMP_X": "2"}))]))


def replace_precision(row: RowResult) -> RowResult:
    return replace(row, config=replace(row.config, precision=Precision.TF32))


def test_a_label_that_is_untrue_stands_beside_what_may_have_caused_it() -> None:
    said = notes_of_table([row({"TORCHDYNAMO_DISABLE": "1"}, status=Status.LABEL_UNTRUE)])
    assert "label untrue, with these variables set: torch float32: TORCHDYNAMO_DISABLE=1" in said
    assert not any("untrue" in note for note in notes_of_table([row({}, status=Status.LABEL_UNTRUE)]))


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ({}, {"OMP_X": "2"}, "OMP_X: not set -> 2"),
        ({"OMP_X": "2"}, {}, "OMP_X: 2 -> not set"),
        ({"OMP_X": "2"}, {"OMP_X": "3", "https_proxy": None}, "OMP_X: 2 -> 3"),
        ({}, {"https_proxy": None}, "https_proxy: not set -> set"),
    ],
)
def test_compare_names_a_change(before: Variables, after: Variables, change: str) -> None:
    old, new = (Results([], {}, [row(variables)]) for variables in (before, after))
    assert f"changed, torch: {change}" in notes(old, new, [])


def test_compare_says_nothing_of_a_file_of_before() -> None:
    old, new = (Results([], {}, [row(variables)]) for variables in (None, {"OMP_X": "2"}))
    assert notes(old, new, []) == notes(new, old, []) == []
