"""Is a wrong config refused in words that name the field?"""

from typing import Any

import pytest

from common.config import (
    DataConfig,
    ExecutionConfig,
    LossScaleConfig,
    ModelConfig,
    Precision,
    RunConfig,
    TrainConfig,
)

WRONG = [
    (DataConfig, {"images": 0}, "images is 0"),
    (DataConfig, {"seed": -1}, "seed is -1"),
    (ModelConfig, {"filters": 0}, "filters is 0"),
    (ModelConfig, {"image_shape": (1, 8, 3)}, "height and width must be at least 2"),
    (TrainConfig, {"epochs": 0}, "epochs is 0"),
    (TrainConfig, {"batch_size": -5}, "batch_size is -5"),
    (TrainConfig, {"learning_rate": float("nan")}, "learning_rate is nan"),
    (TrainConfig, {"learning_rate": float("inf")}, "learning_rate is inf"),
    (LossScaleConfig, {"initial_scale": 0.0}, "initial_scale is 0.0"),
    (ExecutionConfig, {"device": "tpu"}, "device is 'tpu'; it must be one of auto, cpu, gpu"),
    (ExecutionConfig, {"devices": 0}, "devices is 0"),
    (ExecutionConfig, {"collective_timeout_s": -1.0}, "collective_timeout_s is -1.0"),
    (ExecutionConfig, {"loop": "while"}, "loop is 'while'; it must be one of custom, fit"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_a_wrong_field_is_named(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**fields)


WRONG_RUNS = [
    ({"framework": "jax"}, "framework is 'jax'; it must be one of tensorflow, torch"),
    ({"train": TrainConfig(batch_size=801)}, "batch_size is 801; it must be at most the number of images, 800"),
    ({"data": DataConfig(image_shape=(8, 8, 3))}, "the model takes"),
    ({"framework": "torch", "execution": ExecutionConfig(loop="fit")}, "torch has the custom loop only"),
    ({"execution": ExecutionConfig(devices=4)}, "batch_size is 50; it must be a multiple of 4 replicas, as 48 is"),
    (
        {"data": DataConfig(images=75), "execution": ExecutionConfig(devices=2)},
        "images is 75; it must be a multiple of 2 replicas, as 76 is",
    ),
    ({"execution": ExecutionConfig(loop="fit", devices=2)}, "2 replicas need the custom loop"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG_RUNS, ids=[message for _, message in WRONG_RUNS])
def test_fields_that_do_not_fit_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**{"framework": "tensorflow", "precision": Precision.FLOAT32, **fields})


@pytest.mark.parametrize(
    ("precision", "compute", "variable", "scales_loss"),
    [
        ("float64", "float64", "float64", False),
        ("float32", "float32", "float32", False),
        ("tf32", "float32", "float32", False),
        ("mixed_float16", "float16", "float32", True),
        ("mixed_bfloat16", "bfloat16", "float32", False),
    ],
)
def test_what_a_precision_means(precision: str, compute: str, variable: str, scales_loss: bool) -> None:
    meant = Precision(precision)
    assert (meant.compute_dtype, meant.variable_dtype, meant.scales_loss) == (compute, variable, scales_loss)


def test_feature_shape_of_the_article() -> None:
    assert ModelConfig().feature_shape == (255, 255, 128)


@pytest.mark.parametrize(
    ("execution", "replicas", "row_id"),
    [
        (ExecutionConfig(), 1, "torch-float32-custom-compile-off-r0"),
        (ExecutionConfig(devices=2), 2, "torch-float32-custom-compile-off-x2-r0"),
        (ExecutionConfig(compile=True, devices=5, hosts=2), 10, "torch-float32-custom-compile-on-x10-r0"),
    ],
)
def test_replicas(execution: ExecutionConfig, replicas: int, row_id: str) -> None:
    config = RunConfig("torch", Precision.FLOAT32, execution=execution)
    assert (config.execution.replicas, config.mode.replicas, config.row_id) == (replicas, replicas, row_id)
