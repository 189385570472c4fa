"""Do results survive the way to the file and back, strictly, and is what doesn't fit refused by name?"""

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from common.config import Precision, RunConfig
from common.measure.contention import Contention
from common.measure.limits import Ceilings, Limits
from common.measure.memory import Memory
from common.measure.nvml import GpuUse
from common.measure.timing import StepTimes, Timing
from common.results.check import Check, PrecisionProbe
from common.results.coding import (
    LARGEST_JSON_BYTES,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
)
from common.results.rows import (
    Arrays,
    Environment,
    ParityEntry,
    ReplicaGroup,
    Results,
    RowResult,
    Ruler,
    Status,
    Training,
)
from common.show.words import place_of
from tests.conftest import ROOT

CONFIG = RunConfig("torch", Precision.MIXED_FLOAT16)
ROW = RowResult(
    CONFIG,
    Status.OK,
    environment=Environment("2.13", "3.12", "2.2", "Linux", {"kind": "cpu", "name": "x"}, {"layout": "NHWC"}),
    timing=Timing(1.0, [2.0, 1.0], StepTimes(0.5, 0.4, 0.6, 1), 3.0, 16.0),
    memory=Memory("host_rss", 1, 3, 2, None),
    training=Training([1.0, None], [0.5], [1.0], [8.0, 8.0], [1], "aa", "bb", [Ruler([1.0, None], 1e-7)]),
    limits=Limits(1e9, 1e9, 0.001, 500.0, Ceilings(1e12, 1e12)),
    probe=PrecisionProbe(True, {"dense/kernel": "float16"}),
    gpu=GpuUse("process", 10**9, 50.0, [], 0),
    contention=Contention(2.0, 3.9, 2, 2, queued_s=0.5, quota_cores=1.5),
)


def test_there_and_back(tmp_path: Path) -> None:
    results = Results(["run_parity.py"], {"cpu": "x"}, [ROW])
    write_json(tmp_path / "results.json", results)
    assert read_json(tmp_path / "results.json", Results) == results


def test_fixed_names(tmp_path: Path) -> None:
    """Names that others rely on."""
    write_json(tmp_path / "results.json", Results([], {}, [ROW]))
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"schema_version", "created_utc", "command", "environment", "rows", "parity"} <= set(results)
    row = results["rows"][0]
    assert {"framework", "precision", "compile", "loop", "status", "detail", "config", "environment", "log"} <= set(row)
    assert set(row["timing"]) == {"first_step_s", "epoch_s", "step_s", "total_s", "images_per_s"}
    assert set(row["timing"]["step_s"]) == {"median", "p05", "p95", "n"}
    assert set(row["memory"]) == {
        "kind", "baseline_bytes", "peak_bytes", "used_bytes", "steady_used_bytes", "device_process_peak_bytes",
    }  # fmt: skip
    assert {"flops_per_step", "bytes_per_step", "floor_s", "times_floor"} <= set(row["limits"])
    assert row["probe"] == {"passed": True, "seen": {"dense/kernel": "float16"}, "execution": ""}
    assert {"loss", "epoch_loss", "epoch_accuracy", "loss_scale", "skipped_steps"} <= set(row["training"])
    assert (row["framework"], row["precision"], row["status"]) == ("torch", "mixed_float16", "ok")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_null(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "training.json", Training([value], [], [], [], [], "", ""))
    assert read_json(tmp_path / "training.json", Training).loss == [None]


class Version(str):
    """As torch.__version__ is one."""


@pytest.mark.parametrize(
    ("detail", "text"),
    [(Version("2.13"), "2.13"), (np.float64(0.5), 0.5), (np.int64(3), 3)],
    ids=["a kind of text", "NumPy's float", "NumPy's int"],
)
def test_what_libraries_make_of_numbers_and_text_is_written_as_such(tmp_path: Path, detail: Any, text: Any) -> None:
    write_json(tmp_path / "row.json", RowResult(CONFIG, Status.OK, detail))
    assert json.loads((tmp_path / "row.json").read_text())["detail"] == text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "row.json", ROW)
    with pytest.raises(TypeError):
        write_json(tmp_path / "row.json", RowResult(CONFIG, Status.OK, log=object()))
    assert read_json(tmp_path / "row.json", RowResult) == ROW
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]


def test_arrays_there_and_back(tmp_path: Path) -> None:
    arrays = Arrays({"dense/kernel": np.ones((3, 1), np.float32)}, {"dense/kernel": np.zeros((3, 1))})
    write_arrays(tmp_path / "arrays.npz", arrays)
    read = read_arrays(tmp_path / "arrays.npz", {"dense/kernel": (3, 1)})
    assert np.array_equal(read.first_gradients["dense/kernel"], arrays.first_gradients["dense/kernel"])
    assert read.final_weights["dense/kernel"].dtype == np.float64


@pytest.mark.parametrize("shapes", [{"dense/kernel": (1, 3)}, {"dense/bias": (3, 1)}, {}])
def test_arrays_of_another_model_are_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    weights = {"dense/kernel": np.ones((3, 1))}
    write_arrays(tmp_path / "arrays.npz", Arrays(weights, weights))
    with pytest.raises(ValueError, match="no arrays of a row of this model"):
        read_arrays(tmp_path / "arrays.npz", shapes)


GOOD = np.ones(4)
ODD_ARRAYS = {
    "objects, which would be unpickled": np.array([object()] * 4),
    "words": np.array(["word"] * 4),
    "fields": np.ones(4, [("a", float)]),
    "whole numbers": np.ones(4, int),
    "complex": np.ones(4, complex),
    "another shape": np.ones((2, 2)),
    "a scalar": np.float64(1),
}


@pytest.mark.parametrize("odd", ODD_ARRAYS.values(), ids=ODD_ARRAYS.keys())
def test_arrays_that_are_no_floats_of_that_shape_are_refused(tmp_path: Path, odd: np.ndarray) -> None:
    np.savez(tmp_path / "arrays.npz", **{"first_gradients/x": GOOD, "final_weights/x": odd})
    with pytest.raises(ValueError, match=r"final_weights/x\.npy has shape"):
        read_arrays(tmp_path / "arrays.npz", {"x": (4,)})


def test_arrays_that_are_compressed_are_refused(tmp_path: Path) -> None:
    """8 MB of zeros are 8 kB then; 80 GB are 80 MB."""
    np.savez_compressed(tmp_path / "arrays.npz", **{"first_gradients/x": np.zeros(10**6), "final_weights/x": GOOD})
    with pytest.raises(ValueError, match="compressed"):
        read_arrays(tmp_path / "arrays.npz", {"x": (10**6,)})


@pytest.mark.parametrize(
    "member",
    [b"", b"no array", b"\x93NUMPY\x01\x00\x05\x00{'a'(", b"\x93NUMPY\x01\x00\x04\x00(((("],
    ids=["empty", "text", "half a header", "open brackets"],
)
def test_a_member_that_is_no_array_is_refused(tmp_path: Path, member: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "arrays.npz", "w") as file:
        for group in Arrays._fields:
            file.writestr(f"{group}/x.npy", member)
    with pytest.raises(ValueError, match="no arrays of a row"):
        read_arrays(tmp_path / "arrays.npz", {"x": (4,)})


def test_a_header_that_promises_more_than_there_is_makes_no_array_of_that_size(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(tmp_path / "arrays.npz", "w") as file:
        for group in Arrays._fields:
            file.writestr(f"{group}/x.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"first_gradients/x\.npy is cut off"):
        read_arrays(tmp_path / "arrays.npz", {"x": (2**40,)})


@pytest.mark.parametrize("content", [b"", b"PK", b"no arrays at all"], ids=["empty", "cut off", "text"])
def test_a_file_without_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "arrays.npz").write_bytes(content)
    with pytest.raises(ValueError, match="arrays"):
        read_arrays(tmp_path / "arrays.npz", {"x": (4,)})


@pytest.mark.parametrize("name", ["row.json", "arrays.npz"])
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)],
    ids=["pipe", "folder", "link to a device", "link to itself"],
)
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    """A pipe would be waited for, a device never ends, and a link could lead anywhere."""
    make(tmp_path / name)
    with pytest.raises(ValueError, match=r"no plain file|a link"):
        read_json(tmp_path / name, RowResult) if name == "row.json" else read_arrays(tmp_path / name, {"x": (4,)})


def test_arrays_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_arrays(tmp_path / "arrays.npz", Arrays({"x": GOOD}, {"x": GOOD}))
    broken = SimpleNamespace(_asdict=lambda: {"first_gradients": {"x": GOOD, "y": np.lib.format}})
    with pytest.raises(Exception, match="pickle"):
        write_arrays(tmp_path / "arrays.npz", broken)  # type: ignore[arg-type]
    assert np.array_equal(read_arrays(tmp_path / "arrays.npz", {"x": (4,)}).final_weights["x"], GOOD)
    assert [path.name for path in tmp_path.iterdir()] == ["arrays.npz"]


def changed(path: Path, *keys: Any, value: Any) -> Path:
    """The row's file with one value replaced."""
    write_json(path, ROW)
    entry = row = json.loads(path.read_text())
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = value
    path.write_text(json.dumps(row))
    return path


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["status"], "fine", r"\$.status: Invalid enum value 'fine'"),
        (["status"], "fine" * 10**4, r"\$.status: Invalid enum value 'finefine"),
        (["compile"], 1, r"\$.compile is 1; its config says False"),
        (["framework"], "jax", r"\$.framework is 'jax'; its config says 'torch'"),
        (["timing", "total_s"], "3", r"\$.timing.total_s: Expected `float`, got `str`"),
        (["training", "loss", 1], [], r"\$.training.loss\[1\]: Expected `float \| null`, got `array`"),
        (["config", "precision"], "half", r"\$.config.precision: Invalid enum value 'half'"),
        (["config", "execution", "device"], 1, r"\$.config.execution.device: Expected `str`"),
        (["config", "train", "epochs"], 0, "epochs is 0"),
        (["config", "train", "epochs"], 1.5, r"\$.config.train.epochs: Expected `int`, got `float`"),
        (["config", "train", "epochs"], True, r"\$.config.train.epochs: Expected `int`, got `bool`"),
        (["memory"], [], r"\$.memory: Expected `object \| null`, got `array`"),
        (["extra"], 1, r"\$ has an unknown field 'extra'"),
        (["timing", "step_s", "extra"], 1, r"\$.timing.step_s has an unknown field 'extra'"),
        (["config", "model", "extra"], 1, r"\$.config.model has an unknown field 'extra'"),
        (["config", "model", "image_shape"], [256, 256], r"\$.config.model.image_shape: Expected `array` of length 3"),
        (["config", "repeat"], 2**60, "config.repeat is 1152921504606846976; no such number"),
        (["timing", "total_s"], 10**400, "out of range|no such number"),
        (["timing", "total_s"], json.loads("1e400"), "it is not JSON"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, keys: list[Any], value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_json(changed(tmp_path / "row.json", *keys, value=value), RowResult)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"timing": NaN}', "it is not JSON"),
        ("[" * 10**6, "nested too deeply"),
        ("{", "it is not JSON"),
        ("", "it is not JSON"),
    ],
)
def test_what_is_no_json_of_ours_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "row.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "row.json", RowResult)


def test_a_file_beyond_the_limit_is_not_even_parsed(tmp_path: Path) -> None:
    with (tmp_path / "row.json").open("wb") as file:
        file.truncate(LARGEST_JSON_BYTES + 1)
    with pytest.raises(ValueError, match="134,217,729 bytes; 134,217,728 are read at most"):
        read_json(tmp_path / "row.json", RowResult)


def test_a_file_of_lists_alone_is_not_even_parsed(tmp_path: Path) -> None:
    """Each would take 28 times its two bytes."""
    (tmp_path / "row.json").write_text(f"[{'[],' * 10**6}0]")
    with pytest.raises(ValueError, match="1,000,001 objects and lists; 1,000,000 are read at most"):
        read_json(tmp_path / "row.json", RowResult)


@pytest.mark.parametrize("depth", [500, 2000, 20_000])
def test_lists_in_lists_are_refused_however_deep(tmp_path: Path, depth: int) -> None:
    """Deeper than Python's own stack, and less deep than msgspec would go."""
    (tmp_path / "row.json").write_text(f'{{"config": {"[" * depth}{"]" * depth}}}')
    with pytest.raises(ValueError, match=r"nested too deeply|\$.config: Expected `object`"):
        read_json(tmp_path / "row.json", RowResult)


CHECK = Check("C6 loss curve", 1.0, 2.0, True, steps=9, of_steps=16, end="chaos", rows=("torch", "tensorflow"))
FULL = Results(
    ["run_parity.py"],
    {"cpu": "x"},
    [replace(ROW, replicas=ReplicaGroup(2, 1, "nccl", 4, 8.0, [1, 1]), checks=[CHECK])],
    [ParityEntry("mixed_float16", False, True, [CHECK])],
)


def objects_in(value: Any, document: Any) -> Iterator[tuple[type, dict[str, Any]]]:
    """Each dataclass within a value, beside its object in the document."""
    if is_dataclass(value):
        yield type(value), document
        for entry in fields(value):
            yield from objects_in(getattr(value, entry.name), document[entry.name])
    elif isinstance(value, list):
        for pair in zip(value, document, strict=True):
            yield from objects_in(*pair)


def dataclasses_in(kind: Any) -> set[type]:
    """Every dataclass that a file of this kind may hold."""
    inner = get_type_hints(kind).values() if is_dataclass(kind) else get_args(kind)
    return {kind for kind in [kind] if is_dataclass(kind)}.union(*map(dataclasses_in, inner))


KINDS = sorted(dataclasses_in(Results), key=lambda kind: kind.__name__)


def test_what_is_tried_holds_every_dataclass_of_a_file(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", FULL)
    found = {kind for kind, _ in objects_in(FULL, json.loads((tmp_path / "results.json").read_text()))}
    assert found == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_unknown_field_is_refused_in_every_dataclass(tmp_path: Path, kind: type) -> None:
    write_json(tmp_path / "results.json", FULL)
    document = json.loads((tmp_path / "results.json").read_text())
    next(entry for found, entry in objects_in(FULL, document) if found is kind)["extra"] = 1
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"^\$[\w.\[\]]* has an unknown field 'extra'$"):
        read_json(tmp_path / "results.json", Results)


def test_an_end_that_no_run_has_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", FULL)
    document = json.loads((tmp_path / "results.json").read_text())
    document["rows"][0]["checks"][0]["end"] = "boredom"
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"\$.rows\[0\].checks\[0\].end: Invalid enum value 'boredom'"):
        read_json(tmp_path / "results.json", Results)


def test_the_sentence_of_before_is_refused_today(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", FULL)
    document = json.loads((tmp_path / "results.json").read_text())
    document["parity"][0]["checks"][0]["where"] = "all 16 steps"
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"\$.parity\[0\].checks\[0\] has an unknown field 'where'"):
        read_json(tmp_path / "results.json", Results)


def test_what_a_file_leaves_to_the_defaults_is_written_out(tmp_path: Path) -> None:
    """msgspec writes what lies in an instance, and leaves a default to its class unless that has slots."""
    (tmp_path / "row.json").write_text('{"config": {"framework": "torch", "precision": "float32"}, "status": "ok"}')
    write_json(tmp_path / "row.json", read_json(tmp_path / "row.json", RowResult))
    row = json.loads((tmp_path / "row.json").read_text())
    assert (row["loop"], row["compile"], row["key"]) == ("custom", False, None)
    assert row["config"]["execution"]["devices"] == 1


def test_a_copy_of_a_default_that_the_config_leaves_out_is_true(tmp_path: Path) -> None:
    config = '{"framework": "torch", "precision": "float32", "execution": {}}'
    (tmp_path / "row.json").write_text(f'{{"loop": "custom", "compile": false, "config": {config}, "status": "ok"}}')
    assert read_json(tmp_path / "row.json", RowResult) == RowResult(RunConfig("torch", Precision.FLOAT32), Status.OK)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text("{}")
    with pytest.raises(ValueError, match="RowResult: Object missing required field `config`"):
        read_json(tmp_path / "row.json", RowResult)


PUBLISHED = sorted((ROOT / "results").rglob("results.json"))


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: str(file.parent.relative_to(ROOT / "results")))
def test_published_results_survive_being_written_anew(tmp_path: Path, file: Path) -> None:
    results = read_json(file, Results)
    write_json(tmp_path / "results.json", results)
    assert read_json(tmp_path / "results.json", Results) == results
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["schema_version"] == 2
    for kind, document in objects_in(results, written):
        assert {entry.name for entry in fields(kind)} <= set(document), kind
    for before, now in zip(json.loads(file.read_text())["rows"], written["rows"], strict=True):
        assert holds(now, {**before, "checks": now["checks"]})


def holds(now: Any, before: Any) -> bool:
    """Whether everything that stood there still does; what is new may stand beside it."""
    if isinstance(before, dict):
        return all(name in now and holds(now[name], value) for name, value in before.items())
    return bool(now == before)


PUBLISHED_BEFORE = [file for file in PUBLISHED if json.loads(file.read_text())["schema_version"] == 1]


@pytest.mark.parametrize("file", PUBLISHED_BEFORE, ids=lambda file: str(file.parent.relative_to(ROOT / "results")))
def test_published_checks_say_what_they_said(file: Path) -> None:
    """Schema 1 kept a check's place as a sentence; read as facts, it makes the same sentence."""
    before, now = json.loads(file.read_text()), read_json(file, Results)
    entries = [*zip(before["rows"], now.rows, strict=True), *zip(before["parity"], now.parity, strict=True)]
    for old, new in entries:
        assert [check["where"] for check in old["checks"]] == [place_of(check) for check in new.checks]


@pytest.mark.parametrize(
    ("where", "facts"),
    [
        ("right, conv1/kernel", {"what": "right", "tensor": "conv1/kernel"}),
        ("wrong, logits not float16", {"what": "wrong, logits", "dtype": "float16"}),
        (
            "first batch, conv1/kernel not bfloat16",
            {"what": "first batch", "tensor": "conv1/kernel", "dtype": "bfloat16"},
        ),
        ("gradients of 1e-05", {"what": "gradients of 1e-05"}),
        ("all 16 steps", {"steps": 16, "of_steps": 16}),
        ("9 of 16 steps, then chaos", {"steps": 9, "of_steps": 16, "end": "chaos"}),
        (
            "tensorflow, torch: 2 of 16 steps, then one alone skips",
            {"rows": ("tensorflow", "torch"), "steps": 2, "of_steps": 16, "end": "skip"},
        ),
        ("tensorflow fit: epoch 3", {"rows": ("tensorflow fit",), "what": "epoch 3"}),
        ("final weights of rank 1, 3", {"what": "final weights of rank 1, 3"}),
    ],
)
def test_a_place_of_before_is_read_as_facts(tmp_path: Path, where: str, facts: dict[str, Any]) -> None:
    check = {"name": "C6 loss curve", "difference": 1.0, "bound": 2.0, "passed": True, "where": where}
    entry = {"precision": "float32", "compile": False, "passed": True, "checks": [check]}
    document = {"command": [], "environment": {}, "rows": [], "parity": [entry], "schema_version": 1}
    (tmp_path / "results.json").write_text(json.dumps(document))
    ((found,),) = (entry.checks for entry in read_json(tmp_path / "results.json", Results).parity)
    assert found == Check("C6 loss curve", 1.0, 2.0, True, **facts)
    assert place_of(found) == where
