"""Does the page say what results.json says, ask the network for nothing, and stand what others put into the file?

Made from the published results, so that what it shows there is what these tests have seen.
"""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from matplotlib import rc_context

import run_parity
from common.cli.report import report
from common.config import FRAMEWORKS
from common.results.coding import read_json
from common.results.rows import Results, RowResult
from common.results.store import read_results
from common.show.canvas import COLOURS, STYLE
from common.show.figures import figures
from common.show.page import CAPTIONS, to_html
from common.show.table import parity_table, speed_table, tables
from tests.conftest import ROOT
from tests.fakes import fake_worker

CPU = read_json(ROOT / "results" / "cpu" / "results.json", Results)
WEAK, STRONG = (read_json(ROOT / f"results/h100-x4/{kind}/results.json", Results) for kind in ("weak", "strong"))
OF_ONE_DEVICE = set(CAPTIONS) - {"weak_scaling", "strong_scaling"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LARGEST_PAGE_BYTES = 1_500_000


@pytest.fixture(scope="module")
def largest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on the largest published results."""
    folder = tmp_path_factory.mktemp("report")
    file = max(ROOT.glob("results/*/results.json"), key=lambda path: path.stat().st_size)
    report(read_json(file, Results), folder, "simple")
    return folder


def cells(html: str) -> list[list[str]]:
    """Of the page's tables, every line of them."""
    lines = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [
        [unescape(cell).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.DOTALL)] for line in lines
    ]


def titles(results: Results) -> dict[str, str]:
    with rc_context(STYLE):
        return {name: " ".join(figure.get_suptitle().split()) for name, figure in figures(results).items()}


def steadied(row: RowResult) -> RowResult:
    """The row, had every epoch after the first taken as long as its median one."""
    if not (row.timing and row.timing.step_s):
        return row
    first, *others = row.timing.epoch_s
    seconds = row.timing.step_s.median * row.config.steps_per_epoch
    return replace(row, timing=replace(row.timing, epoch_s=[first, *(seconds for _ in others)]))


def test_its_tables_are_those_that_the_run_prints() -> None:
    found = cells(to_html(CPU, {}))
    for table in (speed_table(CPU.rows, "tsv"), parity_table(CPU.parity, "tsv")):
        for line in table.splitlines():
            assert [cell.strip() for cell in line.split("\t")] in found


@pytest.mark.parametrize("file", sorted(ROOT.glob("results/**/tables.txt")), ids=lambda file: str(file.parent.name))
def test_published_tables_are_those_of_their_results(file: Path) -> None:
    assert file.read_text() == tables(read_results(file.with_name("results.json")), "simple") + "\n"


def test_the_csv_holds_what_was_measured(tmp_path: Path) -> None:
    report(CPU, tmp_path, "simple")
    measured = json.loads((ROOT / "results" / "cpu" / "results.json").read_text())["rows"]
    lines = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert len(lines) == len(measured)
    for line, row in zip(lines, measured, strict=True):
        assert (line["framework"], line["precision"]) == (row["framework"], row["precision"])
        if row["timing"]:
            assert float(line["step_s_median"]) == row["timing"]["step_s"]["median"]
            assert int(line["steady_used_bytes"]) == row["memory"]["steady_used_bytes"]
            assert float(line["times_floor"]) == row["limits"]["times_floor"]
        else:
            assert line["step_s_median"] == ""


def test_titles_say_the_finding() -> None:
    found = titles(CPU)
    unsteady = "TensorFlow: can't tell: mixed_float16, mixed_bfloat16 UNSTABLE PyTorch: can't tell: float32 UNSTABLE"
    assert found["speed"] == unsteady
    assert titles(replace(CPU, rows=[steadied(row) for row in CPU.rows]))["speed"] == (
        "TensorFlow: mixed_bfloat16 is 1.23x as fast PyTorch: mixed_bfloat16 is 2.20x as fast "
        "Fewer than 3 processes each: run --repeats 3 for an interval over them"
    )
    assert found["loss"] == "Both frameworks' losses agree as far as they can be compared"
    assert found["loss_scale"].startswith("mixed_float16 skips no step")
    assert re.fullmatch(r"Every check passes; the worst takes \d\d% of its bound", found["parity"])
    assert set(found) == OF_ONE_DEVICE


def test_scaling_is_drawn_where_there_are_several_replicas() -> None:
    weak, strong = titles(WEAK), titles(STRONG)
    tensorflow, pytorch = "TensorFlow: 89 to 96 % on 4 replicas", "PyTorch: 95 to 99 % on 4 replicas"
    assert weak["weak_scaling"] == f"Weak scaling, uncompiled {tensorflow} {pytorch}"
    tensorflow, pytorch = "TensorFlow: 82 to 90 % on 2 replicas", "PyTorch: can't tell: not every precision is steady"
    assert strong["strong_scaling"] == f"Strong scaling, uncompiled {tensorflow} {pytorch}"
    tensorflow, pytorch = "TensorFlow: 54 to 82 % on 4 replicas", "PyTorch: 29 to 88 % on 4 replicas"
    steady = titles(replace(STRONG, rows=[steadied(row) for row in STRONG.rows]))
    assert steady["strong_scaling"] == f"Strong scaling, uncompiled {tensorflow} {pytorch}"
    assert "strong_scaling" not in weak
    assert "weak_scaling" not in strong


def test_a_line_of_scaling_begins_at_one_replica() -> None:
    panels = figures(WEAK)["weak_scaling"].axes
    assert [panel.get_title() for panel in panels] == ["float32", "mixed_float16", "mixed_bfloat16"]
    limit, tensorflow, *others = panels[1].get_lines()
    assert list(limit.get_ydata()) == [100, 100]
    assert list(tensorflow.get_xdata()) == [1, 2, 4]
    assert [round(float(value)) for value in tensorflow.get_ydata()] == [100, 94, 89]
    assert len(others) == 3  # compiled, and both of PyTorch


def test_the_title_of_scaling_is_of_what_all_precisions_have() -> None:
    rows = [row for row in WEAK.rows if row.framework == "tensorflow"]
    fewer = [row for row in rows if row.config.execution.replicas < 4 or row.precision == "float32"]
    assert titles(replace(WEAK, rows=fewer))["weak_scaling"].endswith("TensorFlow: 94 to 96 % on 2 replicas")
    compiled = [row for row in rows if row.compile]
    assert titles(replace(WEAK, rows=compiled))["weak_scaling"] == "Weak scaling"


def test_replicas_that_share_a_cpu_scale_to_no_figure() -> None:
    rows = [replace(row, memory=row.memory and replace(row.memory, kind="host_rss")) for row in WEAK.rows]
    assert "weak_scaling" not in figures(replace(WEAK, rows=rows))


def skipping(*of_rows: tuple[int, list[int]]) -> str:
    """The title over rows of mixed_float16, each of a batch and the steps it skipped."""
    some = next(row for row in WEAK.rows if row.precision == "mixed_float16")
    rows = [
        replace(
            some,
            config=replace(some.config, repeat=number, train=replace(some.config.train, batch_size=batch_size)),
            training=some.training and replace(some.training, skipped_steps=steps),
        )
        for number, (batch_size, steps) in enumerate(of_rows)
    ]
    return titles(replace(WEAK, rows=rows))["loss_scale"]


def test_skips_are_compared_where_the_batch_is_the_same() -> None:
    assert skipping((50, [1, 2])) == "mixed_float16 skips steps 1, 2"
    assert skipping((50, [1, 2]), (50, [1, 2])) == "mixed_float16 skips steps 1, 2, in every row"
    assert skipping((50, []), (100, [])) == "mixed_float16 skips no step, in every row"
    assert skipping((50, [1, 2]), (50, [1])) == "The rows skip different steps"
    assert skipping((50, [1]), (50, [1]), (100, [2])).endswith("skips the same steps in every row of the same batch")
    assert skipping((50, [1]), (100, [2])) == "mixed_float16 skips other steps with another batch"


@pytest.mark.parametrize("largest_loss", [0.7, 3.0, 1e6])
def test_the_axis_of_the_loss_has_numbers(largest_loss: float) -> None:
    """Also where there are no two powers of ten to put them at."""
    losses = [0.6, largest_loss]
    rows = [replace(row, training=row.training and replace(row.training, loss=losses)) for row in CPU.rows]
    for axes in figures(replace(CPU, rows=rows))["loss"].axes:
        lowest, highest = axes.get_ylim()
        assert sum(lowest <= tick <= highest for tick in axes.get_yticks()) >= 2


def test_a_failed_check_is_in_title_and_page() -> None:
    entry = CPU.parity[0]
    failed = replace(entry, passed=False, checks=[replace(entry.checks[0], passed=False, difference=9.0, bound=1.0)])
    broken = replace(CPU, parity=[failed])
    assert titles(broken)["parity"].startswith("1 check FAILED; the worst is C")
    assert "A parity check failed: float64" in to_html(broken, {})


def test_a_framework_has_one_colour(largest: Path) -> None:
    for name in ("speed", "memory", "floor", "loss"):
        svg = (largest / f"{name}.svg").read_text().lower()
        coloured = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg)) - {"#1a1b1c", "#8a8b8c", "#ffffff"}
        assert coloured == {colour.lower() for colour in COLOURS.values()}
        assert len(coloured) == len(FRAMEWORKS)


def test_it_is_small_and_whole(largest: Path) -> None:
    page = (largest / "index.html").read_text()
    assert len(page.encode()) < LARGEST_PAGE_BYTES
    assert page.count("<svg") == len(OF_ONE_DEVICE)
    assert sorted(path.stem for path in largest.glob("*.png")) == sorted(OF_ONE_DEVICE)
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_nothing_in_it_leads_out_of_the_page(largest: Path) -> None:
    """Namespaces are names; what a browser would load are attributes and url()."""
    page = (largest / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert links
    assert not [link for link in links if not link.startswith(("#", "data:"))]
    assert "<script" not in page


def test_what_others_wrote_into_the_file_is_text() -> None:
    evil = "<script>alert(1)</script>\x1b[31m"
    row = replace(CPU.rows[0], detail=evil, log_tail=[evil], log=evil)
    page = to_html(replace(CPU, rows=[row], command=[evil], parity=[]), {})
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_results_without_rows_have_a_page() -> None:
    assert "No row has ended." in to_html(Results(["x"], {}), {})


def test_the_verb_writes_beside_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "results" / "cpu" / "results.json", tmp_path)
    assert run_parity.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report' / 'index.html'}\n"
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {
        "index.html",
        "rows.csv",
        "tables.txt",
        *(f"{n}.{end}" for n in OF_ONE_DEVICE for end in ("svg", "png")),
    }


def test_several_results_have_a_folder_each(tmp_path: Path) -> None:
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / "results" / "cpu" / "results.json", tmp_path / name)
    pages = tmp_path / "pages"
    assert run_parity.main(["report", str(tmp_path / "before"), str(tmp_path / "after"), "--output", str(pages)]) == 0
    assert sorted(path.parent.name for path in pages.glob("*/index.html")) == ["after", "before"]


def test_two_results_of_one_folder_do_not_have_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("before.json", "after.json"):
        shutil.copy(ROOT / "results" / "cpu" / "results.json", tmp_path / name)
    with pytest.raises(SystemExit):
        run_parity.main(["report", str(tmp_path / "before.json"), str(tmp_path / "after.json")])
    assert f"two of them would be drawn into {tmp_path / 'report'}; give one at a time" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_missing_package_costs_the_report_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "common.show.page")
    monkeypatch.delitem(sys.modules, "common.show.figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ["--preset", "smoke", "--device", "cpu", "--frameworks", "torch", "--precisions", "float32", "--quiet"]
    code = run_parity.main([*arguments, "--output", str(tmp_path / "run"), "--torch-python", fake_worker(tmp_path)])
    printed = capsys.readouterr()
    assert code == 0
    assert "float32" in printed.out
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == {"tables.txt", "rows.csv"}
    assert printed.err == (
        f"no page: matplotlib is not installed; add it with: "
        f"{sys.executable} -m pip install -c {ROOT / 'constraints.txt'} -e '{ROOT}[report]'\n"
    )


def test_a_run_writes_its_report_and_can_be_told_not_to(tmp_path: Path) -> None:
    arguments = ["--preset", "smoke", "--device", "cpu", "--frameworks", "torch", "--precisions", "float32", "--quiet"]
    arguments += ["--torch-python", fake_worker(tmp_path)]
    run_parity.main([*arguments, "--output", str(tmp_path / "with")])
    run_parity.main([*arguments, "--output", str(tmp_path / "without"), "--no-report"])
    assert (tmp_path / "with" / "report" / "index.html").exists()
    assert not (tmp_path / "without" / "report").exists()


def test_a_folder_of_runs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "image-size-8").mkdir()
    shutil.copy(ROOT / "results" / "cpu" / "results.json", tmp_path / "image-size-8")
    with pytest.raises(SystemExit):
        run_parity.main(["report", str(tmp_path)])
    assert "results.json is not there; there is one in each of image-size-8" in capsys.readouterr().err


def test_speed_without_an_interval_is_no_finding() -> None:
    few = [replace(row, timing=row.timing and replace(row.timing, epoch_s=row.timing.epoch_s[:3])) for row in CPU.rows]
    assert titles(replace(CPU, rows=few))["speed"] == "Too few epochs to judge the speed"


def test_without_float32_there_is_no_finding() -> None:
    mixed = titles(replace(CPU, rows=[row for row in CPU.rows if row.precision == "mixed_float16"]))
    nothing = "no mixed precision beside float32, uncompiled and on one device"
    assert (mixed["speed"], mixed["memory"]) == (nothing, nothing)


def test_the_article_stands_beside_rows_of_one_device() -> None:
    lines = [line for line in cells(to_html(WEAK, {})) if line and line[0] == "here, tensorflow"]
    assert [line[1] for line in lines] == ["float32", "mixed_float16"]
    assert [line[2] for line in lines] == ["21.2", "7.44"]  # ms a step


def test_more_memory_is_not_called_less() -> None:
    more = [
        replace(row, memory=replace(row.memory, steady_used_bytes=10**9))
        if row.memory and row.precision.startswith("mixed_")
        else row
        for row in CPU.rows
    ]
    assert "more memory" in titles(replace(CPU, rows=more))["memory"]
    assert "less memory" not in titles(replace(CPU, rows=more))["memory"]


def test_a_report_folder_that_is_a_link_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "results" / "cpu" / "results.json", tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "report").symlink_to(tmp_path / "outside")
    assert run_parity.main(["report", str(tmp_path)]) == 3
    assert "can't be written (it is a link, and none is followed)" in capsys.readouterr().err
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_it_without_an_error_or_a_request(largest: Path, tmp_path: Path) -> None:
    """The log of what Chromium loaded holds the page and data in it; its console holds nothing."""
    log = tmp_path / "net.json"
    process = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}",
            "--window-size=400,900", "--dump-dom", f"file://{largest / 'index.html'}",
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "<svg" in process.stdout
    assert "Difference over bound" in process.stdout
    assert not re.findall(r".*CONSOLE.*", process.stderr)
    requested = set(re.findall(r'"url":"((?:https?|wss?|ftp):[^"]*)"', log.read_text()))
    assert not {url for url in requested if not re.search(r"google|gvt1", url)}  # those are the browser's own
