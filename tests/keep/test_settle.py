"""A model to keep of a study that searched: every fold's weights where one model holds them, or a refit."""

import csv
from dataclasses import replace

import numpy as np
import planted
import pytest

from milkit import api
from milkit.data.protocol import KFold
from milkit.errors import ConfigError
from milkit.keep.settle import most_often
from milkit.predictions import Predictions
from milkit.search import Choice, Grid, LogUniform, Tpe

RATE = "train.optimizer.learning_rate"


def searched(search, folds=2):
    e = planted.experiment(width=4)
    return replace(
        e, model=replace(e.model, dropout=0.2), protocol=KFold(folds=folds, validation=0.25), seeds=1, search=search
    )


def chosen(run):
    with open(run / "runs.csv", newline="") as file:
        return [row["trial"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_an_ensemble_says_what_the_chosen_runs_said(tmp_path, make_run):
    study = searched(Grid({RATE: Choice(0.001, 0.1), "model.dropout": Choice(0.1, 0.4)}))
    make_run(study, tmp_path / "run")
    facts = api.finalize(tmp_path / "run", tmp_path / "model", data=study.data)
    assert facts["experiment"]["search"] is None
    kept = api.load_model(tmp_path / "model")
    from milkit.keep.speak import speak

    bags = study.data.load(study.task, study.unit)
    said = speak(kept, bags.lengths, bags.read)
    rows = Predictions.read(tmp_path / "run" / "predictions.csv")
    rows = rows.take((rows.role == "test") & (rows.selection == "validation"))
    row_of = {bag: i for i, bag in enumerate(bags.bag.tolist())}
    assert len(kept.members) == 2
    for m, member in enumerate(kept.members):
        mine = rows.take(rows.run == member["run"])
        np.testing.assert_allclose(said.members[m, [row_of[b] for b in mine.bag.tolist()]], mine.score, atol=1e-6)


@pytest.mark.slow
def test_folds_that_chose_other_models_are_no_ensemble_but_a_refit_takes_the_most_chosen(
    tmp_path, make_run, monkeypatch
):
    """Which trial is best is set by hand: the folds take 1, 0 and 1."""
    from milkit.execute.search import choose, study

    def by_hand(found, place):
        return found[(1, 0, 1)[place[1]]]

    monkeypatch.setattr(study, "best", by_hand)
    assert choose.best is not by_hand
    experiment = searched(Grid({"model.encoder": Choice((4,), (6,))}), folds=3)
    make_run(experiment, tmp_path / "run")
    assert sorted(chosen(tmp_path / "run")) == ["0", "1", "1"]
    with pytest.raises(ConfigError, match=r"models that differ \(model\.encoder\).*--refit"):
        api.finalize(tmp_path / "run", tmp_path / "model", data=experiment.data)
    assert not (tmp_path / "model").exists()
    said = []
    facts = api.finalize(tmp_path / "run", tmp_path / "model", how="refit", data=experiment.data, tell=said.append)
    assert facts["model"]["encoder"] == [6]
    assert any("model.encoder (6,)" in line for line in said)


def test_a_refit_of_a_search_of_each_folds_own_takes_middle_values():
    """Three folds chose rates .01, .2 and .03, gated twice: the middle rate, gated."""
    search = Tpe({RATE: LogUniform(1e-3, 1.0), "model.gated": Choice(False, True)}, trials=4)
    values = [{RATE: r, "model.gated": g} for r, g in ((0.01, True), (0.2, False), (0.03, True))]
    assert most_often(search, [0, 3, 1], values) == {RATE: 0.03, "model.gated": True}
    grid = Grid({RATE: Choice(0.01, 0.2, 0.03)})
    assert most_often(grid, [1, 2, 2], [{RATE: 0.2}, {RATE: 0.03}, {RATE: 0.03}]) == {RATE: 0.03}
    assert most_often(grid, [2, 1], [{RATE: 0.03}, {RATE: 0.2}]) == {RATE: 0.2}  # as often: the earlier trial
