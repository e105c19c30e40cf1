"""What the list says of slides, worked out by hand from a few rows of predictions."""

import json

import numpy as np
import pytest

from milkit.errors import RunFolderError
from milkit.predictions import Predictions, concat
from milkit.task import Binary, MultiLabel, Regression
from milkit.viewer.listed import read_run


def logit(p):
    return np.log(p / (1 - p))


def rows(task, names, run, bags, logits, targets, *, fold=0, seed=0, role="test", slides=None, repeat=0):
    return Predictions.of(
        task, names, np.asarray(logits, float).reshape(len(bags), -1), np.asarray(targets, float), experiment="e",
        run=run, repeat=repeat, fold=fold, seed=seed, selection="validation", role=role, bag=bags, patient=bags,
        slide=slides,
    )  # fmt: skip


def written(folder, parts, folds="", marks=()):
    """A run folder of some predictions."""
    config = {"experiment": {"name": "study", "data": {"features": ["a.h5", "b.h5"]}}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps({"selection": "validation", "marks": marks}))
    concat(parts).write(folder / "predictions.csv")
    if folds:
        (folder / "folds.csv").write_text(folds)
    return folder


def test_a_binary_study_of_two_seeds(tmp_path):
    task, names = Binary("label"), ("benign", "tumour")
    parts = [
        rows(task, names, "r0", ["a", "b"], logit(np.array([0.9, 0.4])), [1, 1], fold=2, seed=0),
        rows(task, names, "r1", ["a", "b"], logit(np.array([0.7, 0.2])), [1, 1], fold=2, seed=1),
        rows(task, names, "r0", ["c"], logit(np.array([0.99])), [1], fold=2, seed=0, role="validation"),
    ]
    folds = "repeat,fold,inner,role,bag,patient,grouped_by\n0,2,0,train,d,p7,patient\n"
    run = read_run(written(tmp_path, parts, folds, ["rows lost: 2"]))
    assert (run.name, run.kind, run.names, run.marks) == ("study", "Binary", names, ("rows lost: 2",))
    assert run.features == ("a.h5", "b.h5")
    a, b, c, d = run.slides
    assert (a.slide, a.truth, a.said, a.right, a.models, a.held_out) == (
        "a",
        "tumour",
        "tumour",
        True,
        2,
        "fold 2 (2 seeds)",
    )
    np.testing.assert_allclose([s[1:] for s in a.scores], [(0.2, 0.1, 0.3), (0.8, 0.7, 0.9)])
    assert [s[0] for s in a.scores] == ["benign", "tumour"]
    assert (b.said, b.right) == ("benign", False)  # (0.4 + 0.2) / 2 is below 0.5
    # what was not held out has no number: not even the one of validation, whose epoch it chose
    assert (c.said, c.right, c.scores, c.held_out) == ("", None, (), "never held out: used for validation")
    assert (d.patient, d.truth, d.held_out) == ("p7", "", "never held out: used for training")


def test_slides_of_one_patient_share_what_was_said(tmp_path):
    task, names = Binary("label"), ("no", "yes")
    part = rows(task, names, "r0", ["p"], [2.0], [0], slides=["s2;s1"], repeat=1, fold=3)
    one, two = read_run(written(tmp_path, [part])).slides
    assert (one.slide, two.slide) == ("s1", "s2")
    assert one.bag == two.bag == "p"
    assert one.scores == two.scores
    assert (one.said, one.right, one.held_out) == ("yes", False, "repeat 1 fold 3")


def test_labels_and_values(tmp_path):
    (tmp_path / "l").mkdir()
    (tmp_path / "v").mkdir()
    labels = rows(MultiLabel(("x", "y")), ("x", "y"), "r", ["a", "b"], [[2, -2], [-2, -1]], [[1, 0], [0, 1]])
    a, b = read_run(written(tmp_path / "l", [labels])).slides
    assert (a.said, a.truth, a.right) == ("x", "x", True)
    assert (b.said, b.truth, b.right) == ("none", "y", False)
    value = rows(Regression(("age",)), ("age",), "r", ["a"], [61.5], [60.0])
    (a,) = read_run(written(tmp_path / "v", [value])).slides
    assert (a.said, a.truth, a.right) == ("age 61.5", "age 60", None)


def test_rows_that_are_not_finite_are_left_out(tmp_path):
    task, names = Binary("label"), ("no", "yes")
    parts = [
        rows(task, names, "r0", ["a"], [np.nan], [1], seed=0),
        rows(task, names, "r1", ["a"], [2.0], [1], seed=1),
    ]
    (a,) = read_run(written(tmp_path, parts)).slides
    assert (a.models, a.said) == (1, "yes")


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(RunFolderError, match="There is no run folder"):
        read_run(tmp_path / "none")
    with pytest.raises(RunFolderError, match=r"config\.json"):
        read_run(tmp_path)
    part = rows(Binary("label"), ("no", "yes"), "r0", ["a"], [2.0], [1])
    written(tmp_path, [part])
    (tmp_path / "results.json").write_text('{"selection": "last"}')
    with pytest.raises(RunFolderError, match="no row of the selection 'last'"):
        read_run(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(RunFolderError, match="JSON object"):
        read_run(tmp_path)
