"""A locked model on another cohort: numbers by hand and by oracle, patients of the training, tables of other words."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import planted
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from milkit import api
from milkit.cli import main
from milkit.data.cohort import Cohort
from milkit.errors import CohortError, ConfigError, DataError, ProtocolError, RunFolderError
from milkit.keep.cohort import Reading
from milkit.keep.external import NO_PROCEDURE, against_study
from milkit.predictions import Predictions
from milkit.task import Survival


@pytest.fixture(scope="module")
def evaluated(home, ensemble, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "other"
    return api.evaluate(ensemble, home / "other.h5", home / "other.csv", out, groups=["sex"]), out


def edited(home, tmp_path, change):
    """The other hospital's table with its rows changed by `change(row)`; None leaves a row out."""
    with (home / "other.csv").open(newline="") as file:
        rows = [new for row in csv.DictReader(file) if (new := change(dict(row))) is not None]
    path = tmp_path / "edited.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.mark.slow
def test_every_number_is_that_of_the_predictions(evaluated, ensemble):
    results, out = evaluated
    rows, kept = Predictions.read(out / "predictions.csv"), api.load_model(ensemble)
    y, p = rows.target[:, 0].astype(int), rows.score[:, 1]
    assert (set(rows.selection), set(rows.role), len(rows)) == ({"locked"}, {"test"}, 24)
    metrics = {name: m["value"] for name, m in results["metrics"].items()}
    called = p >= kept.threshold[0]
    assert metrics["auroc"] == pytest.approx(roc_auc_score(y, p))
    assert metrics["sensitivity_at_threshold"] == pytest.approx(called[y == 1].mean())
    assert metrics["specificity_at_threshold"] == pytest.approx(1 - called[y == 0].mean())
    assert metrics["ppv_at_threshold"] == pytest.approx(y[called].mean())
    assert metrics["npv_at_threshold"] == pytest.approx(1 - y[~called].mean())
    assert metrics["brier"] == pytest.approx(((p - y) ** 2).mean())
    scaled = 1 / (1 + np.exp(-np.log(p / (1 - p)) / kept.temperature[0]))
    assert results["calibration"]["metrics"]["brier"]["value"] == pytest.approx(((scaled - y) ** 2).mean())
    # a temperature divides logits, so it divides the scale on which the slope is measured
    slope = {name: part["slope"]["value"] for name, part in results["recalibration"].items()}
    assert slope["scaled"] == pytest.approx(slope["raw"] * kept.temperature[0], rel=1e-5)
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))


def test_the_predictions_are_those_of_predict(evaluated, ensemble, home):
    header, *said = api.predict(ensemble, home / "other.h5", cohort=home / "other.csv")
    rows = Predictions.read(evaluated[1] / "predictions.csv")
    assert [row[0] for row in said] == rows.patient.tolist()
    np.testing.assert_allclose([float(row[header.index("prob_1")]) for row in said], rows.score[:, 1], atol=1e-12)


def test_delongs_interval_by_its_definition(evaluated):
    """The variance from all pairs, as DeLong et al. write it."""
    results, out = evaluated
    rows = Predictions.read(out / "predictions.csv")
    positive, negative = rows.score[rows.target[:, 0] == 1, 1], rows.score[rows.target[:, 0] == 0, 1]
    won = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = won.mean(1).var(ddof=1) / len(positive) + won.mean(0).var(ddof=1) / len(negative)
    half = norm.ppf(0.975) * math.sqrt(variance)
    expected = [max(0, won.mean() - half), min(1, won.mean() + half)]
    np.testing.assert_allclose(results["metrics"]["auroc"]["delong"], expected, atol=1e-9)


def test_a_locked_model_has_no_procedure_interval(evaluated):
    results, _ = evaluated
    assert results["selection"] == "locked"
    for part in (results["metrics"], results["selections"]["locked"]["metrics"], results["calibration"]["raw"]):
        for metric in part.values():
            assert (metric["procedure"], metric["procedure_note"]) == (None, NO_PROCEDURE)
    assert results["metrics"]["auroc"]["sampling"] is not None


def test_sub_groups_with_counts(evaluated):
    results, _ = evaluated
    assert list(results["subgroups"]) == ["site", "sex"]
    assert {level: part["counts"]["patients"] for level, part in results["subgroups"]["sex"].items()} == {
        "f": 8, "m": 16,
    }  # fmt: skip
    assert results["subgroups"]["sex"]["m"]["metrics"]["auroc"]["sampling"] is not None
    assert results["subgroups"]["sex"]["f"]["metrics"] == {}  # fewer than ten patients


def test_the_study_stands_beside(evaluated, home):
    results, _ = evaluated
    before = json.loads((home / "run" / "results.json").read_text())["metrics"]
    row = results["against_study"]["auroc"]
    assert row["study"]["value"] == before["auroc"]["value"]
    assert row["difference"] == pytest.approx(row["here"]["value"] - before["auroc"]["value"])
    assert row["low"] < row["difference"] < row["high"]


def test_the_interval_of_a_difference_by_hand():
    """Here .70 (.58 to .80), study .90 (.86 to .95): -.2, less hypot(.12, .05) = .13, plus hypot(.10, .04)."""
    here = {"m": {"value": 0.70, "sampling": [0.58, 0.80]}}
    study = {"m": {"value": 0.90, "sampling": [0.86, 0.95]}}
    row = against_study(here, study)["m"]
    assert (row["difference"], row["low"]) == (pytest.approx(-0.2), pytest.approx(-0.33))
    assert row["high"] == pytest.approx(-0.2 + math.sqrt(0.10**2 + 0.04**2))
    gone = against_study({"m": {"value": None, "sampling": None}}, study)["m"]
    assert gone["difference"] is gone["low"] is None


def test_the_report_is_whole(evaluated):
    _, out = evaluated
    names = {"results.json", "predictions.csv", "evaluation.json", "report.html", "report.md", "table.tex", "table.csv"}
    assert names <= {p.name for p in out.iterdir()}
    figures = {"then_and_now", "roc_locked", "pr_locked", "confusion", "calibration", "decision_curve"}
    assert {p.stem for p in (out / "figures").glob("*.png")} == figures
    text = (out / "report.md").read_text()
    for said in ("cross-validated in the study", "Calibration slope", "By sex", "AUROC by DeLong", "locked threshold"):
        assert said in text
    assert "<script" not in (out / "report.html").read_text()
    assert not [p for p in out.parent.iterdir() if p.name.endswith(".part")]


def test_patients_of_the_training_are_refused_by_name(ensemble, home, tmp_path):
    with pytest.raises(ProtocolError, match="24 patients: p000, p001") as caught:
        api.evaluate(ensemble, home / "home.h5", home / "home.csv", tmp_path / "out")
    assert all(f"p{i:03d}" in str(caught.value) for i in range(24))
    assert not (tmp_path / "out").exists()


def test_one_patient_of_the_training_among_others(ensemble, home, tmp_path):
    table = edited(home, tmp_path, lambda row: row | {"patient_id": row["patient_id"].replace("xp004", "p004")})
    with pytest.raises(ProtocolError, match=r"trained on 1 patient: p004\. .* other people with equal ids"):
        api.evaluate(ensemble, home / "other.h5", table, tmp_path / "out")


def test_slides_of_the_training_under_other_patients(ensemble, home, tmp_path):
    with (home / "home.csv").open(newline="") as file:
        rows = [row | {"patient_id": f"new{i}"} for i, row in enumerate(csv.DictReader(file))]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    with pytest.raises(ProtocolError, match="24 slides: b000"):
        api.evaluate(ensemble, home / "home.h5", tmp_path / "t.csv", tmp_path / "out")


def test_renamed_slides_of_the_training_are_known_by_their_features(ensemble, tmp_path):
    store, table = planted.stored(tmp_path, planted.binary(), "renamed", prefix="new", dtype="float16")
    with pytest.raises(ProtocolError, match=r"features of slide 'newb000' \(patient 'newp000'\).*under another id"):
        api.evaluate(ensemble, store, table, tmp_path / "out")


def test_other_words_for_the_classes(evaluated, ensemble, home, tmp_path):
    words = {"0": "normal", "1": "tumour"}
    table = edited(home, tmp_path, lambda row: row | {"label": words[row["label"]]})
    with pytest.raises(CohortError, match=r"holds the classes normal, tumour; the model knows 0, 1.*--labels"):
        api.evaluate(ensemble, home / "other.h5", table, tmp_path / "out")
    reading = Reading(labels={"normal": "0", "tumour": "1"})
    results = api.evaluate(ensemble, home / "other.h5", table, tmp_path / "out", reading=reading)
    assert results["metrics"]["auroc"]["value"] == evaluated[0]["metrics"]["auroc"]["value"]
    for labels, message in (
        ({"normal": "healthy"}, "'healthy' is no class of the model"),
        ({"tumor": "1"}, "'tumor' does not stand in column 'label'"),
    ):
        with pytest.raises(ConfigError, match=message):
            api.evaluate(ensemble, home / "other.h5", table, tmp_path / "o", reading=Reading(labels=labels))


def test_one_class_only_leaves_what_can_be_computed(ensemble, home, tmp_path):
    table = edited(home, tmp_path, lambda row: row if row["label"] == "1" else None)
    results = api.evaluate(ensemble, home / "other.h5", table, tmp_path / "out")
    metrics = results["metrics"]
    assert metrics["auroc"]["value"] is None
    assert "only one class" in metrics["auroc"]["note"]
    assert metrics["specificity_at_threshold"]["value"] is None
    assert 0 <= metrics["sensitivity_at_threshold"]["value"] <= 1
    assert metrics["brier"]["value"] > 0
    assert results["recalibration"]["raw"]["slope"]["value"] is None
    assert "AUROC is undefined here" in (tmp_path / "out" / "report.md").read_text()
    assert results["left_out"] == {"there are features but no row in the table": 12}


def test_the_target_has_another_name_or_is_missing(evaluated, ensemble, home, tmp_path):
    def renamed(row):
        row["status"] = row.pop("label")
        return row

    table = edited(home, tmp_path, renamed)
    with pytest.raises(CohortError, match=r"no column 'label', which holds the target.*--target MY_LABEL"):
        api.evaluate(ensemble, home / "other.h5", table, tmp_path / "out")
    results = api.evaluate(
        ensemble, home / "other.h5", table, tmp_path / "out", reading=Reading(target=("status",)), groups=[]
    )
    assert results["metrics"]["auroc"]["value"] == evaluated[0]["metrics"]["auroc"]["value"]
    with pytest.raises(ConfigError, match="names 2"):
        api.evaluate(ensemble, home / "other.h5", table, tmp_path / "o", reading=Reading(target=("a", "b")))


def test_no_slide_matches(ensemble, home, tmp_path):
    table = edited(home, tmp_path, lambda row: row | {"slide_id": row["slide_id"] + ".svs"})
    table.write_text(table.read_text().replace(".svs", ".xyz"))
    with pytest.raises(CohortError, match="none of its 24 slides has features"):
        api.evaluate(ensemble, home / "other.h5", table, tmp_path / "out")


def test_features_of_another_encoder(ensemble, tmp_path):
    store, table = planted.stored(tmp_path, planted.binary(seed=3), "else", prefix="y", encoder="enc-2")
    with pytest.raises(DataError, match="equal widths do not make them the same"):
        api.evaluate(ensemble, store, table, tmp_path / "out")


def test_an_evaluation_is_not_overwritten(ensemble, home, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    for force in (False, True):
        with pytest.raises(RunFolderError, match="is not an evaluation"):
            api.evaluate(ensemble, home / "other.h5", home / "other.csv", tmp_path / "mine", force=force)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_the_command(ensemble, home, evaluated, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["evaluate", str(ensemble), str(home / "other.h5"), str(home / "other.csv"), "--out", str(out)]
    assert main([*arguments, "--subgroup", "sex", "--labels", "0=0,1=1"]) == 0
    said = capsys.readouterr().out
    assert "24 patients (0 12, 1 12), none of them in training" in said
    assert f"auroc  {evaluated[0]['metrics']['auroc']['value']:.3f}" in said
    assert (out / "results.json").read_bytes() == (evaluated[1] / "results.json").read_bytes()
    assert main(arguments) == 2
    assert "already holds an evaluation" in capsys.readouterr().err
    assert main([*arguments, "--force", "--labels", "tumour"]) == 2
    assert "THEIRS=OURS" in capsys.readouterr().err
    assert main([*arguments, "--force", "--subgroup", "sexx"]) == 2
    assert "did you mean 'sex'" in capsys.readouterr().err
    assert (out / "results.json").is_file()  # what was there is untouched


@pytest.fixture(scope="module")
def risk(tmp_path_factory, make_run):
    """A survival study, its model, and another hospital."""
    folder = tmp_path_factory.mktemp("risk")
    store, table = planted.stored(folder, planted.survival(), "home")
    base = planted.experiment(width=4)
    study = replace(base, data=Cohort(str(table), str(store)), task=Survival(), name="risk")
    make_run(study, folder / "run")
    api.finalize(folder / "run", folder / "model")
    planted.stored(folder, planted.survival(seed=5), "other", prefix="x")
    return folder


def test_survival_elsewhere(risk, tmp_path):
    results = api.evaluate(risk / "model", risk / "other.h5", risk / "other.csv", tmp_path / "out")
    rows, kept = Predictions.read(tmp_path / "out" / "predictions.csv"), api.load_model(risk / "model")
    from lifelines.statistics import logrank_test
    from lifelines.utils import concordance_index

    time, event, score = rows.target[:, 0], rows.target[:, 1], rows.score[:, 0]
    assert results["metrics"]["c_index"]["value"] == pytest.approx(concordance_index(time, -score, event))
    high = score >= kept.facts["risk_cut"]["value"]
    groups = results["survival"]["groups"]
    assert (groups["high"]["n"], groups["low"]["n"]) == (high.sum(), (~high).sum())
    oracle = logrank_test(time[high], time[~high], event[high], event[~high])
    assert results["survival"]["logrank"]["p"] == pytest.approx(oracle.p_value, rel=1e-6)
    assert results["survival"]["cutoff"]["rule"].startswith("median risk of")
    header, *said = api.predict(risk / "model", risk / "other.h5", cohort=risk / "other.csv")
    assert [row[header.index("risk_group")] == "high" for row in said] == high.tolist()


@pytest.mark.parametrize("word", ["0", "False"])
def test_nobody_had_the_event(risk, tmp_path, word):
    text = (risk / "other.csv").read_text().splitlines()
    place = text[0].split(",").index("event")
    rows = [line.split(",") for line in text[1:]]
    for row in rows:
        row[place] = word
    (tmp_path / "t.csv").write_text("\n".join([text[0], *map(",".join, rows)]) + "\n")
    results = api.evaluate(risk / "model", risk / "other.h5", tmp_path / "t.csv", tmp_path / "out")
    assert results["counts"]["classes"] == {"events": 0, "censored": 48}
    assert results["metrics"]["c_index"]["value"] is None
    assert results["metrics"]["c_index"]["note"] == "no two patients whose order is known"
    assert results["survival"]["logrank"]["p"] is None
    assert "undefined" in (tmp_path / "out" / "report.md").read_text()


def test_words_for_the_event(risk, tmp_path):
    text = (risk / "other.csv").read_text().splitlines()
    place = text[0].split(",").index("event")
    rows = [line.split(",") for line in text[1:]]
    for row in rows:
        row[place] = {"1": "dead", "0": "alive"}[row[place]]
    (tmp_path / "t.csv").write_text("\n".join([text[0], *map(",".join, rows)]) + "\n")
    with pytest.raises(
        CohortError, match=r"holds the classes alive, dead; the model knows 0, 1.*--labels alive=0,dead=1"
    ):
        api.evaluate(risk / "model", risk / "other.h5", tmp_path / "t.csv", tmp_path / "out")
    reading = Reading(labels={"dead": "1", "alive": "0"})
    results = api.evaluate(risk / "model", risk / "other.h5", tmp_path / "t.csv", tmp_path / "out", reading=reading)
    assert results["metrics"]["c_index"]["value"] is not None


def test_times_that_are_none_where_nobody_had_the_event(risk, tmp_path):
    (tmp_path / "t.csv").write_text("slide_id,patient_id,time,event\nxb000,a,0,0\nxb001,b,3,0\n")
    with pytest.raises(CohortError, match=r"column 'time' is '0' in line 2"):
        api.evaluate(risk / "model", risk / "other.h5", tmp_path / "t.csv", tmp_path / "out")
