"""Does wrong input end in one line that names the option and what would be right, exit code 2, before anything runs?"""

import ast
import json
import os
import re
import shlex
from pathlib import Path

import pytest

import run_parity
from common.cli.plan import plan
from common.config import FRAMEWORKS, Precision
from common.results.coding import write_json
from common.results.rows import Results
from common.text import resume_options
from tests.conftest import ROOT, run_python
from tests.conftest import run_parity as run_program
from tests.remedies import assert_can_be_run

WRONG = [
    (["--precisions", "half"], "--precisions", "choose from"),
    (["--preset", "huge"], "--preset", "choose from"),
    (["--batch-size", "0"], "--batch-size", "a whole number from 1 to 9007199254740992"),
    (["--batch-size", "2.5"], "--batch-size", "a whole number from 1 to 9007199254740992"),
    (["--batch-size", "21"], "--batch-size", "it must be at most the number of images, 20"),
    (["--images", "-3"], "--images", "a whole number from 1 to 9007199254740992"),
    (["--image-size", "1"], "--image-size", "height and width must be at least 2"),
    (["--frameworks", "torch", "--loop", "fit"], "--loop", "add tensorflow to --frameworks"),
    (["--epochs", "many"], "--epochs", "a whole number from 1 to 9007199254740992"),
    (["--learning-rate", "fast"], "--learning-rate", "a number larger than 0"),
    (["--learning-rate", "nan"], "--learning-rate", "a number larger than 0"),
    (["--seed", "-1"], "--seed", "a whole number from 0 to 9007199254740992"),
    (["--timeout", "0"], "--timeout", "a number larger than 0"),
    (["--devices", "1", "0"], "--devices", "a whole number from 1 to 9007199254740992"),
    (["--devices", "3"], "--batch-size", "it is 8; it must be a multiple of 3 replicas, as 9 is"),
    (["--devices", "3", "--batch-size", "9"], "--images", "it is 20; it must be a multiple of 3 replicas, as 21 is"),
    (["--devices", "3"], "--batch-size", "so must the images, 20, as 21 is"),
    (["--devices", "8"], "--images", "it is 20; it must be a multiple of 8 replicas, as 16 is"),
    (
        ["--devices", "2", "--batch-per-replica", "15"],
        "--batch-per-replica",
        "the batch of 2 replicas is 30; it must be at most the number of images, 20, or 10 on each of 2 replicas",
    ),
    (["--devices", "2", "--loop", "fit"], "--loop", "2 replicas need the custom loop"),
    (
        ["--batch-size", "8", "--batch-per-replica", "4"],
        "--batch-per-replica",
        "not allowed with argument --batch-size",
    ),
    (["--collective-timeout", "0"], "--collective-timeout", "a number of seconds from 1 to 1000000"),
    (["--collective-timeout", "1e300"], "--collective-timeout", "a number of seconds from 1 to 1000000"),
    (["--repeats", "0"], "--repeats", "a whole number from 1 to 1000"),
    (["--tf-python", "/nowhere/python"], "--tf-python", "give the path of a Python interpreter"),
    (["--format", "word"], "--format", "choose from"),
    (["--output", __file__], "--output", "give a folder"),
    (["--output", f"{__file__}/below"], "--output", "give a folder"),
]


@pytest.mark.parametrize(("arguments", "option", "right"), WRONG, ids=[" ".join(words)[:40] for words, *_ in WRONG])
def test_wrong_input(
    arguments: list[str],
    option: str,
    right: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_parity, "run_experiment", lambda *_: pytest.fail("the run was begun"))
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stopped:
        run_parity.main(["--preset", "smoke", *output, *arguments])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option in line
    assert right in line


NEAR_MISSES = [
    (["--frameworks", "pytorch"], "torch"),
    (["--frameworks", "Torch"], "torch"),
    (["--frameworks", "tensorflow2"], "tensorflow"),
    (["--frameworks", "tf"], "tensorflow"),
    (["--precisions", "bfloat16"], "mixed_bfloat16"),
    (["--precisions", "float16"], "mixed_float16"),
    (["--precisions", "fp16"], "mixed_float16"),
    (["--precisions", "FP32"], "float32"),
    (["--precisions", "amp"], "mixed_float16"),
    (["--format", "markdown"], "github"),
    (["--device", "cuda"], "gpu"),
    (["--preset", "artikel"], "article"),
    (["--lr", "0.1"], "--learning-rate"),
    (["--lr=0.1"], "--learning-rate"),
    (["--precision", "float32"], "--precisions"),
    (["--batch_size", "4"], "--batch-size"),
    (["raport", "here"], "report"),
    (["max_batch"], "max-batch"),
]


@pytest.mark.parametrize(("words", "meant"), NEAR_MISSES, ids=[" ".join(words) for words, _ in NEAR_MISSES])
def test_a_near_miss_names_what_is_meant(words: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And that can be given in its place."""
    with pytest.raises(SystemExit):
        run_parity.main(words)
    assert capsys.readouterr().err.endswith(f"; did you mean {meant}?\n")
    right = [meant if word == words[-1] and word[0] != "-" else word for word in words]
    if meant in run_parity.VERBS:
        return
    if meant.startswith("--"):
        right = [meant, *words[1:], *words[0].split("=")[1:]]
    parser = run_parity.make_parser()
    assert plan(parser, parser.parse_args(["--preset", "smoke", *right]))


@pytest.mark.parametrize("words", [["--precisions", "xyz"], ["--zzz"], ["zzz"], [""]], ids=" ".join)
def test_where_nothing_is_near_nothing_is_guessed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_parity.main(words)
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "images"),
    [(["--batch-size", "64"], 64), (["--devices", "2", "--batch-per-replica", "15"], 30), (["--batch-size", "21"], 21)],
    ids=str,
)
def test_a_batch_that_needs_more_images_says_how_many(
    words: list[str], images: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with as many it is right."""
    parser = run_parity.make_parser()
    with pytest.raises(SystemExit):
        plan(parser, parser.parse_args(["--preset", "cpu", *words]))
    remedy = f"--images {images}"
    assert capsys.readouterr().err.endswith(f"; a larger one needs {remedy} too\n")
    assert plan(parser, parser.parse_args(["--preset", "cpu", *words, *remedy.split()]))


def test_the_options_with_which_a_run_goes_on_are_taken(tmp_path: Path) -> None:
    """As a shell hands them over, whatever the folder is called."""
    folder = tmp_path / "it's my run"
    arguments = run_parity.make_parser().parse_args(shlex.split(resume_options(folder)))
    assert (arguments.resume, arguments.output) == (True, folder)


def test_from_outside() -> None:
    process = run_program("--batch-size", "0")
    assert (process.returncode, process.stdout) == (2, "")
    assert (
        process.stderr == "run_parity.py: argument --batch-size: '0' is not a whole number from 1 to 9007199254740992\n"
    )


@pytest.mark.parametrize("module", ["tf_impl", "torch_impl"])
def test_alone_it_is_the_same(module: str) -> None:
    process = run_python("-m", module, "--precision", "half")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"python -m {module}: argument --precision: invalid choice: 'half'")


def test_results_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "results.json", Results([], {}))
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        run_parity.main(["--output", str(tmp_path)])
    assert stopped.value.code == 2
    assert "already holds results" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_bytes() == before


def test_resume_refuses_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"rows": 1}))
    with pytest.raises(SystemExit) as stopped:
        run_parity.main(["--output", str(tmp_path), "--resume"])
    assert stopped.value.code == 2
    assert "argument --resume" in capsys.readouterr().err


def row_ids(*arguments: str) -> list[str]:
    parser = run_parity.make_parser()
    return [config.row_id for config in plan(parser, parser.parse_args(["--preset", "smoke", *arguments]))]


def test_every_row_of_both() -> None:
    rows = row_ids("--precisions", "float32", "--compile", "both", "--loop", "both")
    assert rows == [
        "tensorflow-float32-custom-compile-off-r0",
        "tensorflow-float32-fit-compile-off-r0",
        "tensorflow-float32-custom-compile-on-r0",
        "tensorflow-float32-fit-compile-on-r0",
        "torch-float32-custom-compile-off-r0",
        "torch-float32-custom-compile-on-r0",
    ]


def test_repeats_are_rows() -> None:
    assert row_ids("--frameworks", "torch", "--precisions", "float32", "--repeats", "2") == [
        "torch-float32-custom-compile-off-r0",
        "torch-float32-custom-compile-off-r1",
    ]


def test_repeats_run_by_turns() -> None:
    """float32, float16, float32, float16: a disturbance of a minute hits both."""
    rows = row_ids("--precisions", "float32", "mixed_float16", "--repeats", "2")
    names = [f"{framework}-{precision}" for framework in FRAMEWORKS for precision in ("float32", "mixed_float16")]
    assert rows == [f"{name}-custom-compile-off-r{repeat}" for repeat in range(2) for name in names]


def test_the_cpu_preset_has_every_precision() -> None:
    parser = run_parity.make_parser()
    configs = plan(parser, parser.parse_args(["--preset", "cpu"]))
    assert {config.precision for config in configs} == set(Precision)


def test_a_size_given_replaces_the_presets() -> None:
    parser = run_parity.make_parser()
    config, *_ = plan(parser, parser.parse_args(["--preset", "smoke", "--filters", "4", "--epochs", "7"]))
    assert (config.model.filters, config.train.epochs, config.train.batch_size) == (4, 7, 8)


def test_resume_needs_the_output_that_it_goes_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_parity.main(["--resume"])
    assert stopped.value.code == 2
    assert "give the --output whose rows are to be kept" in capsys.readouterr().err


STARTS = ["run_parity.py", *(f"{name}/__init__.py" for name in ("common", "tf_impl", "torch_impl"))]
STARTS += [f"{name}/__main__.py" for name in ("tf_impl", "torch_impl")]


@pytest.mark.parametrize("name", STARTS)
def test_an_old_python_can_read_what_tells_it_so(name: str) -> None:
    ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize("start", ["run_path('run_parity.py')", "run_module('tf_impl')", "run_module('torch_impl')"])
def test_an_old_python_is_told_which_to_take(start: str) -> None:
    process = run_python("-c", f"import runpy, sys; sys.version_info = (3, 8, 18); runpy.{start}")
    *_, line = process.stderr.splitlines()
    assert "this is Python 3.8, and 3.10 to 3.13 will do" in line
    assert "pip install" not in process.stderr


def test_an_old_python_is_told_so_in_one_line() -> None:
    code = "import runpy, sys; sys.version_info = (3, 6, 9); runpy.run_path('run_parity.py')"
    process = run_python("-c", code)
    line = "run_parity.py: this is Python 3.6, and 3.10 to 3.13 will do\n"
    assert (process.returncode, process.stderr) == (2, line)


def test_a_python_without_our_packages_says_what_to_do(tmp_path: Path) -> None:
    process = run_python("-S", "run_parity.py", env={**os.environ, "PYTHONPATH": ""})
    (line,) = process.stderr.splitlines()
    assert process.returncode == 2
    assert line.startswith("run_parity.py: this Python has no ")
    remedy = re.search("; (take|install it with:|make one that has:) (.*)", line)
    assert remedy
    assert_can_be_run(remedy[2])
