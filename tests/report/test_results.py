"""Results: the estimator worked by hand, both intervals against a plain second computation, and what must be
marked.
"""

import json
import math
import time

import numpy as np
import pytest
import sklearn.metrics as sk

from milkit.errors import RunFolderError
from milkit.metrics import bootstrap_counts, corrected_resampled_t
from milkit.predictions import Predictions, concat
from milkit.report.results import compute_results, write_results
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival

NAMES = {Binary: ("no", "yes"), MultiClass: ("a", "b", "c"), MultiLabel: ("x", "y"), Regression: ("age",), Survival: ()}


def logit(p):
    p = np.asarray(p, float)
    return np.log(p / (1 - p))


def rows(task, logits, target, *, repeat=0, fold=0, seed=0, selection="validation", role="test", run=None, **more):
    n = len(target)
    bag = more.pop("bag", [f"f{fold}-{i}" for i in range(n)])
    return Predictions.of(
        task,
        NAMES[type(task)],
        np.asarray(logits, float).reshape(n, -1),
        np.asarray(target),
        experiment="study",
        run=run or f"r{repeat}f{fold}s{seed}",
        repeat=repeat,
        fold=fold,
        seed=seed,
        selection=selection,
        role=role,
        bag=bag,
        patient=more.pop("patient", bag),
        **more,
    )


def binary(prob, target, **more):
    return rows(Binary(), logit(prob), target, **more)


def cross_validation(n=60, repeats=2, folds=5, seeds=3, seed=0, selections=("validation",), **more):
    """A study whose scores are the patient's own signal plus a run's noise."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    signal = rng.normal(size=n) + 1.5 * y
    parts = []
    for repeat in range(repeats):
        fold_of = rng.permutation(n) % folds
        for fold in range(folds):
            here = np.flatnonzero(fold_of == fold)
            for s in range(seeds):
                for selection in selections:
                    noisy = signal[here] + 0.5 * rng.normal(size=len(here))
                    parts.append(
                        rows(
                            Binary(),
                            noisy - 0.75,
                            y[here],
                            repeat=repeat,
                            fold=fold,
                            seed=s,
                            selection=selection,
                            bag=[f"p{i:03d}" for i in here],
                            site=[f"s{i % 6}" for i in here],
                            threshold=0.4,
                            **more,
                        )
                    )
    return concat(parts)


# --- the estimator


def test_values_are_averaged_over_seeds_then_over_folds():
    table = concat(
        [
            binary([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], fold=0, seed=0),  # AUROC 1, accuracy 1
            binary([0.9, 0.2, 0.3, 0.1], [1, 1, 0, 0], fold=0, seed=1),  # AUROC 3/4, accuracy 3/4
            binary([0.6, 0.7, 0.8, 0.1], [1, 1, 0, 0], fold=1, seed=0),  # AUROC 1/2, accuracy 3/4
            binary([0.6, 0.4, 0.8, 0.1], [1, 1, 0, 0], fold=1, seed=1),  # AUROC 1/2, accuracy 1/2
        ]
    )
    results = compute_results(table, n_train={(0, 0): 4, (0, 1): 4}, draws=200)
    auroc, accuracy = results["metrics"]["auroc"], results["metrics"]["accuracy"]
    assert auroc["value"] == pytest.approx((1 + 0.75 + 0.5 + 0.5) / 4)
    assert accuracy["value"] == pytest.approx(0.75)
    # fold means .875 and .5: SD |.375| / sqrt 2; seeds: SD .25 / sqrt 2 and 0
    assert auroc["fold_sd"] == pytest.approx(0.375 / math.sqrt(2))
    assert auroc["seed_sd"] == pytest.approx(0.25 / math.sqrt(2) / 2)
    half = 12.706204736 * math.sqrt(0.375**2 / 2 * (1 / 2 + 4 / 4))
    # far beyond AUROC's range on both sides, where it is cut
    assert half > 1
    assert auroc["procedure"] == [0.0, 1.0]
    assert [r["metrics"]["auroc"] for r in results["per_run"]] == [1, 0.75, 0.5, 0.5]
    assert results["counts"] == {
        "patients": 8, "bags": 8, "classes": {"no": 4, "yes": 4}, "repeats": 1, "folds": 2, "splits": 2, "seeds": 2,
        "runs": 4,
    }  # fmt: skip


def test_pairs_are_compared_within_a_fold_only():
    # within each fold the order is perfect, across folds it is not
    table = concat([binary([0.9, 0.8], [1, 0], fold=0), binary([0.3, 0.1], [1, 0], fold=1)])
    results = compute_results(table, draws=50)
    assert results["metrics"]["auroc"]["value"] == 1.0
    assert sk.roc_auc_score([1, 0, 1, 0], [0.9, 0.8, 0.3, 0.1]) == 0.75


def test_ece_is_pooled_over_the_folds_of_a_seed_and_says_so():
    table = concat(
        [
            binary([0.91, 0.92], [1, 0], fold=0, seed=0),
            binary([0.93, 0.9101], [1, 1], fold=1, seed=0),
            binary([0.91, 0.05], [1, 0], fold=0, seed=1),
            binary([0.93, 0.9101], [1, 1], fold=1, seed=1),
        ]
    )
    ece = compute_results(table, n_train={(0, 0): 2, (0, 1): 2}, draws=50)["metrics"]["ece"]
    # all in the bin (13/15, 14/15] but one of the second seed, which is in the first bin
    each = [abs(3 - (0.91 + 0.92 + 0.93 + 0.9101)) / 4, (abs(3 - (0.91 + 0.93 + 0.9101)) + 0.05) / 4]
    assert ece["value"] == pytest.approx(np.mean(each))
    assert ece["seed_sd"] == pytest.approx(np.std(each, ddof=1))
    assert ece["procedure"] is None
    assert "pooled" in ece["procedure_note"]
    assert "pooled" in ece["note"]
    assert ece["fold_sd"] is None
    assert "ece" not in compute_results(table, draws=20)["per_run"][0]["metrics"]


def test_inner_splits_of_a_nested_protocol_average_like_seeds():
    table = concat(
        [
            binary([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], run="r0f0i0s0"),
            binary([0.9, 0.2, 0.3, 0.1], [1, 1, 0, 0], run="r0f0i1s0"),
            binary([0.6, 0.7, 0.8, 0.1], [1, 1, 0, 0], run="r0f1i0s0", fold=1),
        ]
    )
    auroc = compute_results(table, draws=50)["metrics"]["auroc"]
    assert auroc["value"] == pytest.approx((0.875 + 0.5) / 2)  # a fold with more inner splits weighs no more
    assert auroc["seed_sd"] is None  # one seed


def test_slides_become_patients_by_mean_or_max():
    table = binary([0.9, 0.2, 0.4, 0.4, 0.1], [1, 1, 1, 0, 0], bag=list("abcde"), patient=["p", "p", "q", "n", "m"])
    mean = compute_results(table, unit="slide", draws=50)
    assert mean["counts"]["patients"] == 4
    assert mean["counts"]["bags"] == 5
    assert mean["counts"]["classes"] == {"no": 2, "yes": 2}
    # p .55, q .4 against .4, .1: one tie
    assert mean["metrics"]["auroc"]["value"] == pytest.approx(3.5 / 4)
    assert mean["metrics"]["accuracy"]["value"] == pytest.approx(3 / 4)
    assert mean["metrics"]["brier"]["value"] == pytest.approx((0.45**2 + 0.6**2 + 0.4**2 + 0.1**2) / 4)
    most = compute_results(table, unit="slide", aggregate="max", draws=50)
    assert most["metrics"]["brier"]["value"] == pytest.approx((0.1**2 + 0.6**2 + 0.4**2 + 0.1**2) / 4)


def test_max_of_several_classes_sums_to_one_again():
    prob = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    table = rows(MultiClass(), np.log(prob), [1, 1, 2], bag=list("abc"), patient=["p", "p", "q"])
    top = np.array([0.6, 0.7, 0.1]) / 1.4
    expected = (((top - [0, 1, 0]) ** 2).sum() + ((prob[2] - [0, 0, 1]) ** 2).sum()) / 2
    found = compute_results(table, aggregate="max", draws=20)["metrics"]["brier"]["value"]
    assert found == pytest.approx(expected)


def test_each_run_is_cut_at_its_own_validation_threshold():
    table = concat(
        [
            binary([0.3, 0.1], [1, 0], fold=0, threshold=0.2),
            binary([0.9, 0.7], [1, 0], fold=1, threshold=0.8),
        ]
    )
    metrics = compute_results(table, draws=50)["metrics"]
    assert metrics["balanced_accuracy_at_threshold"]["value"] == 1.0
    assert metrics["balanced_accuracy"]["value"] == 0.5


# --- both intervals


def test_the_sampling_interval_is_a_bootstrap_of_patients_with_all_their_runs():
    table = cross_validation(n=24, repeats=2, folds=3, seeds=2)
    draws = 60
    results = compute_results(table, draws=draws, seed=5)
    patients = np.unique(table.patient)
    counts = bootstrap_counts(len(patients), draws, 5)
    estimates = []
    for count in counts:
        stands = dict(zip(patients, count.astype(int), strict=True))
        splits = []
        for repeat in range(2):
            for fold in range(3):
                seeds = []
                for seed in range(2):
                    mine = table.take((table.repeat == repeat) & (table.fold == fold) & (table.seed == seed))
                    again = np.repeat(np.arange(len(mine)), [stands[p] for p in mine.patient])
                    y = mine.target[again, 0]
                    if len(set(y)) == 2:
                        seeds.append(sk.roc_auc_score(y, mine.score[again, 1]))
                if seeds:
                    splits.append(np.mean(seeds))
        estimates.append(np.mean(splits))
    auroc = results["metrics"]["auroc"]
    bias = np.mean(estimates) - auroc["value"]
    assert auroc["sampling_bias"] == pytest.approx(bias)
    expected = np.quantile(estimates, [0.025, 0.975]) - bias
    np.testing.assert_allclose(auroc["sampling"], np.clip(expected, 0, 1))


def test_the_procedure_interval_is_the_corrected_t_of_fold_means():
    table = cross_validation(n=60, repeats=2, folds=5, seeds=3)
    sizes = {(r, f): 48 for r in range(2) for f in range(5)}
    results = compute_results(table, n_train=sizes, draws=20)
    fold_means = []
    for repeat in range(2):
        for fold in range(5):
            here = (table.repeat == repeat) & (table.fold == fold)
            runs = [table.take(here & (table.seed == s)) for s in range(3)]
            fold_means.append(np.mean([sk.roc_auc_score(r.target[:, 0], r.score[:, 1]) for r in runs]))
    expected, _ = corrected_resampled_t(np.array(fold_means), 12, 48)
    auroc = results["metrics"]["auroc"]
    assert auroc["value"] == pytest.approx(np.mean(fold_means))
    np.testing.assert_allclose(auroc["procedure"], np.clip(expected, 0, 1))
    assert auroc["fold_sd"] == pytest.approx(np.std(fold_means, ddof=1))


def test_more_seeds_never_narrow_an_interval_much():
    """Copies of a seed carry nothing new: no interval may move at all."""
    one = cross_validation(n=40, repeats=1, folds=4, seeds=1)
    copies = concat([Predictions(**{**_columns(one), "seed": one.seed + k, "run": _renamed(one, k)}) for k in range(6)])
    sizes = {(0, f): 30 for f in range(4)}
    a, b = (compute_results(t, n_train=sizes, draws=100)["metrics"] for t in (one, copies))
    for name in a:
        for kind in ("sampling", "procedure"):
            assert b[name][kind] == pytest.approx(a[name][kind]), (name, kind)
        assert b[name]["seed_sd"] == pytest.approx(0, abs=1e-12)


def _columns(table):
    return {name: getattr(table, name) for name in table.__dataclass_fields__}


def _renamed(table, k):
    return np.char.add(table.run, f"copy{k}")


def test_sites_are_resampled_where_folds_are_grouped_by_site():
    table = cross_validation()
    by_patient = compute_results(table, draws=300)["metrics"]["auroc"]
    by_site = compute_results(table, draws=300, resample="site")["metrics"]["auroc"]
    assert by_site["value"] == by_patient["value"]
    assert by_site["sampling"] != by_patient["sampling"]
    with pytest.raises(RunFolderError, match=r"Patient f0-0 has no site"):
        compute_results(binary([0.9, 0.1], [1, 0]), resample="site", draws=10)
    single = binary([0.9, 0.1, 0.2], [1, 0, 1], site=["s", "s", "s"])
    one = compute_results(single, resample="site", draws=10)["metrics"]["auroc"]
    assert one["sampling"] is None
    assert "only one" in one["sampling_note"]


def test_one_split_has_a_sampling_interval_only():
    table = binary(np.linspace(0.1, 0.9, 30), np.arange(30) % 2)
    auroc = compute_results(table, n_train={(0, 0): 100}, draws=100)["metrics"]["auroc"]
    assert auroc["sampling"] is not None
    assert auroc["procedure"] is None
    assert "at least 2 splits" in auroc["procedure_note"]
    assert auroc["fold_sd"] is auroc["seed_sd"] is None


def test_without_training_sizes_there_is_no_procedure_interval():
    table = cross_validation(n=30, repeats=1, folds=3, seeds=1)
    auroc = compute_results(table, draws=20)["metrics"]["auroc"]
    assert auroc["procedure"] is None
    assert "training patients of repeat 0, fold 0" in auroc["procedure_note"]
    # rows of role train tell them
    train = [binary([0.5] * 20, [0, 1] * 10, fold=f, role="train", bag=[f"t{i}" for i in range(20)]) for f in range(3)]
    counted = compute_results(concat([table, *train]), draws=20)["metrics"]["auroc"]
    known = compute_results(table, n_train={(0, f): 20 for f in range(3)}, draws=20)["metrics"]["auroc"]
    assert counted["procedure"] == known["procedure"] is not None


def test_the_same_predictions_give_the_same_file_in_any_row_order():
    table = cross_validation(n=30, repeats=1, folds=3, seeds=2)
    first = compute_results(table, draws=50)
    again = compute_results(table, draws=50)
    assert json.dumps(first) == json.dumps(again)
    turned = compute_results(table.take(np.random.default_rng(0).permutation(len(table))), draws=50)
    for name, entry in first["metrics"].items():
        assert turned["metrics"][name]["value"] == pytest.approx(entry["value"])
        assert turned["metrics"][name]["sampling"] == pytest.approx(entry["sampling"])


def test_a_large_study_is_measured_in_seconds():
    table = cross_validation(n=92, repeats=5, folds=10, seeds=5)
    start = time.process_time()
    results = compute_results(table)
    assert time.process_time() - start < 15  # about 2 s alone on one core; 13 metrics, 2,000 draws, 250 runs
    assert results["counts"]["runs"] == 250


# --- marks and what is undefined


def test_selections_stand_apart_and_optimistic_is_marked_everywhere():
    table = cross_validation(n=30, repeats=1, folds=3, seeds=1, selections=("optimistic", "last", "validation"))
    results = compute_results(table, draws=20, marks=("patients in two roles",))
    assert results["selection"] == "validation"
    assert list(results["selections"]) == ["validation", "last", "optimistic"]
    assert results["marks"] == ["patients in two roles"]
    assert results["metrics"] == results["selections"]["validation"]["metrics"]
    optimistic = results["selections"]["optimistic"]
    assert optimistic["marks"] == ["patients in two roles", "optimistic"]
    for row in (*optimistic["per_run"], *optimistic["metrics"].values()):
        assert row["marks"] == ["patients in two roles", "optimistic"]
    assert all(row["selection"] == "validation" for row in results["per_run"])
    last = compute_results(table.take(table.selection != "validation"), draws=20)
    assert last["selection"] == "last"
    alone = compute_results(table.take(table.selection == "optimistic"), draws=20)
    assert alone["selection"] == "optimistic"
    assert alone["marks"] == ["optimistic"]


def test_test_rows_alone_make_numbers():
    table = cross_validation(n=30, repeats=1, folds=3, seeds=1)
    loud = binary([0.01, 0.99], [1, 0], role="validation", bag=["v", "w"])
    known = compute_results(table, draws=20)["metrics"]
    assert compute_results(concat([table, loud]), draws=20)["metrics"] == known
    with pytest.raises(RunFolderError, match="no test row"):
        compute_results(loud)


def test_a_fold_of_one_class_is_left_out_and_counted():
    table = concat(
        [
            binary([0.9, 0.1], [1, 0], fold=0),
            binary([0.1, 0.9, 0.8], [1, 0, 0], fold=1),
            binary([0.3, 0.4], [0, 0], fold=2),
        ]
    )
    metrics = compute_results(table, n_train={(0, f): 5 for f in range(3)}, draws=200)["metrics"]
    assert metrics["auroc"]["value"] == 0.5
    assert metrics["auroc"]["undefined_folds"] == 1
    assert metrics["auroc"]["undefined_runs"] == 1
    assert "one class" in metrics["auroc"]["note"]
    assert metrics["accuracy"]["value"] == pytest.approx((1 + 0 + 1) / 3)
    assert metrics["accuracy"]["undefined_folds"] == 0


def test_undefined_everywhere_is_null_with_a_reason():
    table = binary([0.3, 0.4, 0.2], [0, 0, 0])
    results = compute_results(table, draws=50)
    auroc = results["metrics"]["auroc"]
    assert auroc["value"] is auroc["sampling"] is auroc["procedure"] is None
    assert "one class" in auroc["note"]
    assert "no threshold" in results["metrics"]["sensitivity_at_threshold"]["note"]
    row = results["per_run"][0]
    assert row["metrics"]["auroc"] is None
    assert "one class" in row["undefined"]["auroc"]
    assert {name for name, value in row["metrics"].items() if value is None} == row["undefined"].keys()
    json.dumps(results, allow_nan=False)


def test_a_run_that_diverged_is_counted_not_hidden():
    table = concat(
        [
            rows(Binary(), [np.nan, 1.0], [0, 1], seed=0),
            binary([0.2, 0.9], [0, 1], seed=1),
        ]
    )
    results = compute_results(table, draws=50)
    for name in ("auroc", "accuracy", "brier"):
        entry = results["metrics"][name]
        assert entry["undefined_runs"] == 1
        assert "not finite" in entry["note"], name
    assert results["metrics"]["accuracy"]["value"] == 1.0


def test_a_patient_with_two_truths_is_refused():
    with pytest.raises(RunFolderError, match=r"Patient p has the target \[1.0\].*bag b"):
        compute_results(binary([0.9, 0.1], [1, 0], bag=["a", "b"], patient=["p", "p"]))


# --- every task


def test_every_task_has_its_metrics():
    rng = np.random.default_rng(0)
    n = 30
    tasks = {
        Binary(): (rng.normal(size=n), np.arange(n) % 2),
        MultiClass(): (rng.normal(size=(n, 3)), np.arange(n) % 3),
        MultiLabel(("x", "y")): (rng.normal(size=(n, 2)), (rng.random((n, 2)) < 0.5).astype(float)),
        Regression(("age",)): (rng.normal(size=n), rng.normal(size=(n, 1))),
        Survival(bins=3): (rng.normal(size=(n, 3)), np.stack([rng.random(n), rng.integers(0, 2, n)], 1)),
        Survival(loss="cox"): (rng.normal(size=n), np.stack([rng.random(n), rng.integers(0, 2, n)], 1)),
    }
    headline = {Binary: "auroc", MultiClass: "auroc", MultiLabel: "auroc", Regression: "mae", Survival: "c_index"}
    for task, (logits, target) in tasks.items():
        table = concat([rows(task, logits, target, fold=f) for f in range(2)])
        results = compute_results(table, n_train={(0, 0): 30, (0, 1): 30}, draws=30)
        assert results["task"] == type(task).__name__
        assert next(iter(results["metrics"])) == headline[type(task)]
        for name, entry in results["metrics"].items():
            if not name.endswith("_at_threshold"):
                assert entry["value"] is not None, (task, name)
                assert entry["sampling"][0] <= entry["value"] <= entry["sampling"][1], (task, name)
        json.dumps(results, allow_nan=False)


def test_prevalence_stands_beside_auprc():
    entry = compute_results(binary([0.9, 0.2, 0.4, 0.1], [1, 0, 0, 0]), draws=20)["metrics"]["auprc"]
    assert entry["prevalence"] == 0.25
    assert "prevalence 0.250" in entry["note"]


def test_censoring_is_estimated_on_all_patients_tested():
    time, event = np.array([1.0, 2, 3, 4]), np.array([1, 0, 1, 1])
    risk = np.array([1.0, 0, 2, 1])
    target = np.stack([time, event], 1)
    parts = [rows(Survival(loss="cox"), risk[i], target[i], fold=f, bag=[f"p{j}" for j in i])
             for f, i in enumerate(([0, 2], [1, 3]))]  # fmt: skip
    metrics = compute_results(concat(parts), draws=20)["metrics"]
    assert metrics["c_index"]["undefined_folds"] == 1  # the first of fold 1 is censored
    assert metrics["c_index_ipcw"]["value"] == 0.0
    assert "all patients tested" in metrics["c_index_ipcw"]["note"]


# --- the run folder


def folder(tmp_path, table, config=None, **files):
    table.write(tmp_path / "predictions.csv")
    config = {"unit": "patient", "aggregate": "mean", "grouped_by": "patient", "marks": []} | (config or {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    return tmp_path


def test_write_results_reads_the_folder_and_writes_both_files(tmp_path):
    table = cross_validation(n=30, repeats=1, folds=3, seeds=2, selections=("validation", "optimistic"))
    folds = [{"repeat": 0, "fold": f, "inner": 0, "role": r, "patients": 20, "bags": 99}
             for f in range(3) for r in ("train", "test")]  # fmt: skip
    run = folder(tmp_path, table, {"grouped_by": "site", "marks": ["leak"]}, cohort_json=json.dumps({"folds": folds}))
    results = write_results(run, draws=50)
    assert json.loads((run / "results.json").read_text()) == results
    assert results["resample"] == "site"
    assert results["marks"] == ["leak"]
    expected = compute_results(
        table, n_train={(0, f): 20 for f in range(3)}, resample="site", marks=("leak",), groups=None, draws=50
    )
    assert expected == results
    assert list(results["subgroups"]["site"]) == [f"s{i}" for i in range(6)]
    assert results["metrics"]["auroc"]["procedure"] is not None


def test_training_sizes_come_from_runs_csv_where_there_is_no_cohort_json(tmp_path):
    table = cross_validation(n=30, repeats=1, folds=3, seeds=1)
    text = "run,repeat,fold,n_train\n" + "".join(f"r0f{f}s0,0,{f},20\n" for f in range(3))
    run = folder(tmp_path, table, runs_csv=text)
    known = compute_results(table, n_train={(0, f): 20 for f in range(3)}, draws=20)["metrics"]["auroc"]
    assert write_results(run, draws=20)["metrics"]["auroc"]["procedure"] == known["procedure"]
    slides = folder(tmp_path, table, {"unit": "slide"})  # runs.csv counts bags, which are slides here
    assert write_results(slides, draws=20)["metrics"]["auroc"]["procedure"] is None


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"no .*config\.json"):
        write_results(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunFolderError, match="not readable JSON"):
        write_results(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(RunFolderError, match="holds a list"):
        write_results(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"predictions\.csv"):
        write_results(tmp_path)
