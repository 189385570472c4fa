"""Does a run train as Keras does, the same way twice, compiled or not, and does fit change nothing?"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import DataConfig, ExecutionConfig, LossScaleConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.measure.hardware import Unsupported
from common.process.recorder import OnArrays
from common.proof.bounds import FLOAT32_TRAINING
from common.proof.runs import complete_checks
from common.results.rows import Arrays, RowResult, Status
from tests.conftest import needs_tensorflow, needs_torch
from tests.tolerances import FIT_AGAINST_CUSTOM_LOOP

SHAPE = (9, 12, 3)

# The fast set has one precision: that whose loss is scaled.
FLOAT16_FIRST = [
    "mixed_float16",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("float32", "mixed_bfloat16")),
]


def config(
    impl: SimpleNamespace, precision: str, compile: bool = False, loop: str = "custom", **settings: int
) -> RunConfig:
    return RunConfig(
        impl.framework,
        Precision(precision),
        DataConfig(images=10, image_shape=SHAPE),
        ModelConfig(image_shape=SHAPE, filters=8),
        TrainConfig(**{"epochs": 3, "batch_size": 4, **settings}),
        execution=ExecutionConfig("cpu", compile, loop, threads=1),
    )


def train(
    impl: SimpleNamespace,
    precision: str,
    compile: bool = False,
    loop: str = "custom",
    on_arrays: OnArrays | None = None,
    **settings: int,
) -> RowResult:
    return impl.run.run(config(impl, precision, compile, loop, **settings), on_arrays=on_arrays)


def losses(row: RowResult) -> np.ndarray:
    assert row.training
    return np.array(row.training.loss)


def test_one_loss_for_each_batch_and_the_loss_falls(impl: SimpleNamespace) -> None:
    row = train(impl, "float32", epochs=30)
    assert row.status is Status.OK
    assert len(losses(row)) == 30 * 3  # 4 + 4 + 2 images
    assert losses(row)[-3:].mean() < 0.5 * losses(row)[:3].mean()


def test_a_row_says_what_it_had_of_the_cpu(impl: SimpleNamespace) -> None:
    found = train(impl, "float32").contention
    assert found
    assert (found.threads, found.load_before is None) == (1, False)
    assert found.cpu_s > 0


def test_a_loss_scale_that_has_grown_fails_no_check(impl: SimpleNamespace) -> None:
    """From 2**15 to 2**19 or more, by which the gradients of the starting weights would overflow."""
    settings = replace(config(impl, "mixed_float16", epochs=60), loss_scale=LossScaleConfig(growth_interval=20))
    found: list[Arrays] = []
    row = impl.run.run(settings, on_arrays=found.append)
    assert row.training
    assert row.training.loss_scale[-1] >= 2**19
    (complete,) = complete_checks([row], lambda row: found[0])
    assert [check for check in complete.checks if not check.passed] == []


@pytest.mark.parametrize("precision", FLOAT16_FIRST)
def test_the_same_run_twice_has_the_same_bits(impl: SimpleNamespace, precision: str) -> None:
    assert np.array_equal(losses(train(impl, precision)), losses(train(impl, precision)))


@needs_torch
@pytest.mark.usefixtures("torch_impl")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_compile_is_told_to_round_as_eager_does(device: str) -> None:
    """On a GPU it would otherwise overflow, and so skip, at other steps; a CPU shows no difference."""
    from torch_impl.train import INDUCTOR

    assert INDUCTOR[device]["emulate_precision_casts"] is True


@needs_torch
def test_torch_compile_gets_its_options(torch_impl: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    impl = torch_impl
    model = impl.model.build_model(ModelConfig(image_shape=SHAPE, filters=8), Precision.FLOAT32, impl.cpu)
    given: list[dict[str, object]] = []
    monkeypatch.setattr(model.logits, "compile", lambda **options: given.append(options))
    monkeypatch.setattr(impl.train.shutil, "which", lambda compiler: compiler)
    impl.train.compiled(impl.train.train_step, model, None, compile=True)
    assert given == [{"dynamic": False, "options": impl.train.INDUCTOR["cpu"]}]


@needs_torch
@pytest.mark.parametrize("precision", list(Precision))
def test_what_a_torch_step_reports_holds_no_memory_of_a_cpu(torch_impl: SimpleNamespace, precision: Precision) -> None:
    """Kept until the epoch ends, tensors would pin holes in the heap, which would grow with every step."""
    impl = torch_impl
    model = impl.model.build_model(ModelConfig(image_shape=SHAPE, filters=8), precision, impl.cpu)
    optimizer = impl.optimizer.make_optimizer(model, TrainConfig(), LossScaleConfig(), precision)
    batch = np.ones((4, *SHAPE), np.float32), np.ones((4, 1), np.float32)
    step = impl.train.train_step(
        model, optimizer, *impl.device.to_device(*batch, impl.cpu, impl.precision.variable_dtype(precision))
    )
    assert [type(value) for value in step] == [float] * 4
    assert impl.train.fetch([step, step], impl.distributed.alone(impl.cpu)) == [[value, value] for value in step]


@needs_tensorflow
@pytest.mark.parametrize("compile", [False, True])
def test_convolutions_know_whether_xla_compiles_them(tensorflow_impl: SimpleNamespace, compile: bool) -> None:
    """By which they choose their kernels."""
    impl = tensorflow_impl
    model = impl.model.build_model(ModelConfig(image_shape=SHAPE, filters=8), Precision.MIXED_FLOAT16, impl.cpu)
    impl.train.compiled(impl.train.train_step, model, None, compile)
    convolutions = [layer for layer in model.logits.layers if layer.name.startswith("conv")]
    assert [layer.in_xla for layer in convolutions] == [compile] * 3


@pytest.mark.slow
def test_compiled_trains_the_same(impl: SimpleNamespace) -> None:
    try:
        compiled = losses(train(impl, "float32", compile=True))
    except Unsupported as reason:
        pytest.skip(str(reason))
    eager = losses(train(impl, "float32"))
    assert np.linalg.norm(compiled - eager) <= FLOAT32_TRAINING * np.linalg.norm(eager)


def test_events_report_every_epoch(impl: SimpleNamespace) -> None:
    events: list[dict[str, float]] = []
    row = train(impl, "float32")
    impl.run.run(row.config, events.append)
    assert row.training
    assert [event["loss"] for event in events] == row.training.epoch_loss


@needs_tensorflow
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "XLA"])
@pytest.mark.parametrize("precision", [pytest.param("float64", marks=pytest.mark.slow), *FLOAT16_FIRST])
def test_fit_trains_the_same(tensorflow_impl: SimpleNamespace, precision: str, compile: bool) -> None:
    """The same losses, the same scales and the same weights in the end, bit for bit."""
    arrays: list[Arrays] = []
    custom = train(tensorflow_impl, precision, compile, on_arrays=arrays.append)
    fit = train(tensorflow_impl, precision, compile, loop="fit", on_arrays=arrays.append)
    assert custom.training
    assert fit.training
    assert np.abs(losses(custom) - losses(fit)).max() <= FIT_AGAINST_CUSTOM_LOOP
    assert fit.training.loss_scale == custom.training.loss_scale
    assert fit.training.skipped_steps == custom.training.skipped_steps
    assert fit.training.epoch_accuracy == custom.training.epoch_accuracy
    for name, weight in arrays[0].final_weights.items():
        assert np.abs(arrays[1].final_weights[name] - weight).max() <= FIT_AGAINST_CUSTOM_LOOP


def test_tf32_needs_a_gpu(impl: SimpleNamespace) -> None:
    with pytest.raises(Unsupported, match=r"compute capability 8\.0"):
        train(impl, "tf32")
