"""Is the memory model right? By hand for a small model, and against what the rows of results/h100 took."""

from dataclasses import replace

import pytest

from common.config import DataConfig, ModelConfig, Precision, RunConfig, TrainConfig
from common.measure.footprint import fixed_bytes, largest_batch, largest_single_batch, sample_bytes
from common.results.coding import read_json
from common.results.rows import Results, RowResult
from tests.conftest import ROOT
from tests.tolerances import FOOTPRINT

SHAPE = (3, 3, 1)
FLOAT32 = RunConfig("torch", Precision.FLOAT32, DataConfig(10, SHAPE), ModelConfig(SHAPE, 5), TrainConfig(1, 4))
FLOAT16 = replace(FLOAT32, precision=Precision.MIXED_FLOAT16)

# 2 x 2 positions with 5 values each; patches of 4 values, a one for the bias and 3 zeros.
VALUES_A_SAMPLE = 4 * (4 * 5 + 8)
# conv1 (4 + 1) * 5, conv2 and conv3 (5 + 1) * 5, dense 2 * 2 * 5 + 1.
WEIGHTS = 25 + 30 + 30 + 21
# 3 x 3 pixels and a label, of 10 images.
DATA = 10 * 10


def test_by_hand_in_float32() -> None:
    """Of each weight the value, its gradient and two moments."""
    assert sample_bytes(FLOAT32) == VALUES_A_SAMPLE * 4
    assert fixed_bytes(FLOAT32) == (WEIGHTS * 4 + DATA) * 4


def test_by_hand_in_float16() -> None:
    """And besides the rounded value and its gradient."""
    assert sample_bytes(FLOAT16) == VALUES_A_SAMPLE * 2
    assert fixed_bytes(FLOAT16) == (WEIGHTS * 4 + DATA) * 4 + WEIGHTS * 2 * 2


@pytest.mark.parametrize(("samples", "batch"), [(0, 0), (0.9, 0), (1, 1), (7.5, 7), (100, 10)])
def test_the_largest_batch_fits_and_one_more_does_not(samples: float, batch: int) -> None:
    """24 % of what is free is left alone; there are 10 images."""
    assert largest_batch(FLOAT32, (fixed_bytes(FLOAT32) + samples * sample_bytes(FLOAT32) + 1) / 0.76) == batch


@pytest.mark.parametrize("free_bytes", [10**5, 10**6, 10**7])
def test_the_largest_single_batch_counts_its_own_data(free_bytes: int) -> None:
    def takes(size: int) -> float:
        return fixed_bytes(replace(FLOAT32, data=DataConfig(size, SHAPE))) + size * sample_bytes(FLOAT32)

    size = largest_single_batch(FLOAT32, free_bytes)
    assert takes(size) <= free_bytes * 0.76 < takes(size + 2)


def uncompiled_rows() -> list[RowResult]:
    return [row for row in read_json(ROOT / "results/h100/results.json", Results).rows if not row.compile]


@pytest.mark.parametrize("row", uncompiled_rows(), ids=lambda row: row.config.row_id)
def test_rows_of_a_gpu_take_what_the_model_says(row: RowResult) -> None:
    assert row.memory is not None
    assert row.memory.steady_used_bytes is not None
    taken = row.memory.baseline_bytes + row.memory.steady_used_bytes
    said = fixed_bytes(row.config) + row.config.train.batch_size * sample_bytes(row.config)
    assert said <= taken <= said * FOOTPRINT
