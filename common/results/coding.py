"""Rows and arrays to and from files: strict JSON, and NumPy's npz."""

import json
import math
import sys
import types
import typing
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from common.results.files import open_plain, read_plain, write_text, written_whole
from common.results.rows import SCHEMA_VERSION, Arrays, Results

# Of a file from elsewhere: a row of the article has 25 kB and 200 objects and lists, so that a thousand fit five times
# over, and the worst that these limits let through takes 2 GB of memory. A whole number beyond 2**53 is no longer exact
# in other readers of JSON, and 1e400 would be read as infinity.
LARGEST_JSON_BYTES = 2**27

MOST_CONTAINERS = 10**6

LARGEST_NUMBER: Mapping[type, float] = {int: 2**53, float: sys.float_info.max}

T = TypeVar("T")


def write_json(path: Path, value: Any) -> None:
    """Write a dataclass as JSON, whole or not at all."""
    write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    """A dataclass as strict JSON: what is not finite is null."""
    return json.dumps(_strict(asdict(value)), indent=1, allow_nan=False)


def results_json(results: Results, rows: Sequence[str]) -> str:
    """The results as JSON, from their rows' own: a run writes all of them after each, and turns each into JSON once."""
    return to_json(replace(results, rows=[])).replace('"rows": []', f'"rows": [\n{",".join(rows)}\n ]', 1)


def read_json(path: Path, kind: type[T]) -> T:
    """Read a dataclass of this kind; ValueError names the field that does not fit, or the limit that is exceeded."""
    content = read_plain(path, LARGEST_JSON_BYTES)
    if (containers := content.count(b"{") + content.count(b"[")) > MOST_CONTAINERS:
        raise ValueError(f"it has {containers:,} objects and lists; {MOST_CONTAINERS:,} are read at most")
    try:
        loaded = json.loads(content.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply to be JSON of ours") from None
    if kind is Results and isinstance(loaded, dict) and loaded.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"its schema_version is {loaded.get('schema_version')!r:.80}; this program reads {SCHEMA_VERSION}"
        )
    value: T = _decode(kind, loaded, kind.__name__)
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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _decode(inner, value, where)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if origin is list and isinstance(value, list):
        return [_decode(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ValueError(f"{where} has {len(value)} entries; it must have {len(arguments)}")
        return tuple(_decode(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {str(key): _decode(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
    if kind is Any:
        return value
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _decode_enum(kind, value, where)
    if type(value) in (int, float) and not abs(value) <= LARGEST_NUMBER[type(value)]:
        raise ValueError(f"{where} is {value!r:.80}; no such number is measured")
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ValueError(f"{where} is {value!r:.80}; it must be {getattr(kind, '__name__', kind)}")


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r:.80}; it must be an object with the fields of {kind.__name__}")
    hints = _types_of_fields(kind)
    if unknown := set(value) - set(hints):
        raise ValueError(f"{where} has an unknown field {min(unknown)!r:.80}")
    for entry in fields(kind):
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in value:
            raise ValueError(f"{where} lacks the field {entry.name!r}")
    return kind(**{name: _decode(hints[name], entry, f"{where}.{name}") for name, entry in value.items()})


@cache
def _types_of_fields(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode_enum(kind: type[Enum], value: Any, where: str) -> Enum:
    accepted: Sequence[Any] = [member.value for member in kind]
    if value not in accepted:
        raise ValueError(f"{where} is {value!r:.80}; it must be one of {', '.join(map(str, accepted))}")
    return kind(value)


def arrays_file(folder: Path) -> Path:
    """Where the worker of a row puts its arrays."""
    return folder / "arrays.npz"
