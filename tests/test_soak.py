"""Is anything lost when parent or worker is killed at a random moment? Some of the points of `python -m tests.soak`."""

import pytest

from tests.soak import kill_point


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost(seed: int) -> None:
    kill_point(seed)
