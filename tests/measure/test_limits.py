"""Is the hardware's limit of a step derived rightly? Layers are counted by hand, and clocks made up by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from common.config import DataConfig, ExecutionConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.measure.limits import (
    Ceilings,
    best_ceilings,
    find_limits,
    layers_of,
    measure_ceilings,
    operations,
    step_flops,
)
from common.measure.timing import StepTimes

# 4 images of 6 x 7 pixels and 3 channels; 8 filters leave 5 x 6 positions, 4 x 5 x 6 = 120 in the batch.
SHAPE = (6, 7, 3)
CONFIG = RunConfig(
    "torch",
    Precision.MIXED_FLOAT16,
    DataConfig(8, SHAPE),
    ModelConfig(SHAPE, filters=8),
    TrainConfig(batch_size=4),
)


def test_the_first_convolution_by_hand() -> None:
    """2x2x3 = 12 products for each of 120 positions and 8 filters; images in float32, kernel and output in float16."""
    first = operations(CONFIG)[0]
    assert first.name == "conv1 forward"
    assert first.flops == 2 * 120 * 12 * 8
    assert first.bytes == 4 * (4 * 6 * 7 * 3) + 2 * (12 * 8) + 2 * (120 * 8)


def test_a_1x1_convolution_by_hand() -> None:
    """8 products a position and filter; either gradient takes as many and touches the same bytes."""
    second = [operation for operation in operations(CONFIG) if operation.name.startswith("conv2")]
    assert [operation.name for operation in second] == [
        "conv2 forward",
        "conv2 kernel gradient",
        "conv2 input gradient",
    ]
    assert {operation.flops for operation in second} == {2 * 120 * 8 * 8}
    assert {operation.bytes for operation in second} == {2 * (120 * 8) + 2 * (8 * 8) + 2 * (120 * 8)}


def test_dense_by_hand() -> None:
    """One product of 4 rows of 5 x 6 x 8 = 240 features with 1 column."""
    dense = operations(CONFIG)[3]
    assert (dense.flops, dense.bytes) == (2 * 4 * 240, 2 * (4 * 240) + 2 * 240 + 2 * 4)


def test_the_images_need_no_gradient() -> None:
    assert not any(operation.name == "conv1 input gradient" for operation in operations(CONFIG))


def test_adam_by_hand() -> None:
    """12x8 + 8, twice 8x8 + 8, 240 + 1 weights of 4 bytes: read w, g, m and v, write w, m and v."""
    assert operations(CONFIG)[-1].bytes == 7 * 4 * (104 + 72 + 72 + 241)


def test_another_depth_has_other_layers() -> None:
    model = ModelConfig(SHAPE, filters=8, kernel_sizes=(2, 3))
    assert [(layer.name, layer.inner) for layer in layers_of(model, 4)] == [("conv1", 12), ("conv2", 72), ("dense", 96)]


@pytest.mark.parametrize(
    ("precision", "size"), [("float64", 8), ("float32", 4), ("tf32", 4), ("mixed_float16", 2), ("mixed_bfloat16", 2)]
)
def test_bytes_by_precision(precision: str, size: int) -> None:
    second = operations(replace(CONFIG, precision=Precision(precision)))[1]
    assert second.bytes == size * (120 * 8 + 8 * 8 + 120 * 8)


def test_the_article_by_hand() -> None:
    """50 x 255 x 255 x 128 activations of 2 bytes, read or written 17 times; what else there is comes to 0.4 GB."""
    limits = find_limits(RunConfig("torch", Precision.MIXED_FLOAT16), Ceilings(4.3e12, 1e15), None)
    activation_bytes = 2 * 50 * 255 * 255 * 128
    assert 17 * activation_bytes < limits.bytes_per_step < 17 * activation_bytes + 0.4e9
    assert limits.floor_s == pytest.approx(0.0033, rel=0.03)  # 14.1 GB at 4.3 TB/s


def test_each_operation_meets_the_ceiling_that_it_reaches_first() -> None:
    parts = operations(CONFIG)
    no_arithmetic = find_limits(CONFIG, Ceilings(copy_bytes_per_s=1e9, matmul_flops_per_s=1e30), None)
    no_traffic = find_limits(CONFIG, Ceilings(copy_bytes_per_s=1e30, matmul_flops_per_s=1e9), None)
    assert no_arithmetic.floor_s == pytest.approx(sum(part.bytes for part in parts) / 1e9)
    assert no_traffic.floor_s == pytest.approx(step_flops(CONFIG) / 1e9)
    both = find_limits(CONFIG, Ceilings(copy_bytes_per_s=1e9, matmul_flops_per_s=1e9), None)
    assert max(no_arithmetic.floor_s, no_traffic.floor_s) < both.floor_s < no_arithmetic.floor_s + no_traffic.floor_s


def test_times_floor() -> None:
    floor_s = find_limits(CONFIG, Ceilings(1e9, 1e9), None).floor_s
    assert find_limits(CONFIG, Ceilings(1e9, 1e9), StepTimes(3 * floor_s, 0, 0, 9)).times_floor == pytest.approx(3)


def test_ceilings_are_the_fastest_of_several_tries() -> None:
    """Copies take 2 ms at best, and read and write each byte. Products: 1 TFLOP/s in one dtype, 2 in the other."""
    tries = iter([1e-9, 0.01, 0.002, 0.01, 0.01, 0.01])  # the first, to warm up, does not count
    copies = measure_ceilings(CONFIG, lambda n: next(tries), [lambda n: 2 * n**3 / 1e12, lambda n: 2 * n**3 / 2e12])
    copied_bytes = 4 * 2**20  # the activation is smaller than the least copy
    assert copies.copy_bytes_per_s == pytest.approx(2 * copied_bytes / 0.002)
    assert copies.matmul_flops_per_s == pytest.approx(2e12)


def test_products_grow_until_one_takes_long_enough() -> None:
    """At 1 TFLOP/s 1024 takes 2.1 ms and 2048 takes 17 ms. What is slow at once does not grow."""
    sizes: list[int] = []
    measure_ceilings(CONFIG, lambda n: 1.0, [lambda n: sizes.append(n) or 2 * n**3 / 1e12])
    assert list(dict.fromkeys(sizes)) == [256, 512, 1024, 2048]
    sizes.clear()
    measure_ceilings(CONFIG, lambda n: 1.0, [lambda n: sizes.append(n) or 1.0])
    assert set(sizes) == {256}


WIDE = replace(CONFIG, model=ModelConfig(SHAPE, filters=2**16))


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (CONFIG, 4 * 2**20),  # 2 kB would not be worth the launch
        (RunConfig("torch", Precision.FLOAT32), 256 * 2**20),  # 1.7 GB would take memory for nothing
        (WIDE, 2 * 4 * 30 * 2**16),  # an activation's own size
        (replace(WIDE, execution=ExecutionConfig("cpu", devices=2)), 2 * 2 * 30 * 2**16),  # of 2 of the 4 images
    ],
)
def test_copies_are_as_large_as_an_activation(config: RunConfig, size: int) -> None:
    sizes: list[int] = []
    measure_ceilings(config, lambda n: sizes.append(n) or 1.0, [lambda n: 1.0])
    assert set(sizes) == {size}


def test_a_smaller_last_batch_makes_the_mean_step_smaller() -> None:
    """Batches of 4 and 2 images: a mean of 3 has three quarters of the products."""
    assert step_flops(replace(CONFIG, data=DataConfig(6, SHAPE))) == pytest.approx(0.75 * step_flops(CONFIG))


def test_one_limit_for_all_rows_of_a_device() -> None:
    assert best_ceilings([Ceilings(1.0, 5.0), Ceilings(2.0, 4.0)]) == Ceilings(2.0, 5.0)


def test_both_implementations_measure_their_device(impl: SimpleNamespace) -> None:
    dtype = impl.precision.compute_dtype(Precision.FLOAT32)
    ceilings = measure_ceilings(
        CONFIG,
        lambda size: impl.device.copy_seconds(size, impl.cpu),
        [lambda size: impl.device.matmul_seconds(size, dtype, impl.cpu)],
    )
    # A tenth of what a slow core does and a hundred times what a fast socket does: orders of magnitude, not speed.
    assert 1e8 < ceilings.copy_bytes_per_s < 1e13
    assert 1e8 < ceilings.matmul_flops_per_s < 1e14
