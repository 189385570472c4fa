"""Peers of the experiment: what its steps are compared with, by hand and beside a run of run_parity.py.

`notebook_fit` and `plain_torch` write the experiment as most people would, in each framework; `bare_loop` times our
own step with and without the recorder around it; `kernels` says where its time goes. They are benchmarks and no tests:
pytest collects none of them, and nothing is asserted about time. Each prints one line of JSON for each precision:

    python -m tests.peers.notebook_fit --preset article
    python -m tests.peers.plain_torch --preset article --compile on
    python -m tests.peers.bare_loop --framework torch --preset article
    python -m tests.peers.kernels --framework tensorflow --preset article

What they have in common stands here, and imports neither framework.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.cli.options import Parser, positive_int
from common.config import PRESETS, DataConfig, ExecutionConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.measure.hardware import available_cores, has_gpu

# The precisions that a framework's own switch for mixed precision knows.
USUAL_PRECISIONS = (Precision.FLOAT32, Precision.MIXED_FLOAT16, Precision.MIXED_BFLOAT16)


def make_parser(name: str, description: str | None, precisions: Sequence[Precision]) -> Parser:
    """A parser with the options of every peer: --preset, --epochs and --precisions."""
    parser = Parser(prog=f"python -m tests.peers.{name}", description=description)
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="article" if has_gpu() else "cpu",
        help="the sizes (default here: %(default)s)",
    )
    parser.add_argument("--epochs", type=positive_int, metavar="N", help="passes over the images")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=[str(precision) for precision in precisions],
        default=[str(Precision.FLOAT32), str(Precision.MIXED_FLOAT16)],
        metavar="PRECISION",
        help=f"any of {', '.join(precisions)} (default: float32 mixed_float16)",
    )
    return parser


def make_configs(
    framework: str, preset: str, epochs: int | None, precisions: Sequence[str], *, compile: bool = False
) -> list[RunConfig]:
    """One config for each precision, in the sizes of the preset; `epochs` replaces the preset's own."""
    sizes = PRESETS[preset]
    sizes = replace(sizes, epochs=epochs or sizes.epochs)
    image_shape = (sizes.image_size, sizes.image_size, 3)
    return [
        RunConfig(
            framework,
            Precision(precision),
            DataConfig(sizes.images, image_shape),
            ModelConfig(image_shape, sizes.filters),
            TrainConfig(sizes.epochs, sizes.batch_size),
            execution=ExecutionConfig(compile=compile, threads=available_cores()),
        )
        for precision in precisions
    ]


def step_times(epoch_s: Sequence[float], steps_per_epoch: int) -> dict[str, float | None]:
    """Median, 5th and 95th percentile of the ms a step, over the epochs after the first; None where there are none."""
    names = ("p05_ms", "step_ms", "p95_ms")
    if len(epoch_s) < 2:
        return dict.fromkeys(names)
    times = np.percentile(np.asarray(epoch_s[1:]) / steps_per_epoch * 1e3, [5, 50, 95])
    return dict(zip(names, times.tolist(), strict=True))


def print_line(entry: dict[str, Any]) -> None:
    """Print the entry as one line of JSON, its floats to six digits."""
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in entry.items()}
    print(json.dumps(rounded), flush=True)
