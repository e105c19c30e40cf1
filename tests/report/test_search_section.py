"""The section on a search, from files written by hand."""

import numpy as np

from milkit.report.figures.search import fields_figure
from milkit.report.sections.search import _table, told

SGD = {"type": "Sgd", "momentum": 0.0}
SAID = {
    "kind": "Random", "criterion": "accuracy", "tried": 2, "shared": True, "trainings": 8, "failed": 1, "compiled": 1,
    "space": {
        "train.optimizer.learning_rate": {"type": "LogUniform", "low": 1e-3, "high": 1e-1},
        "train.optimizer": {"type": "Choice", "values": [{"type": "Adam", "b1": 0.9}, SGD]},
    },
    "chosen": [
        {"repeat": 0, "fold": 0, "trial": 1, "values": {
            "train.optimizer.learning_rate": 0.05, "train.optimizer": {"type": "Sgd", "momentum": 0.0}}},
        {"repeat": 0, "fold": 1, "trial": 1, "values": {
            "train.optimizer.learning_rate": 0.05, "train.optimizer": {"type": "Sgd", "momentum": 0.0}}},
    ],
}  # fmt: skip


def rows():
    """Two trials, two folds, two seeds; trial 0 failed in fold 1."""
    adam, sgd = '{"type": "Adam", "b1": 0.9}', '{"type": "Sgd", "momentum": 0.0}'
    figures = {(0, 0): (0.5, 0.7), (1, 0): (0.8, 0.9), (0, 1): (0.9, ""), (1, 1): (0.6, 0.8)}
    return tuple(
        {
            "trial": str(trial), "repeat": "0", "fold": str(fold), "seed": str(seed), "validation_accuracy": str(value),
            "train.optimizer.learning_rate": "0.05" if trial else "0.002", "train.optimizer": sgd if trial else adam,
            "status": "failed" if value == "" else "finished", "chosen": "yes" if trial else "no",
        }
        for (trial, fold), values in figures.items() for seed, value in enumerate(values)
    )  # fmt: skip


def test_it_says_how_many_were_tried_and_that_one_was_tested():
    text = told(SAID)
    assert "2 configurations (the same in every fold) were tried in 2 folds by random draws: 8 trainings" in text
    assert "1 trial did not stay finite and lost" in text
    assert "chosen on its validation part by validation accuracy and tested once" in text
    assert "optimistic" not in text
    assert "on the test part instead" in told(SAID | {"optimistic": []})


def test_it_says_how_often_each_value_was_chosen():
    assert _table(SAID).rows == (
        ("train.optimizer.learning_rate", "0.001 to 0.1 (logarithmic)", "0.05 (2×)"),
        ("train.optimizer", "Adam, Sgd", "Sgd (2×)"),
    )


def test_dots_are_means_over_seeds_and_failed_trials_are_not_drawn():
    drawn = fields_figure(SAID, rows())
    first = drawn.figure.axes[0].collections
    tried, chosen = (np.asarray(c.get_offsets()) for c in first)
    np.testing.assert_allclose(tried, [[0.002, 0.6]])
    np.testing.assert_allclose(sorted(chosen.tolist()), [[0.05, 0.7], [0.05, 0.85]])
    assert "Not drawn: 1 trial that failed" in drawn.caption
    assert fields_figure(SAID, ()) is None
