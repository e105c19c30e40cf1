"""A study with label budgets: its own tables stay those of all labels, and the budgets' stand beside them."""

import csv
import json
from dataclasses import replace

import jax
import numpy as np
import planted
import pytest

from milkit import api, config
from milkit.data.protocol import LabelBudget
from milkit.errors import ConfigError, RunFolderError
from milkit.execute import program as program_module
from milkit.execute.prepare import prepare
from milkit.execute.run import execute
from milkit.experiment import allowed_types
from milkit.predictions import Predictions
from milkit.report.results import write_results
from milkit.search import Choice, Grid
from milkit.task import MultiClass, MultiLabel, Regression, Survival
from milkit.train.engine import Engine

TABLES = ("predictions.csv", "history.jsonl", "runs.csv", "top_instances.csv", "folds.csv", "attention.json")


@pytest.fixture(scope="module")
def labelled(experiment):
    return replace(experiment, labels=LabelBudget((1, 4), draws=2))


@pytest.fixture(scope="module")
def finished(labelled, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "few"
    execute(labelled, out)
    write_results(out)
    return out


def few(out, name):
    return (out / "few_labels" / name).read_bytes()


@pytest.mark.slow
def test_the_study_itself_is_that_without_budgets_to_the_byte(experiment, finished, tmp_path):
    execute(experiment, tmp_path / "plain")
    plain = write_results(tmp_path / "plain")
    for name in TABLES:
        assert (finished / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    assert json.loads((finished / "results.json").read_text()) == plain
    assert not (tmp_path / "plain" / "few_labels").exists()
    assert not (tmp_path / "plain" / "label_curve.json").exists()


def test_runs_of_few_labels_begin_programs_of_their_own(labelled):
    """3 folds x 2 seeds, then 2 budgets x 3 folds x 2 draws x 2 seeds, in programs of 5."""
    prepared = prepare(replace(labelled, train=replace(labelled.train, width=5)))
    whole = [r for r in prepared.runs if not r.labels]
    less = [r for r in prepared.runs if r.labels]
    assert (len(whole), len(less)) == (6, 24)
    assert {r.program for r in whole} == {0, 1}
    assert [(r.program, r.slot) for r in less] == [(2 + i // 5, i % 5) for i in range(24)]
    assert less[0].name == "r0f0k4d1s0"
    assert len({r.name for r in prepared.runs}) == 30
    assert [r.labels for r in less] == sorted((r.labels for r in less), reverse=True)


def test_keys_are_shared_by_the_budgets_of_a_draw_and_by_nothing_else(labelled):
    runs = prepare(labelled).runs
    by_numbers: dict = {}
    for run in runs:
        by_numbers.setdefault(run.numbers, []).append(run)
    for same in by_numbers.values():
        assert len({(r.repeat, r.fold, r.seed, r.draw) for r in same}) == 1
        assert sorted(r.labels for r in same) in ([0], [1, 4])


def test_each_run_learns_from_its_own_subset(labelled):
    """Scaler, class weights and updates follow the small part."""
    weighted = replace(labelled, task=replace(labelled.task, class_weights="balanced"))
    prepared = prepare(replace(weighted, train=replace(labelled.train, standardise=True)))
    run = next(r for r in prepared.runs if r.labels == 1)
    split, hyper = prepared.split(run), prepared.hyper[run.split]
    bags = np.concatenate([prepared.study.read(int(i)).x for i in split.train]).astype(np.float64)
    assert len(split.train) == 2
    np.testing.assert_allclose(hyper.shift, bags.mean(0), rtol=1e-6)
    np.testing.assert_allclose(hyper.inverse_scale, 1 / bags.std(0), rtol=1e-5)
    assert prepared.engine.layout.updates(split.train) == 2


def test_the_tables_of_few_labels_say_who_learned_from_whom(finished):
    with (finished / "few_labels" / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (finished / "few_labels" / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 2 * 3 * 2 * 2
    for run in runs:
        mine = [r for r in rows if all(r[k] == run[k] for k in ("labels", "draw", "repeat", "fold", "inner"))]
        trained = [r["patient"] for r in mine if r["role"] == "train"]
        assert len(trained) == int(run["n_train"]) == 2 * int(run["labels"])
        assert sorted(int(p[1:]) % 2 for p in trained) == [0] * int(run["labels"]) + [1] * int(run["labels"])
    settings = json.loads((finished / "config.json").read_text())
    assert (settings["runs"], settings["few_label_runs"]) == (6, 24)


def test_every_budget_tests_the_same_patients(finished):
    few_rows = Predictions.read(finished / "few_labels" / "predictions.csv")
    whole = Predictions.read(finished / "predictions.csv")
    for run in set(few_rows.run.tolist()):
        rows = few_rows.take((few_rows.run == run) & (few_rows.role == "test"))
        same = whole.take((whole.fold == rows.fold[0]) & (whole.seed == 0) & (whole.role == "test"))
        assert set(rows.bag.tolist()) == set(same.bag.tolist())


def test_the_last_point_of_the_curve_is_the_study(finished):
    curve = json.loads((finished / "label_curve.json").read_text())
    results = json.loads((finished / "results.json").read_text())
    assert [p["labels"] for p in curve["points"]] == [1, 4, "all"]
    for name in curve["metrics"]:
        found = curve["points"][-1]["metrics"][name]
        for part in ("value", "sampling", "procedure", "fold_sd", "seed_sd"):
            assert found[part] == results["metrics"][name][part]


@pytest.mark.slow
def test_a_killed_study_resumes_to_the_same_bits(labelled, finished, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    monkeypatch.setattr(program_module, "CHECKPOINT_SECONDS", 0.0)
    whole, count = Engine.epoch, [0]

    def epoch(self, *args):
        count[0] += 1
        if count[0] == 4 * 5 + 3:  # in the third program of few labels
            raise Killed
        return whole(self, *args)

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "epoch", epoch)
        with pytest.raises(Killed):
            execute(labelled, out)
    write_results(out)
    (mark,) = json.loads((out / "label_curve.json").read_text())["marks"]
    assert mark == "unfinished: 20 of 24 runs with few labels left no test prediction"
    execute(labelled, out, resume=True)
    for name in ("predictions.csv", "history.jsonl", "runs.csv", "folds.csv"):
        assert few(out, name) == few(finished, name)
    assert (out / "predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()


def test_a_run_has_the_same_bits_beside_other_budgets(labelled, finished, tmp_path):
    execute(replace(labelled, labels=LabelBudget((1,), draws=1)), tmp_path / "one")
    alone = few(tmp_path / "one", "predictions.csv").splitlines()[1:]
    assert len(alone) == 3 * 2 * 2 * (8 + 2)  # folds, seeds, selections, test and validation patients
    assert set(alone) <= set(few(finished, "predictions.csv").splitlines())


def test_other_budgets_are_other_settings(labelled, finished):
    with pytest.raises(RunFolderError, match=r"experiment\.labels\.draws: 2 there, 3 now"):
        execute(replace(labelled, labels=LabelBudget((1, 4), draws=3)), finished, resume=True)


def test_a_search_with_few_labels_is_refused(labelled):
    with pytest.raises(ConfigError, match=r"label-budget curve and a search in one study"):
        replace(labelled, search=Grid({"train.optimizer.learning_rate": Choice(0.1, 0.2)}))


@pytest.mark.parametrize(
    ("made", "task"),
    [
        (planted.multi_class, MultiClass(class_weights="balanced")),
        (planted.multi_label, MultiLabel(("left", "right"), class_weights="balanced")),
        (planted.regression, Regression()),
        (planted.survival, Survival()),
    ],
)
def test_one_label_a_class_gives_finite_scales(labelled, made, task):
    """The smallest part there can be: a constant target, a single event, a label without positives, one bag."""
    train = replace(labelled.train, standardise=True)
    prepared = prepare(replace(labelled, data=made(), task=task, train=train, labels=LabelBudget((1,), draws=2)))
    few = [r for r in prepared.runs if r.labels]
    assert len(few) == 3 * 2 * 2
    for run in few:
        numbers = jax.tree.leaves((prepared.hyper[run.split], prepared.loss[run.split]))
        assert all(np.isfinite(np.asarray(n)).all() for n in numbers)
        assert (np.asarray(prepared.hyper[run.split].inverse_scale) < 1e4).all()


def test_the_configuration_comes_back(labelled):
    written = config.to_json(replace(labelled, labels=LabelBudget((2,), 3, "whole", 5)))
    assert config.from_json(written["labels"], allowed_types()) == LabelBudget((2,), 3, "whole", 5)


@pytest.mark.slow
def test_a_model_is_made_of_the_whole_study_only(finished, tmp_path):
    api.finalize(finished, tmp_path / "model", data=planted.binary())
    made = json.loads((tmp_path / "model" / "model.json").read_text())
    assert [m["run"] for m in made["members"]] == [f"r0f{f}s{s}" for f in range(3) for s in range(2)]
