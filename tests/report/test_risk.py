"""Risk groups of a study, the censoring of the training part, and the section of the report."""

import json

import numpy as np
import pytest

from milkit import metrics
from milkit.errors import RunFolderError
from milkit.metrics import TrainingPart
from milkit.predictions import Predictions, concat
from milkit.report import write_report
from milkit.report.results import compute_results, write_results
from milkit.report.risk import Recorded, read_training
from milkit.report.sections.survival import p_value
from milkit.task import Survival

COX, NLL = Survival(loss="cox"), Survival(bins=3)


def rows(task, logits, target, patients, *, repeat=0, fold=0, seed=0, threshold=np.nan, role="test", **more):
    return Predictions.of(
        task, (), np.asarray(logits, float).reshape(len(patients), -1), np.asarray(target, float), experiment="study",
        run=f"r{repeat}f{fold}s{seed}", repeat=repeat, fold=fold, seed=seed, selection=more.pop("selection", "last"),
        role=role, bag=more.pop("bag", patients), patient=patients, threshold=threshold, **more,
    )  # fmt: skip


def study(seed=0, n=60, folds=3, seeds=3, repeats=1, task=COX, strength=1.0):
    """A cross-validation with a planted risk; every run has its own scale and cut-off."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=n)
    time, censor = rng.exponential(np.exp(-strength * level)) * 10, rng.exponential(15, n)
    target = np.stack([np.minimum(time, censor), time <= censor], 1)
    ids = np.array([f"p{i:02d}" for i in range(n)])
    parts, training = [], {}
    for r in range(repeats):
        order = rng.permutation(n)
        for f, test in enumerate(np.array_split(order, folds)):
            train = np.setdiff1d(order, test)
            cuts = np.quantile(target[train][target[train][:, 1] == 1, 0], [1 / 3, 2 / 3])
            for s in range(seeds):
                risk = 10.0 ** rng.integers(-2, 3) * (level + 0.7 * rng.normal(size=n)) + 5 * f
                logits = risk[test] if task is COX else level[test, None] + rng.normal(size=(len(test), 3)) - 0.5
                cut = np.median(risk[rng.choice(train, 9)]) if task is COX else -0.9
                parts.append(rows(task, logits, target[test], ids[test], repeat=r, fold=f, seed=s, threshold=cut))
                part = TrainingPart.of(*target[train].T, cuts if task is NLL else np.zeros(0))
                training[f"r{r}f{f}s{s}"] = Recorded(part, "validation")
    return concat(parts), training


def test_groups_are_the_majority_of_the_runs_and_the_test_compares_within_folds():
    table, training = study()
    found = compute_results(table, training=training, draws=5)["survival"]
    votes, fold, target = {}, {}, {}
    for i in range(len(table)):  # plain loops
        p = table.patient[i]
        votes.setdefault(p, []).append(table.score[i, 0] >= table.threshold[i, 0])
        fold[p], target[p] = table.fold[i], table.target[i]
    ids = sorted(votes)
    high = np.array([np.mean(votes[p]) >= 0.5 for p in ids])
    time, event = np.array([target[p] for p in ids]).T
    assert found["groups"]["high"]["n"] == high.sum()
    assert found["groups"]["low"] == metrics.compare_groups(time, event, high)["groups"]["low"]
    test = metrics.logrank(time, event, high, np.array([fold[p] for p in ids]))
    assert (found["logrank"]["chi2"], found["logrank"]["p"]) == pytest.approx((test.chi2, test.p), rel=1e-9)
    assert found["logrank"]["stratified_by"] == "fold"
    assert found["logrank"]["strata"] == 3
    assert found["logrank_unstratified"]["chi2"] == pytest.approx(metrics.logrank(time, event, high).chi2, rel=1e-9)
    assert found["hazard_ratio"]["value"] > 1
    assert found["changed"] == pytest.approx(np.mean([0 < sum(votes[p]) < 3 for p in ids]))
    assert found["ties"] == 0
    assert "Simon et al. 2011" in found["notes"][0]
    assert found["cutoff"]["rule"] == "median risk of the run's validation part"
    assert "at_risk" in found["curves"]["high"]


def test_one_held_out_test_part_has_one_stratum_and_no_warning():
    table, training = study(seeds=1)
    kept = {name: Recorded(one.part, "train") for name, one in training.items()}
    found = compute_results(table.take(table.fold == 0), training=kept, draws=5)["survival"]
    assert found["logrank"]["stratified_by"] is None
    assert found["logrank_unstratified"] is None
    assert found["notes"] == []
    assert found["cutoff"]["rule"] == "median risk of the run's training part"


def test_a_tie_counts_as_high_and_is_told():
    target = [[1, 1], [2, 1], [3, 1], [4, 0]]
    table = concat([
        rows(COX, [1, 1, 0, 0], target, ["a", "b", "c", "d"], seed=0, threshold=0.5),
        rows(COX, [1, 0, 0, 0], target, ["a", "b", "c", "d"], seed=1, threshold=0.5),
    ])  # fmt: skip
    found = compute_results(table, draws=5)["survival"]
    assert (found["ties"], found["groups"]["high"]["n"], found["changed"]) == (1, 2, 0.25)
    assert "As many runs call 1 patient low as high; a tie counts as high." in found["notes"]


def test_repeats_are_told_apart():
    table, training = study(repeats=2)
    both = compute_results(table, training=training, draws=5)["survival"]
    second = compute_results(table.take(table.repeat == 1), training=training, draws=5)["survival"]
    assert [one["repeat"] for one in both["repeats"]] == [0, 1]
    assert both["repeats"][1]["p"] == second["logrank"]["p"]
    assert both["logrank"]["p"] == both["repeats"][0]["p"] != both["repeats"][1]["p"]


def test_without_cut_offs_there_are_no_groups_and_the_reason_is_told():
    table, _ = study()
    assert compute_results(table, draws=5)["survival"]["groups"] is not None
    bare = Predictions(**{**vars(table), "threshold": np.full_like(table.threshold, np.nan)})
    found = compute_results(bare, draws=5)["survival"]
    assert found["groups"] is None
    assert "threshold is empty" in found["notes"][0]


def test_a_run_that_diverged_has_no_say():
    table, training = study()
    score = table.score.copy()
    score[table.run == "r0f0s0"] = np.nan
    found = compute_results(Predictions(**{**vars(table), "score": score}), training=training, draws=5)["survival"]
    assert found["cutoff"]["missing"] == 1
    assert any("1 of 9 runs" in note for note in found["notes"])


def test_only_test_rows_decide_and_every_selection_has_its_own_groups():
    table, training = study(seeds=1)
    more = rows(COX, [9.0, 9.0], [[1, 1], [2, 1]], ["p00", "x"], role="validation", threshold=0.0)
    other = Predictions(
        **{**vars(table), "selection": np.full(len(table), "optimistic"), "threshold": table.threshold + 99.0}
    )
    results = compute_results(concat([table, more, other]), training=training, draws=5)
    alone = compute_results(table, training=training, draws=5)
    assert results["survival"] == alone["survival"]
    assert (
        results["selections"]["optimistic"]["survival"]["groups"]["high"]["n"]
        != alone["survival"]["groups"]["high"]["n"]
    )


# censoring of the training part


def test_ipcw_c_index_takes_the_censoring_of_each_run_s_training_part():
    table, training = study(seeds=1)
    entry = compute_results(table, training=training, draws=5)["metrics"]["c_index_ipcw"]
    each = []
    for f in range(3):
        mine, part = table.take(table.fold == f), training[f"r0f{f}s0"].part
        each.append(metrics.c_index_ipcw(*mine.target.T, mine.score[:, 0], estimate=part.censoring, tau=part.follow_up))
    assert entry["value"] == pytest.approx(np.mean(each), rel=1e-9)
    assert "each run's training part" in entry["note"]
    plain = compute_results(table, draws=5)["metrics"]["c_index_ipcw"]
    assert "all patients tested" in plain["note"]
    assert plain["value"] != pytest.approx(entry["value"], rel=1e-6)
    fewer = {name: one for name, one in training.items() if name != "r0f0s0"}  # all runs or none
    assert compute_results(table, training=fewer, draws=5)["metrics"]["c_index_ipcw"] == plain


def test_integrated_brier_by_plain_loops_and_better_than_everybody_alike():
    table, training = study(task=NLL, seeds=1, n=90)
    found = compute_results(table, training=training, draws=20)["metrics"]["integrated_brier"]
    each, alike = [], []
    for f in range(3):
        mine, part = table.take(table.fold == f), training[f"r0f{f}s0"].part
        scores = np.zeros((2, 2))
        for k, cut in enumerate(part.cuts):
            for i in range(len(mine)):
                hazard = 1 / (1 + np.exp(-mine.logits[i, : k + 1]))
                t, seen = mine.target[i]
                for j, s in enumerate((np.prod(1 - hazard), part.everybody[k])):
                    if t < cut and seen:
                        scores[j, k] += s**2 / part.censoring.at(np.array([t]))[0] / len(mine)
                    elif t >= cut:
                        before = np.array([np.nextafter(cut, 0)])
                        scores[j, k] += (1 - s) ** 2 / part.censoring.at(before)[0] / len(mine)
        each.append(scores[0].mean())  # two cuts: the trapezium is their mean
        alike.append(scores[1].mean())
    assert found["value"] == pytest.approx(np.mean(each), rel=1e-9)
    assert found["kaplan_meier"] == pytest.approx(np.mean(alike), rel=1e-9)
    assert found["note"].startswith(f"kaplan_meier {np.mean(alike):.3f}")
    low, high = found["sampling"]
    assert low < found["value"] < high
    # a Cox model predicts no curve, and says nothing of one
    assert "integrated_brier" not in compute_results(*study()[:1], training=study()[1], draws=5)["metrics"]


def test_curves_of_a_patient_s_slides_become_one():
    target = [[1.0, 1], [1.0, 1], [3.0, 1], [4.0, 0]]
    table = rows(
        NLL, [[0, 0, 0], [2, 0, 0], [-1, 0, 0], [-1, 1, 0]], target, ["a", "a", "b", "c"], bag=["1", "2", "3", "4"]
    )
    part = TrainingPart.of([1, 2, 3, 4, 5], [1, 1, 1, 1, 0], np.array([2.0, 4.0]))
    known = {"r0f0s0": Recorded(part, "validation")}
    s = 1 / (1 + np.exp([0.0, 2.0]))  # survival of the two slides at the first cut
    for aggregate, first, second in (("mean", s.mean(), s.mean() / 2), ("max", s[1], s[1] / 2)):
        found = compute_results(table, training=known, unit="slide", aggregate=aggregate, draws=5)
        b, c = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-1.0))
        at_2 = first**2 + (1 - b) ** 2 + (1 - c) ** 2
        at_4 = second**2 + (b / 2) ** 2 + (1 - c / (1 + np.exp(1.0))) ** 2
        assert found["metrics"]["integrated_brier"]["value"] == pytest.approx((at_2 + at_4) / 6)


def test_training_part_survives_json():
    rng = np.random.default_rng(0)
    time, event = rng.integers(1, 9, 40).astype(float), rng.integers(0, 2, 40)
    part = TrainingPart.of(time, event, np.array([2.0, 5.0]))
    again = TrainingPart.from_dict(json.loads(json.dumps(part.as_dict())))
    at = np.linspace(0, 12, 50)
    np.testing.assert_array_equal(again.censoring.at(at), part.censoring.at(at))
    np.testing.assert_array_equal(again.before_cuts, part.before_cuts)
    assert again.follow_up == time.max()
    # before the cut at 2: who had the event at 1
    assert part.everybody[0] == pytest.approx(1 - event[time == 1].sum() / 40)


# the folder and the page


@pytest.fixture(scope="module")
def folder(plant, tmp_path_factory):
    run = plant(task="Survival", folds=3, seeds=1, attention="none", patients=60)
    table, training = study(repeats=2)
    table.write(run / "predictions.csv")
    splits = [{"runs": [name], "cutoff": one.cutoff, **one.part.as_dict()} for name, one in training.items()]
    (run / "survival.json").write_text(json.dumps({"splits": splits}))
    write_results(run, draws=50)
    write_report(run)
    return run


def test_the_page_shows_groups_test_and_curves(folder):
    found = json.loads((folder / "results.json").read_text())["survival"]
    text = (folder / "report.md").read_text()
    section = text[text.index("## Survival by risk group") : text.index("## Pictures")]
    assert "median risk of the run's validation part; it was locked" in section
    low = found["groups"]["low"]
    assert f"| low risk | {low['n']} | {low['events']} |" in section
    assert "Log-rank test, stratified by fold: χ² = " in section
    assert "Simon et al. 2011" in section
    assert "no repeat replicates another" in section
    assert (folder / "figures/kaplan_meier.png").stat().st_size > 10_000


def test_a_page_of_older_results_has_no_such_section(plant):
    run = plant(task="Survival", folds=3, seeds=1, attention="none")
    assert "Survival by risk group" not in write_report(run).read_text()
    write_results(run, draws=20)  # its predictions hold no cut-off
    assert "There are no risk groups" in write_report(run).read_text()


def test_one_group_only_still_gives_a_page(plant):
    run = plant(task="Survival", folds=3, seeds=1, attention="none", patients=60)
    table, _ = study(seeds=1)
    Predictions(**{**vars(table), "threshold": np.full_like(table.threshold, 1e6)}).write(run / "predictions.csv")
    write_results(run, draws=20)
    text = write_report(run).with_name("report.md").read_text()
    assert "| high risk | 0 | 0 | – | – |" in text
    assert "undefined (only one group" in text


@pytest.mark.parametrize("content", ["{", "[]", '{"splits": [{"runs": ["a"]}]}', '{"splits": 3}'])
def test_a_damaged_survival_json_is_named(tmp_path, content):
    (tmp_path / "survival.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"survival\.json is not what milkit writes"):
        read_training(tmp_path)


def test_no_survival_json_is_no_error(tmp_path):
    assert read_training(tmp_path) == {}


def test_p_values_are_never_zero():
    assert [p_value(p) for p in (1e-20, 0.0042, 0.0312, 0.5, None)] == [
        "p < 0.001", "p = 0.0042", "p = 0.03", "p = 0.50", "p undefined",
    ]  # fmt: skip
