"""What a run leaves behind: typed rows, read from and written to strict JSON.

Names of the fields are the names in the files. Units are in the names; a number that is not finite is written as
null, since JSON has no NaN.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import NamedTuple

from common.config import FRAMEWORKS, LOOPS, Precision, RunConfig
from common.experiment.weights import Weights
from common.measure.contention import Contention
from common.measure.limits import Limits
from common.measure.memory import Memory
from common.measure.nvml import GpuUse
from common.measure.timing import Timing
from common.results.check import Check, PrecisionProbe

SCHEMA_VERSION = 2  # since a check's place is facts; in 1 it was a sentence, which coding.py reads


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


@dataclass(frozen=True, slots=True)
class Ruler:
    """The same training in float64 from weights moved a little, which shows how much a training amplifies an error.

    loss: at each step, perhaps not to the end. moved_by: relative distance of the first batch's gradients to those of
    the weights as they are.
    """

    loss: list[float | None]
    moved_by: float


@dataclass(frozen=True, slots=True)
class Training:
    """What was computed. Lists a step have one entry per batch; loss and accuracy are taken before the update.

    epoch_loss and epoch_accuracy are means over the samples, as Keras reports them. loss_scale is the scale that the
    step used (1 without loss scaling). skipped_steps are the indices of the steps whose gradients overflowed, so that
    no weight changed. The hashes show that both frameworks started from the same bits. rulers: of a float64 row that
    NumPy can't train.
    """

    loss: list[float | None]
    epoch_loss: list[float | None]
    epoch_accuracy: list[float | None]
    loss_scale: list[float | None]
    skipped_steps: list[int]
    data_sha256: str
    initial_weights_sha256: str
    rulers: list[Ruler] = field(default_factory=list)


class Arrays(NamedTuple):
    """What a row computed, in Keras' names and layouts; too large for JSON, so it lies in an arrays.npz beside the row.

    first_gradients: of the unscaled loss, on the first batch and the starting weights. final_weights: after training.
    """

    first_gradients: Weights
    final_weights: Weights


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a row ran. manifest: what could tilt the comparison, one short line a fact."""

    framework_version: str
    python_version: str
    numpy_version: str
    platform: str
    device: dict[str, str] = field(default_factory=dict)
    manifest: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row of the table. The measured parts are None unless the status says that they were reached.

    log: where the process's output lies, under the folder of the results; log_tail: its last lines, of a row that
    failed. run_id: drawn for each process. setting: versions, device and code. variables: of the environment, those
    that tilt a measurement, without values that may be secrets; None where they were not recorded. key: sha256 of
    config, setting and variables; a resumed run takes over what has the same. session: when the run began that measured
    it (UTC); None where that was not recorded. Rows of one session ran by turns, one repeat of each after the other.
    """

    config: RunConfig
    status: Status
    detail: str = ""
    environment: Environment | None = None
    timing: Timing | None = None
    memory: Memory | None = None
    replicas: ReplicaGroup | None = None
    training: Training | None = None
    limits: Limits | None = None
    probe: PrecisionProbe | None = None
    gpu: GpuUse | None = None
    contention: Contention | None = None
    checks: list[Check] = field(default_factory=list)
    log: str | None = None
    log_tail: list[str] = field(default_factory=list)
    run_id: str | None = None
    setting: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str | None] | None = None
    key: str | None = None
    session: str | None = None

    @property
    def framework(self) -> str:
        return self.config.framework

    @property
    def precision(self) -> str:
        return self.config.precision.value

    @property
    def compile(self) -> bool:
        return self.config.execution.compile

    @property
    def loop(self) -> str:
        return self.config.execution.loop


@dataclass(frozen=True, slots=True)
class ParityEntry:
    """The verdict on one precision and compile mode: the worst check of each name and framework, worst first."""

    precision: str
    compile: bool
    passed: bool
    checks: list[Check]


@dataclass(frozen=True, slots=True)
class Results:
    """The whole of results.json. earlier_commands: those whose rows a resumed run has taken over, oldest first."""

    command: list[str]
    environment: dict[str, str]
    rows: list[RowResult] = field(default_factory=list)
    parity: list[ParityEntry] = field(default_factory=list)
    earlier_commands: list[list[str]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
    created_utc: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))


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
    if row.timing:
        _require_length(config, "timing.epoch_s", row.timing.epoch_s, config.train.epochs)
    if environment and not {"kind", "name"} <= set(environment.device):
        raise ValueError(f"{config.row_id}: environment.device lacks 'kind' or 'name'")
    if row.contention and min(row.contention.wall_s, row.contention.threads, row.contention.cores) <= 0:
        raise ValueError(f"{config.row_id}: contention's wall_s, threads and cores must be larger than 0")
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


def times(row: RowResult) -> str:
    """What tells a row of several replicas from those of one in its name: " x2", or nothing."""
    replicas = row.config.execution.replicas
    return f" x{replicas}" if replicas > 1 else ""
