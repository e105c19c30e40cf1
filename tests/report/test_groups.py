"""What `results.json` says of sub-groups, scaled probabilities, cuts at a sensitivity, slides as rows, missing rows."""

import csv
import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from milkit.errors import RunFolderError
from milkit.metrics import bootstrap_counts, percentile_interval
from milkit.metrics.intervals import SEED
from milkit.predictions import Predictions, concat
from milkit.report.results import compute_results, write_results
from milkit.report.subgroups import subgroups
from milkit.task import Binary, MultiLabel


def part(n, run, role, seed, fold=0, truth=2.0, task=None, **more):
    """Rows of one run whose logits are `truth` times too large."""
    rng = np.random.default_rng(seed)
    k = 2 if isinstance(task, MultiLabel) else 1
    z = 1.5 * rng.normal(size=(n, k))
    y = (rng.random((n, k)) < expit(z)).astype(float)
    bag = more.pop("bag", [f"{role}{fold}-{i:03d}" for i in range(n)])
    return Predictions.of(
        task or Binary(),
        ("x", "y") if k == 2 else ("no", "yes"),
        z * truth,
        more.pop("target", y if k == 2 else y[:, 0]),
        experiment="study",
        run=run,
        repeat=0,
        fold=fold,
        seed=0,
        selection="validation",
        role=role,
        bag=bag,
        patient=more.pop("patient", bag),
        **more,
    )


def study(**more):
    return concat([part(40, f"f{f}", role, 10 * f + i, f, **more) for f in (0, 1) for i, role in enumerate(ROLES)])


ROLES = ("validation", "test")


# --- calibration


def test_each_run_is_scaled_by_its_own_validation_rows():
    table = study(truth=4.0)
    results = compute_results(table, draws=100)
    losses = []
    for run, row in zip(("f0", "f1"), results["per_run"], strict=True):
        held, test = (table.take((table.run == run) & (table.role == role)) for role in ROLES)
        z, y = held.logits[:, 0], held.target[:, 0]
        best = minimize_scalar(lambda t, z=z, y=y: log_loss(y, expit(z / t)), bounds=(0.2, 9), method="bounded")
        assert row["temperature"] == pytest.approx(best.x, rel=1e-3)
        losses.append(log_loss(test.target[:, 0], expit(test.logits[:, 0] / row["temperature"])))
    block = results["calibration"]
    assert block["metrics"]["nll"]["value"] == pytest.approx(np.mean(losses))
    assert block["raw"]["nll"]["value"] == results["metrics"]["nll"]["value"]
    assert block["raw"]["nll"]["sampling"] == results["metrics"]["nll"]["sampling"]
    change = block["metrics"]["nll"]["value"] - block["raw"]["nll"]["value"]
    assert block["change"]["nll"]["value"] == pytest.approx(change)
    low, high = block["change"]["nll"]["sampling"]
    assert low < change < high < 0  # planted: four times too sure
    assert block["temperature"]["range"] == sorted(row["temperature"] for row in results["per_run"])


def test_test_rows_have_no_part_in_a_temperature():
    table = study()
    flipped = concat(
        [table.take(table.role == "validation"), part(40, "f0", "test", 99), part(40, "f1", "test", 98, 1)]
    )
    before, after = (compute_results(t, draws=5)["per_run"] for t in (table, flipped))
    assert [r["temperature"] for r in before] == [r["temperature"] for r in after]


def test_labels_have_temperatures_of_their_own():
    results = compute_results(study(task=MultiLabel(("x", "y"))), draws=5)
    assert all(len(row["temperature"]) == 2 for row in results["per_run"])
    assert set(results["calibration"]["temperature"]["labels"]) == {"x", "y"}
    assert results["calibration"]["metrics"]["ece"]["value"] is not None


def test_a_run_without_a_temperature_is_left_out_and_counted():
    table = study()
    table = table.take((table.role == "test") | (table.run == "f0"))
    block = compute_results(table, draws=5)["calibration"]
    assert (block["runs"], block["runs_without"]) == (1, 1)
    assert block["temperature"]["notes"] == {"no validation patient": 1}
    alone = compute_results(table.take(table.run == "f0"), draws=5)
    assert block["metrics"]["nll"]["value"] == alone["calibration"]["metrics"]["nll"]["value"]
    none = compute_results(table.take(table.role == "test"), draws=5)["calibration"]
    assert none["metrics"] == {}
    assert none["temperature"]["median"] is None


def test_temperatures_that_were_settled_before_are_used_as_they_are():
    table = study()
    block = compute_results(table, draws=5, temperatures={"f0": [2.0], "f1": [2.0]})["calibration"]
    assert block["temperature"]["range"] == [2.0, 2.0]
    test = table.take((table.role == "test") & (table.run == "f0"))
    one = compute_results(test, draws=5, temperatures={"f0": [2.0]})["calibration"]["metrics"]["nll"]["value"]
    assert one == pytest.approx(log_loss(test.target[:, 0], expit(test.logits[:, 0] / 2)))


# --- thresholds


def test_a_cut_at_a_sensitivity_is_chosen_on_validation():
    table = study(threshold=0.5)
    results = compute_results(table, draws=5, sensitivity=0.9)
    assert "at least 0.9" in results["threshold"]
    for run, row in zip(("f0", "f1"), results["per_run"], strict=True):
        held, test = (table.take((table.run == run) & (table.role == role)) for role in ROLES)
        positive = np.sort(held.score[held.target[:, 0] == 1, 1])[::-1]
        last = positive[int(np.ceil(0.9 * len(positive) - 1e-9)) - 1]
        lower = held.score[held.score[:, 1] < last, 1].max()
        called = test.score[:, 1] >= (last + lower) / 2
        assert row["metrics"]["sensitivity_at_threshold"] == called[test.target[:, 0] == 1].mean()
    with pytest.raises(RunFolderError, match=r"sensitivity 1\.5 needs"):
        compute_results(table, sensitivity=1.5)


# --- slides as rows


def test_slides_with_labels_of_their_own_are_rows_and_patients_are_drawn():
    n = 30
    bag, patient = [f"s{i:02d}" for i in range(n)], [f"p{i // 3}" for i in range(n)]
    y = np.arange(n) % 2
    table = part(n, "f0", "test", 5, bag=bag, patient=patient, target=y)
    with pytest.raises(RunFolderError, match="a patient has one truth"):
        compute_results(table)
    results = compute_results(table, unit="slide", measured="slide", draws=400)
    assert results["counts"]["patients"] == 10
    assert results["counts"]["bags"] == 30
    assert results["metrics"]["auroc"]["value"] == pytest.approx(roc_auc_score(y, table.score[:, 1]))
    drawn = []
    for counts in bootstrap_counts(10, 400, SEED):
        again = np.repeat(np.arange(n), counts.astype(int)[np.arange(n) // 3])
        drawn.append(roc_auc_score(y[again], table.score[again, 1]))
    expected, _ = percentile_interval(np.array(drawn), results["metrics"]["auroc"]["value"])
    assert results["metrics"]["auroc"]["sampling"] == pytest.approx(list(expected))


# --- sub-groups


def test_groups_are_the_estimator_on_their_own_patients():
    table = part(60, "f0", "test", 3, site=["a"] * 40 + ["b"] * 12 + [""] * 8, threshold=0.5)
    sex = {bag: "fm"[i % 2] for i, bag in enumerate(table.bag.tolist())}
    results = compute_results(table, columns={"sex": sex}, groups=None, draws=100)
    found = results["subgroups"]
    assert list(found) == ["site", "sex"]
    assert list(found["site"]) == ["a", "b", "(missing)"]
    women = np.arange(60) % 2 == 0
    own = compute_results(table.take(women), draws=100)["metrics"]["auroc"]
    assert found["sex"]["f"]["metrics"]["auroc"]["value"] == own["value"]
    assert found["sex"]["f"]["metrics"]["auroc"]["sampling"] == own["sampling"]
    assert own["value"] == pytest.approx(roc_auc_score(table.target[women, 0], table.score[women, 1]))
    assert found["sex"]["f"]["counts"]["classes"]["yes"] == int(table.target[women, 0].sum())
    small = found["site"]["(missing)"]
    assert small["metrics"] == {}
    assert small["counts"]["patients"] == 8
    assert "fewer than 10" in small["note"]
    assert any("5 groups by site, sex" in note for note in results["subgroup_notes"])


def test_a_group_of_one_class_is_undefined_with_its_reason():
    table = part(40, "f0", "test", 3)
    truth = {bag: f"t{int(y)}" for bag, y in zip(table.bag.tolist(), table.target[:, 0], strict=True)}
    found, _ = subgroups(table, {"truth": truth}, ["truth"], draws=20)
    auroc = found["truth"]["t1"]["metrics"]["auroc"]
    assert auroc["value"] is None
    assert "only one class" in auroc["note"]
    assert found["truth"]["t1"]["metrics"]["accuracy"]["value"] is not None


def test_numbers_are_cut_at_tertiles_and_text_is_not():
    table = part(60, "f0", "test", 3)
    age = {bag: str(30 + i) for i, bag in enumerate(table.bag.tolist())}
    found, notes = subgroups(table, {"age": age}, ["age"], draws=20)
    assert {level: g["counts"]["patients"] for level, g in found["age"].items()} == {
        "below 50": 20,
        "50 to below 70": 20,
        "70 and above": 20,
    }
    assert any("tertiles of the patients tested, 50 and 70" in note for note in notes)
    assert subgroups(table, {"age": age}, None, draws=20)[0] == {}  # not without being asked
    with pytest.raises(RunFolderError, match="60 levels"):
        subgroups(table, {"id": {bag: bag for bag in table.bag.tolist()}}, ["id"])
    skewed = {bag: str(max(0, i - 50)) for i, bag in enumerate(table.bag.tolist())}
    with pytest.raises(RunFolderError, match="no three groups"):
        subgroups(table, {"age": skewed}, ["age"])
    with pytest.raises(RunFolderError, match=r"no column 'agee'.*mean 'age'"):
        subgroups(table, {"age": age}, ["agee"])


# --- the run folder


def run_folder(tmp_path, table, config=None):
    table.write(tmp_path / "predictions.csv")
    (tmp_path / "config.json").write_text(json.dumps({"unit": "patient", "marks": [], **(config or {})}))
    with (tmp_path / "folds.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["repeat", "fold", "inner", "role", "bag", "patient", "grouped_by"])
        keys = zip(table.fold.tolist(), table.role.tolist(), table.bag.tolist(), strict=True)
        writer.writerows([0, fold, 0, role, bag, bag, "patient"] for fold, role, bag in keys)
    return tmp_path


def test_lost_rows_are_counted_named_and_marked(tmp_path):
    table = study()
    folder = run_folder(tmp_path, table)
    whole = write_results(folder, draws=5)
    assert whole["marks"] == []
    assert "missing" not in whole
    lost = table.take(~((table.run == "f1") & np.isin(table.bag, ["test1-003", "validation1-007"])))
    lost.write(folder / "predictions.csv")
    results = write_results(folder, draws=5)
    assert results["missing"]["rows"] == [
        {"run": "f1", "selection": "validation", "role": "validation", "bags": ["validation1-007"]},
        {"run": "f1", "selection": "validation", "role": "test", "bags": ["test1-003"]},
    ]
    (mark,) = results["marks"]
    assert "lacks 2 rows of 1 run" in mark
    assert all(mark in row["marks"] for row in (*results["metrics"].values(), *results["per_run"]))


def test_a_run_that_left_nothing_is_a_mark(tmp_path):
    table = study()
    folder = run_folder(tmp_path, table.take(table.run == "f0"), {"runs": 2})
    (folder / "runs.csv").write_text("run,repeat,fold,inner,seed,status\nf0,0,0,3,0,finished\nf1,0,1,0,0,finished\n")
    results = write_results(folder, draws=5)
    assert results["marks"][0] == "unfinished: 1 of 2 runs left no test prediction: f1"
    assert results["missing"]["runs"] == ["f1"]
    assert results["per_run"][0]["inner"] == 3


def test_slides_without_patients_are_a_mark_but_not_in_the_classic_sets(tmp_path):
    from milkit.data.table import read_cohort

    (tmp_path / "c.csv").write_text("slide_id,label\na,0\nb,1\n")
    notes = read_cohort(tmp_path / "c.csv").notes
    for kind, marked in (("Cohort", True), ("Classic", False)):
        folder = run_folder(tmp_path, study(), {"experiment": {"data": {"type": kind}}})
        flow = {"notes": list(notes), "left_out": [["s9", "no value in column 'label'"]] * 2}
        (folder / "cohort.json").write_text(json.dumps({"flow": flow}))
        results = write_results(folder, draws=5)
        assert ("each slide counted as a patient" in results["marks"]) == marked
        assert results["left_out"] == {"no value in column 'label'": 2}


def test_columns_of_the_run_folder_make_groups(tmp_path):
    table = study()
    folder = run_folder(tmp_path, table)
    rows = "".join(f"{bag},{bag},{'fm'[i % 2]}\n" for i, bag in enumerate(sorted(set(table.bag.tolist()))))
    (folder / "columns.csv").write_text("bag,patient,sex\n" + rows)
    assert list(write_results(folder, draws=5)["subgroups"]["sex"]) == ["f", "m"]
    with pytest.raises(RunFolderError, match="no column 'age'"):
        write_results(folder, groups=["age"], draws=5)
    (folder / "columns.csv").write_text("bag,patient,sex\na,b\n")
    with pytest.raises(RunFolderError, match=r"columns\.csv: line 2"):
        write_results(folder, draws=5)
