"""In which order is a row prepared? Its memory is told from a baseline that the order decides."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from common.config import DataConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.measure.memory import MemoryReading
from common.process import row

SHAPE = (4, 4, 1)
CONFIG = RunConfig(
    "torch", Precision.FLOAT32, DataConfig(4, SHAPE), ModelConfig(SHAPE, filters=2), TrainConfig(epochs=1, batch_size=2)
)


def implementation(done: list[str]) -> Any:
    """Modules that note what they are asked for, and do nothing else."""

    def note(what: str, result: Any = None) -> Any:
        def function(*arguments: Any, **settings: Any) -> Any:
            done.append(what)
            return result

        return function

    def silent(result: Any = None) -> Any:
        return lambda *arguments, **settings: result

    return SimpleNamespace(
        device=SimpleNamespace(
            synchronize=silent(),
            memory_stats=note("baseline", MemoryReading("host_rss", 0, 0)),
            to_host=lambda images, labels: (images, labels),
        ),
        distributed=SimpleNamespace(
            shard=lambda images, labels, dtype, replicas: (done.append("data"), (images, labels))[1],
            gather=lambda values, replicas: values,
            replicated=lambda build, replicas: build(),
            reset_peaks=silent(True),
        ),
        model=SimpleNamespace(
            build_model=note("model"), load_weights=silent(), export_weights=silent({"w": np.zeros(1)})
        ),
        optimizer=SimpleNamespace(make_optimizer=note("optimizer")),
        precision=SimpleNamespace(variable_dtype=silent("float32")),
        steps=SimpleNamespace(fetch=silent()),
    )


def test_the_baseline_holds_the_data_and_no_model() -> None:
    done: list[str] = []
    row._prepare(implementation(done), CONFIG, None, None, lambda event: None, row._draw_batches(CONFIG))
    assert done == ["data", "data", "baseline", "model", "optimizer"]
