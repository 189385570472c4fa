"""What one row of the table is: frozen dataclasses that say everything a worker process needs to know.

A `RunConfig` is one framework at one precision in one mode. It travels to the worker as JSON (see `results.py`) and
comes back inside the result, so a row can always be run again from its own record.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import product
from typing import NamedTuple

FRAMEWORKS = ("tensorflow", "torch")
LOOPS = ("custom", "fit")
DEVICES = ("auto", "cpu", "gpu")

# Keras hard-codes both factors; torch's GradScaler has them as defaults. They are facts here, not settings.
LOSS_SCALE_GROWTH = 2.0
LOSS_SCALE_BACKOFF = 0.5


class FieldError(ValueError):
    """A field that can't have its value. problem: what it is and must be, as 'is 0; it must be larger than 0'."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field
        self.problem = problem


class Precision(str, Enum):
    """The precisions a row can be trained at; the values are the ids used on the command line and in results."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    TF32 = "tf32"
    MIXED_FLOAT16 = "mixed_float16"
    MIXED_BFLOAT16 = "mixed_bfloat16"

    __str__ = str.__str__  # the id, on every Python version

    @property
    def compute_dtype(self) -> str:
        """The dtype of matrix products and activations."""
        return "float32" if self is Precision.TF32 else self.value.removeprefix("mixed_")

    @property
    def variable_dtype(self) -> str:
        """The dtype of weights, of the optimizer's state and of the loss."""
        return "float64" if self is Precision.FLOAT64 else "float32"

    @property
    def scales_loss(self) -> bool:
        """float16 gradients underflow below 6e-8 unless the loss is scaled; bfloat16 has float32's range."""
        return self is Precision.MIXED_FLOAT16


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Conv2D layers without activations between them, then Flatten, Dense(1) and a sigmoid.

    image_shape is (H, W, C). Each entry of kernel_sizes is one square, valid, stride-1 convolution with `filters`
    output channels; the article's network is 2x2, 1x1, 1x1 with 128 filters.
    """

    image_shape: tuple[int, int, int] = (256, 256, 3)
    filters: int = 128
    kernel_sizes: tuple[int, ...] = (2, 1, 1)

    def __post_init__(self) -> None:
        _require_positive(self, "filters")
        shrinkage = sum(size - 1 for size in self.kernel_sizes)
        if min(self.image_shape[:2]) <= shrinkage or self.image_shape[2] < 1:
            least = f"height and width must be at least {shrinkage + 1} and channels 1"
            raise FieldError("image_shape", f"is {self.image_shape}; {least}")

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """(H, W, F) of the last convolution's output; their product is the Dense layer's input size."""
        height, width, _ = self.image_shape
        shrinkage = sum(size - 1 for size in self.kernel_sizes)
        return height - shrinkage, width - shrinkage, self.filters


@dataclass(frozen=True, slots=True)
class DataConfig:
    """`images` random images of image_shape (H, W, C), uniform in [0, 1), with random labels in {0, 1}."""

    images: int = 800
    image_shape: tuple[int, int, int] = (256, 256, 3)
    seed: int = 12

    def __post_init__(self) -> None:
        _require_positive(self, "images")
        if self.seed < 0:
            raise FieldError("seed", f"is {self.seed}; it must be 0 or larger")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Adam at Keras' defaults on binary cross-entropy; the batches are taken in the order of the data."""

    epochs: int = 10
    batch_size: int = 50
    learning_rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        _require_positive(self, "epochs", "batch_size", "learning_rate")


@dataclass(frozen=True, slots=True)
class LossScaleConfig:
    """Dynamic loss scaling. torch starts at 2**16 by default, Keras at 2**15: both get these values explicitly."""

    initial_scale: float = 2.0**15
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        _require_positive(self, "initial_scale", "growth_interval")


@dataclass(frozen=True, slots=True)
class ExecutionConfig:
    """How a row runs. threads: CPU threads inside one operation, pinned because their number changes the bits.

    The replicas of a host share them. devices: of each host, every one of them a replica that trains on its share of a
    batch. collective_timeout_s: how long one waits for another, whose first step may be compiled for minutes.
    """

    device: str = "auto"
    compile: bool = False
    loop: str = "custom"
    threads: int = 1
    devices: int = 1
    hosts: int = 1
    collective_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        _require_one_of("device", self.device, DEVICES)
        _require_one_of("loop", self.loop, LOOPS)
        _require_positive(self, "threads", "devices", "hosts", "collective_timeout_s")

    @property
    def replicas(self) -> int:
        """How many train together, on all hosts."""
        return self.devices * self.hosts


class Mode(NamedTuple):
    """How a row runs, whatever its precision."""

    framework: str
    compile: bool
    loop: str
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One row: everything that decides what its process computes. `repeat` numbers equal rows of --repeats."""

    framework: str
    precision: Precision
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    repeat: int = 0

    def __post_init__(self) -> None:
        _require_one_of("framework", self.framework, FRAMEWORKS)
        if self.data.image_shape != self.model.image_shape:
            raise ValueError(f"the data are {self.data.image_shape}, but the model takes {self.model.image_shape}")
        if self.train.batch_size > self.data.images:
            images, replicas = self.data.images, self.execution.replicas
            each = f", or {images // replicas} on each of {replicas} replicas" if replicas > 1 else ""
            most = f"it must be at most the number of images, {images}{each}"
            raise FieldError("batch_size", f"is {self.train.batch_size}; {most}")
        if self.execution.loop == "fit" and self.framework != "tensorflow":
            raise FieldError("loop", f"is 'fit', which is Keras' Model.fit; {self.framework} has the custom loop only")
        if self.execution.replicas > 1:
            self._require_equal_shares(self.execution.replicas)

    def _require_equal_shares(self, replicas: int) -> None:
        if self.execution.loop == "fit":
            problem = f"is 'fit', which trains on one device here; {replicas} replicas need the custom loop"
            raise FieldError("loop", problem)
        batch_size, images = self.train.batch_size, self.data.images
        multiple = f"it must be a multiple of {replicas} replicas, as"
        if batch_size % replicas:
            too = f"; so must the images, {images}, as {_near(images, replicas)} is" if images % replicas else ""
            equal = f"{multiple} {_near(batch_size, replicas)} is, so that each takes an equal share"
            raise FieldError("batch_size", f"is {batch_size}; {equal}{too}")
        if images % replicas:
            equal = f"{multiple} {_near(images, replicas)} is, so that the last batch can be shared too"
            raise FieldError("images", f"is {images}; {equal}")

    @property
    def row_id(self) -> str:
        """A name for files and progress lines, unique within one run: 'torch-mixed_float16-custom-compile-off-r0'.

        Where there are several replicas, '-x2' says how many.
        """
        mode = f"{self.execution.loop}-compile-{'on' if self.execution.compile else 'off'}"
        replicas = f"-x{self.execution.replicas}" if self.execution.replicas > 1 else ""
        return f"{self.framework}-{self.precision}-{mode}{replicas}-r{self.repeat}"

    @property
    def mode(self) -> Mode:
        """What a precision is compared with float32 within."""
        return Mode(self.framework, self.execution.compile, self.execution.loop, self.execution.replicas)

    @property
    def steps_per_epoch(self) -> int:
        """The last batch of an epoch may be smaller, as in Keras."""
        return math.ceil(self.data.images / self.train.batch_size)


def experiment_difference(one: RunConfig, other: RunConfig) -> str:
    """The first of the sizes and settings in which they train another experiment, in words; "" where they don't.

    On another number of replicas the batch may be as large, or each replica's share of it.
    """
    replicas, others = one.execution.replicas, other.execution.replicas
    same_share = replicas != others and one.train.batch_size * others == other.train.batch_size * replicas
    for part in ("data", "model", "train"):
        ours, theirs = asdict(getattr(one, part)), asdict(getattr(other, part))
        for name, value in ours.items():
            if theirs[name] != value and not (name == "batch_size" and same_share):
                return f"{name} {value} and not {theirs[name]}{f' on {replicas} replicas' if replicas > 1 else ''}"
    return ""


def any_experiment_difference(ones: Iterable[RunConfig], others: Iterable[RunConfig]) -> str:
    """The first experiment_difference of any one to any other; "" where they can stand in one table."""
    of_each_size = {other.execution.replicas: other for other in others}.values()
    return next(filter(None, (experiment_difference(*pair) for pair in product(ones, of_each_size))), "")


@dataclass(frozen=True)
class Preset:
    """Sizes of an experiment. image_size is the height and width in pixels."""

    images: int
    image_size: int
    batch_size: int
    epochs: int
    filters: int


PRESETS = {
    # Every precision in seconds, the smaller last batch too; nothing worth timing.
    "smoke": Preset(
        images=20,
        image_size=12,
        batch_size=8,
        epochs=3,
        filters=16,
    ),
    # Steps of 25 ms and more in float32 on two cores, so that a framework's overhead of about 1 ms stays below 5 % of
    # them, and few enough steps that the 16-bit rows, which many CPUs emulate, still end in seconds.
    "cpu": Preset(images=20, image_size=32, batch_size=10, epochs=8, filters=128),
    # The experiment of the article; 16-bit training needs about 4 GB on the device.
    "article": Preset(images=800, image_size=256, batch_size=50, epochs=10, filters=128),
}


def _near(number: int, factor: int) -> int:
    """The nearest multiple of the factor, from the factor on."""
    return max(1, round(number / factor)) * factor


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise FieldError(name, f"is {value}; it must be larger than 0")


def _require_one_of(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise FieldError(name, f"is {value!r}; it must be one of {', '.join(accepted)}")
