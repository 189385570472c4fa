"""Does PORTING.md hold: does its loop run and agree in both frameworks, and does a test stand behind every row?"""

import ast
import json
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from common.config import Precision
from common.proof.bounds import PRICES, ROUNDOFF
from tests.conftest import ROOT, TENSORFLOW, TORCH, needs_both, run_python

GUIDE = (ROOT / "PORTING.md").read_text(encoding="utf-8")
ROWS = [line for line in GUIDE.splitlines() if line.startswith("| ") and not line.startswith("| construct")]
LOOPS = dict(zip(("tf_impl", "torch_impl"), re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL), strict=True))
TABLES = ast.parse((ROOT / "tests" / "proof" / "test_traps.py").read_text(encoding="utf-8"))


def named_traps() -> set[str]:
    """The mistakes that the tables of test_traps.py plant, those that are added to a table later among them."""
    found: list[ast.expr | None] = []
    for node in TABLES.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).partition("[")[0].endswith("TRAPS"):
            (target,) = node.targets
            found += [target.slice] if isinstance(target, ast.Subscript) else getattr(node.value, "keys", [])
    return {ast.literal_eval(name) for name in found if name}


TRAPS = named_traps()


def named_by(row: str) -> list[tuple[str, str, str]]:
    """File, separator and name of each proof in the row's last cell."""
    return re.findall(r"`(test_\w+\.py)(::|: )(.+?)`(?=<br>| \|$)", row)


@pytest.fixture(scope="module", params=[pytest.param("loops of PORTING", marks=pytest.mark.slow)])
def losses() -> Callable[[str], np.ndarray]:
    """Of a framework's loop, which runs once for all tests."""

    @cache
    def losses(framework: str) -> np.ndarray:
        process = run_python("-c", LOOPS[framework])
        assert process.returncode == 0, process.stderr
        return np.array(json.loads(process.stdout.splitlines()[-1]))

    return losses


@pytest.mark.parametrize("framework", [TORCH, TENSORFLOW])
def test_the_loop_runs_and_learns(losses: Callable[[str], np.ndarray], framework: str) -> None:
    found = losses(framework)
    assert len(found) == 10
    assert found[-2:].mean() < found[:2].mean()


@needs_both
def test_the_loops_agree(losses: Callable[[str], np.ndarray]) -> None:
    """Each within 3 roundings to float16 of the other."""
    tensorflow, torch = losses("tf_impl"), losses("torch_impl")
    assert np.linalg.norm(tensorflow - torch) <= PRICES * ROUNDOFF[Precision.MIXED_FLOAT16] * np.linalg.norm(torch)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_row_names_tests_that_exist(row: str) -> None:
    assert named_by(row)
    for file, separator, name in named_by(row):
        if separator == "::":
            (path,) = (ROOT / "tests").rglob(file)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        else:
            assert (file, name in TRAPS) == ("test_traps.py", True), name


def test_every_trap_has_a_row() -> None:
    assert {name for row in ROWS for _, separator, name in named_by(row) if separator == ": "} == TRAPS
