"""The random images and labels of the experiment, drawn once in NumPy for both frameworks."""

import hashlib
from collections.abc import Iterable

import numpy as np

from common.config import DataConfig

_DATA_STREAM = 0  # weights.py draws from stream 1 of the same seed


def draw_data(config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Draw images (N, H, W, C) float32, uniform in [0, 1), and labels (N, 1) float32 in {0, 1}."""
    generator = np.random.default_rng([config.seed, _DATA_STREAM])
    images = generator.random((config.images, *config.image_shape), dtype=np.float32)
    labels = generator.integers(0, 2, size=(config.images, 1)).astype(np.float32)
    return images, labels


def fingerprint(*arrays: np.ndarray) -> str:
    """The SHA-256 of the arrays' dtypes, shapes and bytes: equal only if every bit is."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def short_fingerprint(arrays: Iterable[np.ndarray]) -> int:
    """The first 60 bits of the fingerprint, which fit into a whole number of a device."""
    return int(fingerprint(*arrays)[:15], 16)


def split_batches(images: np.ndarray, labels: np.ndarray, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut the data into batches in their order; the last one may be smaller. Views, nothing is copied."""
    starts = range(0, len(images), batch_size)
    return [(images[start : start + batch_size], labels[start : start + batch_size]) for start in starts]


def fingerprint_batches(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> str:
    """The SHA-256 of the data in their order, however they are cut into batches; nothing is copied."""
    columns = (hashlib.sha256(), hashlib.sha256())
    for batch in batches:
        for digest, array in zip(columns, batch, strict=True):
            for sample in array:
                digest.update(f"{sample.dtype} {sample.shape}".encode())
                digest.update(np.ascontiguousarray(sample).data)
    return hashlib.sha256(b"".join(digest.digest() for digest in columns)).hexdigest()


def drawn_fingerprint(config: DataConfig) -> str:
    """fingerprint_batches of the data that belong to the config, drawn for this alone."""
    return fingerprint_batches([draw_data(config)])


def block(batch_size: int, replicas: int, rank: int) -> slice:
    """The part of a batch that the replica of this rank trains on; ValueError where there are no equal parts."""
    size, rest = divmod(batch_size, replicas)
    if rest:
        raise ValueError(f"a batch of {batch_size} can't be cut into {replicas} equal blocks")
    return slice(rank * size, (rank + 1) * size)
