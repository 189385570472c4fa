"""Is anything lost when parent or worker is killed at a random moment? Some of the points that soak.py tries."""

import pytest

from tests.process.soak import kill_point


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_nothing_is_lost(seed: int) -> None:
    kill_point(seed)
