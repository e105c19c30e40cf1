"""Every task from planted bags to a report; its numbers recomputed from the predictions by an independent library."""

import json
from dataclasses import replace

import numpy as np
import planted
import pytest
from lifelines.utils import concordance_index
from sklearn import metrics as sk

from milkit import api
from milkit.data.protocol import KFold
from milkit.models import ABMIL, EmbeddingPooling
from milkit.predictions import Predictions
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival
from milkit.train.config import Adam, Train


def run(experiment, out, data, task, **changes):
    base = replace(
        experiment,
        data=data,
        task=task,
        protocol=KFold(folds=3, validation=0.2),
        model=ABMIL(encoder=(16,), attention=8),
        train=Train(Adam(0.01), epochs=25, batch_bags=4, standardise=True, buckets=2),
        seeds=1,
    )
    results = api.run(replace(base, **changes), out)
    p = Predictions.read(out / "predictions.csv")
    rows = (p.role == "test") & (p.selection == "validation")
    assert json.loads((out / "results.json").read_text())["metrics"].keys() == results["metrics"].keys()
    assert (out / "report.html").stat().st_size > 10_000
    return results["metrics"], p, rows


def by_fold(p, rows, metric):
    """Mean over the folds of an oracle's metric: ranks are compared within a fold only."""
    return np.mean([metric(p, rows & (p.fold == f)) for f in sorted(set(p.fold[rows].tolist()))])


def test_binary(experiment, tmp_path):
    m, p, rows = run(experiment, tmp_path / "run", planted.binary(36, shift=5.0), Binary())
    auroc = by_fold(p, rows, lambda p, r: sk.roc_auc_score(p.target[r, 0], p.score[r, 1]))
    assert m["auroc"]["value"] == pytest.approx(auroc, abs=1e-9)
    accuracy = by_fold(p, rows, lambda p, r: sk.accuracy_score(p.target[r, 0], p.score[r, 1] >= 0.5))
    assert m["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-9)
    assert m["auroc"]["value"] > 0.8  # the planted instance is found
    low, high = m["auroc"]["sampling"]
    assert low <= m["auroc"]["value"] <= high


@pytest.mark.slow
def test_multi_class(experiment, tmp_path):
    m, p, rows = run(
        experiment, tmp_path / "run", planted.multi_class(48, shift=6.0), MultiClass(class_weights="balanced")
    )
    assert p.names == ("a", "b", "c")
    auroc = by_fold(p, rows, lambda p, r: sk.roc_auc_score(p.target[r, 0], p.score[r], multi_class="ovr"))
    assert m["auroc"]["value"] == pytest.approx(auroc, abs=1e-9)
    kappa = by_fold(
        p,
        rows,
        lambda p, r: sk.cohen_kappa_score(p.target[r, 0], p.score[r].argmax(1), weights="quadratic", labels=[0, 1, 2]),
    )
    assert m["quadratic_kappa"]["value"] == pytest.approx(kappa, abs=1e-9)
    assert m["auroc"]["value"] > 0.7


@pytest.mark.slow
def test_multi_label(experiment, tmp_path):
    data = planted.multi_label(48, shift=6.0)
    m, p, rows = run(experiment, tmp_path / "run", data, MultiLabel(("left", "right")))
    assert p.names == ("left", "right")
    auroc = by_fold(p, rows, lambda p, r: sk.roc_auc_score(p.target[r], p.score[r], average="macro"))
    assert m["auroc"]["value"] == pytest.approx(auroc, abs=1e-9)
    assert m["auroc"]["value"] > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_regression(experiment, tmp_path, loss):
    m, p, rows = run(experiment, tmp_path / "run", planted.regression(48), Regression(loss=loss))
    mae = by_fold(p, rows, lambda p, r: sk.mean_absolute_error(p.target[r, 0], p.score[r, 0]))
    assert m["mae"]["value"] == pytest.approx(mae, rel=1e-9)
    r2 = by_fold(p, rows, lambda p, r: sk.r2_score(p.target[r, 0], p.score[r, 0]))
    assert m["r2"]["value"] == pytest.approx(r2, abs=1e-9)
    # predictions are in the target's own unit (about 100), not the standardised one
    assert abs(p.score[rows].mean() - 100) < 10
    assert m["r2"]["value"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "batch"), [("nll", 1), ("cox", 16)])
def test_survival(experiment, tmp_path, loss, batch):
    m, p, rows = run(
        experiment, tmp_path / "run", planted.survival(60), Survival(loss=loss),
        model=EmbeddingPooling(),
        train=Train(Adam(0.01), epochs=25, batch_bags=batch, standardise=True, select="c_index"),
    )  # fmt: skip
    c = by_fold(p, rows, lambda p, r: concordance_index(p.target[r, 0], -p.score[r, 0], p.target[r, 1]))
    assert m["c_index"]["value"] == pytest.approx(c, abs=1e-9)
    assert m["c_index"]["value"] > 0.6
