"""The command line's options, shared by run_parity.py and by `python -m tf_impl` / `python -m torch_impl`.

Every option is checked here, in one line that names the option, before any process is started.
"""

import argparse
import math
import os
import sys
from argparse import ArgumentParser, _ArgumentGroup
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from common.config import (
    DEVICES,
    PRESETS,
    DataConfig,
    ExecutionConfig,
    FieldError,
    ModelConfig,
    Precision,
    Preset,
    RunConfig,
    TrainConfig,
)
from common.measure.hardware import available_cores, has_gpu
from common.process.monitor import TRACED_STEPS
from common.results.coding import LARGEST_INT
from common.text import printable

# The options that aren't called as the field of the config that they set.
OPTIONS = {"image_shape": "--image-size", "collective_timeout_s": "--collective-timeout"}

NEAR = 0.7  # as difflib counts: 'pytorch' and 'torch' have 0.83, 'float16' and 'tf32' 0.18

# As it was called: a checkout has the file, an installed package the command.
PROGRAM = "run-parity" if Path(sys.argv[0]).stem == "run-parity" else "run_parity.py"


# What is often written for what is called otherwise here, where spelling does not tell. Markdown's tables are github's.
ALIASES = {
    "tf": "tensorflow", "keras": "tensorflow", "double": "float64", "fp64": "float64", "single": "float32",
    "fp32": "float32", "half": "mixed_float16", "fp16": "mixed_float16", "float16": "mixed_float16",
    "amp": "mixed_float16", "mixed": "mixed_float16", "bf16": "mixed_bfloat16", "bfloat16": "mixed_bfloat16",
    "md": "github", "markdown": "github", "text": "simple", "cuda": "gpu", "--lr": "--learning-rate",
    "--size": "--image-size", "--gpus": "--devices", "--out": "--output",
}  # fmt: skip


def find_meant(word: str, known: Sequence[str]) -> str:
    """Which of the known words is meant by one that is not known; "" where none is near."""
    meant = ALIASES.get(word.lower(), "")
    return meant if meant in known else next(iter(get_close_matches(word.lower(), known, 1, NEAR)), "")


def _hint(meant: Sequence[str]) -> str:
    found = list(dict.fromkeys(filter(None, meant)))
    return f"; did you mean {', '.join(found)}?" if found else ""


def new_file(text: str) -> Path:
    """An argument type: a file that can be written, or be made."""
    path = Path(text)
    if not path.name or (path.exists() and not path.is_file()):
        raise argparse.ArgumentTypeError(f"{text!r} is no file; give the name of one")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"the folder of {text!r} is not there, or can't be written; make it first")
    return path


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage, and exit code 2.

    Of a near miss the line names what is meant. verbs: what the first argument could have been, where it is no option.
    """

    def __init__(self, verbs: Iterable[str] = (), **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)
        self._verbs = tuple(verbs)

    def parse_args(  # type: ignore[override]  # of its three forms we use one
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            meant = [
                find_meant(word.partition("=")[0], known if word[0] == "-" else self._verbs) for word in unknown if word
            ]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_hint(meant)}")
        return arguments

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _hint([find_meant(str(value), list(map(str, action.choices or ())))])
            raise

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}\n")


def add_experiment_options(parser: Parser) -> None:
    """What is trained, and where: the options that every way of running a row has in common."""
    group = parser.add_argument_group("the experiment")
    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="the sizes to start from (default: article where there is a GPU, else cpu)",
    )
    group.add_argument("--images", type=positive_int, metavar="N", help="number of images")
    group.add_argument("--image-size", type=positive_int, metavar="N", help="height and width in pixels")
    batch = group.add_mutually_exclusive_group()
    batch.add_argument("--batch-size", type=positive_int, metavar="N", help="images in one step, of all replicas")
    batch.add_argument(
        "--batch-per-replica",
        type=positive_int,
        metavar="N",
        help="images in one step of each replica, for weak scaling",
    )
    group.add_argument("--epochs", type=positive_int, metavar="N", help="passes over the images")
    group.add_argument("--filters", type=positive_int, metavar="N", help="output channels of each convolution")
    group.add_argument(
        "--learning-rate",
        type=positive_float,
        default=TrainConfig().learning_rate,
        metavar="X",
        help="Adam's step size (default: %(default)s)",
    )
    group.add_argument(
        "--seed",
        type=natural_int,
        default=DataConfig().seed,
        metavar="N",
        help="seed of the data and of the starting weights (default: %(default)s)",
    )
    group.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto (the default) takes a GPU where there is one"
    )
    group.add_argument(
        "--collective-timeout",
        type=waiting_s,
        default=ExecutionConfig().collective_timeout_s,
        metavar="S",
        help="seconds that one replica waits for another (default: %(default)g)",
    )
    group.add_argument(
        "--threads",
        type=positive_int,
        default=available_cores(),
        metavar="N",
        help="CPU threads in one operation, shared by replicas (default: every core, or as many as a container's CPU "
        "quota lasts for, rounded up; here %(default)s)",
    )


def resolve_preset(arguments: argparse.Namespace) -> Preset:
    """The preset that was asked for, or the one that suits the machine, with the sizes given beside it."""
    preset = PRESETS[arguments.preset or ("cpu" if _resolve_device(arguments) == "cpu" else "article")]
    names = [entry.name for entry in fields(preset)]
    return replace(preset, **{name: value for name in names if (value := getattr(arguments, name)) is not None})


def make_config(
    parser: Parser,
    arguments: argparse.Namespace,
    framework: str,
    precision: Precision,
    *,
    compile: bool,
    loop: str,
    sizes: Preset | None = None,
    devices: int = 1,
    hosts: int = 1,
    repeat: int = 0,
) -> RunConfig:
    """Build the config of one row; ends the program through the parser where two options don't fit together.

    sizes: those of the options, if none are given.
    """
    sizes, replicas = sizes or resolve_preset(arguments), devices * hosts
    if arguments.batch_per_replica:
        sizes = replace(sizes, batch_size=arguments.batch_per_replica * replicas)
    image_shape = (sizes.image_size, sizes.image_size, 3)
    try:
        return RunConfig(
            framework=framework,
            precision=precision,
            data=DataConfig(sizes.images, image_shape, arguments.seed),
            model=ModelConfig(image_shape, sizes.filters),
            train=TrainConfig(sizes.epochs, sizes.batch_size, arguments.learning_rate),
            execution=ExecutionConfig(
                _resolve_device(arguments), compile, loop, arguments.threads, devices, hosts,
                arguments.collective_timeout,
            ),
            repeat=repeat,
        )  # fmt: skip
    except FieldError as error:
        parser.error(_in_options(error, arguments, sizes, replicas))


def _in_options(error: FieldError, arguments: argparse.Namespace, sizes: Preset, replicas: int) -> str:
    """What is wrong with a config, by the option that its field came from."""
    more = ""
    if error.field == "batch_size" and sizes.batch_size > sizes.images:
        more = f"; a larger one needs --images {sizes.batch_size} too"
    if error.field == "batch_size" and arguments.batch_per_replica:
        return f"argument --batch-per-replica: the batch of {replicas} replicas {error.problem}{more}"
    option = OPTIONS.get(error.field, f"--{error.field.replace('_', '-')}")
    return f"argument {option}: it {error.problem}{more}"


def _resolve_device(arguments: argparse.Namespace) -> str:
    return "cpu" if arguments.device == "auto" and not has_gpu() else arguments.device


def _number(kind: Callable[[str], float], smallest: float, largest: float, words: str) -> Callable[[str], Any]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{text!r:.40} is not {words}")
        return value

    return parse


def new_folder(text: str) -> Path:
    """A path at which a folder is, or can be; ArgumentTypeError otherwise."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a folder")
    path = Path(text)
    if next(there for there in (path, *path.absolute().parents) if there.exists()).is_dir():
        return path
    raise argparse.ArgumentTypeError(f"{text!r:.200} is a file, or lies below one; give a folder")


positive_int = _number(int, 1, LARGEST_INT, f"a whole number from 1 to {LARGEST_INT}")
natural_int = _number(int, 0, LARGEST_INT, f"a whole number from 0 to {LARGEST_INT}")
repeats_int = _number(int, 1, 1000, "a whole number from 1 to 1000")
waiting_s = _number(float, 1.0, 1e6, "a number of seconds from 1 to 1000000")
positive_float = _number(float, math.ulp(0.0), sys.float_info.max, "a number larger than 0")


def add_monitor_options(parser: ArgumentParser | _ArgumentGroup) -> None:
    """The options of a run and of a single row."""
    parser.add_argument(
        "--tensorboard",
        type=new_folder,
        metavar="DIR",
        help="write loss, accuracy, loss scale and step time for TensorBoard",
    )
    parser.add_argument(
        "--trace",
        type=new_folder,
        metavar="DIR",
        help=f"profile {TRACED_STEPS} steps more, after those that are measured",
    )
