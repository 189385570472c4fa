"""What a row's outcome hangs on beside its config: the versions, the device and our own code.

A resumed run takes over the rows whose key is still the same, and runs the others again.

As a program (`python -m common.setting tensorflow`) it prints the versions of its interpreter as JSON, without
importing any framework: they are read from the installed packages.
"""

import hashlib
import json
import platform
import re
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from common.config import RunConfig
from common.hardware import cpu_name, driver_version, has_gpu
from common.nvml import gpu_name

# Distributions that change what a framework computes, or how fast.
PACKAGES = {
    "tensorflow": r"tensorflow|tf[-_]nightly|keras|numpy|ml[-_]dtypes|nvidia[-_]",
    "torch": r"torch|triton|pytorch|numpy|nvidia[-_]",
}
MODULES = {"tensorflow": "tf_impl", "torch": "torch_impl"}
ANSWER_S = 60.0  # reading the versions takes a tenth of a second; a slow network drive, many

_ROOT = Path(__file__).resolve().parent.parent


def installed_versions(framework: str) -> dict[str, str]:
    """Python's version, and those of the framework's distributions in this interpreter."""
    found = {name: entry.version for entry in metadata.distributions() if (name := entry.metadata["Name"] or "")}
    versions = {name: version for name, version in found.items() if re.match(PACKAGES[framework], name, re.IGNORECASE)}
    return {"python": platform.python_version(), **dict(sorted(versions.items()))}


def describe_setting(framework: str, python: str, device: str) -> dict[str, str]:
    """Everything of one line a fact: the versions of the interpreter `python`, the device, a digest of our code."""
    return {**_versions_of(python, framework), **_describe_device(device), "code": _code_sha256(framework)}


def row_key(config: RunConfig, setting: dict[str, str]) -> str:
    """Sha256 of the row's config and setting."""
    return hashlib.sha256(json.dumps([asdict(config), setting], sort_keys=True).encode()).hexdigest()


def _versions_of(python: str, framework: str) -> dict[str, str]:
    """What the interpreter says; nothing where it doesn't answer, which its first row will then explain."""
    try:
        answer = subprocess.run(
            [python, "-m", __name__, framework], cwd=_ROOT, capture_output=True, timeout=ANSWER_S, check=True
        )
        return {str(name): str(version) for name, version in json.loads(answer.stdout).items()}
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError):
        return {}


def _describe_device(device: str) -> dict[str, str]:
    if device == "cpu" or not has_gpu():
        return {"device": cpu_name()}
    return {"device": gpu_name(), "driver": driver_version()}


def _code_sha256(framework: str) -> str:
    digest = hashlib.sha256()
    for package in ("common", MODULES[framework]):
        for path in sorted((_ROOT / package).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(json.dumps(installed_versions(sys.argv[1])))
