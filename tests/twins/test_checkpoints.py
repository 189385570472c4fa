"""Does a checkpoint keep the loss scale, with its count of finite steps and Adam's t?

One overflow and three finite steps, from a scale of 1024: the scale is 512, three finite steps in a row, three updates.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import needs_tensorflow, needs_torch, on_host
from tests.late import Late

torch, keras, tf = map(Late, ("torch", "keras", "tensorflow"))

STEPS = (np.inf, 1.0, 1.0, 1.0)
TRAINED = (512.0, 3, 3)
FRESH = (1024.0, 0, 0)


def keras_pair(build: bool = True) -> tuple[Any, Any]:
    """A model and its optimizer, with or without variables."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, dtype="mixed_float16")])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=1024.0)
    if build:
        optimizer.build(model.trainable_variables)
    return model, optimizer


def keras_trained() -> tuple[Any, Any]:
    model, optimizer = keras_pair()
    for gradient in STEPS:
        optimizer.apply([tf.constant([[gradient]])], model.trainable_variables)
    return model, optimizer


def keras_state(optimizer: Any) -> tuple[float, int, int]:
    return tuple(
        on_host(each).item() for each in (optimizer.dynamic_scale, optimizer.step_counter, optimizer.iterations)
    )


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_a_keras_file_of_a_compiled_model_keeps_it(tmp_path: Path) -> None:
    model, optimizer = keras_trained()
    model.compile(optimizer, "mse")
    model.save(tmp_path / "model.keras")
    assert keras_state(keras.models.load_model(tmp_path / "model.keras").optimizer) == TRAINED


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
@pytest.mark.parametrize(("build", "state"), [(True, TRAINED), (False, FRESH)], ids=["built first", "built later"])
def test_save_weights_keeps_it_for_an_optimizer_that_is_built(
    tmp_path: Path, build: bool, state: tuple[float, int, int]
) -> None:
    """Otherwise it is skipped, with a warning for each of the two optimizers."""
    for model, optimizer in (trained := keras_trained(), new := keras_pair(build)):
        model.compile(optimizer, "mse")
    trained[0].save_weights(tmp_path / "model.weights.h5")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        new[0].load_weights(tmp_path / "model.weights.h5")
    assert ["Skipping variable loading" in str(each.message) for each in warned] == ([] if build else [True, True])
    if not build:
        new[1].build(new[0].trainable_variables)
    assert keras_state(new[1]) == state


@needs_tensorflow
@pytest.mark.usefixtures("tensorflow_impl")
def test_a_keras_file_of_a_loop_of_ones_own_has_no_optimizer(tmp_path: Path) -> None:
    """The model was never compiled, and nothing warns; tf.train.Checkpoint keeps what it is given."""
    model, optimizer = keras_trained()
    model.save(tmp_path / "model.keras")
    assert not keras.models.load_model(tmp_path / "model.keras").compiled

    path = tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "checkpoint"))
    new_model, new_optimizer = keras_pair()
    tf.train.Checkpoint(model=new_model, optimizer=new_optimizer).read(path).assert_consumed()
    assert keras_state(new_optimizer) == TRAINED


@needs_torch
@pytest.mark.usefixtures("torch_impl")
@pytest.mark.parametrize(
    ("saved", "state"),
    [(("model", "adam", "scaler"), TRAINED), (("model", "adam"), (1024.0, 0, 3))],
    ids=["the scaler too", "without the scaler"],
)
def test_the_scaler_has_a_state_of_its_own(
    tmp_path: Path, saved: tuple[str, ...], state: tuple[float, int, int]
) -> None:
    trained, new = torch_parts(), torch_parts()
    weight, adam, scaler = trained["model"].weight, trained["adam"], trained["scaler"]
    for gradient in STEPS:
        adam.zero_grad()
        scaler.scale(gradient * weight.sum()).backward()
        scaler.step(adam)
        scaler.update()
    torch.save({name: trained[name].state_dict() for name in saved}, tmp_path / "checkpoint.pt")

    checkpoint = torch.load(tmp_path / "checkpoint.pt")
    for name in saved:
        new[name].load_state_dict(checkpoint[name])
    updates = int(new["adam"].state[new["model"].weight]["step"])
    assert (new["scaler"].get_scale(), new["scaler"].state_dict()["_growth_tracker"], updates) == state


def torch_parts() -> dict[str, Any]:
    model = torch.nn.Linear(1, 1, bias=False)
    return {
        "model": model,
        "adam": torch.optim.Adam(model.parameters()),
        "scaler": torch.amp.GradScaler("cpu", init_scale=1024.0),
    }
