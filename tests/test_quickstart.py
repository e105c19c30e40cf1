"""docs/quickstart.md, followed word by word on slides that are written as TRIDENT and CLAM write them."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from milkit import cli

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "quickstart.md").read_text()


def masked(text):
    """The text with every decimal number as #.###: last digits depend on the machine."""
    return re.sub(r"\d\.\d{3}", "#.###", text)


def follow(command, capsys):
    """Run a command line of the page in this process; returns its standard output."""
    program, *arguments = shlex.split(command)
    capsys.readouterr()
    if program == "python":
        assert arguments[0] == "-c"
        exec(compile(arguments[1], "docs/quickstart.md", "exec"), {})
    else:
        assert program == "milkit"
        assert cli.main(arguments) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def page():
    """How the page is taken apart; the command that made its figures does the same."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from benchmarks import quickstart

    return quickstart


@pytest.fixture(scope="module")
def folder(page, tmp_path_factory):
    from foreign_files import quickstart

    made = tmp_path_factory.mktemp("quickstart")
    quickstart(made)
    return made


@pytest.mark.slow
def test_the_page_works_word_by_word(page, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    said = {}
    for kind, name, body in page.steps(TEXT):
        if kind == "python":
            Path(name).write_text(body)
        else:
            said[name] = follow(name, capsys)
            assert masked(said[name]) == masked(body), name
    for module in ("study", "clam_study"):
        sys.modules.pop(module, None)
    assert len(said) == 3

    cohort = json.loads(Path("runs/her2/cohort.json").read_text())
    flow = cohort["flow"]
    assert (flow["rows"], flow["matched"], flow["bags"], flow["patients"]) == (48, 46, 31, 31)
    assert sorted(flow["left_out"]) == [
        ["006-A", "no value in column 'her2'"],
        ["008-A.svs", "the table has a row but there are no features"],
        ["017-A", "no value in column 'her2'"],
        ["017-B", "no value in column 'her2'"],
        ["024-A", "its features hold no instance"],
        ["031-A.svs", "the table has a row but there are no features"],
        ["900-A", "there are features but no row in the table"],
        ["901-A", "there are features but no row in the table"],
    ]
    provenance = cohort["provenance"]
    assert {k: provenance[k] for k in ("encoder", "mpp", "tile_um", "tile_px", "tool", "target_magnification")} == {
        "encoder": "uni_v2", "mpp": 0.5, "tile_um": 128.0, "tile_px": 256, "tool": "TRIDENT", "target_magnification": 20
    }  # fmt: skip
    results = json.loads(Path("runs/her2/results.json").read_text())
    auroc = results["selections"]["validation"]["metrics"]["auroc"]
    assert 0.7 < auroc["value"] <= 1  # the signal is planted
    for interval in ("sampling", "procedure"):
        low, high = auroc[interval]
        assert 0 <= low < auroc["value"] < high <= 1

    # one layout or the other: the same features in the same patients give the same bits
    tables = {name: Path(f"runs/{name}/predictions.csv").read_text() for name in ("her2", "clam")}
    assert re.sub("^clam,", "her2,", tables["clam"], flags=re.M) == tables["her2"]
    clam = json.loads(Path("runs/clam/cohort.json").read_text())
    assert (clam["flow"]["matched"], clam["flow"]["bags"]) == (45, 31)  # CLAM writes no file for an empty slide
    assert {k: clam["provenance"][k] for k in ("encoder", "mpp", "tile_um", "tool")} == {
        "encoder": "uni_v2", "mpp": 0.5, "tile_um": 128.0, "tool": "CLAM"
    }  # fmt: skip


def test_the_page_shows_what_the_terminal_said(page, root):
    """The numbers on the page are those of the committed JSON, which `python -m benchmarks.quickstart` makes."""
    made = json.loads((root / "benchmarks" / "results" / "quickstart.json").read_text())
    assert page.fill(TEXT, made["outputs"]) == TEXT
    shown = made["outputs"]["milkit run study.py"]
    lines = [line.split() for line in shown.splitlines()]
    for metrics in made["metrics"].values():
        for metric, numbers in metrics.items():
            value, a, b, c, d = (f"{v:.3f}" for v in (numbers["value"], *numbers["sampling"], *numbers["procedure"]))
            assert [metric, value, a, "-", b, c, "-", d] in lines


def test_ten_lines_of_python_and_one_command(page):
    files = [(name, body) for kind, name, body in page.steps(TEXT) if kind == "python"]
    assert [name for name, _ in files] == ["study.py", "clam_study.py"]
    assert len([line for line in files[0][1].splitlines() if line.strip()]) <= 10


def test_the_table_on_the_page_is_the_one_that_is_read(folder):
    shown = re.search(r"^```csv\n(.*?)^```$", TEXT, re.S | re.M)[1]
    assert (folder / "clinical.csv").read_text().replace("\r\n", "\n").startswith(shown)
    rows = np.loadtxt(folder / "clinical.csv", str, delimiter=",", skiprows=1)
    assert len(rows) == 48
    assert "" in rows[:, 2]
    assert "NA" in rows[:, 2]
