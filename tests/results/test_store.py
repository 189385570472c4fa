"""Is a folder of results that comes from elsewhere either taken or refused in one line, whatever is in it?

Hypothesis cuts off, bends and replaces parts of a real results.json; nothing but a refusal may come of it.
"""

import copy
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.experiment.weights import draw_weights
from common.process.runner import compare_runs
from common.results import store as store_module
from common.results.coding import read_json, write_arrays, write_json
from common.results.rows import Arrays, Results, Status
from common.results.store import Store, StoreError, read_results
from common.show.table import tables
from tests.conftest import ROOT

PUBLISHED = json.loads((ROOT / "results" / "cpu" / "results.json").read_text())

# Two rows are enough to be compared, and a short file to be bent in every place.
WHOLE = {**PUBLISHED, "rows": [row for row in PUBLISHED["rows"] if row["precision"] == "mixed_float16"]}
PUBLISHED_ROWS = read_json(ROOT / "results" / "cpu" / "results.json", Results).rows
CONFIGS = [row.config for row in PUBLISHED_ROWS]

ODD_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from([2**53, -(2**53), 10**30, 1e308, -1e308, 5e-324]),
    st.sampled_from(["\x1b[2J", "\ud800", "../../etc/passwd", "|", "\n"]),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested JSON, as the keys that lead to it."""
    if path:
        yield path
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(entry, (*path, key))


PLACES = list(places(WHOLE))


def bent(path: tuple[Any, ...], value: Any, remove: bool) -> dict[str, Any]:
    """The results with the value at one place replaced, or without it."""
    whole = copy.deepcopy(WHOLE)
    entry: Any = whole
    for key in path[:-1]:
        entry = entry[key]
    if remove:
        del entry[path[-1]]
    else:
        entry[path[-1]] = value
    return whole


def look_at(folder: Path, content: str | bytes) -> str:
    """All that the program does with results that are there: read, compare and print. Returns what it prints."""
    data = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    (folder / "results.json").write_bytes(data)
    try:
        results = Store(folder).read(CONFIGS)
    except StoreError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 - a refusal is one of two right ends
        return ""
    printed = tables(compare_runs(results, Store(folder).arrays_of), "simple")
    printed.encode()
    assert not [char for char in printed if not (char.isprintable() or char == "\n")]
    return printed


@pytest.fixture(scope="module", params=["published rows"])
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with the arrays of its rows."""
    folder = tmp_path_factory.mktemp("elsewhere")
    store = Store(folder)
    for config in CONFIGS:
        store.row_folder(config).mkdir()
        weights = draw_weights(config.model, config.data.seed)
        write_arrays(store.row_folder(config) / "arrays.npz", Arrays(weights, weights))
    return folder


def test_the_whole_file_is_taken(folder: Path) -> None:
    assert "mixed_float16" in look_at(folder, json.dumps(WHOLE))


@given(path=st.sampled_from(PLACES), value=ODD_VALUES, remove=st.booleans())
def test_a_bent_file_is_taken_or_refused(folder: Path, path: tuple[Any, ...], value: Any, remove: bool) -> None:
    look_at(folder, json.dumps(bent(path, value, remove)))


@settings(max_examples=settings().max_examples // 3)
@given(cut=st.floats(0, 1), junk=st.text(max_size=10))
def test_a_file_that_is_cut_off_is_refused(folder: Path, cut: float, junk: str) -> None:
    text = json.dumps(WHOLE)
    assert look_at(folder, text[: int(cut * (len(text) - 1))] + junk.replace("}", "")) == ""


@settings(max_examples=settings().max_examples // 3)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_byte_that_is_wrong_is_no_traceback(folder: Path, at: float, byte: int) -> None:
    data = bytearray(json.dumps(WHOLE).encode())
    data[int(at * len(data))] = byte
    look_at(folder, bytes(data))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(40), bytes(4000)])
def test_arrays_that_are_damaged_make_their_row_run_again(tmp_path: Path, content: bytes) -> None:
    """Or are refused, where that row is not asked for: it would be lost."""
    results = read_json(ROOT / "results" / "cpu" / "results.json", Results)
    (row,) = (row for row in results.rows if row.config.row_id.startswith("torch-float32"))
    store = Store(tmp_path)
    write_json(store.path, Results(["x"], {}, [row]))
    store.row_folder(row.config).mkdir()
    (store.row_folder(row.config) / "arrays.npz").write_bytes(content)
    assert store.read([row.config]).rows == []
    with pytest.raises(StoreError, match="missing or damaged; ask for that row again"):
        store.read([config for config in CONFIGS if config != row.config])


def test_a_row_that_ended_well_is_kept_beside_the_one_that_is_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its arrays are missing; what was measured is still in a file."""
    row = PUBLISHED_ROWS[0]
    store = Store(tmp_path)
    write_json(store.path, Results(["x"], {}, [row]))
    found = store.read([row.config])
    assert (found.rows, found.command) == ([], ["x"])
    (kept,) = tmp_path.glob("results.until-*.json")
    assert read_results(kept).rows == [row]
    assert f"{row.config.row_id} is run again: its arrays.npz is missing or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({}, f"{CONFIGS[0].row_id} is in it twice"),
        ({"train": {"batch_size": 2}}, "its rows are of two experiments, with batch_size 10 and not 2"),
    ],
    ids=["one row twice", "two batch sizes"],
)
def test_rows_that_cannot_stand_in_one_table_are_refused(second: dict[str, Any], reason: str, tmp_path: Path) -> None:
    one, two = (copy.deepcopy(PUBLISHED["rows"][0]) for _ in range(2))
    for part, changes in second.items():
        two["config"][part].update(changes)
    two["training"] = two["timing"] = None
    (tmp_path / "results.json").write_text(json.dumps({**PUBLISHED, "rows": [one, two]}))
    with pytest.raises(StoreError, match=re.escape(reason)):
        read_results(tmp_path / "results.json")


def test_no_path_in_the_file_is_followed(tmp_path: Path) -> None:
    """A row's folder follows from its config; its `log` is shown and no more."""
    results = read_json(ROOT / "results" / "cpu" / "results.json", Results)
    store = Store(tmp_path)
    for row in results.rows:
        assert store.row_folder(row.config).parent == tmp_path / "rows"
    failed = json.loads(json.dumps(PUBLISHED))
    failed["rows"] = [
        {**failed["rows"][0], "status": str(Status.CRASHED), "log": "/etc/passwd", "log_tail": ["x"], "training": None}
    ]
    store.path.write_text(json.dumps(failed))
    assert "root:" not in tables(store.read(CONFIGS), "simple")


def test_what_a_killed_run_left_half_written_is_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "rows" / "one").mkdir()
    for scratch in (tmp_path / ".results.json.123", tmp_path / "rows" / "one" / ".arrays.npz.123"):
        scratch.write_text("half")
    with store.locked():
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "one", "rows"]


def test_weights_of_another_model_are_not_taken(tmp_path: Path) -> None:
    """Even where a config from elsewhere asks for a size that no memory holds: nothing of that size is made."""
    results = read_json(ROOT / "results" / "cpu" / "results.json", Results)
    huge = json.loads(json.dumps(PUBLISHED))
    huge["rows"] = [row for row in huge["rows"] if row["status"] == "ok"][:1]
    huge["rows"][0]["config"]["model"]["filters"] = 2**40
    store = Store(tmp_path)
    store.path.write_text(json.dumps(huge))
    weights = {"dense/kernel": np.ones((1, 1))}
    folder = store.row_folder(results.rows[0].config)
    folder.mkdir()
    write_arrays(folder / "arrays.npz", Arrays(weights, weights))
    with pytest.raises(StoreError, match="holds another experiment, with filters 1099511627776 and not 128"):
        store.read(CONFIGS)


LINKS = (".lock", "results.json", "rows", f"rows/{CONFIGS[0].row_id}", f"rows/{CONFIGS[0].row_id}/arrays.npz")


@pytest.mark.parametrize("name", LINKS)
def test_no_link_in_the_folder_is_followed(tmp_path: Path, name: str) -> None:
    """What it leads to stays as it is, and the row is run again or the folder refused."""
    outside, folder = tmp_path / "outside", tmp_path / "run"
    store = Store(outside)
    row = next(row for row in PUBLISHED_ROWS if row.config == CONFIGS[0])
    weights = draw_weights(row.config.model, row.config.data.seed)
    for target in (outside, folder):
        (target / "rows" / row.config.row_id).mkdir(parents=True, exist_ok=True)
        write_json(target / "results.json", Results(["x"], {}, [row]))
        write_arrays(target / "rows" / row.config.row_id / "arrays.npz", Arrays(weights, weights))
        (target / ".lock").write_text("precious")
        (target / "rows" / row.config.row_id / ".arrays.npz.123").write_text("precious")
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    place = folder / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(outside / name)

    store = Store(folder)
    try:
        with store.locked():
            assert store.read([row.config]).rows == []
    except StoreError as refusal:
        assert "link" in str(refusal)  # noqa: PT017 - a refusal is one of two right ends
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


def test_files_of_the_users_are_not_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    mine = [tmp_path / name for name in (".results.json.backup", ".results.json.1.backup", "results.json.1")]
    for path in mine:
        path.write_text("mine")
    with store.locked():
        pass
    assert [path.read_text() for path in mine] == ["mine"] * 3


@pytest.mark.parametrize(
    ("content", "shown"), [(b"123", "123"), (b"\xff\x1b[2J\n", "unknown"), (b"", "unknown")], ids=repr
)
def test_whoever_holds_the_lock_is_named_if_a_number_is_there(tmp_path: Path, content: bytes, shown: str) -> None:
    store = Store(tmp_path)
    with store.locked():
        (tmp_path / ".lock").write_bytes(content)
        with pytest.raises(StoreError, match=f"is locked by pid {shown}, another run"), Store(tmp_path).locked():
            pass


def test_a_drive_without_locks_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(store_module.fcntl, "flock", refuse)
    with Store(tmp_path).locked():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_rows_that_cannot_be_listed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    store = Store(tmp_path)
    monkeypatch.setattr(store_module, "remove_scratch", refuse)
    with pytest.raises(StoreError, match="rows can't be used"), store.locked():
        pass
