"""Does a row say what its hardware can't do well, and which driver and libraries it ran with?"""

from pathlib import Path

import pytest

from common.config import Precision
from common.measure import hardware
from common.measure.hardware import Unsupported, cudnn_version, gpu_libraries, require_support, slow_reason


def gpu(compute_capability: str) -> dict[str, str]:
    return {"kind": "gpu", "name": "Quadro", "compute_capability": compute_capability}


@pytest.mark.parametrize(
    ("precision", "capability", "native"),
    [
        (Precision.MIXED_FLOAT16, "6.1", False), (Precision.MIXED_FLOAT16, "7.0", True),
        (Precision.MIXED_BFLOAT16, "7.5", False), (Precision.MIXED_BFLOAT16, "8.0", True),
        (Precision.FLOAT32, "3.5", True), (Precision.FLOAT64, "3.5", True), (Precision.MIXED_FLOAT16, "10.0", True),
    ],
)  # fmt: skip
def test_tensor_cores_from_which_compute_capability(precision: Precision, capability: str, native: bool) -> None:
    assert (slow_reason(precision, gpu(capability)) == "") is native


def test_the_warning_names_gpu_capability_and_what_is_missing() -> None:
    assert slow_reason(Precision.MIXED_FLOAT16, gpu("6.1")) == (
        "Quadro has compute capability 6.1, and no tensor cores for float16 below 7.0: no speed to expect"
    )


TURING = [
    ("NVIDIA GeForce GTX 1650", False), ("NVIDIA GeForce GTX 1660 Ti with Max-Q Design", False),
    ("NVIDIA GeForce MX450", False), ("NVIDIA T600 Laptop GPU", False), ("Quadro T2000", False),
    ("Tesla T4", True), ("NVIDIA GeForce RTX 2060", True), ("Quadro RTX 4000", True), ("NVIDIA TITAN RTX", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "native"), TURING, ids=[name for name, _ in TURING])
def test_some_of_capability_7_5_have_no_tensor_cores(name: str, native: bool) -> None:
    reason = f"{name} has no tensor cores, as others of compute capability 7.5 have: no speed to expect"
    device = {"kind": "gpu", "name": name, "compute_capability": "7.5"}
    assert slow_reason(Precision.MIXED_FLOAT16, device) == ("" if native else reason)
    assert slow_reason(Precision.FLOAT32, device) == ""


@pytest.mark.parametrize(("flags", "native"), [({"avx2"}, False), ({"avx2", "avx512_bf16"}, True), ({"bf16"}, True)])
def test_bfloat16_of_a_cpu(monkeypatch: pytest.MonkeyPatch, flags: set[str], native: bool) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    assert (slow_reason(Precision.MIXED_BFLOAT16, {"kind": "cpu"}) == "") is native


@pytest.mark.parametrize("device", [{"kind": "cpu"}, gpu("7.5")])
def test_tf32_is_refused_where_it_would_be_float32(device: dict[str, str]) -> None:
    with pytest.raises(Unsupported, match=r"tf32 needs .*8\.0 or later"):
        require_support(Precision.TF32, device)


def test_tf32_runs_from_8_0_on() -> None:
    require_support(Precision.TF32, gpu("8.0"))


@pytest.mark.parametrize(("number", "version"), [(8907, "8.9.7"), (90100, "9.1.0"), (92800, "9.28.0")])
def test_versions_of_cudnn(number: int, version: str) -> None:
    assert cudnn_version(number) == version


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build  (root@builder)",
    ],
)
def test_the_driver_says_its_version(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    version = Path("/proc/driver/nvidia/version")
    monkeypatch.setattr(hardware, "read_file", lambda path: text if path == version else "")
    assert gpu_libraries() == {"driver": "535.104.05"}
