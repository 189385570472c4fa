"""Which check catches which porting mistake?

Each line of the tables plants one mistake in an implementation, at each of the precisions that it names, and names the
checks that must each catch it with a factor above 1.5: in the probe, or in a run of its own. The right implementations
stay at or below 0.9 of every bound, over five seeds and sizes, compiled too.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.config import DataConfig, ExecutionConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.measure.hardware import Unsupported, slow_reason
from common.process import row as row_module
from common.process.recorder import Recorder
from common.proof import probe as problem
from common.proof import probing
from common.proof.reference import round_to_tf32
from common.proof.runs import complete_checks
from common.results.check import Check, worst_first
from common.results.rows import Arrays, RowResult
from tests.conftest import needs_tensorflow, needs_torch, run_python
from tests.late import Late

torch, functional, keras, tf = map(Late, ("torch", "torch.nn.functional", "keras", "tensorflow"))

CAUGHT_BY = 1.5
RIGHT_WITHIN = 0.9

FLOAT32, FLOAT16, BFLOAT16 = ["float32"], ["mixed_float16"], ["mixed_bfloat16"]
MIXED = FLOAT16 + BFLOAT16
EVERY = FLOAT32 + MIXED

Plant = Callable[[SimpleNamespace, pytest.MonkeyPatch], None]


def probe(impl: SimpleNamespace, precision: str, compile: bool = False) -> list[Check]:
    config = RunConfig(impl.framework, Precision(precision), execution=ExecutionConfig("cpu", compile))
    return probing.probe(impl.run.IMPLEMENTATION, config, impl.cpu)


def train(impl: SimpleNamespace, precision: str, loop: str = "custom") -> RowResult:
    """Four epochs of 4, 4 and 2 images, with the checks of the run."""
    config = RunConfig(
        impl.framework,
        Precision(precision),
        DataConfig(images=10, image_shape=(9, 12, 3)),
        ModelConfig(image_shape=(9, 12, 3), filters=16),
        TrainConfig(epochs=4, batch_size=4),
        execution=ExecutionConfig("cpu", loop=loop),
    )
    arrays: list[Arrays] = []
    row = impl.run.run(config, on_arrays=arrays.append)
    return complete_checks([row], lambda row: arrays[0])[0]


@pytest.fixture(autouse=True)
def global_policy_of_float32() -> Iterator[None]:
    """Some traps change Keras' global policy; the next test finds it as it is at first."""
    yield
    if "keras" in sys.modules:
        keras.config.set_dtype_policy("float32")


# How a mistake is planted. `make` and `change` are given what is right and return what is wrong.


def instead_of(module: str, name: str, make: Callable[[SimpleNamespace, Any], Any]) -> Plant:
    """The name in that module of the implementation stands for make(implementation, right object)."""

    def plant(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        place = getattr(impl, module)
        monkeypatch.setattr(place, name, make(impl, getattr(place, name)))

    return plant


def in_the_run(module: str, name: str, make: Callable[[SimpleNamespace, Any], Any]) -> Plant:
    """As instead_of, but only while the row's own model is built: the probe's is right."""

    def plant(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        build = row_module.build

        def build_wrongly(*arguments: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                instead_of(module, name, make)(impl, patch)
                return build(*arguments)

        monkeypatch.setattr(row_module, "build", build_wrongly)

    return plant


def both(*plants: Plant) -> Plant:
    def plant(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        for each in plants:
            each(impl, monkeypatch)

    return plant


def in_the_weights(change: Callable[[str, np.ndarray], np.ndarray]) -> Plant:
    """load_weights puts changed weights into the model."""

    def make(impl: SimpleNamespace, right: Any) -> Any:
        return lambda model, weights: right(model, {name: change(name, array) for name, array in weights.items()})

    return instead_of("model", "load_weights", make)


def in_the_images(change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """to_device is given changed images (B, H, W, C)."""

    def make(impl: SimpleNamespace, right: Any) -> Any:
        return lambda images, *rest: right(change(images), *rest)

    return instead_of("distributed", "to_device", make)


def in_the_loss(change: Callable[[Any, Any, Any], Any]) -> Plant:
    """binary_crossentropy is replaced by a function of the right one, the labels and the logits."""
    return instead_of("train", "binary_crossentropy", lambda impl, right: partial(change, right))


def in_the_model(precision: Precision) -> Plant:
    """The model is built at another precision than the row's label."""
    return instead_of(
        "model", "build_model", lambda impl, right: lambda model, _, device: right(model, precision, device)
    )


def in_the_casts(autocast: Callable[[Precision, Any], Any]) -> Plant:
    """The casting rule is another: in PyTorch a region, in Keras the policy of a layer."""
    return instead_of("model", "autocast", lambda impl, right: autocast)


def in_the_optimizer(change: Callable[[Any, Any, Precision], tuple[Any, Any, Precision]]) -> Plant:
    """make_optimizer is given another TrainConfig, LossScaleConfig or precision."""
    return instead_of(
        "optimizer", "make_optimizer", lambda impl, right: lambda model, *rest: right(model, *change(*rest))
    )


def in_adam(**settings: float) -> Plant:
    return in_the_optimizer(lambda train, loss_scale, precision: (replace(train, **settings), loss_scale, precision))


def in_the_scaler(**settings: float) -> Plant:
    return in_the_optimizer(lambda train, loss_scale, precision: (train, replace(loss_scale, **settings), precision))


def in_the_gradients(change: Callable[[Any, Any], Any]) -> Plant:
    """apply_gradients is given changed gradients: a function of the scaled gradient and the scale."""

    def make(impl: SimpleNamespace, right: Any) -> Any:
        def apply_gradients(model: Any, optimizer: Any, gradients: Any) -> None:
            scale = impl.optimizer.loss_scale(optimizer)
            right(model, optimizer, [change(gradient, scale) for gradient in gradients])

        return apply_gradients

    return instead_of("train", "apply_gradients", make)


# Mistakes that both frameworks invite.


def swapped(name: str, array: np.ndarray) -> np.ndarray:
    return array.transpose(1, 0, 2, 3) if array.ndim == 4 else array


def reshaped(name: str, array: np.ndarray) -> np.ndarray:
    return array.T.reshape(array.shape) if array.ndim == 4 else array


def channels_first(name: str, array: np.ndarray) -> np.ndarray:
    if name != "dense/kernel":
        return array
    return array.reshape(problem.PROBE_MODEL.feature_shape).transpose(2, 0, 1).reshape(array.shape)


def images_reshaped(images: np.ndarray) -> np.ndarray:
    batch, height, width, channels = images.shape
    return images.reshape(batch, channels, height, width).transpose(0, 2, 3, 1)


def images_in_tf32(images: np.ndarray) -> np.ndarray:
    return round_to_tf32(images).astype(np.float32)


def cast(tensor: Any, dtype: str) -> Any:
    return tensor.to(getattr(torch, dtype)) if hasattr(tensor, "detach") else tf.cast(tensor, dtype)


def skips_counted(impl: SimpleNamespace, right: Any) -> Any:
    """Adam's t goes on at a step that was skipped."""

    def apply_gradients(model: Any, optimizer: Any, gradients: Any) -> None:
        t = impl.optimizer.applied_steps(optimizer) + 1
        right(model, optimizer, gradients)
        if impl.framework == "tensorflow":
            optimizer.iterations.assign(t)
        else:
            for state in optimizer.adam.state.values():
                state["step"].copy_(t)

    return apply_gradients


def floor_of_1(impl: SimpleNamespace, right: Any) -> Any:
    """The scale stops at 1, as it does in Keras 2."""

    def apply_gradients(model: Any, optimizer: Any, gradients: Any) -> None:
        right(model, optimizer, gradients)
        scale = impl.optimizer.loss_scale(optimizer)
        floored = tf.maximum(scale, 1.0) if impl.framework == "tensorflow" else scale.clamp(min=1.0)
        impl.optimizer.set_loss_scale(optimizer, floored)

    return apply_gradients


TRAPS = {
    # layouts
    "convolution kernel with H and W swapped": (EVERY, in_the_weights(swapped), "C1 logits"),
    "convolution kernel reshaped instead of transposed": (EVERY, in_the_weights(reshaped), "C1 logits"),
    "Dense rows in the order C, H, W": (EVERY, in_the_weights(channels_first), "C1 logits"),
    "images reshaped to NCHW instead of transposed": (EVERY, in_the_images(images_reshaped), "C1 logits"),
    "a bias left out": (FLOAT32, in_the_weights(lambda n, a: 0 * a if n == "conv2/bias" else a), "C1 logits"),
    # loss
    "sum instead of mean": (EVERY, in_the_loss(lambda right, y, z: right(y, z) * 16), "C2 gradient", "C3 loss"),
    "labels the other way round": (FLOAT32, in_the_loss(lambda right, y, z: right(1 - y, z)), "C3 loss"),
    "loss computed in float16": (
        FLOAT16, in_the_loss(lambda right, y, z: right(cast(y, "float16"), cast(z, "float16"))), "C3 loss",
    ),
    "loss computed in bfloat16": (
        BFLOAT16, in_the_loss(lambda right, y, z: right(cast(y, "bfloat16"), cast(z, "bfloat16"))), "C3 loss",
    ),
    # precision
    "mixed_float16 silently off": (FLOAT16, in_the_model(Precision.FLOAT32), "C1 precision"),
    "mixed_bfloat16 silently off": (BFLOAT16, in_the_model(Precision.FLOAT32), "C1 precision"),
    "float16 for bfloat16": (BFLOAT16, in_the_model(Precision.MIXED_FLOAT16), "C1 precision"),
    "bfloat16 for float16": (FLOAT16, in_the_model(Precision.MIXED_BFLOAT16), "C1 logits"),
    "mixed precision where float32 is asked for": (FLOAT32, in_the_model(Precision.MIXED_BFLOAT16), "C1 logits"),
    "TF32 weights in float32": (FLOAT32, in_the_weights(lambda name, array: round_to_tf32(array)), "C1 logits"),
    "TF32 images in float32": (FLOAT32, in_the_images(images_in_tf32), "C1 logits"),
    # Adam
    "learning rate off by 1 percent": (FLOAT32, in_adam(learning_rate=1.01e-3), "C4 optimizer"),
    "learning rate off by 1 in 10000": (FLOAT32, in_adam(learning_rate=1.0001e-3), "C4 optimizer"),
    "torch's default epsilon, 1e-8": (FLOAT32, in_adam(epsilon=1e-8), "C4 optimizer"),
    "epsilon off by a tenth": (FLOAT32, in_adam(epsilon=1.1e-7), "C4 optimizer"),
    "beta_2 of 0.99": (FLOAT32, in_adam(beta_2=0.99), "C4 optimizer"),
    # loss scaling
    "no loss scaling": (
        FLOAT16, in_the_optimizer(lambda t, s, p: (t, s, Precision.FLOAT32)), "C2 gradient", "C5 loss scale",
    ),
    "an initial scale of twice the size": (FLOAT16, in_the_scaler(initial_scale=512.0), "C5 loss scale"),
    "another growth interval": (FLOAT16, in_the_scaler(growth_interval=5), "C5 loss scale"),
    "a loss scale that stops at 1": (
        FLOAT16, instead_of("train", "apply_gradients", floor_of_1), "C5 loss scale",
    ),
    "gradients left scaled": (FLOAT16, in_the_gradients(lambda g, scale: g * scale), "C4 optimizer"),
    "gradients unscaled twice": (FLOAT16, in_the_gradients(lambda g, scale: g / scale), "C4 optimizer"),
    "skipped steps counted in Adam's t": (
        FLOAT16, instead_of("train", "apply_gradients", skips_counted), "C4 optimizer", "C5 loss scale",
    ),
}  # fmt: skip


# Mistakes around the training step, which only a run of its own can show.


def not_loaded(impl: SimpleNamespace, right: Any) -> Any:
    return lambda model, weights: None


def backwards(impl: SimpleNamespace, right: Any) -> Any:
    return lambda step, batches, replicas: right(step, batches[::-1], replicas)


def shuffled(impl: SimpleNamespace, right: Any) -> Any:
    """As a DataLoader would, anew in each epoch."""
    generator = np.random.default_rng(0)

    def train_epochs(calls: Any, epochs: int, recorder: Recorder) -> None:
        for _ in range(epochs):
            right([calls[index] for index in generator.permutation(len(calls))], 1, recorder)

    return train_epochs


def averaged_over_batches(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "_batch_sizes", lambda self: [1] * self._config.steps_per_epoch)


def scale_of_torch(impl: SimpleNamespace, right: Any) -> Any:
    return lambda model, train, loss_scale, precision: right(
        model, train, replace(loss_scale, initial_scale=2.0**16), precision
    )


def in_255ths(impl: SimpleNamespace, right: Any) -> Any:
    return lambda images, *rest: right(255 * images, *rest)


def float32_model(impl: SimpleNamespace, right: Any) -> Any:
    return lambda model, precision, device: right(model, Precision.FLOAT32, device)


RUN_TRAPS = {
    "mixed precision off in the run, on in the probe": (
        MIXED, in_the_run("model", "build_model", float32_model), "C6 precision",
    ),
    "the framework's own starting weights": (EVERY, in_the_run("model", "load_weights", not_loaded), "C7 start"),
    "batches in another order": (EVERY, instead_of("run", "calls_of_epoch", backwards), "C6 loss curve"),
    "batches shuffled in each epoch": (EVERY, instead_of("run", "train_epochs", shuffled), "C6 loss curve"),
    "images from 0 to 255": (FLOAT32, instead_of("distributed", "to_device", in_255ths), "C7 start"),
    "an epoch's loss averaged over its batches": (FLOAT32, averaged_over_batches, "C6 epoch loss"),
    "torch's default initial scale, 2**16": (
        FLOAT16, in_the_run("optimizer", "make_optimizer", scale_of_torch), "C6 scale trace", "C7 start",
    ),
}  # fmt: skip


def last_layer_alone(impl: SimpleNamespace, right: Any) -> Any:
    """The convolutions compute in float32; rounding the last product makes about the right error of the logits."""

    def build_model(*arguments: Any) -> Any:
        model = right(*arguments)
        if impl.framework == "tensorflow":
            for layer in model.logits.layers[:3]:
                layer.dtype_policy = keras.DTypePolicy("float32")
        else:
            for layer in list(model.logits)[:3]:
                layer.forward = torch.autocast("cpu", enabled=False)(layer.forward)
        return model

    return build_model


TRAPS["mixed precision on for the last layer alone"] = (
    MIXED, instead_of("model", "build_model", last_layer_alone), "C1 precision",
)  # fmt: skip


# PyTorch's own mistakes.


def clipped_in_torch(right: Any, labels: Any, logits: Any) -> Any:
    return functional.binary_cross_entropy(torch.sigmoid(logits).clamp(1e-7, 1 - 1e-7), labels)


def epsilon_without_hook(impl: SimpleNamespace, right: Any) -> Any:
    """The same 1e-7, in another place of the formula."""
    return lambda adam, epsilon: adam.param_groups[0].update(eps=epsilon)


def bias_by_hand(impl: SimpleNamespace, right: Any) -> Any:
    """The sum with a float32 bias is float32. Behind a convolution nobody sees it: the next layer casts it back."""

    def build_model(*arguments: Any) -> Any:
        model = right(*arguments)
        dense = model.logits.dense
        dense.forward = lambda features: features @ dense.weight.T + dense.bias
        return model

    return build_model


def scaler_for_cuda(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without CUDA such a scaler disables itself; the guard of make_optimizer is passed by."""
    right = impl.optimizer.make_optimizer

    def make_optimizer(model: Any, train: Any, loss_scale: Any, precision: Precision) -> Any:
        with pytest.warns(UserWarning, match="CUDA is not available"):
            scaler = torch.amp.GradScaler("cuda", loss_scale.initial_scale, growth_interval=loss_scale.growth_interval)
        return right(model, train, loss_scale, precision)._replace(scaler=scaler)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(impl.optimizer, "make_optimizer", make_optimizer)


def half_model(impl: SimpleNamespace, right: Any) -> Any:
    return lambda *arguments: right(*arguments).half()


TORCH_TRAPS = {
    # loss
    "binary_cross_entropy_with_logits": (
        EVERY, in_the_loss(lambda right, y, z: functional.binary_cross_entropy_with_logits(z, y)), "C3 loss",
    ),
    "probabilities clipped at 1e-7": (EVERY, in_the_loss(clipped_in_torch), "C2 gradient", "C3 loss"),
    "BCELoss": (
        EVERY,
        in_the_loss(lambda right, y, z: functional.binary_cross_entropy(torch.sigmoid(z), y)),
        "C2 gradient", "C3 loss",
    ),
    "sigmoid in float16, then BCELoss": (
        FLOAT16, in_the_loss(lambda right, y, z: functional.binary_cross_entropy(torch.sigmoid(z.half()).float(), y)),
        "C2 gradient", "C3 loss",
    ),
    "sigmoid in bfloat16, then BCELoss": (
        BFLOAT16,
        in_the_loss(lambda right, y, z: functional.binary_cross_entropy(torch.sigmoid(z.bfloat16()).float(), y)),
        "C2 gradient", "C3 loss",
    ),
    # precision
    "autocast of a CPU without a dtype": (
        FLOAT16, in_the_casts(lambda precision, device: torch.autocast(device.type)), "C1 logits",
    ),
    "Dense bias added by hand under autocast": (
        MIXED, instead_of("model", "build_model", bias_by_hand), "C1 precision",
    ),
    "model.half()": (FLOAT16, instead_of("model", "build_model", half_model), "C2 gradient", "C4 optimizer"),
    # optimizer
    "epsilon of 1e-7 without Keras' bias correction": (
        FLOAT32, instead_of("optimizer", "_use_keras_epsilon", epsilon_without_hook), "C4 optimizer",
    ),
    "a GradScaler that disabled itself": (FLOAT16, scaler_for_cuda, "C2 gradient", "C5 loss scale"),
}  # fmt: skip


TORCH_RUN_TRAPS = {
    "model.half(), its weights": (FLOAT16, in_the_run("model", "build_model", half_model), "C7 start"),
}


# Keras' and TensorFlow's own mistakes.


def keras_loss(labels: Any, outputs: Any, **settings: bool) -> Any:
    return keras.losses.BinaryCrossentropy(**settings)(labels, outputs)


def clipped_in_tensorflow(right: Any, labels: Any, logits: Any) -> Any:
    probabilities = tf.clip_by_value(tf.sigmoid(logits), 1e-7, 1 - 1e-7)
    return -tf.reduce_mean(labels * tf.math.log(probabilities) + (1 - labels) * tf.math.log(1 - probabilities))


def logits_lost(right: Any, labels: Any, logits: Any) -> Any:
    """Keras finds the logits of a sigmoid that it is given, but not through a Reshape: then it clips."""
    return keras_loss(labels, tf.reshape(keras.activations.sigmoid(logits), labels.shape))


def dense_with_sigmoid(dtype: str) -> Plant:
    """Dense(1, activation="sigmoid") ends in the policy's dtype; the loss casts it, loses the logits and clips."""
    return in_the_loss(lambda right, y, z: keras_loss(y, keras.activations.sigmoid(tf.cast(z, dtype))))


def global_policy(policy: str) -> Plant:
    """Left behind by other code of the process, or set for the layers that name none."""
    return lambda impl, monkeypatch: keras.config.set_dtype_policy(policy)


def session_cleared(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """clear_session() also resets the global policy."""
    keras.backend.clear_session()


def left_to_compile(impl: SimpleNamespace, right: Any) -> Any:
    """Model.compile wraps the optimizer by the policy of the model alone, not by those of its layers."""

    def make_optimizer(model: Any, train: Any, loss_scale: Any, precision: Precision) -> Any:
        model.logits.compile(right(model, train, loss_scale, Precision.FLOAT32))
        return model.logits.optimizer

    return make_optimizer


def cut_off(left: Any, right: Any, **transposed: bool) -> Any:
    """What tf.matmul does with bfloat16 on a CPU without AVX-512: it truncates the float32 product."""
    product = tf.matmul(tf.cast(left, tf.float32), tf.cast(right, tf.float32), **transposed)
    bits = tf.bitwise.bitwise_and(tf.bitcast(product, tf.uint32), tf.constant(0xFFFF0000, tf.uint32))
    forward = tf.cast(tf.bitcast(bits, tf.float32), left.dtype)
    return tf.cast(product, left.dtype) + tf.stop_gradient(forward - tf.cast(product, left.dtype))


def convolutions_of_keras(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras' own layer, whose gradients TensorFlow's CPU kernels sum in float16 where XLA does not compile them."""
    if not slow_reason(Precision.MIXED_FLOAT16, impl.device.describe_device(impl.cpu)):
        pytest.skip("a CPU with float16 arithmetic may have other kernels")
    monkeypatch.setattr(impl.model.Convolution, "call", keras.layers.Conv2D.call)


def eagerly(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras' own layer, not in a graph: on a CPU its bias gradients are then summed in bfloat16."""
    monkeypatch.setattr(impl.model.Convolution, "call", keras.layers.Conv2D.call)
    monkeypatch.setattr(impl.train, "compiled", lambda function, *bound: partial(function, *bound[:-1]))


KERAS_TRAPS = {
    # loss
    "BinaryCrossentropy(from_logits=True) in a graph": (
        FLOAT32, in_the_loss(lambda right, y, z: keras_loss(y, z, from_logits=True)), "C2 gradient",
    ),
    "sigmoid_cross_entropy_with_logits in a graph": (
        FLOAT32, in_the_loss(lambda right, y, z: tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, z))),
        "C2 gradient",
    ),
    "probabilities clipped at 1e-7": (EVERY, in_the_loss(clipped_in_tensorflow), "C2 gradient", "C3 loss"),
    "a Reshape between sigmoid and loss": (EVERY, in_the_loss(logits_lost), "C2 gradient", "C3 loss"),
    "sigmoid as the Dense layer's activation in float16": (
        FLOAT16, dense_with_sigmoid("float16"), "C2 gradient", "C3 loss",
    ),
    "sigmoid as the Dense layer's activation in bfloat16": (
        BFLOAT16, dense_with_sigmoid("bfloat16"), "C2 gradient", "C3 loss",
    ),
    # precision
    "layers that name no policy, a global one left behind": (
        FLOAT32, both(global_policy("mixed_bfloat16"), in_the_casts(lambda *_: None)), "C1 logits",
    ),
    "layers that name no policy, the global one reset by clear_session()": (
        FLOAT16, both(global_policy("mixed_float16"), session_cleared, in_the_casts(lambda *_: None)), "C1 precision",
    ),
    "policy float16, not mixed": (
        FLOAT16, in_the_casts(lambda *_: keras.DTypePolicy("float16")), "C4 optimizer",
    ),
    "policy bfloat16, not mixed": (
        BFLOAT16, in_the_casts(lambda *_: keras.DTypePolicy("bfloat16")), "C4 optimizer",
    ),
    "Keras' Conv2D in bfloat16, without tf.function": (BFLOAT16, eagerly, "C2 gradient"),
    "Keras' Conv2D in float16 on a CPU": (FLOAT16, convolutions_of_keras, "C2 gradient"),
    "products in bfloat16 that cut bits off": (
        BFLOAT16, instead_of("model", "rounded_product", lambda *_: lambda *_: cut_off), "C1 logits",
    ),
    # optimizer
    "an optimizer that compile() did not wrap": (
        FLOAT16, instead_of("optimizer", "make_optimizer", left_to_compile), "C2 gradient", "C5 loss scale",
    ),
    "an optimizer that compile() wrapped, by a global policy left behind": (
        FLOAT32, both(global_policy("mixed_float16"), instead_of("optimizer", "make_optimizer", left_to_compile)),
        "C5 loss scale",
    ),
}  # fmt: skip


def shuffled_by_fit(impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model.fit shuffles unless it is told not to."""
    right = keras.Model.fit
    monkeypatch.setattr(keras.Model, "fit", lambda *inputs, **settings: right(*inputs, **{**settings, "shuffle": True}))


KERAS_RUN_TRAPS = {
    "Model.fit with its default shuffling": (EVERY, shuffled_by_fit, "C6 loss curve"),
    "policy float16, not mixed, its weights": (
        FLOAT16, in_the_casts(lambda *_: keras.DTypePolicy("float16")), "C7 start",
    ),
}  # fmt: skip


def planted(traps: dict[str, tuple[Any, ...]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("precision", "plant", "caught_by"),
        [
            pytest.param(precision, plant, caught_by, id=f"{name}-{precision}")
            for name, (precisions, plant, *caught_by) in traps.items()
            for precision in precisions
        ],
    )


def assert_caught(
    impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str, plant: Plant, caught_by: list[str]
) -> None:
    plant(impl, monkeypatch)
    if not {"C4 optimizer", "C5 loss scale"} & set(caught_by):
        monkeypatch.setattr(probing, "draw_updates", lambda precision: [])  # half of TensorFlow's time
    assert_failed(probe(impl, precision), caught_by)


def assert_failed(checks: Sequence[Check], caught_by: list[str]) -> None:
    """Each of the named checks failed by far; by how far, `pytest -rP` shows."""
    for name in caught_by:
        times = max((check.fraction for check in checks if check.name == name and not check.passed), default=0.0)
        print(f"{name}: {times:.3g} times its bound")
        assert times > CAUGHT_BY, name


@planted(TRAPS)
def test_the_trap_is_caught(
    impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str, plant: Plant, caught_by: list[str]
) -> None:
    assert_caught(impl, monkeypatch, precision, plant, caught_by)


@needs_torch
@planted(TORCH_TRAPS)
def test_the_trap_of_torch_is_caught(
    torch_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str, plant: Plant, caught_by: list[str]
) -> None:
    assert_caught(torch_impl, monkeypatch, precision, plant, caught_by)


@needs_tensorflow
@planted(KERAS_TRAPS)
def test_the_trap_of_keras_is_caught(
    tensorflow_impl: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    plant: Plant,
    caught_by: list[str],
) -> None:
    assert_caught(tensorflow_impl, monkeypatch, precision, plant, caught_by)


@pytest.mark.slow
@planted(RUN_TRAPS)
def test_the_trap_of_a_run_is_caught(
    impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str, plant: Plant, caught_by: list[str]
) -> None:
    plant(impl, monkeypatch)
    assert_failed(train(impl, precision).checks, caught_by)


@pytest.mark.slow
@needs_torch
@planted(TORCH_RUN_TRAPS)
def test_the_trap_of_a_torch_run_is_caught(
    torch_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str, plant: Plant, caught_by: list[str]
) -> None:
    plant(torch_impl, monkeypatch)
    assert_failed(train(torch_impl, precision).checks, caught_by)


@pytest.mark.slow
@needs_tensorflow
@planted(KERAS_RUN_TRAPS)
def test_the_trap_of_a_keras_run_is_caught(
    tensorflow_impl: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    plant: Plant,
    caught_by: list[str],
) -> None:
    plant(tensorflow_impl, monkeypatch)
    assert_failed(train(tensorflow_impl, precision, loop="fit").checks, caught_by)


@needs_torch
def test_a_scaler_that_disables_itself_is_refused(torch_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.amp.GradScaler
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, **settings: right("cuda", **settings))
    with pytest.warns(UserWarning, match="CUDA is not available"), pytest.raises(RuntimeError, match="disabled itself"):
        probe(torch_impl, "mixed_float16")


@needs_torch
def test_a_model_of_bfloat16_weights_is_not_even_read(
    torch_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """model.bfloat16(): NumPy has no such type, so that the row ends with an error instead of checks."""
    right = torch_impl.model.build_model
    monkeypatch.setattr(torch_impl.model, "build_model", lambda *arguments: right(*arguments).bfloat16())
    with pytest.raises(TypeError, match="BFloat16"):
        probe(torch_impl, "mixed_bfloat16")


# XLA reads its flags once, so that this mistake needs a process of its own. C3 does not see it: the logits that leave
# the graph are as little rounded as those that the loss is made of.
XLA_AS_IT_IS = """
import os
import tf_impl
os.environ["XLA_FLAGS"] = ""
from common.config import ExecutionConfig, Precision, RunConfig
from common.proof.probing import probe
from tf_impl.device import select_device
from tf_impl.run import IMPLEMENTATION

config = RunConfig("tensorflow", Precision.MIXED_BFLOAT16, execution=ExecutionConfig("cpu", compile=True))
failed = [check for check in probe(IMPLEMENTATION, config, select_device("cpu", threads=1)) if not check.passed]
print(max((check.fraction for check in failed if check.name == "C1 precision"), default=0.0))
"""


@pytest.mark.slow
@needs_tensorflow
def test_xla_that_leaves_out_roundings_to_bfloat16_is_caught() -> None:
    process = run_python("-c", XLA_AS_IT_IS)
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) > CAUGHT_BY


# Seed, image shape, filters and batch. About 16 samples and filters, as in the probe: fewer leave an error to luck.
SIZES = [
    (0, (10, 8, 3), 16, 16),
    (1, (7, 11, 3), 32, 12),
    (2, (12, 6, 1), 16, 18),
    (3, (6, 13, 2), 16, 14),
    (4, (9, 9, 4), 24, 15),
]


def assert_right(
    impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str, size: tuple[Any, ...], compile: bool = False
) -> None:
    seed, image_shape, filters, batch = size
    model = ModelConfig(image_shape, filters)
    monkeypatch.setattr(probing, "PROBE_MODEL", model)
    monkeypatch.setattr(probing, "draw_cases", lambda: problem.draw_cases(model, batch, seed))
    monkeypatch.setattr(probing, "draw_updates", lambda rows: problem.draw_updates(rows, model, seed=seed))
    worst = worst_first(probe(impl, precision, compile))[0]
    assert worst.fraction <= RIGHT_WITHIN, worst


@pytest.mark.parametrize(
    "size", [SIZES[0], *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[1:])], ids=str
)
@pytest.mark.parametrize("precision", ["float64", *EVERY])
def test_the_right_implementation_passes(
    impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str, size: tuple[Any, ...]
) -> None:
    assert_right(impl, monkeypatch, precision, size)


@pytest.mark.parametrize(
    "precision", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("float64", *EVERY[:-1])), EVERY[-1]]
)
def test_the_right_run_passes(impl: SimpleNamespace, precision: str) -> None:
    worst = worst_first(train(impl, precision).checks)[0]
    assert worst.fraction <= RIGHT_WITHIN, worst


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("precision", ["float64", *EVERY])
def test_the_right_implementation_passes_under_xla(
    tensorflow_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    assert_right(tensorflow_impl, monkeypatch, precision, SIZES[1], compile=True)


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_the_right_implementation_passes_under_torch_compile(
    torch_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    try:
        assert_right(torch_impl, monkeypatch, precision, SIZES[1], compile=True)
    except Unsupported as reason:
        pytest.skip(str(reason))
