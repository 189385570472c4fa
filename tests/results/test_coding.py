"""Do results survive the way to the file and back, strictly, and is what doesn't fit refused by name?"""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.config import Precision, RunConfig
from common.measure.limits import Ceilings, Limits
from common.measure.memory import Memory
from common.measure.nvml import GpuUse
from common.measure.timing import StepTimes, Timing
from common.results.check import PrecisionProbe
from common.results.coding import (
    LARGEST_JSON_BYTES,
    read_arrays,
    read_json,
    results_json,
    to_json,
    write_arrays,
    write_json,
)
from common.results.rows import Arrays, Environment, Results, RowResult, Status, Training, make_row

CONFIG = RunConfig("torch", Precision.MIXED_FLOAT16)
ROW = make_row(
    CONFIG,
    Status.OK,
    environment=Environment("2.13", "3.12", "2.2", "Linux", {"kind": "cpu", "name": "x"}, {"layout": "NHWC"}),
    timing=Timing(1.0, [2.0, 1.0], StepTimes(0.5, 0.4, 0.6, 1), 3.0, 16.0),
    memory=Memory("host_rss", 1, 3, 2, None),
    training=Training([1.0, None], [0.5], [1.0], [8.0, 8.0], [1], "aa", "bb"),
    limits=Limits(1e9, 1e9, 0.001, 500.0, Ceilings(1e12, 1e12)),
    probe=PrecisionProbe(True, {"dense/kernel": "float16"}),
    gpu=GpuUse("process", 10**9, 50.0, [], 0),
)


def test_there_and_back(tmp_path: Path) -> None:
    results = Results(["run_parity.py"], {"cpu": "x"}, [ROW])
    write_json(tmp_path / "results.json", results)
    assert read_json(tmp_path / "results.json", Results) == results


def test_results_from_their_rows_json_are_the_same_file() -> None:
    """Whatever stands in the command."""
    for rows in ([], [ROW], [ROW, ROW]):
        results = Results(['run_parity.py "rows": []'], {"rows": "[]"}, rows)
        assert json.loads(results_json(results, [to_json(row) for row in rows])) == json.loads(to_json(results))


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
    assert row["probe"] == {"passed": True, "seen": {"dense/kernel": "float16"}}
    assert {"loss", "epoch_loss", "epoch_accuracy", "loss_scale", "skipped_steps"} <= set(row["training"])
    assert (row["framework"], row["precision"], row["status"]) == ("torch", "mixed_float16", "ok")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_null(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "training.json", Training([value], [], [], [], [], "", ""))
    assert read_json(tmp_path / "training.json", Training).loss == [None]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "row.json", ROW)
    with pytest.raises(TypeError):
        write_json(tmp_path / "row.json", make_row(CONFIG, Status.OK, log=object()))
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
        (["status"], "fine", "RowResult.status is 'fine'; it must be one of ok"),
        (["compile"], 1, "RowResult.compile is 1; it must be bool"),
        (["timing", "total_s"], "3", "RowResult.timing.total_s is '3'; it must be float"),
        (["training", "loss", 1], [], r"RowResult.training.loss\[1\]"),
        (["config", "precision"], "half", "RowResult.config.precision is 'half'"),
        (["config", "train", "epochs"], 0, "epochs is 0"),
        (["memory"], [], "RowResult.memory is .*fields of Memory"),
        (["extra"], 1, "unknown field 'extra'"),
        (
            ["config", "model", "image_shape"],
            [256, 256],
            "RowResult.config.model.image_shape has 2 entries; it must have 3",
        ),
        (["config", "repeat"], 2**60, "RowResult.config.repeat is 1152921504606846976; no such number"),
        (["timing", "total_s"], 10**400, "RowResult.timing.total_s is 1000.*; no such number"),
        (["timing", "total_s"], json.loads("1e400"), "Infinity is not JSON"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, keys: list[Any], value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_json(changed(tmp_path / "row.json", *keys, value=value), RowResult)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"timing": NaN}', "NaN is not JSON"),
        ("[" * 10**6, "nested too deeply"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
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


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text("{}")
    with pytest.raises(ValueError, match="RowResult lacks the field 'framework'"):
        read_json(tmp_path / "row.json", RowResult)
