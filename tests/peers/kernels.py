"""Where a step's time goes on a GPU: its kernels by name, from each framework's own profiler.

The step is ours, built as run.py does. What the kernels leave of a step is the device waiting for the host.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common.config import FRAMEWORKS, Precision, RunConfig
from common.experiment.data import draw_data, split_batches
from common.experiment.weights import draw_weights
from tests.peers import make_configs, make_parser, print_line
from tests.peers.bare_loop import MODULES, PACKAGES

STEPS, WARM_UP_STEPS = 8, 12  # the first ones trace, autotune and, in float16, are skipped
LONGEST = 16  # kernels that are printed

Events = Iterator[tuple[str, float]]  # a kernel's name and the seconds of one launch


def main() -> int:
    parser = make_parser("kernels", __doc__, tuple(Precision))
    parser.add_argument("--framework", choices=FRAMEWORKS, required=True, help="whose step is profiled")
    parser.add_argument("--compile", choices=("off", "on"), default="off", help="fuse with XLA or torch.compile")
    arguments = parser.parse_args()
    package = PACKAGES[arguments.framework]
    impl = SimpleNamespace(**{name: import_module(f"{package}.{name}") for name in MODULES})
    compile = arguments.compile == "on"
    configs = make_configs(arguments.framework, arguments.preset, None, arguments.precisions, compile=compile)
    device = impl.device.select_device("auto", configs[0].execution.threads)
    if impl.device.describe_device(device)["kind"] != "gpu":
        parser.error("kernels are those of a GPU, and there is none")
    for config in configs:
        with impl.device.tf32(config.precision is Precision.TF32):
            print_line(profile(impl, config, device))
    return 0


def profile(impl: Any, config: RunConfig, device: Any) -> dict[str, Any]:
    """Time some steps, then profile as many; ms and launches are of one step."""
    dtype = impl.precision.variable_dtype(config.precision)
    batch, *_ = split_batches(*draw_data(config.data), config.train.batch_size)
    images, labels = impl.device.to_device(*batch, device, dtype)
    model = impl.model.build_model(config.model, config.precision, device)
    impl.model.load_weights(model, draw_weights(config.model, config.data.seed))
    optimizer = impl.optimizer.make_optimizer(model, config.train, config.loss_scale, config.precision)
    step = partial(
        impl.train.compiled(impl.train.train_step, model, optimizer, config.execution.compile), images, labels
    )

    take_steps(step, WARM_UP_STEPS, partial(impl.device.synchronize, device))
    step_s = take_steps(step, STEPS, partial(impl.device.synchronize, device))
    read = {"tensorflow": tensorflow_kernels, "torch": torch_kernels}[config.framework]
    seconds: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for name, kernel_s in read(partial(take_steps, step, STEPS, partial(impl.device.synchronize, device))):
        seconds[name] += kernel_s / STEPS
        launches[name] += 1
    return {
        "peer": "kernels",
        "framework": config.framework,
        "precision": str(config.precision),
        "compile": config.execution.compile,
        "step_ms": 1e3 * step_s,
        "kernels_ms": 1e3 * sum(seconds.values()),
        "longest": [
            {"name": name, "ms": round(1e3 * kernel_s, 4), "launches": launches[name] / STEPS}
            for name, kernel_s in seconds.most_common(LONGEST)
        ],
        "device": impl.device.describe_device(device)["name"],
    }


def take_steps(step: Callable[[], Any], steps: int, synchronize: Callable[[], None]) -> float:
    """Seconds a step."""
    synchronize()
    start_s = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return (time.perf_counter() - start_s) / steps


def torch_kernels(run: Callable[[], Any]) -> Events:
    """Every kernel, copy and memset that run() launches."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation:
            yield event.name, event.device_time / 1e6


def tensorflow_kernels(run: Callable[[], Any]) -> Events:
    """Every kernel, copy and memset that run() launches; TensorFlow keeps them in lines named after CUDA's streams."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            run()
        space = xplane_pb2.XSpace.FromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    for plane in space.planes:
        for line in plane.lines:
            if "GPU" in plane.name and "Stream" in line.name:
                for event in line.events:
                    yield plane.event_metadata[event.metadata_id].name, event.duration_ps / 1e12


if __name__ == "__main__":
    sys.exit(main())
