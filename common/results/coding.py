"""Rows and arrays to and from files: strict JSON, and NumPy's npz.

A number that is not finite is written as null, since JSON has none. What is read may come from elsewhere: it is read
with limits, and refused where a field has another type, is unknown or is missing.
"""

import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import numpy as np

from common.results.files import open_plain, read_plain, written_whole
from common.results.rows import SCHEMA_VERSION, Arrays, Results, RowResult

# Of a file from elsewhere: a row of the article has 25 kB and 200 objects and lists, so that a thousand fit five times
# over. A whole number beyond 2**53 is no longer exact in other readers of JSON.
LARGEST_JSON_BYTES = 2**27
MOST_CONTAINERS = 10**6
LARGEST_INT = 2**53

# What a row in a file repeats of its config, for readers that look no deeper; properties of a RowResult.
COPIES = ("framework", "precision", "compile", "loop")

# What can be a whole number, or have one in it; a row has thousands of other values.
_WITH_INTS = (dict, list, int)

# How schema 1 said why a run was compared no further.
_ENDS_OF_BEFORE = {
    "then chaos": "chaos",
    "then one alone skips": "skip",
    "then a loss that is not finite": "not_finite",
    "the first update; beyond it they are the ruler": "ruler",
}

T = TypeVar("T")


def write_json(path: Path, value: Any) -> None:
    """Write a dataclass as JSON, whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(_to_document(value)), indent=1)
    with written_whole(path) as file:
        file.write(text + b"\n")


def read_json(path: Path, kind: type[T]) -> T:
    """Read a dataclass of this kind; ValueError names the field that does not fit, or the limit that is exceeded."""
    content = read_plain(path, LARGEST_JSON_BYTES)
    if (containers := content.count(b"{") + content.count(b"[")) > MOST_CONTAINERS:
        raise ValueError(f"it has {containers:,} objects and lists; {MOST_CONTAINERS:,} are read at most")
    document = _parse(content)
    if kind is Results:
        document = _brought_up_to_date(document)
    try:
        value = msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        problem, at, place = str(error).rpartition(" - at ")
        named = place.strip("`") if at else kind.__name__
        raise ValueError(f"{named}: {problem or place:.200}") from None
    _require_known(document, value, "$")
    return value


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays as npz, whole or not at all."""
    named = {f"{group}/{name}": array for group, weights in arrays._asdict().items() for name, array in weights.items()}
    with written_whole(path) as file:
        np.savez(file, **named)


def read_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Read arrays of these shapes back; ValueError or OSError where the file holds something else."""
    with open_plain(path) as file:
        try:
            return _read_arrays(file, shapes)
        except OSError:
            raise
        except Exception as error:  # zipfile and NumPy raise a dozen kinds for bytes that are not theirs
            raise ValueError(f"it holds no arrays of a row of this model ({error!s:.200})") from error


def _read_arrays(file: BinaryIO, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    with zipfile.ZipFile(file) as members:
        expected = {f"{group}/{name}.npy" for group in Arrays._fields for name in shapes}
        if set(members.namelist()) != expected:
            raise ValueError("other names")
        return Arrays(
            *(
                {name: _read_array(members, f"{group}/{name}.npy", shape) for name, shape in shapes.items()}
                for group in Arrays._fields
            )
        )


def _read_array(members: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What NumPy would make is known from the header, before anything of that size is made."""
    member = members.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("compressed: a small file could unfold to any size")
    with members.open(member) as stream:
        np.lib.format.read_magic(stream)
        found, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if found != shape or dtype.kind != "f" or dtype.itemsize > np.float64().itemsize:
        raise ValueError(f"{name} has shape {found} and dtype {dtype}; it must have {shape} and a float's")
    if member.file_size < dtype.itemsize * math.prod(shape):
        raise ValueError(f"{name} is cut off")
    with members.open(member) as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def arrays_file(folder: Path) -> Path:
    """Where the worker of a row puts its arrays."""
    return folder / "arrays.npz"


def _to_document(value: Any) -> Any:
    """What is written: as the dataclass, and each row with its copies first."""
    document = msgspec.to_builtins(value, enc_hook=_plain)
    if isinstance(value, RowResult):
        return _with_copies(value, document)
    if isinstance(value, Results):
        return {**document, "rows": list(map(_with_copies, value.rows, document["rows"]))}
    return document


def _plain(value: Any) -> Any:
    """What JSON holds of a kind of number or text that a library has made: NumPy's numbers, a framework's version."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def _with_copies(row: RowResult, document: dict[str, Any]) -> dict[str, Any]:
    """The row's document as a reader meets it: what it is, how it ended, then the rest."""
    first = {name: getattr(row, name) for name in COPIES}
    return {**first, "status": document["status"], "detail": document["detail"], **document}


def _parse(content: bytes) -> Any:
    try:
        document = msgspec.json.decode(content)
        _require_exact_ints(document, "$")
    except RecursionError:
        raise ValueError("it is nested too deeply to be JSON of ours") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    return document


def _require_exact_ints(document: Any, where: str) -> None:
    """ValueError where a whole number is too large. msgspec itself refuses a float that is not finite."""
    if isinstance(document, int):
        if abs(document) > LARGEST_INT:
            raise ValueError(f"{where} is {document!r:.80}; no such number is measured")
    elif isinstance(document, dict):
        for name, entry in document.items():
            if isinstance(entry, _WITH_INTS):
                _require_exact_ints(entry, f"{where}.{name}")
    elif isinstance(document, list):
        for index, entry in enumerate(document):
            if isinstance(entry, _WITH_INTS):
                _require_exact_ints(entry, f"{where}[{index}]")


def _require_known(document: Any, value: Any, where: str) -> None:
    """ValueError where the document has a field that its dataclass lacks, which msgspec passes over.

    The copies in a row are no fields of it; one that differs from the row's config is refused as well.
    """
    kind: type = type(value)
    if is_dataclass(kind):
        if isinstance(value, RowResult):
            _require_true_copies(document, value, where)
        if unknown := document.keys() - _names_in_file(kind):
            raise ValueError(f"{where} has an unknown field {min(unknown)!r:.80}")
        for name, entry in document.items():
            if isinstance(entry, (dict, list)):
                _require_known(entry, getattr(value, name), f"{where}.{name}")
    elif isinstance(value, list):
        for index, (entry, made) in enumerate(zip(document, value, strict=True)):
            if isinstance(entry, dict):
                _require_known(entry, made, f"{where}[{index}]")


@cache
def _names_in_file(kind: Any) -> frozenset[str]:
    """What an object of this dataclass may have in a file."""
    copies = COPIES if kind is RowResult else ()
    return frozenset([*(field.name for field in fields(kind)), *copies])


def _require_true_copies(document: dict[str, Any], row: RowResult, where: str) -> None:
    for name in COPIES:
        original = getattr(row, name)
        copy = document.get(name, original)
        if (type(copy), copy) != (type(original), original):
            raise ValueError(f"{where}.{name} is {copy!r:.80}; its config says {original!r:.80}")


def _brought_up_to_date(document: Any) -> Any:
    """The document of a results.json in today's schema; ValueError where it is of another than was ever written."""
    if not isinstance(document, dict):
        return document
    version = document.get("schema_version")
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        raise ValueError(f"its schema_version is {version!r:.80}; this program reads 1 and {SCHEMA_VERSION}")
    if version == 1:
        for holder in [*_list_in(document, "rows"), *_list_in(document, "parity")]:
            for check in _list_in(holder, "checks"):
                _replace_sentence(check)
    return {**document, "schema_version": SCHEMA_VERSION}


def _list_in(document: Any, name: str) -> list[Any]:
    """The list of that name; none where the document is not as it must be, which is refused later, by name."""
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, list) else []


def _replace_sentence(check: Any) -> None:
    """Turn the sentence that was a check's place in schema 1 into its facts."""
    if isinstance(check, dict) and isinstance(check.get("where"), str):
        check.update(_facts_of_before(check.pop("where")))


def _facts_of_before(where: str) -> dict[str, Any]:
    """'torch x2, torch: 9 of 16 steps, then chaos', 'tensorflow: right, conv1/kernel not float16' and the like."""
    rows, _, place = where.rpartition(": ")
    facts: dict[str, Any] = {"rows": rows.split(", ") if rows else []}
    if match := re.fullmatch(r"all (\d+) steps", place):
        return {**facts, "steps": int(match[1]), "of_steps": int(match[1])}
    if (match := re.fullmatch(r"(\d+) of (\d+) steps, (.*)", place)) and match[3] in _ENDS_OF_BEFORE:
        return {**facts, "steps": int(match[1]), "of_steps": int(match[2]), "end": _ENDS_OF_BEFORE[match[3]]}
    place, _, dtype = place.partition(" not ")
    match = re.fullmatch(r"(.*), ((?:conv\d+|dense)/(?:kernel|bias))", place)
    what, tensor = match.groups() if match else (place, "")
    return {**facts, "what": what, "tensor": tensor, "dtype": dtype}
