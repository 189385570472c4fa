"""Does Keras' loss scaling skip an overflow on the last replica? Not without one sum over the replicas.

What runs here are the blocks of docs/keras-loss-scale-under-distribution.md, each in a process of its own.
"""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, needs_tensorflow, run_python

REPORT = (ROOT / "docs" / "keras-loss-scale-under-distribution.md").read_text()
SCRIPT, FIX = re.findall(r"```python\n(.*?)```", REPORT, re.DOTALL)
(PRINTED,) = re.findall(r"```\n(overflow.*?)```", REPORT, re.DOTALL)
RIGHT = [(0.75, 8.0), (0.75, 4.0), (0.5, 4.0)]  # weight and scale: a step, an overflow that is skipped, a step


def weights_and_scales(printed: str) -> list[list[tuple[float, float]]]:
    """Of the three steps with an overflow on each replica."""
    found = re.findall(r"replica (\d), step \d: weight (\S+), scale (\S+)", printed)
    return [[(float(weight), float(scale)) for on, weight, scale in found if int(on) == replica] for replica in (0, 1)]


def run(script: str, folder: Path) -> str:
    file = folder / "script.py"
    file.write_text(script)
    process = run_python(file)
    assert process.returncode == 0, process.stderr
    return process.stdout


@needs_tensorflow
def test_the_stock_optimizer_trains_on_infinity(tmp_path: Path) -> None:
    printed = run(SCRIPT, tmp_path)
    assert printed == PRINTED
    first, last = weights_and_scales(printed)
    assert first == RIGHT
    assert last[-1] == (float("-inf"), 8.0)


@needs_tensorflow
def test_replicas_that_agree_skip_it(tmp_path: Path) -> None:
    mended = SCRIPT.replace("\n\ndef train(", f"\n\n{FIX}\n\ndef train(")
    mended = mended.replace(
        "optimizer = keras.optimizers.LossScaleOptimizer(", "optimizer = AgreeingLossScaleOptimizer("
    )
    assert weights_and_scales(run(mended, tmp_path)) == [RIGHT, RIGHT]


@pytest.mark.parametrize("text", [SCRIPT, FIX])
def test_it_is_minimal(text: str) -> None:
    assert len(text.splitlines()) < 40
