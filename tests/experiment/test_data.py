"""Does the same seed give the same images and labels, in range, and batches in order?"""

import numpy as np
import pytest

from common.config import DataConfig
from common.experiment.data import draw_data, fingerprint, fingerprint_batches, split_batches

SMALL = DataConfig(images=5, image_shape=(4, 6, 3), seed=12)


def test_same_seed_same_bytes() -> None:
    assert fingerprint(*draw_data(SMALL)) == fingerprint(*draw_data(SMALL))


def test_another_seed_other_bytes() -> None:
    assert fingerprint(*draw_data(SMALL)) != fingerprint(*draw_data(DataConfig(5, (4, 6, 3), seed=13)))


def test_shapes_dtypes_and_ranges() -> None:
    images, labels = draw_data(DataConfig(images=200, image_shape=(4, 6, 3)))
    assert (images.shape, images.dtype) == ((200, 4, 6, 3), np.float32)
    assert (labels.shape, labels.dtype) == ((200, 1), np.float32)
    assert images.min() >= 0.0
    assert images.max() < 1.0
    assert set(labels.ravel()) == {0.0, 1.0}


def test_the_last_batch_may_be_smaller() -> None:
    images, labels = draw_data(SMALL)
    assert [len(batch) for batch, _ in split_batches(images, labels, 2)] == [2, 2, 1]


def test_batches_have_the_fingerprint_of_the_data() -> None:
    images, labels = draw_data(SMALL)
    whole = fingerprint_batches([(images, labels)])
    assert fingerprint_batches(split_batches(images, labels, 2)) == whole
    assert fingerprint_batches(split_batches(images, labels, 2)[::-1]) != whole
    assert fingerprint_batches([(images, 1 - labels)]) != whole
    assert fingerprint_batches([(images.transpose(0, 2, 1, 3), labels)]) != whole


@pytest.mark.parametrize(
    "other",
    [np.float32([1, 3]), np.float32([[1, 2]]), np.float64([1, 2]), np.float32([2, 1])],
    ids=["value", "shape", "dtype", "order"],
)
def test_fingerprint_sees(other: np.ndarray) -> None:
    assert fingerprint(np.float32([1, 2])) != fingerprint(other)
