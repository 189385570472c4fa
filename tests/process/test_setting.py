"""Does all that a row's outcome hangs on enter its key, so that a resumed run takes over nothing that would differ?"""

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.config import ExecutionConfig, LossScaleConfig, Precision, RunConfig
from common.process import setting as setting_module
from common.process.setting import describe_setting, find_changes, installed_versions, row_key
from tests.conftest import ROOT
from tests.fakes import fake_python, is_alive, wait_until

CONFIG = RunConfig("torch", Precision.FLOAT32)
SETTING = {"python": "3.12.1", "torch": "2.13.0", "device": "NVIDIA H100", "driver": "570.1", "code": "ab12"}


def executed(**how: Any) -> RunConfig:
    return replace(CONFIG, execution=ExecutionConfig(**how))


@pytest.mark.parametrize("fact", SETTING)
def test_every_fact_changes_the_key(fact: str) -> None:
    assert row_key(CONFIG, {**SETTING, fact: "another"}, {}) != row_key(CONFIG, SETTING, {})


def test_the_config_changes_the_key() -> None:
    assert row_key(RunConfig("torch", Precision.TF32), SETTING, {}) != row_key(CONFIG, SETTING, {})


@pytest.mark.parametrize(
    ("config", "setting", "changes"),
    [
        (CONFIG, SETTING, []),
        (CONFIG, {**SETTING, "torch": "2.14.0"}, ["torch was 2.13.0 and is 2.14.0"]),
        (executed(threads=8), SETTING, ["threads was 1 and is 8"]),
        (executed(threads=8), {**SETTING, "driver": "580"}, ["threads was 1 and is 8", "driver was 570.1 and is 580"]),
        (executed(device="gpu"), SETTING, ["device was auto and is gpu"]),
        (executed(collective_timeout_s=60.0), SETTING, ["collective_timeout_s was 300.0 and is 60.0"]),
        (replace(CONFIG, loss_scale=LossScaleConfig(1024.0)), SETTING, ["initial_scale was 32768.0 and is 1024.0"]),
        (CONFIG, {**SETTING, "triton": "3.5"}, ["triton was not known and is 3.5"]),
        (CONFIG, {name: SETTING[name] for name in SETTING if name != "driver"}, ["driver was 570.1 and is not known"]),
        (CONFIG, {**SETTING, "driver": "cd34" * 16}, [f"driver was 570.1 and is {'cd34' * 10}"]),
        (CONFIG, {**SETTING, "code": "cd34" * 16}, ["our code is another"]),
        (CONFIG, {**SETTING, "\x1b[31m": "\n"}, [r"\x1b[31m was not known and is \n"]),
    ],
    ids=[
        "nothing",
        "version",
        "threads",
        "two",
        "--device",
        "timeout",
        "scale",
        "more",
        "fewer",
        "a long fact",
        "code",
        "not printable",
    ],
)
def test_a_row_that_is_run_again_says_what_changed(
    config: RunConfig, setting: dict[str, str], changes: list[str]
) -> None:
    assert find_changes(config, setting, CONFIG, SETTING) == changes


def test_the_packages_of_cuda_are_one_change() -> None:
    """A framework brings fifteen: named one by one they hide what else has changed."""
    names = [f"nvidia-{name}-cu12" for name in ("cublas", "cudnn", "cufft", "curand", "nccl")]
    earlier, now = ({**SETTING, **dict.fromkeys(names, version)} for version in ("12.8.1", "12.9.0"))
    changes = find_changes(CONFIG, {**now, "torch": "2.14.0"}, CONFIG, earlier)
    cuda = "nvidia-cublas-cu12 was 12.8.1 and is 12.9.0, and 4 more of CUDA's packages changed"
    assert changes == ["torch was 2.13.0 and is 2.14.0", cuda]
    (one,) = find_changes(CONFIG, {**earlier, names[0]: "12.9.0"}, CONFIG, earlier)
    assert one == "nvidia-cublas-cu12 was 12.8.1 and is 12.9.0"


def test_the_versions_are_those_of_the_interpreter() -> None:
    setting = describe_setting("torch", sys.executable, "cpu")
    assert setting.items() >= installed_versions("torch").items()
    assert {"python", "numpy", "device", "code"} <= set(setting)


def test_on_a_gpu_its_name_and_driver_are_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting_module, "has_gpu", lambda: True)
    monkeypatch.setattr(setting_module, "gpu_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(setting_module, "driver_version", lambda: "570.1")
    setting = describe_setting("torch", sys.executable, "auto")
    assert (setting["device"], setting["driver"]) == ("NVIDIA H100", "570.1")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("common/config.py", True),
        ("common/experiment/data.py", True),
        ("common/measure/timing.py", True),
        ("common/proof/reference.py", True),
        ("common/process/row.py", True),
        ("common/process/below/new.py", True),
        ("torch_impl/below/new.py", True),
        ("common/cli/worker.py", True),
        ("torch_impl/model.py", True),
        ("tf_impl/model.py", False),
        ("common/show/figures.py", False),
        ("common/cli/options.py", False),
    ],
)
def test_our_own_code_is_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, changes: bool) -> None:
    for package in ("common", "torch_impl", "tf_impl"):
        shutil.copytree(ROOT / package, tmp_path / package)
    monkeypatch.setattr(setting_module, "_ROOT", tmp_path)
    before = describe_setting("torch", sys.executable, "cpu")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    with (tmp_path / file).open("a") as code:
        code.write("# changed")
    assert (describe_setting("torch", sys.executable, "cpu") != before) is changes


def test_what_an_interpreter_prints_beside_its_answer_is_passed_over(tmp_path: Path) -> None:
    python = fake_python(tmp_path, """print("welcome\\n[1]\\n{}"); print(json.dumps({"versions": {"torch": "1"}}))""")
    assert describe_setting("torch", python, "cpu")["torch"] == "1"


@pytest.mark.parametrize(
    "body",
    ["sys.exit(1)", "print('[' * 10**6)", "print('{}')", "print(json.dumps({'versions': 1}))"],
    ids=["crash", "nested", "no versions", "odd versions"],
)
def test_an_interpreter_that_does_not_answer_never_has_what_it_had(tmp_path: Path, body: str) -> None:
    python = fake_python(tmp_path, body)
    assert describe_setting("torch", python, "cpu") != describe_setting("torch", python, "cpu")


@pytest.mark.parametrize("body", ["while True: print('y' * 10**5)", "time.sleep(60)"], ids=["floods", "hangs"])
def test_an_interpreter_that_never_ends_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(setting_module, "ANSWER_S", 0.5)
    child = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
    start_s = time.monotonic()
    assert "unanswered" in describe_setting("torch", fake_python(tmp_path, child + body), "cpu")
    assert time.monotonic() - start_s < 5
    wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())))
