"""Does the notebook still run, and does it show what the program computes, in both frameworks?

It runs once here, at the sizes of the `smoke` preset, on the CPU and in the interpreter of the tests. What it shows as
stored has to come from the run in results/notebook, whose README.md says how both are made anew.
"""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("nbclient", reason="nbclient runs the notebook")
pytest.importorskip("ipykernel", reason="the notebook's kernel")
pytest.importorskip("matplotlib", reason="the notebook draws figures")

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from common.results.coding import read_json
from common.results.rows import Results
from common.show.table import parity_table, speed_table
from tests.conftest import ROOT, needs_both

NOTEBOOK = ROOT / "notebooks" / "mixed_precision_parity.ipynb"
LARGEST_BYTES = 400_000
LONGEST_CELL_S = 240
MIXED = ("mixed_float16", "mixed_bfloat16")
ROWS = {(framework, precision) for framework in ("tensorflow", "torch") for precision in ("float32", *MIXED)}


@pytest.fixture(scope="module", params=[pytest.param("executed notebook", marks=pytest.mark.slow)])
def executed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The notebook after a run of its own, as far as it came; the error that ended it, if one did; and the results."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    here = {**os.environ, "PRESET": "smoke", "OUTPUT": "run", "CUDA_VISIBLE_DEVICES": "-1", "IPYTHONDIR": str(folder)}
    for name in ("TF_PYTHON", "TORCH_PYTHON"):
        here.pop(name, None)
    kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))  # of this very interpreter
    client = NotebookClient(
        notebook, km=kernel, timeout=LONGEST_CELL_S, resources={"metadata": {"path": str(folder)}}, record_timing=False
    )
    error = ""
    try:
        client.execute(env=here)
    except CellExecutionError as reason:
        error = str(reason)
    file = folder / "run" / "results.json"
    results = read_json(file, Results) if file.exists() else Results([], {})
    return SimpleNamespace(notebook=notebook, error=error, results=results)


@pytest.fixture(scope="module")
def stored() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode, cell_id: str) -> list[nbformat.NotebookNode]:
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    return cell.outputs


def text(notebook: nbformat.NotebookNode, cell_id: str) -> str:
    """What the cell prints and shows as Markdown."""
    return "\n".join(
        output.text if output.output_type == "stream" else output.get("data", {}).get("text/markdown", "")
        for output in outputs(notebook, cell_id)
    )


def table(notebook: nbformat.NotebookNode, cell_id: str) -> list[list[str]]:
    """The cells of every line of its Markdown tables, without the headers."""
    lines = [line for line in text(notebook, cell_id).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [index for index, line in enumerate(lines) if set(line) <= set("|-: ")]
    return [line for index, line in enumerate(cells) if index not in rules and index + 1 not in rules]


@needs_both
def test_no_cell_fails(executed: SimpleNamespace) -> None:
    assert executed.error == ""
    assert [cell.execution_count for cell in code_cells(executed.notebook)] == [
        *range(1, len(code_cells(executed.notebook)) + 1)
    ]


@needs_both
def test_nothing_is_said_on_stderr(executed: SimpleNamespace) -> None:
    """No warning of Python's, and none of TensorFlow's log lines."""
    streams = [output for cell in code_cells(executed.notebook) for output in cell.outputs if "name" in output]
    assert [output.text for output in streams if output.name == "stderr"] == []


@needs_both
def test_the_data_are_the_same_in_both(executed: SimpleNamespace) -> None:
    assert table(executed.notebook, "batches") == [
        ["TensorFlow", "(8, 32, 32, 3)", "True"],
        ["PyTorch", "(8, 3, 32, 32)", "True"],
    ]


@needs_both
def test_the_models_have_equally_many_parameters(executed: SimpleNamespace) -> None:
    *layers, total = table(executed.notebook, "layers")
    assert [layer[0] for layer in layers] == ["conv1", "conv2", "conv3", "flatten", "dense"]
    assert all(layer[-2] == layer[-1] for layer in layers)
    # 8 filters of 2 x 2 x 3, twice 8 of 8, and 31 x 31 x 8 inputs of the Dense layer; each has biases.
    assert total == ["all", "", "", *[str(8 * 13 + 2 * 8 * 9 + 31 * 31 * 8 + 1)] * 2]


@needs_both
def test_the_starting_weights_are_the_same_bit_for_bit(executed: SimpleNamespace) -> None:
    names, digests, _ = zip(*table(executed.notebook, "weights"), strict=True)
    assert names == ("NumPy", "TensorFlow", "PyTorch")
    assert len(set(digests)) == 1
    assert re.fullmatch(r"[0-9a-f]{32}\.\.\.", digests[0])


@needs_both
def test_each_precision_is_what_its_name_says(executed: SimpleNamespace) -> None:
    assert table(executed.notebook, "dtypes") == [
        [precision, framework, precision.removeprefix("mixed_"), "float32", "float32"]
        for precision in ("float32", *MIXED)
        for framework in ("TensorFlow", "PyTorch")
    ]


@needs_both
def test_the_logits_err_as_the_dtype_does(executed: SimpleNamespace) -> None:
    """By less than 16 bits can in float32, and by more in 16 bits than float32 would."""
    lines = table(executed.notebook, "errors")
    assert [line[0] for line in lines] == ["float32", *MIXED]
    for precision, _, *errors in lines:
        for error in map(float, errors[:2]):
            assert (error < 1e-5) is (precision == "float32")


@needs_both
def test_a_gradient_underflows_without_loss_scaling_alone(executed: SimpleNamespace) -> None:
    without, scaled = (table(executed.notebook, "underflow")[half] for half in (slice(2), slice(2, 4)))
    assert [line[2:] for line in without] == [["0", "0"]] * 2
    assert [float(line[3]) for line in scaled] == pytest.approx([1e-8, 1e-8], rel=1e-3)


@needs_both
def test_both_frameworks_skip_the_same_steps(executed: SimpleNamespace) -> None:
    lines = table(executed.notebook, "skips")
    assert len(lines) == 9
    assert all(line[3] == line[4] and line[5] == line[6] for line in lines)
    assert lines[0][3] == "2**22"
    assert lines[0][5] == "0"
    assert int(lines[-1][5]) > 0


@needs_both
def test_the_table_holds_every_row_and_each_passes(executed: SimpleNamespace) -> None:
    lines = table(executed.notebook, "table")
    assert len(lines) == len(ROWS)
    assert {(line[0], line[1], *line[-2:]) for line in lines} == {(*row, "pass", "ok") for row in ROWS}


@needs_both
def test_the_proof_says_what_the_run_found(executed: SimpleNamespace) -> None:
    checks = [check for entry in executed.results.parity for check in entry.checks]
    assert f"**Of {len(checks)} checks all pass, " in text(executed.notebook, "proof")
    assert [line[0] for line in table(executed.notebook, "proof")] == ["float32", *MIXED]


@needs_both
def test_every_mixed_row_is_judged(executed: SimpleNamespace) -> None:
    """The three epochs of `smoke` are too few for a verdict."""
    said = text(executed.notebook, "verdict")
    for framework, precision in ROWS:
        assert (f"- **{framework} {precision} can't be judged**: " in said) is (precision in MIXED)
    assert "**Nothing could be judged: it takes four epochs or more" in said


@needs_both
@pytest.mark.parametrize(("cell_id", "count"), [("pictures", 1), ("speed-and-memory", 2), ("losses", 2)])
def test_figures_are_drawn(executed: SimpleNamespace, cell_id: str, count: int) -> None:
    assert sum("image/png" in output.get("data", {}) for output in outputs(executed.notebook, cell_id)) == count


def test_it_is_stored_as_one_execution_from_top_to_bottom(stored: nbformat.NotebookNode) -> None:
    cells = code_cells(stored)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert [cell.id for cell in cells if not cell.outputs] == ["settings"]


def test_what_it_shows_is_of_the_stored_results(stored: nbformat.NotebookNode) -> None:
    results = read_json(ROOT / "results" / "notebook" / "results.json", Results)
    lines = speed_table(results.rows, "tsv").splitlines()
    header, *rows = ([cell.strip() for cell in line.split("\t")] for line in lines)
    shown = re.findall(r"\| *([^|]*?) *(?=\|)", text(stored, "table").splitlines()[0])
    chosen = [header.index(column) for column in shown]
    assert table(stored, "table") == [[row[place] for place in chosen] for row in rows]
    assert parity_table(results.parity, "github") in text(stored, "proof")


@pytest.mark.parametrize("cell_id", ["model", "autocast", "step"])
def test_the_source_it_shows_is_that_of_today(stored: nbformat.NotebookNode, cell_id: str) -> None:
    found = re.findall(r"\(\.\./(\w+/\w+\.py)\)\n\n```python\n(.*?)```", text(stored, cell_id), re.DOTALL)
    assert len(found) == 2
    for file, source in found:
        assert source in (ROOT / file).read_text(encoding="utf-8")


def test_it_holds_nothing_of_the_machine_that_ran_it(stored: nbformat.NotebookNode) -> None:
    written = NOTEBOOK.read_text(encoding="utf-8")
    assert str(ROOT) not in written
    assert str(Path.home()) + os.sep not in written
    assert not re.findall(r"(?:/home|/root|/tmp|/Users|/usr|/work)/[\w.]", written)
    assert not [output for cell in code_cells(stored) for output in cell.outputs if output.get("name") == "stderr"]
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    assert len(written.encode()) < LARGEST_BYTES
