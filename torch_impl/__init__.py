"""The experiment in PyTorch: build, train step and run, for reuse on their own.

    from torch_impl import build_model, load_weights, export_weights, make_optimizer, compiled, run

The names are loaded on first use, so that `python -m torch_impl` can refuse a wrong option, or a missing PyTorch,
without importing PyTorch first.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_impl.model import build_model as build_model
    from torch_impl.model import export_weights as export_weights
    from torch_impl.model import load_weights as load_weights
    from torch_impl.monitor import trace_steps as trace_steps
    from torch_impl.monitor import write_scalars as write_scalars
    from torch_impl.optimizer import make_optimizer as make_optimizer
    from torch_impl.run import run as run
    from torch_impl.train import apply_gradients as apply_gradients
    from torch_impl.train import compiled as compiled
    from torch_impl.train import loss_and_gradients as loss_and_gradients
    from torch_impl.train import train_step as train_step

# Set before the libraries are loaded. Without it a thread of libgomp that has no work spins for milliseconds. Where
# other processes want its core, the thread that it waits for gets none. 3000 rounds outlast the gap between two
# operations: on two crowded cores a float32 step of the cpu preset takes 54 to 72 ms instead of 165 to 312, in the
# median of four runs; alone it takes 12.4 instead of 12.0, at the least. Not to spin at all costs 12 % there.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

_HOMES = {
    "build_model": "model",
    "load_weights": "model",
    "export_weights": "model",
    "make_optimizer": "optimizer",
    "loss_and_gradients": "train",
    "apply_gradients": "train",
    "train_step": "train",
    "compiled": "train",
    "run": "run",
    "write_scalars": "monitor",
    "trace_steps": "monitor",
}

# Hidden from type checkers: they would read a computed list as an empty one, and take the imports above for private.
if not TYPE_CHECKING:
    __all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return globals()[name]
