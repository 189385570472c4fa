"""What a run leaves behind: typed rows, read from and written to strict JSON.

Names of the fields are the names in the files. Units are in the names; a number that is not finite is written as
null, since JSON has no NaN.
"""

import json
import math
import sys
import types
import typing
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timezone
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from common.config import FRAMEWORKS, LOOPS, Precision, RunConfig
from common.experiment.weights import Weights
from common.measure.limits import Limits
from common.measure.memory import Memory
from common.measure.nvml import GpuUse
from common.measure.timing import Timing
from common.proof.checks import PAIR_RULES, Check, worst_first, worst_of_each_name
from common.proof.probe import PrecisionProbe
from common.results.files import open_plain, read_plain, written_whole

SCHEMA_VERSION = 1

# Of a file from elsewhere: a row of the article has 25 kB and 200 objects and lists, so that a thousand fit five times
# over, and the worst that these limits let through takes 2 GB of memory. A whole number beyond 2**53 is no longer exact
# in other readers of JSON, and 1e400 would be read as infinity.
LARGEST_JSON_BYTES = 2**27
MOST_CONTAINERS = 10**6
LARGEST_NUMBER: Mapping[type, float] = {int: 2**53, float: sys.float_info.max}

T = TypeVar("T")


class Status(str, Enum):
    """How a row ended. Only `ok` rows enter a speed-up."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    NOT_INSTALLED = "not_installed"
    IMPORT_ERROR = "import_error"
    OOM = "oom"
    TIMEOUT = "timeout"
    KILLED = "killed"
    CRASHED = "crashed"
    NO_RESULT = "no_result"
    NONFINITE = "nonfinite"
    ALL_STEPS_SKIPPED = "all_steps_skipped"
    LABEL_UNTRUE = "label_untrue"
    INTERRUPTED = "interrupted"

    __str__ = str.__str__


@dataclass(frozen=True)
class Training:
    """What was computed. Lists a step have one entry per batch; loss and accuracy are taken before the update.

    epoch_loss and epoch_accuracy are means over the samples, as Keras reports them. loss_scale is the scale that the
    step used (1 without loss scaling). skipped_steps are the indices of the steps whose gradients overflowed, so that
    no weight changed. The hashes show that both frameworks started from the same bits.
    """

    loss: list[float | None]
    epoch_loss: list[float | None]
    epoch_accuracy: list[float | None]
    loss_scale: list[float | None]
    skipped_steps: list[int]
    data_sha256: str
    initial_weights_sha256: str


class Arrays(NamedTuple):
    """What a row computed, in Keras' names and layouts; too large for JSON, so it lies in an arrays.npz beside the row.

    first_gradients: of the unscaled loss, on the first batch and the starting weights. final_weights: after training.
    """

    first_gradients: Weights
    final_weights: Weights


@dataclass(frozen=True)
class Environment:
    """Where a row ran. manifest: what could tilt the comparison, one short line a fact."""

    framework_version: str
    python_version: str
    numpy_version: str
    platform: str
    device: dict[str, str] = field(default_factory=dict)
    manifest: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReplicaGroup:
    """Several replicas that trained one row; Timing.images_per_s is what all of them reach together.

    backend sums their gradients. peak_bytes: the most that each had in use from the second epoch on, or in the only
    one, by rank. Efficiencies are images_per_s_per_replica over the images_per_s of one replica: strong, that trains
    the same batch; weak, the same batch per replica. None stands where there is no such row.
    """

    replicas: int
    hosts: int
    backend: str
    batch_per_replica: int
    images_per_s_per_replica: float | None
    peak_bytes: list[int]
    strong_scaling_efficiency: float | None = None
    weak_scaling_efficiency: float | None = None


@dataclass(frozen=True)
class RowResult:
    """One row of the table. The measured parts are None unless the status says that they were reached.

    log: where the process's output lies, under the folder of the results; log_tail: its last lines, of a row that
    failed. run_id: drawn for each process. setting: versions, device and code. key: sha256 of config and setting; a
    resumed run takes over what has the same.
    """

    framework: str
    precision: str
    compile: bool
    loop: str
    status: Status
    detail: str
    config: RunConfig
    environment: Environment | None = None
    timing: Timing | None = None
    memory: Memory | None = None
    replicas: ReplicaGroup | None = None
    training: Training | None = None
    limits: Limits | None = None
    probe: PrecisionProbe | None = None
    gpu: GpuUse | None = None
    checks: list[Check] = field(default_factory=list)
    log: str | None = None
    log_tail: list[str] = field(default_factory=list)
    run_id: str | None = None
    setting: dict[str, str] = field(default_factory=dict)
    key: str | None = None


@dataclass(frozen=True)
class ParityEntry:
    """The verdict on one precision and compile mode: the worst check of each name and framework, worst first."""

    precision: str
    compile: bool
    passed: bool
    checks: list[Check]

    @property
    def of_pairs(self) -> list[Check]:
        """C8: what holds two rows to each other, and stands in neither."""
        names = {rule.name for rule in PAIR_RULES}
        return [check for check in self.checks if check.name in names]


@dataclass(frozen=True)
class Results:
    """The whole of results.json. earlier_commands: those whose rows a resumed run has taken over, oldest first."""

    command: list[str]
    environment: dict[str, str]
    rows: list[RowResult] = field(default_factory=list)
    parity: list[ParityEntry] = field(default_factory=list)
    earlier_commands: list[list[str]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
    created_utc: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))


def make_row(config: RunConfig, status: Status, detail: str = "", **parts: Any) -> RowResult:
    """A row of this config; `parts` are the optional fields of RowResult."""
    return RowResult(
        framework=config.framework,
        precision=config.precision.value,
        compile=config.execution.compile,
        loop=config.execution.loop,
        status=status,
        detail=detail,
        config=config,
        **parts,
    )


def describe_replicas(
    config: RunConfig, backend: str, peak_bytes: Sequence[int], timing: Timing
) -> ReplicaGroup | None:
    """The group that trained a row; None where that was a single replica."""
    execution = config.execution
    if execution.replicas == 1:
        return None
    return ReplicaGroup(
        replicas=execution.replicas,
        hosts=execution.hosts,
        backend=backend,
        batch_per_replica=config.train.batch_size // execution.replicas,
        images_per_s_per_replica=timing.images_per_s and timing.images_per_s / execution.replicas,
        peak_bytes=list(peak_bytes),
    )


def require_consistent(row: RowResult) -> None:
    """Raise ValueError, naming the field, where parts of a row contradict each other; types alone can't tell."""
    config, training, environment = row.config, row.training, row.environment
    for name, of_config in (
        ("framework", config.framework),
        ("precision", config.precision.value),
        ("compile", config.execution.compile),
        ("loop", config.execution.loop),
    ):
        if getattr(row, name) != of_config:
            raise ValueError(f"{config.row_id}: {name} is {getattr(row, name)!r:.80}; its config says {of_config!r}")
    if row.timing:
        _require_length(config, "timing.epoch_s", row.timing.epoch_s, config.train.epochs)
    if environment and not {"kind", "name"} <= set(environment.device):
        raise ValueError(f"{config.row_id}: environment.device lacks 'kind' or 'name'")
    if row.replicas:
        _require_length(config, "replicas.peak_bytes", row.replicas.peak_bytes, config.execution.replicas)
    if training is None:
        return
    if environment is None:
        raise ValueError(f"{config.row_id}: it was trained, but lacks its environment")
    steps = config.train.epochs * config.steps_per_epoch
    _require_length(config, "training.loss", training.loss, steps)
    _require_length(config, "training.loss_scale", training.loss_scale, steps)
    _require_length(config, "training.epoch_loss", training.epoch_loss, config.train.epochs)
    _require_length(config, "training.epoch_accuracy", training.epoch_accuracy, config.train.epochs)
    skipped = training.skipped_steps
    if skipped != sorted(set(skipped)) or any(not 0 <= step < steps for step in skipped):
        raise ValueError(f"{config.row_id}: training.skipped_steps are {skipped!r:.80}; they must be steps, in order")


def _require_length(config: RunConfig, name: str, entries: Sequence[object], length: int) -> None:
    if len(entries) != length:
        raise ValueError(f"{config.row_id}: {name} has {len(entries)} entries; it must have {length}")


def in_order(rows: Iterable[RowResult]) -> list[RowResult]:
    """The rows by framework, mode and precision, whichever of a folder's runs they come from."""

    def place(row: RowResult) -> tuple[int, ...]:
        config, precisions = row.config, list(Precision)
        framework, loop = FRAMEWORKS.index(config.framework), LOOPS.index(config.execution.loop)
        precision, replicas = precisions.index(config.precision), config.execution.replicas
        return framework, config.execution.compile, loop, precision, replicas, config.repeat

    return sorted(rows, key=place)


def judge(
    rows: Sequence[RowResult], pairs: Mapping[tuple[str, bool], Sequence[Check]] | None = None
) -> list[ParityEntry]:
    """The verdict on each precision and compile mode, from the checks of its rows and of its pairs of rows.

    Those of pairs say in `where` which rows they are of.
    """
    groups: dict[tuple[str, bool], list[Check]] = {}
    for row in rows:
        if row.checks:
            groups.setdefault((row.precision, row.compile), []).extend(_named_checks(row))
    for key, checks in (pairs or {}).items():
        groups[key] += worst_of_each_name(checks)
    return [
        ParityEntry(precision, compile, all(check.passed for check in checks), worst_first(checks))
        for (precision, compile), checks in groups.items()
    ]


def times(row: RowResult) -> str:
    """What tells a row of several replicas from those of one in its name: " x2", or nothing."""
    replicas = row.config.execution.replicas
    return f" x{replicas}" if replicas > 1 else ""


def _named_checks(row: RowResult) -> list[Check]:
    where = f"{row.framework}{' fit' if row.loop == 'fit' else ''}{times(row)}"
    return [replace(check, where=f"{where}: {check.where}") for check in worst_of_each_name(row.checks)]


def write_json(path: Path, value: Any) -> None:
    """Write a dataclass as JSON, whole or not at all."""
    write_text(path, to_json(value) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with written_whole(path) as file:
        file.write(text.encode())


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
