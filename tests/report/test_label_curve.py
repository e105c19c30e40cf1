"""The label-budget curve: worked by hand on eight patients, and what copies of a draw may not change."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from milkit.predictions import Predictions, concat
from milkit.report.figures.few_labels import curve_figure, places
from milkit.report.label_curve import curve_csv, primary_metrics, write_label_curve
from milkit.report.results import write_results
from milkit.report.sections.few_labels import few_labels
from milkit.report.source import read_source
from milkit.task import Binary

PATIENTS = [f"p{i}" for i in range(8)]
TESTED = {0: (0, 1, 2, 3), 1: (4, 5, 6, 7)}
NAMES = ("no", "yes")
T1 = 12.706204736432095  # 97.5 % quantile of Student's t with one degree of freedom


def rows(name, fold, wrong, seed=0):
    """Test rows of one run that has the first `wrong` patients of its fold wrong; odd patients are positive."""
    who = TESTED[fold]
    y = np.array([i % 2 for i in who])
    called = np.where(np.arange(4) < wrong, 1 - y, y)
    return Predictions.of(
        Binary(), NAMES, np.where(called, 2.0, -2.0)[:, None], y, experiment="hand", run=name, repeat=0, fold=fold,
        seed=seed, selection="last", role="test", bag=[PATIENTS[i] for i in who], patient=[PATIENTS[i] for i in who],
    )  # fmt: skip


def table(path, header, lines):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


def write(folder: Path, whole: dict, few: dict, **config) -> Path:
    """A run folder of two folds. `whole`: fold -> wrong; `few`: (labels, fold, draw) -> wrong."""
    (folder / "few_labels").mkdir(parents=True)
    settings = {"experiment": {"task": {"type": "Binary"}, "labels": {"validation": "same budget"}}, "runs": 2}
    (folder / "config.json").write_text(json.dumps(settings | config))
    concat([rows(f"r0f{f}s0", f, wrong) for f, wrong in whole.items()]).write(folder / "predictions.csv")
    names = {key: "r0f{1}k{0}d{2}s0".format(*key) for key in few}
    parts = [rows(names[key], key[1], wrong) for key, wrong in few.items()]
    concat(parts).write(folder / "few_labels" / "predictions.csv")
    head = ("repeat", "fold", "inner", "role", "bag", "patient")
    split = [(0, f, 0, "train", PATIENTS[i], PATIENTS[i]) for f in (0, 1) for i in TESTED[1 - f]]
    split += [(0, f, 0, "test", PATIENTS[i], PATIENTS[i]) for f in (0, 1) for i in TESTED[f]]
    table(folder / "folds.csv", head, split)
    chosen = [
        (k, d, 0, f, 0, "train", PATIENTS[i], PATIENTS[i])
        for k, f, d in few for i in TESTED[1 - f] if i % 4 < 2 * k
    ]  # fmt: skip
    table(folder / "few_labels" / "folds.csv", ("labels", "draw", *head), chosen)
    runs = ("run", "repeat", "fold", "inner", "seed", "updates", "status")
    table(folder / "runs.csv", runs, [(f"r0f{f}s0", 0, f, 0, 0, 40, "finished") for f in whole])
    lines = [(names[k, f, d], 0, f, 0, 0, 10 * k, "finished", k, d) for k, f, d in few]
    table(folder / "few_labels" / "runs.csv", (*runs, "labels", "draw"), lines)
    cohort = [{"repeat": 0, "fold": f, "inner": 0, "role": "train", "bags": 4, "patients": 4} for f in (0, 1)]
    (folder / "cohort.json").write_text(json.dumps({"folds": cohort}))
    return folder


@pytest.fixture(scope="module")
def hand(tmp_path_factory):
    """One label a class: fold 0 has 1 and 3 of 4 wrong in its two draws, fold 1 has 0 and 2; all labels: 0 and 1."""
    few = {(1, 0, 1): 1, (1, 0, 2): 3, (1, 1, 1): 0, (1, 1, 2): 2}
    folder = write(tmp_path_factory.mktemp("curve") / "run", {0: 0, 1: 1}, few, few_label_runs=4)
    write_results(folder, draws=200)
    return folder


def curve_of(folder):
    return json.loads((folder / "label_curve.json").read_text())


def test_values_and_spreads_by_hand(hand):
    few, whole = curve_of(hand)["points"]
    found = few["metrics"]["accuracy"]
    # fold 0: (0.75 + 0.25) / 2 = 0.5; fold 1: (1 + 0.5) / 2 = 0.75
    assert found["value"] == pytest.approx(0.625)
    assert found["fold_sd"] == pytest.approx(0.25 / 2**0.5)
    assert found["draw_sd"] == pytest.approx(0.5 / 2**0.5)
    assert found["by_draw"] == pytest.approx([0.875, 0.375])
    assert found["seed_sd"] is None
    assert whole["metrics"]["accuracy"]["value"] == pytest.approx(0.875)
    assert whole["metrics"]["accuracy"]["draw_sd"] is None
    assert (few["labels"], few["draws"], few["seeds"], few["runs"], few["splits"]) == (1, 2, 1, 4, 2)
    assert (few["train_patients"], few["updates"]) == (2, 10)
    assert (whole["labels"], whole["train_patients"], whole["updates"]) == ("all", 4, 40)


def test_the_paired_difference_by_hand(hand):
    """Splits differ by 0.5 and 0: mean 0.25, variance 0.125; 4 tested and 4 in the training part."""
    (pair,) = curve_of(hand)["differences"]
    assert (pair["from"], pair["to"]) == (1, "all")
    found = pair["metrics"]["accuracy"]
    assert found["value"] == pytest.approx(0.25)
    half = T1 * (0.125 * (1 / 2 + 4 / 4)) ** 0.5
    assert found["procedure"] == pytest.approx([0.25 - half, 0.25 + half])


def test_the_study_keeps_its_own_numbers(hand, tmp_path):
    alone = shutil.copytree(hand, tmp_path / "alone")
    shutil.rmtree(alone / "few_labels")
    assert write_results(alone, draws=200) == json.loads((hand / "results.json").read_text())


def test_draws_never_add_sample_size(tmp_path):
    """A budget whose six draws all are the study itself has its value and both its intervals."""
    few = {(k, f, d): f + 1 for k in (1, 2) for f in (0, 1) for d in range(1, 7)}
    folder = write(tmp_path / "run", {0: 1, 1: 2}, few)
    write_results(folder, draws=200)
    points = curve_of(folder)["points"]
    for name in curve_of(folder)["metrics"]:
        for part in ("value", "sampling", "procedure", "fold_sd"):
            one, two, whole = (p["metrics"][name][part] for p in points)
            assert one == pytest.approx(whole, abs=1e-12)
            assert two == pytest.approx(whole, abs=1e-12)
        assert points[0]["metrics"][name]["draw_sd"] == pytest.approx(0, abs=1e-12)


def test_runs_that_are_missing_are_said(tmp_path):
    few = {(1, 0, 1): 1, (1, 0, 2): 3, (1, 1, 1): 0}
    folder = write(tmp_path / "run", {0: 0, 1: 1}, few, few_label_runs=4)
    write_results(folder, draws=50)
    assert curve_of(folder)["marks"] == ["unfinished: 1 of 4 runs with few labels left no test prediction"]


def test_rows_that_are_lost_are_said(tmp_path):
    few = {(1, 0, 1): 1, (1, 1, 1): 0}
    folder = write(tmp_path / "run", {0: 0, 1: 1}, few, few_label_runs=2)
    file = folder / "few_labels" / "predictions.csv"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if ",p2," not in line))
    write_results(folder, draws=50)
    (mark,) = curve_of(folder)["marks"]
    assert mark == ("rows lost: few_labels/predictions.csv lacks 1 row of 1 run, such as test 1 bag p2 of r0f0k1d1s0")


def test_budgets_that_were_left_out_are_said(hand, tmp_path):
    folder = shutil.copytree(hand, tmp_path / "run")
    cohort = json.loads((folder / "cohort.json").read_text())
    note = "Label budget of 16 left out: the training part of repeat 0, fold 1 has 9 patients of class 'yes'."
    (folder / "cohort.json").write_text(json.dumps(cohort | {"notes": [note, "another"]}))
    write_results(folder, draws=50)
    (folder / "figures").mkdir(exist_ok=True)
    texts = [line for block in few_labels(read_source(folder)) for line in getattr(block, "lines", ())]
    assert texts == [note]


def test_budgets_on_other_patients_are_not_compared(tmp_path):
    folder = write(tmp_path / "run", {0: 0, 1: 1}, {(1, 0, 1): 1, (1, 0, 2): 3}, few_label_runs=4)
    write_results(folder, draws=50)
    assert curve_of(folder)["differences"] == []


def test_a_study_without_budgets_has_no_curve(hand, tmp_path):
    alone = shutil.copytree(hand, tmp_path / "alone")
    shutil.rmtree(alone / "few_labels")
    (alone / "label_curve.json").unlink()
    assert write_label_curve(alone, {}) == {}
    assert not (alone / "label_curve.json").exists()
    assert few_labels(read_source(alone)) == []


def test_the_csv_holds_every_point_at_full_precision(hand):
    lines = list(csv.DictReader((hand / "label_curve.csv").read_text().splitlines()))
    curve = curve_of(hand)
    assert curve_csv(curve) == (hand / "label_curve.csv").read_text()
    assert len(lines) == 2 * len(curve["metrics"])
    row = next(r for r in lines if r["labels"] == "1" and r["metric"] == "accuracy")
    assert float(row["value"]) == 0.625
    assert float(row["draw_sd"]) == curve["points"][0]["metrics"]["accuracy"]["draw_sd"]


def test_no_metric_of_the_curve_needs_a_threshold():
    assert [m.name for m in primary_metrics("Binary", NAMES)] == [
        "auroc", "auprc", "accuracy", "balanced_accuracy", "nll", "brier",
    ]  # fmt: skip
    assert [m.name for m in primary_metrics("Survival", ("risk",))] == ["c_index"]
    assert "rmse:b" in [m.name for m in primary_metrics("Regression", ("a", "b"))]
    assert "auroc:x" not in [m.name for m in primary_metrics("MultiLabel", ("x", "y"))]


def test_places_count_patients_of_a_class(hand):
    """One of each of two classes is two patients; the whole part of four is two a class."""
    assert places(curve_of(hand)) == [1.0, 2.0]


def test_the_section_says_what_validation_cost(hand):
    (hand / "figures").mkdir(exist_ok=True)
    source = read_source(hand)
    source.label_curve["points"][0]["validation_patients"] = 3.0

    def warned():
        return [line for block in few_labels(source) for line in getattr(block, "lines", ())]

    assert warned() == []  # the last epoch was kept
    source.label_curve["selection"] = "validation"
    (text,) = warned()
    assert "chosen on more labelled patients than were trained on (3 with 1 of each class)" in text
    assert (hand / "figures" / "label_curve_accuracy.png").exists()


def test_two_studies_share_a_picture(hand):
    drawn = curve_figure("accuracy", [("one", curve_of(hand)), ("two", curve_of(hand))])
    assert drawn is not None
    (ax,) = drawn.figure.axes
    lines = [line for line in ax.get_lines() if line.get_label() in ("one", "two")]
    assert [line.get_ydata().tolist() for line in lines] == [[0.625, 0.875]] * 2
