"""The setting of a row: what its outcome depends on besides its config. That is the versions, the device and our code.

A resumed run takes over the rows whose key is still the same, and runs the others again.

As a program (`python -m common.process.setting tensorflow`) it prints the versions of its interpreter as a line of
JSON, without importing any framework: they are read from the installed packages.
"""

import hashlib
import json
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path

from common.config import RunConfig
from common.measure.hardware import cpu_name, driver_version, has_gpu
from common.measure.nvml import gpu_name
from common.process.variables import Variables
from common.text import LONGEST_FACT, printable

# Distributions that change what a framework computes, or how fast.
PACKAGES = {
    "tensorflow": r"tensorflow|tf[-_]nightly|keras|numpy|ml[-_]dtypes|nvidia[-_]",
    "torch": r"torch|triton|pytorch|numpy|nvidia[-_]",
}
CUDA_WHEELS = ("nvidia-", "nvidia_")  # a framework's CUDA is some fifteen packages, and one is as good as all
MODULES = {"tensorflow": "tf_impl", "torch": "torch_impl"}

# Where our own code can change a measurement.
MEASURING = tuple(
    f"common/{name}" for name in ("config.py", "experiment", "measure", "results", "proof", "process", "cli/worker.py")
)
ANSWER_S = 60.0  # reading the versions takes a tenth of a second; a slow network drive, many
LONGEST_LINE_BYTES = 2**20

_ROOT = Path(__file__).resolve().parents[2]


def installed_versions(framework: str) -> dict[str, str]:
    """Python's version, and those of the framework's distributions in this interpreter."""
    found = {name: entry.version for entry in metadata.distributions() if (name := entry.metadata["Name"] or "")}
    versions = {name: version for name, version in found.items() if re.match(PACKAGES[framework], name, re.IGNORECASE)}
    return {"python": platform.python_version(), **dict(sorted(versions.items()))}


def describe_setting(framework: str, python: str, device: str) -> dict[str, str]:
    """Everything of one line a fact: the versions of the interpreter `python`, the device, a digest of our code."""
    return {**_versions_of(python, framework), **_describe_device(device), "code": _code_sha256(framework)}


def row_key(config: RunConfig, setting: dict[str, str], variables: Variables) -> str:
    """Sha256 of the row's config, its setting and the variables that tilt it."""
    return hashlib.sha256(json.dumps([asdict(config), setting, variables], sort_keys=True).encode()).hexdigest()


def find_changes(
    config: RunConfig, setting: dict[str, str], earlier_config: RunConfig, earlier_setting: dict[str, str]
) -> list[str]:
    """What of a row's key is no longer as it was, as clauses: 'threads was 16 and is 8'."""
    return [
        *_differences(asdict(earlier_config.loss_scale), asdict(config.loss_scale)),
        *_differences(asdict(earlier_config.execution), asdict(config.execution)),
        *_differences(earlier_setting, setting),
    ]


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    changed = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    wheels = [name for name in changed if name.startswith(CUDA_WHEELS)]
    for name in changed:
        was, now_is = (_show(facts.get(name, "not known")) for facts in (before, now))
        if name == "code":
            yield "our code is another"
        elif name not in wheels[1:]:
            others = f", and {len(wheels) - 1} more of CUDA's packages changed" if name in wheels and wheels[1:] else ""
            yield f"{_show(name)} was {was} and is {now_is}{others}"


def _show(fact: object) -> str:
    return printable(str(fact)[:LONGEST_FACT])


def _versions_of(python: str, framework: str) -> dict[str, str]:
    """What the interpreter says; where it doesn't answer, something that never agrees: its row then says why."""
    with suppress(OSError, RuntimeError):
        for line in _lines_of([python, "-m", __name__, framework]):
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                return {str(name): str(version) for name, version in json.loads(line)["versions"].items()}
    return {"unanswered": secrets.token_hex(8)}


def _lines_of(command: list[str]) -> Iterator[bytes]:
    """What a program of a group of its own prints; the group ends with the reading, or when its time is over."""
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        end = partial(_end_group, process)
        timer = threading.Timer(ANSWER_S, end)
        try:
            timer.start()
            assert process.stdout is not None
            yield from iter(partial(process.stdout.readline, LONGEST_LINE_BYTES), b"")
        finally:
            timer.cancel()
            end()


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _describe_device(device: str) -> dict[str, str]:
    if device == "cpu" or not has_gpu():
        return {"device": cpu_name()}
    return {"device": gpu_name(), "driver": driver_version()}


def _code_sha256(framework: str) -> str:
    """Of the code that decides what a row measures and proves; what only shows a row, or reads options, is left out."""
    digest = hashlib.sha256()
    for place in (*MEASURING, MODULES[framework]):
        for path in sorted([_ROOT / place] if place.endswith(".py") else (_ROOT / place).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(json.dumps({"versions": installed_versions(sys.argv[1])}))
