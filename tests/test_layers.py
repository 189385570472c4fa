"""Does the folder listing tell the architecture: does nothing import to its right?

Reads the source alone. The rule is CONTRIBUTING.md's: each part of common/ knows those before it in this list.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

LAYERS = [{"config", "text"}, {"experiment", "measure"}, {"results"}, {"proof"}, {"process"}, {"show"}, {"cli"}]
PLACE = {name: place for place, names in enumerate(LAYERS) for name in names}
TWINS = ("tf_impl", "torch_impl")


def imports_of(source: str) -> Iterator[str]:
    """Every module that the source imports, also within a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ([node.module] if "." in node.module else [f"{node.module}.{name.name}" for name in node.names])
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def strays(file: str, source: str) -> list[str]:
    """The imports of a file, by its path from the root, that the rule does not allow."""
    here, name = Path(file).parts[:2]
    if here == "common":
        allowed = PLACE[name.removesuffix(".py")]
    else:
        allowed = PLACE["cli" if name == "__main__.py" else "process"]
    found = []
    for module in imports_of(source):
        package, _, rest = module.partition(".")
        part = rest.partition(".")[0]
        is_worker = module == "common.cli.worker" and name == "__main__.py"
        if (
            (package in TWINS and package != here)
            or (package == "common" and PLACE[part] > allowed)
            or (part == "cli" and here in TWINS and not is_worker)
        ):
            found.append(module)
    return found


FILES = sorted(
    str(path.relative_to(ROOT))
    for package in ("common", *TWINS)
    for path in (ROOT / package).rglob("*.py")
    if path.parent.name != "common" or path.stem != "__init__"
)


@pytest.mark.parametrize("file", FILES)
def test_nothing_imports_to_its_right(file: str) -> None:
    assert strays(file, (ROOT / file).read_text()) == []


def test_every_part_of_common_has_its_place() -> None:
    parts = {path.name.removesuffix(".py") for path in (ROOT / "common").iterdir() if not path.name.startswith("__")}
    assert parts == set(PLACE)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("common/proof/runs.py", "from common.show.table import tables"),
        ("common/results/rows.py", "def late():\n    from common.proof import checks"),
        ("common/measure/timing.py", "import torch_impl.device"),
        ("tf_impl/run.py", "from common.cli.worker import main"),
        ("tf_impl/__main__.py", "from common.cli.options import Parser"),
        ("tf_impl/train.py", "from torch_impl.train import train_step"),
    ],
)
def test_the_rule_sees(file: str, source: str) -> None:
    assert len(strays(file, source)) == 1


def test_no_test_imports_another() -> None:
    """What two of them need stands in a module of its own."""
    importing = re.compile(r"^ *(?:from|import) [^#\n]*\btest_\w+", re.MULTILINE)
    files = (ROOT / "tests").rglob("*.py")
    assert [str(path.relative_to(ROOT)) for path in files if importing.search(path.read_text())] == []
