"""The experiment in TensorFlow: build, train step and run, for reuse on their own.

    from tf_impl import build_model, load_weights, export_weights, make_optimizer, compiled, run

The names are loaded on first use, so that `python -m tf_impl` can refuse a wrong option, or a missing TensorFlow,
without importing TensorFlow first.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_impl.model import build_model as build_model
    from tf_impl.model import export_weights as export_weights
    from tf_impl.model import load_weights as load_weights
    from tf_impl.monitor import trace_steps as trace_steps
    from tf_impl.monitor import write_scalars as write_scalars
    from tf_impl.optimizer import make_optimizer as make_optimizer
    from tf_impl.run import run as run
    from tf_impl.train import apply_gradients as apply_gradients
    from tf_impl.train import compiled as compiled
    from tf_impl.train import loss_and_gradients as loss_and_gradients
    from tf_impl.train import train_step as train_step

# Set before the libraries are loaded. Keras would otherwise follow the user's ~/.keras/keras.json; another backend in
# the user's environment is refused by precision.py. XLA would leave out roundings to bfloat16 that the precision asks
# for. On a GPU it would also compute both gradients of the Dense layer in one kernel, which is slower than two and
# holds a fourth activation, and copy activations to pad their number of rows. Without cuBLASLt TensorFlow adds a bias
# by a kernel of its own, which takes longer than the product before it.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_USE_CUBLASLT", "1")
_XLA_FLAGS = (
    "--xla_allow_excess_precision=false",
    "--xla_disable_hlo_passes=multi_output_fusion,cublas-pad-for-gemms",
)
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*os.environ.get("XLA_FLAGS", "").split(), *_XLA_FLAGS]))

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
