"""`milkit compare`: what it prints and writes, and what it refuses."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from milkit.cli import main
from milkit.predictions import Predictions, concat
from milkit.task import Binary

PATIENTS = 60
Y = np.arange(PATIENTS) % 2


def run_folder(path, seed, strength, *, name="yes", selections=("validation",), patients=PATIENTS):
    """A run folder of 5 folds, as far as a comparison reads it."""
    parts = []
    z = strength * (2 * Y - 1) + np.random.default_rng(seed).normal(size=PATIENTS)
    for selection in selections:
        for fold in range(5):
            test = np.arange(PATIENTS)[fold::5]
            test = test[test < patients]
            ids = [f"p{i:02d}" for i in test]
            parts.append(
                Predictions.of(
                    Binary(), ("no", name), z[test, None], Y[test], experiment="x", run=f"f{fold}", repeat=0, fold=fold,
                    seed=0, selection=selection, role="test", bag=ids, patient=ids,
                )
            )  # fmt: skip
    path.mkdir(parents=True)
    concat(parts).write(path / "predictions.csv")
    (path / "config.json").write_text(json.dumps({"unit": "patient", "aggregate": "mean", "marks": []}))
    folds = [{"repeat": 0, "fold": f, "role": "train", "patients": 48} for f in range(5)]
    (path / "cohort.json").write_text(json.dumps({"folds": folds}))
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A good, a middling and a bad one."""
    root = tmp_path_factory.mktemp("runs")
    return [run_folder(root / n, i, s) for i, (n, s) in enumerate({"good": 1.6, "middling": 0.5, "bad": -0.6}.items())]


def test_json_is_one_mapping_by_metric(runs, capsys):
    assert main(["compare", *runs[::2], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["auroc", "accuracy", "balanced_accuracy", "brier"]
    for entry in found.values():
        assert list(entry)[:5] == ["difference", "low", "high", "p", "verdict"]
        assert entry["low"] < entry["difference"] < entry["high"]
        assert entry["verdict"] in ("different", "no power", "indistinguishable")
    assert found["auroc"]["difference"] > 0.5
    assert found["auroc"]["better"] == "good"
    assert found["brier"]["difference"] < 0


def test_json_of_three_runs_is_by_pair(runs, capsys):
    assert main(["compare", *runs, "--metric", "auroc", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["good vs middling", "good vs bad", "middling vs bad"]
    assert all(list(metrics) == ["auroc"] for metrics in found.values())
    assert main(["compare", *runs, "--metric", "auroc", "--metric", "brier", "--reference", "bad", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["good vs bad", "middling vs bad"]
    assert list(found["good vs bad"]) == ["auroc", "brier"]


def test_the_terminal_says_it_in_words(runs, capsys):
    assert main(["compare", runs[0], runs[2], "--metric", "auroc"]) == 0
    said = capsys.readouterr().out
    assert "A = good (validation); B = bad (validation): 60 patients, 5 splits" in said
    assert "different: good is better" in said
    assert re.search(r"- AUROC: good is better than bad \(difference 0\.\d+, 95 % .*corrected resampled t\)\.", said)


def test_the_folder(runs, tmp_path, capsys):
    out = tmp_path / "compared"
    assert main(["compare", *runs, "--out", str(out)]) == 0
    names = {p.name for p in out.iterdir()}
    assert names == {
        "comparison.json",
        "comparison.md",
        "comparison.html",
        "forest.png",
        "forest.pdf",
        "table.tex",
        "table.csv",
    }
    everything = json.loads((out / "comparison.json").read_text())
    assert everything["patients"] == 60
    assert everything["correction"] == "Holm over 12 comparisons"
    assert [r["name"] for r in everything["runs"]] == ["good", "middling", "bad"]
    with (out / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        entry = everything["pairs"][f"{row['first']} vs {row['second']}"][row["metric"]]
        assert float(row["difference"]) == entry["difference"]
        assert float(row["p_holm"]) == entry["p_holm"]
        assert row["verdict"] == entry["verdict"]
        assert row["higher_is_better"] == str(row["metric"] != "brier")
    tex = (out / "table.tex").read_text()
    assert tex.count("\\\\\n") == 1 + 3 + 12 + 2  # header, pairs, rows, footnotes
    assert tex.count(" & ") == 7 * 13
    page = (out / "comparison.html").read_text()
    assert "<svg" in page
    assert "http" not in page
    words = [e["verdict"] for metrics in everything["pairs"].values() for e in metrics.values()]
    assert f"12 comparisons of 3 runs: {words.count('different')} different" in page
    assert page.count("is better than") == words.count("different")


def test_a_folder_that_holds_something_is_left_alone(runs, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    command = ["compare", *runs[:2], "--metric", "auroc", "--out", str(out)]
    assert main(command) == 2
    assert "holds 1 file (notes.txt ...); give another --out, or --force" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["notes.txt"]
    assert main([*command, "--force"]) == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert main(["compare", *runs[:2], "--out", runs[0], "--force"]) == 2
    assert "is a run folder, whose tables would be replaced" in capsys.readouterr().err


def test_optimistic_follows_every_number(tmp_path, capsys):
    paths = [run_folder(tmp_path / n, i, 1.0, selections=("validation", "optimistic")) for i, n in enumerate("ab")]
    out = tmp_path / "out"
    assert main(["compare", *paths, "--selection", "validation,optimistic", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "B = b (optimistic)" in said
    assert all("[optimistic]" in line for line in said.splitlines() if line.startswith("- "))
    assert "Optimistic: the epoch of a run was chosen on the test part itself" in (out / "table.tex").read_text()
    assert "optimistic: the epoch of a run" in (out / "comparison.html").read_text()
    found = json.loads((out / "comparison.json").read_text())["pairs"]["a vs b"]
    assert all(entry["marks"] == ["optimistic"] for entry in found.values())
    assert main(["compare", *paths, "--json"]) == 0
    assert all(entry["marks"] == [] for entry in json.loads(capsys.readouterr().out).values())


def test_nothing_to_compare_by_is_said_and_drawn_nowhere(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", *runs[:2], "--metric", "sensitivity_at_threshold", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "nothing to compare good and middling by (no threshold was chosen" in said
    assert not (out / "forest.png").exists()
    entry = json.loads((out / "comparison.json").read_text())["pairs"]["good vs middling"]["sensitivity_at_threshold"]
    assert (entry["p"], entry["verdict"]) == (None, "no power")


def test_a_name_in_need_of_escaping(tmp_path, capsys):
    paths = [run_folder(tmp_path / n, i, 1.0) for i, n in enumerate(("a<b>_$x", "c%d&"))]
    out = tmp_path / "out"
    assert main(["compare", *paths, "--metric", "auroc", "--out", str(out)]) == 0
    assert "a<b>" not in (out / "comparison.html").read_text()
    assert r"a\textless{}b\textgreater{}\_\$x vs c\%d\&" in (out / "table.tex").read_text()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--metric", "auc"], "A Binary study has no metric 'auc'; it has: auroc, "),
        (["--alpha", "1.5"], "alpha 1.5 must lie between 0 and 1"),
        (["--margin", "-1"], "margin -1.0 must not be negative"),
        (["--margin", "nan"], "margin nan"),
        (["--selection", "optimistic"], "has no selection 'optimistic'; it has: validation"),
        (["--reference", "nobody"], "The reference 'nobody' is none of the runs compared"),
    ],
)
def test_bad_choices(runs, extra, said, capsys):
    assert main(["compare", *runs[:2], *extra]) == 2
    assert said in capsys.readouterr().err


def test_other_patients_are_listed(runs, tmp_path, capsys):
    fewer = run_folder(tmp_path / "fewer", 5, 1.0, patients=57)
    assert main(["compare", runs[0], fewer]) == 2
    error = capsys.readouterr().err
    assert "fewer lacks 3 of the 60 patients of good: 'p57', 'p58', 'p59'" in error
    assert "Traceback" not in error


def test_one_run_is_not_enough(runs, capsys):
    assert main(["compare", runs[0]]) == 2
    assert "name a second one" in capsys.readouterr().err


def test_the_function_is_the_command(runs, capsys):
    from milkit import api

    assert main(["compare", *runs[:2], "--json"]) == 0
    assert api.compare(runs[:2]).json() == json.loads(capsys.readouterr().out)


def test_it_needs_neither_jax_nor_matplotlib_to_print_numbers(runs):
    code = (
        "import sys; from milkit.cli import main; main(['compare', *sys.argv[1:], '--json']); "
        "print([m for m in ('jax', 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *runs[:2]], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "auroc" in json.loads(done.stdout)
