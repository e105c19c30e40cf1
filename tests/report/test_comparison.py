"""Comparison of runs: numbers from plain loops and other libraries, and what cannot be compared."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from lifelines.utils import concordance_index
from sklearn.metrics import accuracy_score, roc_auc_score

from milkit.errors import ConfigError, RunFolderError
from milkit.metrics import bootstrap_counts
from milkit.metrics.verdict import holm
from milkit.predictions import Predictions, concat
from milkit.report.comparison import compare
from milkit.task import Binary, MultiClass, Regression, Survival

PATIENTS = 40
IDS = [f"p{i:02d}" for i in range(PATIENTS)]
Y = np.arange(PATIENTS) % 2


def logits_of(seed, strength=1.0, n=PATIENTS):
    rng = np.random.default_rng(seed)
    return strength * (2 * Y[:n] - 1) + rng.normal(size=n)


def rows(logits, *, folds=5, repeats=2, seeds=1, selection="validation", site=None, noise=0.3, ids=IDS, keep=None):
    """Predictions of a cross-validation whose folds are the same whatever the model."""
    parts = []
    n = len(logits)
    for repeat in range(repeats):
        order = np.random.default_rng(100 + repeat).permutation(n)
        for fold in range(folds):
            test = np.sort(order[fold::folds])
            for seed in range(seeds):
                rng = np.random.default_rng([repeat, fold, seed, int(1e6 * abs(float(logits[0])))])
                z = logits[test] + noise * rng.normal(size=len(test))
                parts.append(
                    Predictions.of(
                        Binary(),
                        ("no", "yes"),
                        z[:, None],
                        Y[test],
                        experiment="x",
                        run=f"r{repeat}f{fold}s{seed}",
                        repeat=repeat,
                        fold=fold,
                        seed=seed,
                        selection=selection,
                        role="test",
                        bag=[ids[i] for i in test],
                        patient=[ids[i] for i in test],
                        site=None if site is None else [site[i] for i in test],
                    )
                )
    return concat(parts)


def folder(path, table, *, n_train=32.0, config=None, marks=()):
    """What a comparison reads of a run folder."""
    path.mkdir()
    table.write(path / "predictions.csv")
    settings = {"unit": "patient", "aggregate": "mean", "grouped_by": "patient", "marks": list(marks)}
    (path / "config.json").write_text(json.dumps(settings | (config or {})))
    splits = sorted(set(zip(table.repeat.tolist(), table.fold.tolist(), strict=True)))
    parts = [{"repeat": r, "fold": f, "role": "train", "patients": n_train} for r, f in splits]
    (path / "cohort.json").write_text(json.dumps({"folds": parts}))
    return path


@pytest.fixture
def two(tmp_path):
    """Two runs of 2 x 5 folds and two seeds."""
    a, b = rows(logits_of(1), seeds=2), rows(logits_of(2, 0.4), seeds=2)
    return folder(tmp_path / "a", a), folder(tmp_path / "b", b), a, b


def per_split(table, metric):
    """Metric of each split, seeds averaged, in a plain loop."""
    out = {}
    for run in np.unique(table.run):
        mine = table.take(table.run == run)
        key = int(mine.repeat[0]), int(mine.fold[0])
        out.setdefault(key, []).append(metric(mine.target[:, 0], mine.score[:, 1]))
    return np.array([np.mean(out[key]) for key in sorted(out)])


def test_cross_validation_is_the_corrected_t_over_split_differences(two):
    a, b, table_a, table_b = two
    found = compare([a, b], metrics=["auroc", "accuracy"]).json()
    assert list(found) == ["auroc", "accuracy"]
    for name, metric in (("auroc", roc_auc_score), ("accuracy", lambda y, p: accuracy_score(y, p >= 0.5))):
        d = per_split(table_a, metric) - per_split(table_b, metric)
        assert len(d) == 10
        error = math.sqrt(d.var(ddof=1) * (1 / 10 + 8 / 32))
        entry = found[name]
        assert entry["difference"] == pytest.approx(d.mean())
        assert entry["p"] == pytest.approx(2 * scipy.stats.t.sf(abs(d.mean()) / error, 9))
        half = scipy.stats.t.ppf(0.975, 9) * error
        assert (entry["low"], entry["high"]) == pytest.approx((d.mean() - half, d.mean() + half))
        assert entry["detectable"] == pytest.approx((scipy.stats.t.ppf(0.975, 9) + scipy.stats.t.ppf(0.8, 9)) * error)
        assert entry["test"] == "corrected resampled t"
    expected = holm([found["auroc"]["p"], found["accuracy"]["p"]])
    assert [found[m]["p_holm"] for m in found] == pytest.approx(expected)


def test_the_sampling_interval_is_a_paired_bootstrap_of_patients(two):
    """The same draws for both, a patient with all repeats and seeds: a plain loop over draws and runs."""
    a, b, table_a, table_b = two
    entry = compare([a, b], metrics=["accuracy"], draws=200).json()["accuracy"]
    ids, draws = sorted(IDS), []
    for row in bootstrap_counts(PATIENTS, 200):
        times = dict(zip(ids, row, strict=True))
        values = []
        for table in (table_a, table_b):
            right = (table.score[:, 1] >= 0.5) == (table.target[:, 0] == 1)
            weight = np.array([times[p] for p in table.patient])
            by_split = {}
            for run in np.unique(table.run):
                mine = table.run == run
                if weight[mine].sum():
                    key = int(table.repeat[mine][0]), int(table.fold[mine][0])
                    by_split.setdefault(key, []).append((weight[mine] * right[mine]).sum() / weight[mine].sum())
            values.append(np.mean([np.mean(v) for v in by_split.values()]))
        draws.append(values[0] - values[1])
    expected = np.quantile(draws, [0.025, 0.975]) - np.mean(draws) + entry["difference"]
    assert entry["sampling"] == pytest.approx(expected.tolist())


def test_copies_of_a_seed_change_nothing(two, tmp_path):
    a, b, table_a, _ = two
    copies = [replace(table_a, run=np.char.add(table_a.run, f"c{i}"), seed=table_a.seed + 10 * i) for i in range(3)]
    more = folder(tmp_path / "copies", concat(copies))
    one, several = (compare([x, b], metrics=["auroc"]).json()["auroc"] for x in (a, more))
    for key in ("difference", "low", "high", "p", "detectable", "sampling"):
        assert several[key] == pytest.approx(one[key])


def test_swapping_the_runs_swaps_the_sign(two):
    a, b, *_ = two
    forth, back = (compare([x, y]).json() for x, y in ((a, b), (b, a)))
    for name in forth:
        assert back[name]["difference"] == pytest.approx(-forth[name]["difference"])
        assert back[name]["low"] == pytest.approx(-forth[name]["high"])
        assert back[name]["p"] == pytest.approx(forth[name]["p"])
        assert back[name]["better"] == forth[name]["better"]


def test_the_better_one_has_the_higher_auroc_and_the_lower_brier(tmp_path):
    good = folder(tmp_path / "good", rows(logits_of(1, 4.0)))
    bad = folder(tmp_path / "bad", rows(-logits_of(1, 1.0)))
    found = compare([bad, good]).json()
    assert found["auroc"]["difference"] < 0 < found["brier"]["difference"]
    assert {found[m]["verdict"] for m in found} == {"different"}
    assert {found[m]["better"] for m in found} == {"good"}


def test_a_run_against_itself(two):
    a, *_ = two
    for entry in compare([a, a]).json().values():
        assert (entry["difference"], entry["p"], entry["verdict"]) == (0.0, 1.0, "indistinguishable")
        assert entry["first"] != entry["second"]


def test_three_runs_and_a_reference(two, tmp_path):
    a, b, *_ = two
    c = folder(tmp_path / "c", rows(logits_of(3)))
    every = compare([a, b, c], metrics=["auroc"])
    assert list(every.json()) == ["a vs b", "a vs c", "b vs c"]
    assert [r.p_holm for r in every.rows] == pytest.approx(holm([r.found.p for r in every.rows]))
    chosen = compare([a, b, c], metrics=["auroc"], reference="b").json()
    assert list(chosen) == ["a vs b", "c vs b"]
    assert chosen["c vs b"]["auroc"]["difference"] == pytest.approx(-every.json()["b vs c"]["auroc"]["difference"])
    with pytest.raises(ConfigError, match="'d' is none of the runs compared: a, b, c"):
        compare([a, b, c], reference="d")


def held_out(seed, strength=1.0, seeds=1):
    parts = []
    for s in range(seeds):
        z = logits_of([seed, s], strength)
        one = rows(z, folds=1, repeats=1, noise=0.0)
        parts.append(replace(one, run=np.full(len(one), f"s{s}"), seed=np.full(len(one), s)))
    return concat(parts)


def test_one_held_out_set_takes_delong_and_mcnemar(tmp_path):
    tables = held_out(1), held_out(2, 0.5)
    found = compare([folder(tmp_path / n, t) for n, t in zip("ab", tables, strict=True)]).json()
    assert found["auroc"]["test"] == "DeLong"
    assert found["accuracy"]["test"] == "McNemar, exact"
    assert {found["brier"]["test"], found["balanced_accuracy"]["test"]} == {"paired bootstrap"}
    right = [(t.score[:, 1] >= 0.5) == (t.target[:, 0] == 1) for t in tables]
    b, c = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert found["accuracy"]["p"] == pytest.approx(scipy.stats.binomtest(b, b + c).pvalue)
    assert found["accuracy"]["difference"] == pytest.approx((b - c) / PATIENTS)
    aucs = [roc_auc_score(t.target[:, 0], t.score[:, 1]) for t in tables]
    assert found["auroc"]["difference"] == pytest.approx(aucs[0] - aucs[1])
    # DeLong and the bootstrap speak of the same thing
    low, high = found["auroc"]["sampling"]
    assert high - low == pytest.approx(found["auroc"]["high"] - found["auroc"]["low"], rel=0.15)


def test_two_locked_models_on_another_cohort(tmp_path):
    """What `milkit evaluate` leaves: predictions and results, no config.json."""
    paths = []
    for name, seed in (("a", 1), ("b", 2)):
        table = replace(held_out(seed), selection=np.full(PATIENTS, "locked"))
        path = folder(tmp_path / name, table)
        (path / "config.json").unlink()
        (path / "cohort.json").unlink()
        said = {"unit": "patient", "aggregate": "mean", "measured": "patient", "resample": "patient", "marks": ["seen"]}
        (path / "results.json").write_text(json.dumps(said))
        paths.append(path)
    comparison = compare(paths)
    assert {e.selection for e in comparison.field.entrants} == {"locked"}
    assert comparison.rows[0].test == "DeLong"
    assert comparison.rows[0].marks == ("seen",)


def test_several_seeds_of_a_held_out_set(tmp_path):
    a, b = folder(tmp_path / "a", held_out(1, seeds=3)), folder(tmp_path / "b", held_out(2))
    found = compare([a, b]).json()
    assert found["auroc"]["test"] == "DeLong"
    assert found["accuracy"]["test"] == "paired bootstrap"


def test_sites_are_resampled_where_folds_are_grouped_by_site(tmp_path):
    """DeLong and McNemar take patients for independent, which patients of one site are not."""
    site = [f"s{i % 8}" for i in range(PATIENTS)]
    tables = [rows(logits_of(s), folds=1, repeats=1, site=site) for s in (1, 2)]
    grouped = {"grouped_by": "site"}
    a, b = (folder(tmp_path / n, t, config=grouped) for n, t in zip("ab", tables, strict=True))
    found = compare([a, b], draws=300).json()
    assert {e["test"] for e in found.values()} == {"paired bootstrap"}
    names, number = np.unique(np.array(site), return_inverse=True)
    y, p = tables[0].target[:, 0], [t.score[:, 1] for t in tables]
    draws = []
    for counts in bootstrap_counts(len(names), 300):
        w = counts[number]
        if (w * y).sum() and (w * (1 - y)).sum():
            draws.append(roc_auc_score(y, p[0], sample_weight=w) - roc_auc_score(y, p[1], sample_weight=w))
    d = found["auroc"]["difference"]
    assert found["auroc"]["sampling"] == pytest.approx(
        (np.quantile(draws, [0.025, 0.975]) - np.mean(draws) + d).tolist()
    )
    unknown = folder(tmp_path / "c", rows(logits_of(3), folds=1, repeats=1), config=grouped)
    with pytest.raises(RunFolderError, match="no run knows the site"):
        compare([unknown, unknown])


def test_the_c_index_against_lifelines(tmp_path):
    """Two published tables of risks, no fold: one held-out set."""
    rng = np.random.default_rng(5)
    time, event = np.round(rng.exponential(30, PATIENTS), 1) + 1, (rng.random(PATIENTS) < 0.6).astype(int)
    risks = [-np.log(time) + rng.normal(size=PATIENTS) for _ in range(2)]
    paths = []
    for name, risk in zip("ab", risks, strict=True):
        lines = ["case_id,time,event,risk,note"]
        lines += [f"{i},{t},{e},{r!r},x" for i, t, e, r in zip(IDS, time, event, risk.tolist(), strict=True)]
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("\n".join(lines))
    comparison = compare(paths, draws=200)
    found = comparison.json()["c_index"]
    values = [concordance_index(time, -risk, event) for risk in risks]
    assert found["values"] == pytest.approx(values)
    assert found["difference"] == pytest.approx(values[0] - values[1])
    assert found["test"] == "paired bootstrap"
    draws = []
    order = np.argsort(IDS)
    for counts in bootstrap_counts(PATIENTS, 200):
        drawn = np.repeat(order, counts.astype(int))
        both = [concordance_index(time[drawn], -risk[drawn], event[drawn]) for risk in risks]
        draws.append(both[0] - both[1])
    expected = np.quantile(draws, [0.025, 0.975]) - np.mean(draws) + found["difference"]
    assert found["sampling"] == pytest.approx(expected.tolist())
    assert any("columns not read: note" in note for note in comparison.field.notes)


def published(path, table, prob="prob"):
    lines = [f"patient,fold,repeat,target,{prob}"]
    for i in range(len(table)):
        row = (table.patient[i], table.fold[i], table.repeat[i], int(table.target[i, 0]), table.score[i, 1].item())
        lines.append(",".join(map(str, row)))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_published_table_against_a_run(two, tmp_path):
    """The same numbers as if it had been a run, and the training sizes of the one that knows them."""
    a, *_ = two
    other = rows(logits_of(2, 0.4))
    from_table = compare([a, published(tmp_path / "theirs.csv", other)], metrics=["auroc"])
    from_run = compare([a, folder(tmp_path / "c", other)], metrics=["auroc"])
    one, two_ = from_table.json()["auroc"], from_run.json()["auroc"]
    for key in ("difference", "low", "high", "p"):
        assert one[key] == pytest.approx(two_[key])
    assert from_table.field.entrants[1].selection == "as published"


def test_without_training_sizes_all_other_patients_are_taken(tmp_path):
    tables = rows(logits_of(1)), rows(logits_of(2))
    paths = [published(tmp_path / f"{n}.csv", t) for n, t in zip("ab", tables, strict=True)]
    guessed = compare(paths, metrics=["auroc"])
    known = compare([folder(tmp_path / n, t) for n, t in zip("cd", tables, strict=True)], metrics=["auroc"])
    assert guessed.json()["auroc"]["p"] == pytest.approx(known.json()["auroc"]["p"])  # 40 - 8 = 32, as recorded
    assert any("taken to be all patients" in note for note in guessed.field.notes)


def test_the_fewest_training_patients_count(two, tmp_path):
    a, b, _, table_b = two
    fewer = folder(tmp_path / "fewer", table_b, n_train=20.0)
    assert compare([a, fewer]).json()["auroc"]["p"] > compare([a, b]).json()["auroc"]["p"]


def test_a_difference_that_is_the_same_in_every_split(tmp_path):
    """A perfect and a perfectly wrong model: no variance over splits, so patients are the unit."""
    right = folder(tmp_path / "right", rows(50.0 * (2 * Y - 1)))
    wrong = folder(tmp_path / "wrong", rows(-50.0 * (2 * Y - 1)))
    for entry in compare([right, wrong], metrics=["auroc", "accuracy"]).json().values():
        assert entry["difference"] == 1.0
        assert (entry["test"], entry["verdict"], entry["better"]) == ("paired bootstrap", "different", "right")
        assert entry["p"] == pytest.approx(2 / 2001)
        assert entry["detectable"] is None


def test_undefined_splits_are_dropped_from_both(two, tmp_path):
    """One run's scores of one split are not finite: that split leaves both sides, and is not 0."""
    a, _, table_a, table_b = two
    gone = (table_b.repeat == 0) & (table_b.fold == 3)
    broken = replace(table_b, score=np.where(gone[:, None], np.nan, table_b.score))
    found = compare([a, folder(tmp_path / "broken", broken)], metrics=["auroc"]).json()["auroc"]
    d = per_split(table_a, roc_auc_score)
    e = per_split(table_b, roc_auc_score)
    keep = np.arange(10) != 3
    assert found["difference"] == pytest.approx((d - e)[keep].mean())
    assert (found["splits"], found["undefined_splits"]) == (9, 1)
    assert any("left out of both" in note for note in found["notes"])


def test_a_metric_without_any_value_has_no_verdict_but_no_power(two):
    a, b, *_ = two
    entry = compare([a, b], metrics=["sensitivity_at_threshold"]).json()["sensitivity_at_threshold"]
    assert (entry["difference"], entry["p"], entry["verdict"]) == (None, None, "no power")
    assert "no threshold was chosen" in entry["notes"][0]


def test_pooled_metrics_take_the_bootstrap(two):
    a, b, *_ = two
    entry = compare([a, b], metrics=["ece"]).json()["ece"]
    assert entry["test"] == "paired bootstrap"
    assert any("takes the models as they are" in note for note in entry["notes"])


def test_the_margin_of_an_error_is_a_share_of_the_second_value(tmp_path):
    rng = np.random.default_rng(0)
    target = rng.gamma(3.0, 8.0, PATIENTS)
    paths = []
    for name, noise in (("a", 5.0), ("b", 6.0)):
        table = Predictions.of(
            Regression(("hrd",)), ("hrd",), (target + noise * rng.normal(size=PATIENTS))[:, None], target,
            experiment="x", run="r", repeat=0, fold=0, seed=0, selection="last", role="test", bag=IDS, patient=IDS,
        )  # fmt: skip
        paths.append(folder(tmp_path / name, table))
    found = compare(paths, margin=0.1).json()
    assert found["mae"]["margin"] == pytest.approx(0.1 * found["mae"]["values"][1])
    assert found["r2"]["margin"] == 0.1
    assert list(found) == ["mae", "r2", "spearman"]


def test_selections(tmp_path):
    both = concat([rows(logits_of(1), selection=s) for s in ("validation", "last", "optimistic")])
    a, b = folder(tmp_path / "a", both), folder(tmp_path / "b", rows(logits_of(2), selection="last"))
    assert {e.selection for e in compare([a, b]).field.entrants} == {"last"}
    c = folder(tmp_path / "c", rows(logits_of(2), selection="optimistic"))
    with pytest.raises(RunFolderError, match="no honest selection in common"):
        compare([a, c])
    mixed = compare([a, c], selections=["validation", "optimistic"])
    assert all(row.marks == ("optimistic",) for row in mixed.rows)
    with pytest.raises(RunFolderError, match="no selection 'validation'; it has: last"):
        compare([a, b], selections=["validation"])
    with pytest.raises(RunFolderError, match="names 3 for 2 runs"):
        compare([a, b], selections=["last"] * 3)


def test_marks_of_either_run_stay(two, tmp_path):
    a, *_ = two
    marked = folder(tmp_path / "marked", rows(logits_of(4)), marks=["patients in two roles"])
    assert compare([a, marked]).json()["auroc"]["marks"] == ["patients in two roles"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.take(~np.isin(t.patient, ["p03", "p04"])), "other lacks 2 of the 40 patients of a: 'p03', 'p04'"),
        (lambda t: replace(t, patient=np.char.add(t.patient, "x"), bag=np.char.add(t.bag, "x")), "and 30 more"),
        (lambda t: replace(t, target=np.where(t.patient[:, None] == "p05", 1 - t.target, t.target)), "'p05'"),
        (lambda t: t.take(t.repeat == 0), "no test part of repeat 1, fold 0, and lacks 5 of the 10 splits"),
        (lambda t: replace(t, fold=np.where(t.patient == "p07", (t.fold + 1) % 5, t.fold),
                           run=np.where(t.patient == "p07", np.char.add("m", t.run), t.run)), "The test parts of"),
        (lambda t: replace(t, names=("yes", "no")), r"predicts no, yes and .* yes, no"),
    ],
)  # fmt: skip
def test_runs_that_cannot_be_compared(tmp_path, change, said):
    table = rows(logits_of(1))
    a, b = folder(tmp_path / "a", table), folder(tmp_path / "other", change(table))
    with pytest.raises(RunFolderError, match=said):
        compare([a, b])


def test_a_seed_without_some_patients(tmp_path):
    table = rows(logits_of(1), seeds=2)
    cut = folder(tmp_path / "cut", table.take((table.patient != "p00") | (table.seed == 0)))
    with pytest.raises(RunFolderError, match=r"seed 1 of repeat 0, fold . .run .* lacks 1 patients"):
        compare([folder(tmp_path / "a", table), cut])


def test_tasks_units_and_aggregates_must_agree(two, tmp_path):
    a, _, table, _ = two
    classes = Predictions.of(
        MultiClass(), ("x", "y", "z"), np.zeros((PATIENTS, 3)), Y, experiment="x", run="r", repeat=0, fold=0, seed=0,
        selection="last", role="test", bag=IDS, patient=IDS,
    )  # fmt: skip
    with pytest.raises(RunFolderError, match=r"is a Binary study and .* a MultiClass one"):
        compare([a, folder(tmp_path / "classes", classes)])
    slides = folder(tmp_path / "slides", table, config={"unit": "slide"})
    with pytest.raises(RunFolderError, match="need the same unit"):
        compare([a, slides])
    highest = folder(tmp_path / "max", table, config={"aggregate": "max"})
    with pytest.raises(RunFolderError, match="need the same aggregate"):
        compare([a, highest])


def test_choices_that_cannot_be(two, tmp_path):
    a, b, *_ = two
    with pytest.raises(ConfigError, match="no metric 'auc'; it has: auroc, "):
        compare([a, b], metrics=["auc"])
    with pytest.raises(ConfigError, match="alpha"):
        compare([a, b], alpha=0.0)
    with pytest.raises(RunFolderError, match="needs two runs"):
        compare([a])
    with pytest.raises(RunFolderError, match="There is no "):
        compare([a, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=r"config.json; is .* a run folder"):
        compare([a, tmp_path / "empty"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,time,event,score\na,1,1,0.3\n", "holds no score; its columns are patient, time, event, score"),
        ("patient,time,event,risk,prob\na,1,1,0.3,.2\n", "holds both risk and prob"),
        ("patient,event,risk\na,1,0.3\n", "lacks time"),
        ("id,target,prob\na,1,0.3\n", "lacks patient"),
        ("patient,target,prob\na,1,1.3\n", "line 2, column prob: found '1.3', expected a probability"),
        ("patient,target,prob\na,2,0.3\n", "line 2, column target: found '2', expected 0 or 1"),
        ("patient,time,event,risk\na,1,1,high\n", "column risk: found 'high', expected a finite number"),
        ("patient,target,prob\na,1,0.3\na,1,0.4\n", "line 3: 'a' was already given in line 2"),
        ("patient,target,prob,split\na,1,0.3,tuning\n", "column split: found 'tuning'"),
        ("patient,target,prob,fold\na,1,0.3,one\n", "column fold: found 'one', expected a whole number"),
        ("patient,target,prob\na,1\n", "line 2: found 2 cells, expected 3"),
        ("patient,case id,target,prob\na,b,1,.5\n", "could each be the patient"),
        ("patient,target,prob\n,1,.5\n", "line 2: no id in the patient column"),
        ("patient,target,prob\n", "holds no row"),
        ("patient,target,prob,split\na,1,.5,train\n", "holds no test row"),
    ],
)
def test_published_tables_that_cannot_be_read(tmp_path, text, said):
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=said):
        compare([path, path])


def test_slides_seeds_splits_and_other_separators(tmp_path):
    """Two slides a patient become their mean, as in a study; training rows are counted; semicolons and a mark."""
    lines = ["Patient ID;Slide;Target;Prob;Split;Fold"]
    for i in range(8):
        for fold in (0, 1):
            split = "test" if i % 2 == fold else "train"
            lines += [f"{i};{i}{s};{int(i > 3)};{0.1 * i + 0.02 * s};{split};{fold}" for s in (0, 1)]
    path = tmp_path / "theirs.csv"
    path.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    comparison = compare([path, path], metrics=["auroc"])
    assert comparison.field.n_train == {(0, 0): 4.0, (0, 1): 4.0}
    part = comparison.field.entrants[0].study.runs[0].part
    assert part.score[:, 1] == pytest.approx([0.01, 0.21, 0.41, 0.61])


def test_survival_runs_with_their_training_parts(tmp_path):
    """A Cox study in two folds: the C-index of each fold by lifelines."""
    rng = np.random.default_rng(6)
    time, event = rng.exponential(30, PATIENTS) + 1, (rng.random(PATIENTS) < 0.7).astype(float)
    tables, expected = [], []
    for _ in range(2):
        risk = -np.log(time) + rng.normal(size=PATIENTS)
        parts, values = [], []
        for fold in (0, 1):
            test = np.arange(fold, PATIENTS, 2)
            ids = [IDS[i] for i in test]
            parts.append(
                Predictions.of(
                    Survival(loss="cox"), (), risk[test, None], np.stack([time, event], 1)[test], experiment="x",
                    run=f"f{fold}", repeat=0, fold=fold, seed=0, selection="last", role="test", bag=ids, patient=ids,
                )
            )  # fmt: skip
            values.append(concordance_index(time[test], -risk[test], event[test]))
        tables.append(concat(parts))
        expected.append(np.array(values))
    found = compare([folder(tmp_path / n, t) for n, t in zip("ab", tables, strict=True)]).json()
    assert list(found) == ["c_index", "c_index_ipcw"]
    assert found["c_index"]["values"] == pytest.approx([v.mean() for v in expected])
    d = expected[0] - expected[1]
    error = math.sqrt(d.var(ddof=1) * (1 / 2 + 20 / 32))
    assert found["c_index"]["p"] == pytest.approx(2 * scipy.stats.t.sf(abs(d.mean()) / error, 1))
