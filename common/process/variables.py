"""Which variables of the environment tilt a measurement: the frameworks' and their libraries' own switches."""

import re
from collections.abc import Iterator, Mapping

from common.process.replicas import LAUNCHER_VARIABLES
from common.text import LONGEST_FACT, printable

Variables = Mapping[str, str | None]  # by name; None where the value may be a secret, and is not kept

# Terraform's begin with TF_ as well, and some hold whatever its user needs, secrets too.
_TERRAFORM = "VAR|CLI|TOKEN|ENCRYPTION|CLOUD|REGISTRY|PLUGIN|STATE|LOG|WORKSPACE|DATA_DIR|INPUT|IN_AUTOMATION|REATTACH"
_TILTING = re.compile(
    rf"(TF_(?!({_TERRAFORM})(_|$))|KERAS_|XLA_"  # TensorFlow
    r"|TORCH|PYTORCH_|ATEN_|TRITON_"  # PyTorch
    r"|CUDA_|NVIDIA_|CUBLAS_|CUBLASLT_|CUDNN_|NCCL_"  # the driver and its libraries
    r"|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|ONEDNN_|DNNL_"  # threads and products of a CPU
    r"|MALLOC_)\w*|GLIBC_TUNABLES|LD_PRELOAD|LD_LIBRARY_PATH"
    r"|(?i:\w+_proxy)"  # by which replicas may fail to meet
)
_SECRET_NAME = re.compile(r"proxy|token|key|secret|pass|credential", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"://[^/]*@")  # a user of an address, and a password


def tilts(name: str) -> bool:
    """Whether a variable of this name can change how fast, or how, a row computes. Peers of a process don't."""
    return bool(_TILTING.fullmatch(name)) and name not in LAUNCHER_VARIABLES


def tilting_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Those that are set, printable."""
    return {
        printable(name): None if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value) else printable(value)
        for name, value in sorted(environment.items())
        if tilts(name)
    }


def value_of(variables: Variables, name: str) -> str:
    """The value in words: 'not set', or 'set' where it is not kept."""
    value = variables.get(name, "not set")
    return "set" if value is None else value


def changed_variables(now: Variables, before: Variables | None) -> Iterator[str]:
    """What is not as it was, as clauses: 'OMP_NUM_THREADS was not set and is 2'. Nothing where none were recorded."""
    if before is None:
        return
    for name in sorted({*now, *before}):
        was, now_is = value_of(before, name), value_of(now, name)
        if was != now_is:
            yield f"{name} was {was[:LONGEST_FACT]} and is {now_is[:LONGEST_FACT]}"
