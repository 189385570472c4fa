"""Does each part stay clear of the frameworks that it must do without?

Each import runs in a fresh interpreter, which then reports what it has loaded.
"""

import pytest

from tests.conftest import ROOT, needs_tensorflow, needs_torch, run_python

COMMON = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "common").rglob("*.py"))
    if path.stem != "__init__"
]


# Runs a module as if the absent packages had never been installed.
WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {absent} else find_spec(name, *rest)
sys.argv = ["x", "--preset", "smoke"]
runpy.run_module("{module}", run_name="__main__")
"""


def loaded_frameworks(*modules: str) -> set[str]:
    """Import the modules in a fresh interpreter; return which frameworks that has loaded."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    process = run_python("-c", code)
    assert process.returncode == 0, process.stderr
    return {"tensorflow", "keras", "torch"} & set(process.stdout.split())


@pytest.mark.parametrize("modules", [COMMON, ["run_parity"], ["tf_impl", "torch_impl"]], ids=lambda modules: modules[0])
def test_no_framework(modules: list[str]) -> None:
    assert loaded_frameworks(*modules) == set()


@needs_torch
def test_torch_impl_leaves_tensorflow_out() -> None:
    assert loaded_frameworks("torch_impl.run") == {"torch"}


@needs_tensorflow
def test_tf_impl_leaves_torch_out() -> None:
    assert loaded_frameworks("tf_impl.run", "tf_impl.fit") == {"tensorflow", "keras"}


@needs_torch
def test_the_check_sees_a_framework() -> None:
    assert loaded_frameworks("common.config", "torch") == {"torch"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        pytest.param("torch_impl", ("tensorflow", "keras"), marks=needs_torch),
        pytest.param("tf_impl", ("torch",), marks=needs_tensorflow),
    ],
)
def test_runs_with_the_other_framework_absent(module: str, absent: tuple[str, ...]) -> None:
    process = run_python("-c", WITHOUT.format(absent=absent, module=module))
    assert "Time to complete" in process.stdout, process.stderr
