"""Does a check say in words what its facts are?"""

from typing import get_args

import pytest

from common.results.check import Check, End
from common.show.words import ENDS, extent_of, place_of, rows_of

PLACES = [
    (Check("C2", 1.0, 2.0, True, "right", "conv1/kernel"), "right, conv1/kernel"),
    (Check("C1", 1.0, 2.0, True, "wrong, logits", dtype="float16"), "wrong, logits not float16"),
    (Check("C1", 1.0, 2.0, True, "right", "conv2/kernel", "bfloat16"), "right, conv2/kernel not bfloat16"),
    (Check("C6", 1.0, 2.0, True, steps=16, of_steps=16), "all 16 steps"),
    (Check("C6", 1.0, 2.0, True, steps=9, of_steps=16, end="chaos"), "9 of 16 steps, then chaos"),
    (
        Check("C6", 1.0, 2.0, True, steps=0, of_steps=16, end="not_finite"),
        "0 of 16 steps, then a loss that is not finite",
    ),
    (Check("C6", 1.0, 2.0, True, "epoch 3", rows=("tensorflow fit",)), "tensorflow fit: epoch 3"),
    (
        Check("C8", 1.0, 2.0, True, steps=2, of_steps=16, end="skip", rows=("torch x2", "torch")),
        "torch x2, torch: 2 of 16 steps, then one alone skips",
    ),
    (
        Check("C8", 1.0, 2.0, True, steps=2, of_steps=16, end="ruler"),
        "2 of 16 steps, the first update; beyond it they are the ruler",
    ),
]


@pytest.mark.parametrize(("check", "words"), PLACES, ids=[words for _, words in PLACES])
def test_where(check: Check, words: str) -> None:
    assert place_of(check) == words


@pytest.mark.parametrize(("check", "words"), [(check, words) for check, words in PLACES if check.of_steps])
def test_the_parts_make_the_whole(check: Check, words: str) -> None:
    assert words == ": ".join(filter(None, [rows_of(check), extent_of(check)]))


def test_every_end_has_words() -> None:
    assert {"", *ENDS} == set(get_args(End))
