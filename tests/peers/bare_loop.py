"""What our own harness costs: our step in a bare loop, and in train_epochs with a recorder, by turns in one process.

Every round times both, for --epochs epochs each, and the next one in the opposite order, so that a device that gets
faster or slower favours neither. The first epoch of each turn is left out on both sides.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from common.cli.options import positive_int
from common.config import FRAMEWORKS, Precision, RunConfig
from common.experiment.data import draw_data, split_batches
from common.experiment.weights import draw_weights
from common.measure.hardware import Unsupported, require_support
from common.measure.timing import Timing
from common.process.recorder import Recorder
from tests.peers import make_configs, make_parser, print_line, step_times

PACKAGES = {"tensorflow": "tf_impl", "torch": "torch_impl"}
MODULES = ("device", "distributed", "model", "optimizer", "precision", "run", "train")

Step = Callable[[Any, Any], Any]
Batches = Sequence[tuple[Any, Any]]  # images and labels, on the device


def main() -> int:
    parser = make_parser("bare_loop", __doc__, tuple(Precision))
    parser.add_argument("--framework", choices=FRAMEWORKS, required=True, help="whose step is timed")
    parser.add_argument("--compile", choices=("off", "on"), default="off", help="fuse with XLA or torch.compile")
    parser.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.epochs == 1:
        parser.error("argument --epochs: the first epoch of a turn is left out; give 2 or more")
    configs = make_configs(
        arguments.framework,
        arguments.preset,
        arguments.epochs,
        arguments.precisions,
        compile=arguments.compile == "on",
    )
    # Both packages have the same names; only the one asked for is imported.
    package = PACKAGES[arguments.framework]
    impl = SimpleNamespace(**{name: import_module(f"{package}.{name}") for name in MODULES})
    device = impl.device.select_device("auto", configs[0].execution.threads)
    for config in configs:
        gc.collect()
        try:
            with impl.device.tf32(config.precision is Precision.TF32):
                print_line(compare(impl, config, device, arguments.rounds))
        except Unsupported as reason:
            print(reason, file=sys.stderr)
    return 0


def compare(impl: Any, config: RunConfig, device: Any, rounds: int) -> dict[str, Any]:
    """Build our step as run.py does, and return how long it takes without and with the harness.

    impl: the implementation's modules by their names; device: as from its select_device.
    """
    description = impl.device.describe_device(device)
    require_support(config.precision, description)
    dtype = impl.precision.variable_dtype(config.precision)
    host_batches = split_batches(*draw_data(config.data), config.train.batch_size)
    batches = [impl.device.to_device(images, labels, device, dtype) for images, labels in host_batches]
    model = impl.model.build_model(config.model, config.precision, device)
    impl.model.load_weights(model, draw_weights(config.model, config.data.seed))
    optimizer = impl.optimizer.make_optimizer(model, config.train, config.loss_scale, config.precision)
    step = impl.train.compiled(impl.train.train_step, model, optimizer, config.execution.compile)

    epochs, synchronize = config.train.epochs, partial(impl.device.synchronize, device)
    first_epoch_s = time_bare_loop(step, batches, 1, synchronize)[0]  # traced, compiled and autotuned from here on
    bare: list[float] = []
    harness: list[Timing] = []
    turns = [
        lambda: bare.append(steady_step_ms(time_bare_loop(step, batches, epochs, synchronize), config)),
        lambda: harness.append(time_harness(impl, step, batches, config, device)),
    ]
    for number in range(rounds):
        for turn in turns if number % 2 == 0 else reversed(turns):
            turn()

    harness_ms = [timing.step_s.median * 1e3 for timing in harness if timing.step_s]
    bare_step_ms, harness_step_ms = statistics.median(bare), statistics.median(harness_ms)
    return {
        "peer": "bare loop",
        "framework": config.framework,
        "version": import_module(config.framework).__version__,
        "precision": str(config.precision),
        "compile": config.execution.compile,
        "rounds": rounds,
        "epochs": epochs,
        "bare_step_ms": bare_step_ms,
        "harness_step_ms": harness_step_ms,
        "harness_costs_percent": 100 * (harness_step_ms / bare_step_ms - 1),
        "costs_percent_by_round": [
            round(100 * (with_it / without - 1), 3) for without, with_it in zip(bare, harness_ms, strict=True)
        ],
        "unclocked_ms_per_epoch": statistics.median(map(unclocked_ms, harness)),
        "first_epoch_s": first_epoch_s,
        "device": description["name"],
    }


def time_bare_loop(step: Step, batches: Batches, epochs: int, synchronize: Callable[[], None]) -> list[float]:
    """Call step on every batch and keep nothing; return the seconds of every epoch."""
    epoch_s = []
    for _ in range(epochs):
        synchronize()
        start_s = time.perf_counter()
        for images, labels in batches:
            step(images, labels)
        synchronize()
        epoch_s.append(time.perf_counter() - start_s)
    return epoch_s


def time_harness(impl: Any, step: Step, batches: Batches, config: RunConfig, device: Any) -> Timing:
    """Call step on every batch by our own train_epochs, with a recorder as run.py makes it."""
    replicas = impl.distributed.alone(device)
    recorder = Recorder(
        config,
        lambda event: None,
        fetch=partial(impl.train.fetch, replicas=replicas),
        synchronize=partial(impl.device.synchronize, device),
        memory_stats=partial(impl.device.memory_stats, device),
        reset_peak_memory=partial(impl.device.reset_peak_memory, device),
    )
    impl.train.train_epochs(impl.train.calls_of_epoch(step, batches, replicas), config.train.epochs, recorder)
    return recorder.timing()


def steady_step_ms(epoch_s: Sequence[float], config: RunConfig) -> float:
    """Median ms a step over the epochs after the first; there are at least two."""
    step_ms = step_times(epoch_s, config.steps_per_epoch)["step_ms"]
    assert step_ms is not None
    return step_ms


def unclocked_ms(timing: Timing) -> float:
    """What the recorder does between two epochs, fetching above all: in total_s and in no epoch; ms an epoch."""
    return (timing.total_s - sum(timing.epoch_s)) / (len(timing.epoch_s) - 1) * 1e3


if __name__ == "__main__":
    sys.exit(main())
