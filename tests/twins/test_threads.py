"""Do PyTorch's threads without work let others run soon, unless the user has said how they are to wait?"""

import os

import pytest

from tests.conftest import needs_torch, run_python

OURS = {name: text for name, text in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}


@pytest.mark.parametrize(
    ("said", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=["nothing", "how long", "the policy"],
)
def test_what_the_user_said_stands(said: dict[str, str], spins: str) -> None:
    process = run_python("-c", "import os, torch_impl; print(os.environ.get('GOMP_SPINCOUNT'))", env={**OURS, **said})
    assert process.stdout.split() == [spins]


@needs_torch
@pytest.mark.slow
def test_the_library_takes_it() -> None:
    """libgomp reads it when PyTorch is loaded, and says so; another OpenMP has no such variable."""
    process = run_python("-c", "import torch_impl.run", env={**OURS, "OMP_DISPLAY_ENV": "VERBOSE"})
    if "GOMP_SPINCOUNT" not in process.stderr:
        pytest.skip("this PyTorch was not built with libgomp")
    assert "GOMP_SPINCOUNT = '3000'" in process.stderr
