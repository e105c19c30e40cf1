"""A kept model that reads covariates: members scale by their own training parts, and know the levels of theirs."""

import csv
from dataclasses import replace

import numpy as np
import planted
import pytest

from milkit import api
from milkit.data.cohort import Cohort, read_cohort
from milkit.data.store import open_store
from milkit.errors import CohortError, ConfigError
from milkit.keep.members import members_of
from milkit.keep.predict import untargeted
from milkit.keep.speak import speak
from milkit.models import ABMIL
from milkit.predictions import Predictions
from milkit.task import Binary

CHOICE = ("age", "sex")


def with_ages(table):
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        row["age"] = str(40 + 7 * i % 31)
    write(table, rows)
    return table


def write(table, rows):
    with table.open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)


def edited(home, tmp_path, change):
    with (home / "other.csv").open(newline="") as file:
        rows = [row | change(i) for i, row in enumerate(csv.DictReader(file))]
    write(tmp_path / "edited.csv", rows)
    return tmp_path / "edited.csv"


@pytest.fixture(scope="module")
def home(tmp_path_factory, make_run):
    folder = tmp_path_factory.mktemp("beside")
    store, table = planted.stored(folder, planted.binary(), "home")
    with_ages(table)
    base = planted.experiment(width=4)
    model = ABMIL(encoder=(8,), attention=4, covariates="concatenate", fusion_layers=(4,))
    data = Cohort(str(table), str(store), covariates=CHOICE)
    make_run(replace(base, data=data, model=model, name="beside"), folder / "run")
    with_ages(planted.stored(folder, planted.binary(seed=7), "other", prefix="x")[1])
    api.finalize(folder / "run", folder / "model")
    return folder


def test_the_trained_models_of_a_run_are_given_them(home):
    stated = api.replay(home / "run" / "config.json").experiment
    written = Predictions.read(home / "run" / "predictions.csv")
    written = written.take((written.role == "test") & (written.selection == "validation"))
    for member in members_of(stated, home / "run"):
        mine = written.run == member.run
        score = dict(zip(written.bag[mine], written.score[mine, 1], strict=True))
        logits = np.asarray(member.module(member.bags(member.test)).logits, np.float64)[:, 0]
        expected = [score[member.study.bag[row]] for row in member.test]
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_every_member_says_what_its_run_said(home):
    kept = api.load_model(home / "model")
    study = Cohort(str(home / "home.csv"), str(home / "home.h5"), covariates=CHOICE).load(Binary())
    assert kept.codings == study.covariates.codings
    assert kept.covariate_shift.shape == (6, 3)
    assert len(np.unique(kept.covariate_shift[:, 0])) == 3  # a fold's two seeds share it
    said = speak(kept, study.lengths, study.read, covariates=study.covariates)
    rows = Predictions.read(home / "run" / "predictions.csv")
    rows = rows.take((rows.role == "test") & (rows.selection == "validation"))
    row_of = {bag: i for i, bag in enumerate(study.bag.tolist())}
    for m, member in enumerate(kept.members):
        mine = rows.take(rows.run == member["run"])
        there = [row_of[bag] for bag in mine.bag.tolist()]
        np.testing.assert_allclose(said.logits[m, there], mine.logits, atol=1e-5)
    assert "age (a number); sex (f, m)" in (home / "model" / "README.md").read_text()


def test_answers_read_the_table(home, tmp_path):
    header, *rows = api.predict(home / "model", home / "other.h5", cohort=home / "other.csv")
    older = edited(home, tmp_path, lambda i: {"age": "95"} if i == 3 else {})
    _, *changed = api.predict(home / "model", home / "other.h5", cohort=older)
    moved = [i for i, (a, b) in enumerate(zip(rows, changed, strict=True)) if a != b]
    assert moved == [3]
    assert rows[3][header.index("marks")] == ""
    results = api.evaluate(home / "model", home / "other.h5", home / "other.csv", tmp_path / "out")
    assert results["counts"]["patients"] == 24


def test_without_a_table_there_is_no_answer(home):
    with pytest.raises(ConfigError, match=r"reads age, sex beside the features; give the table .*--cohort"):
        api.predict(home / "model", home / "other.h5")


def test_an_unknown_level_is_refused_and_an_empty_cell_is_the_mean(home, tmp_path):
    strange = edited(home, tmp_path, lambda i: {"sex": "F"} if i == 2 else {})
    with pytest.raises(CohortError, match=r"'sex' is 'F' in line 4 .*the known levels are f, m\."):
        api.predict(home / "model", home / "other.h5", cohort=strange)
    empty = edited(home, tmp_path, lambda i: {"age": "", "sex": "m"} if i == 2 else {})
    header, *rows = api.predict(home / "model", home / "other.h5", cohort=empty)
    assert rows[2][header.index("marks")] == (
        "covariate 'age' was said to be read as numbers, missing in 1 bag(s), which was never missing in training: "
        "read there as the mean of the training part"
    )
    # an empty age is, to each member, its own training part's mean
    kept = api.load_model(home / "model")
    study = untargeted(kept, open_store(home / "other.h5"), read_cohort(empty))
    empty_said = speak(kept, study.lengths, study.read, covariates=study.covariates).logits[:, 2]
    for m, mean in enumerate(kept.covariate_shift[:, 0]):
        values = study.covariates.values.copy()
        values[2, 0] = mean
        full = speak(kept, study.lengths, study.read, covariates=replace(study.covariates, values=values)).logits[:, 2]
        np.testing.assert_allclose(empty_said[m], full[m], atol=1e-6)
    assert len({float(mean) for mean in kept.covariate_shift[:, 0]}) == 3


@pytest.mark.slow
def test_bags_that_are_gone_cannot_scale(tmp_path, make_run):
    made = planted.binary()
    rows = [{**row, "age": str(40 + i % 9)} for i, row in enumerate(made.rows)]
    base = planted.experiment(width=4)
    data = replace(made, rows=tuple(rows), covariates=("age",))
    model = ABMIL(encoder=(8,), attention=4, covariates="late")
    make_run(replace(base, data=data, model=model, train=replace(base.train, epochs=1), seeds=1), tmp_path / "run")
    with pytest.raises(ConfigError, match="the scale of the covariates"):
        api.finalize(tmp_path / "run", tmp_path / "model")
    api.finalize(tmp_path / "run", tmp_path / "model", data=data, how="refit")
    kept = api.load_model(tmp_path / "model")
    np.testing.assert_allclose(kept.covariate_shift[0], [np.mean([40 + i % 9 for i in range(24)])], rtol=1e-6)
