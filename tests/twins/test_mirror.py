"""Do the two implementations mirror each other: same files, same public names, same arguments, in the same order?

Reads the source alone, so neither framework is needed. Each check is also shown a pair that differs.
"""

import ast

import pytest

from tests.conftest import ROOT

# Keras' Model.fit; PyTorch has none.
WITHOUT_TWIN: dict[str, set[str]] = {"tf_impl": {"fit.py"}, "torch_impl": set()}
FILES = sorted(path.name for path in (ROOT / "tf_impl").glob("*.py") if path.name not in WITHOUT_TWIN["tf_impl"])

# What wraps or needs what only one framework has; each file says so.
ONE_SIDED = {"Dense", "Flatten", "FusedAdam", "LossScale", "Optimizer", "forward", "call"}
ONE_SIDED |= {"float32_by_default", "rounded_product", "strategy", "uses_gpu"}


def public_outline(source: str) -> list[str]:
    """One line for each public definition, in the order of the file: 'def train_step(model, optimizer, ...)'."""
    return list(_outline(ast.parse(source).body))


def _outline(body: list[ast.stmt], owner: str = "") -> list[str]:
    lines = []
    for node in body:
        name = getattr(node, "name", "")
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and name not in ONE_SIDED:
            if isinstance(node, ast.ClassDef) and not name.startswith("_"):
                lines += [f"class {name}", *_outline(node.body, f"{name}.")]
            elif isinstance(node, ast.FunctionDef) and (not name.startswith("_") or name == "__init__"):
                lines.append(f"def {owner}{name}({ast.unparse(_without_annotations(node.args))})")
        elif isinstance(node, ast.AnnAssign) and owner and ast.unparse(node.target) not in ONE_SIDED:
            lines.append(f"field {owner}{ast.unparse(node.target)}")
    return lines


def _without_annotations(arguments: ast.arguments) -> ast.arguments:
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return arguments


def test_same_files() -> None:
    files = {side: {path.name for path in (ROOT / side).glob("*.py")} for side in ("tf_impl", "torch_impl")}
    assert files["tf_impl"] - files["torch_impl"] == WITHOUT_TWIN["tf_impl"]
    assert files["torch_impl"] - files["tf_impl"] == WITHOUT_TWIN["torch_impl"]


@pytest.mark.parametrize("name", FILES)
def test_same_outline(name: str) -> None:
    assert public_outline((ROOT / "tf_impl" / name).read_text()) == public_outline(
        (ROOT / "torch_impl" / name).read_text()
    )


@pytest.mark.parametrize("name", FILES)
def test_every_public_definition_has_a_docstring(name: str) -> None:
    for side in ("tf_impl", "torch_impl"):
        for node in ast.parse((ROOT / side / name).read_text()).body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if public and node.name not in ONE_SIDED and name != "__main__.py":
                assert ast.get_docstring(node), f"{side}/{name}: {node.name} has no docstring"


@pytest.mark.parametrize("side", ["tf_impl", "torch_impl"])
def test_type_checkers_see_every_public_name(side: str) -> None:
    """Imported as itself, which is what strict type checkers take for public, and from where it is loaded."""
    body = ast.parse((ROOT / side / "__init__.py").read_text()).body
    for_checkers = next(node for node in body if isinstance(node, ast.If))
    told = {
        (alias.name, alias.asname): node.module.removeprefix(f"{side}.")
        for node in for_checkers.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    homes = next(
        node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES"
    )
    assert told == {(name, name): home for name, home in ast.literal_eval(homes).items()}


TRAIN = "def step(model, images): ...\ndef fetch(steps): ..."
DIFFERENT = {
    "another name": "def step(model, images): ...\ndef get(steps): ...",
    "another order in the file": "def fetch(steps): ...\ndef step(model, images): ...",
    "another order of arguments": "def step(images, model): ...\ndef fetch(steps): ...",
    "another argument": "def step(model, images, labels): ...\ndef fetch(steps): ...",
    "another default": "def step(model, images=None): ...\ndef fetch(steps): ...",
    "one definition more": TRAIN + "\nclass State: ...",
}


@pytest.mark.parametrize("source", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_the_outline_sees(source: str) -> None:
    assert public_outline(TRAIN) != public_outline(source)
