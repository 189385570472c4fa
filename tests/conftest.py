"""What the tests share: the two implementations under one name, and one small run of the whole program.

Tests that take `impl` run once for each framework that is installed and are skipped for the other.
"""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("device", "distributed", "model", "monitor", "optimizer", "precision", "run", "train")

HAS = {"torch_impl": importlib.util.find_spec("torch"), "tf_impl": importlib.util.find_spec("tensorflow")}
needs_torch = pytest.mark.skipif(not HAS["torch_impl"], reason="PyTorch is not installed")
needs_tensorflow = pytest.mark.skipif(not HAS["tf_impl"], reason="TensorFlow is not installed")
needs_one = pytest.mark.skipif(not any(HAS.values()), reason="needs a framework")
needs_both = pytest.mark.skipif(not all(HAS.values()), reason="needs both frameworks")

# `dev` is for the bench, `ci` for the full set.
settings.register_profile(
    "dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("ci", settings.get_profile("dev"), max_examples=1200)
settings.load_profile("dev")


TORCH, TENSORFLOW = pytest.param("torch_impl", marks=needs_torch), pytest.param("tf_impl", marks=needs_tensorflow)

# Fixtures of one parameter say in a test's name what it shares with others: a framework, or what is run once for all.
GROUPS = (
    "smoke run",
    "executed notebook",
    "loops of PORTING",
    "torch_impl",
    "tf_impl",
    "trained replicas",
    "published rows",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist loadgroup the tests of one group run in one process, so that no run is made twice.

    Not by pytest-xdist's own marks: from pytest 9.2 on version 3.8 loses them, without a word (its issue 1386).
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid) or nodeid

    return ByGroup(config, log) if config.getoption("dist") == "loadgroup" else None


def group_of(nodeid: str) -> str | None:
    """The first group whose name is one of the test's parameters."""
    parameters = nodeid.partition("[")[2].removesuffix("]").split("-")
    return next((group for group in GROUPS if group in parameters), None)


@pytest.fixture(scope="session", params=[TORCH, TENSORFLOW])
def impl(request: pytest.FixtureRequest) -> SimpleNamespace:
    """One implementation's modules, with `cpu`, its device; the same tests run on both."""
    return load_implementation(request.param)


@pytest.fixture(scope="session", params=[TENSORFLOW])
def tensorflow_impl(request: pytest.FixtureRequest) -> SimpleNamespace:
    """TensorFlow's alone, for what PyTorch does not have."""
    return load_implementation(request.param)


@pytest.fixture(scope="session", params=[TORCH])
def torch_impl(request: pytest.FixtureRequest) -> SimpleNamespace:
    """PyTorch's alone, for what TensorFlow does not have."""
    return load_implementation(request.param)


@pytest.fixture(autouse=True)
def dynamo_as_new() -> None:
    """After eight models PyTorch compiles no more of the same code in one process, and says so in its log alone."""
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()


def load_implementation(package: str) -> SimpleNamespace:
    """The package's modules, and its CPU as `cpu`."""
    if package == "tf_impl" and HAS["torch_impl"]:
        importlib.import_module("torch")  # loaded after TensorFlow, PyTorch has crashed
    modules = {name: importlib.import_module(f"{package}.{name}") for name in MODULES}
    cpu = modules["device"].select_device("cpu", threads=1)
    framework = {"torch_impl": "torch", "tf_impl": "tensorflow"}[package]
    return SimpleNamespace(framework=framework, cpu=cpu, **modules)


@pytest.fixture(scope="session", params=[pytest.param("smoke run", marks=pytest.mark.slow)])
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`run_parity.py --preset smoke` over every precision: its results, its output and where they lie."""
    output = tmp_path_factory.mktemp("smoke") / "run"
    precisions = ["float64", "float32", "tf32", "mixed_float16", "mixed_bfloat16"]
    process = run_parity("--preset", "smoke", "--device", "cpu", "--output", output, "--precisions", *precisions)
    results = json.loads((output / "results.json").read_text())
    return SimpleNamespace(process=process, results=results, output=output)


def run_parity(*arguments: object, timeout: float = 300, **settings: Any) -> "subprocess.CompletedProcess[str]":
    return run_python("run_parity.py", *arguments, timeout=timeout, **settings)


def run_python(*arguments: object, timeout: float = 300, **settings: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, **settings)


def on_host(tensor: Any) -> np.ndarray:
    """A tensor of either framework as float64 NumPy, whatever its dtype."""
    if hasattr(tensor, "detach"):
        return tensor.detach().double().cpu().numpy()
    return np.asarray(tensor).astype(np.float64)
