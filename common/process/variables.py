"""Which variables of the environment tilt a measurement: the frameworks' and their libraries' own switches."""

import re
from collections.abc import Mapping

# Of TensorFlow, Keras and XLA; of PyTorch; of NVIDIA's driver and libraries; of the threads and products of a CPU.
_TILTING = re.compile(
    r"(TF_|KERAS_|XLA_|TORCH|PYTORCH_|TRITON_|CUDA_|NVIDIA_|CUBLAS_|CUDNN_|NCCL_|OMP_|GOMP_|KMP_|MKL_|ONEDNN_|DNNL_|MALLOC_)"
    r".*|LD_PRELOAD|(\w+_)?PROXY",
    re.IGNORECASE,
)
_SECRET = re.compile(r"PROXY|TOKEN|KEY|SECRET|PASS|CREDENTIAL", re.IGNORECASE)

NO_VARIABLES = "none"


def describe_variables(environment: Mapping[str, str]) -> str:
    """Those that are set, as 'OMP_NUM_THREADS=2, https_proxy'; of what may be a secret the name alone."""
    found = [name for name in sorted(environment) if _TILTING.fullmatch(name)]
    shown = [name if _SECRET.search(name) else f"{name}={environment[name]}" for name in found]
    return ", ".join(shown) or NO_VARIABLES
