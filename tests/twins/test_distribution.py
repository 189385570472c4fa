"""Is an overflow on the last replica skipped by all? In PyTorch it is; in Keras not without a sum over the replicas.

Keras' scripts are the blocks of docs/keras-loss-scale-under-distribution.md. All train one weight of 1 by a gradient of
1 at a rate of 0.25, with an overflow in the second of three steps.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, needs_tensorflow, needs_torch, run_python

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


@pytest.mark.slow
@needs_tensorflow
def test_the_stock_optimizer_trains_on_infinity(tmp_path: Path) -> None:
    printed = run(SCRIPT, tmp_path)
    assert printed == PRINTED
    first, last = weights_and_scales(printed)
    assert first == RIGHT
    assert last[-1] == (float("-inf"), 8.0)


@pytest.mark.slow
@needs_tensorflow
def test_replicas_that_agree_skip_it(tmp_path: Path) -> None:
    mended = SCRIPT.replace("\n\ndef train(", f"\n\n{FIX}\n\ndef train(")
    mended = mended.replace(
        "optimizer = keras.optimizers.LossScaleOptimizer(", "optimizer = AgreeingLossScaleOptimizer("
    )
    assert weights_and_scales(run(mended, tmp_path)) == [RIGHT, RIGHT]


# DDP averages the scaled gradients before the scaler looks at them.
DDP = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

rank, overflowing_rank = int(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
module = torch.nn.Linear(1, 1, bias=False)
torch.nn.init.ones_(module.weight)
model, optimizer = DistributedDataParallel(module), torch.optim.SGD(module.parameters(), lr=0.25)
scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
for step in range(3):
    factor = float("inf") if (step, rank) == (1, overflowing_rank) else 1.0
    optimizer.zero_grad()
    scaler.scale(model(torch.ones(1, 1)) * factor).backward()
    scaler.step(optimizer)
    scaler.update()
    print(f"{module.weight.item()} {scaler.get_scale()}")
dist.destroy_process_group()
"""


@needs_torch
@pytest.mark.parametrize("overflowing_rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_ddp_skips_it(tmp_path: Path, overflowing_rank: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(DDP)
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(overflowing_rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for rank in ranks:
        printed, _ = rank.communicate(timeout=120)
        assert rank.returncode == 0
        assert [tuple(map(float, line.split())) for line in printed.splitlines()] == RIGHT


@pytest.mark.parametrize("text", [SCRIPT, FIX])
def test_it_is_minimal(text: str) -> None:
    assert len(text.splitlines()) < 40
