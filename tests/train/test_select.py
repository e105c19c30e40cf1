"""Validation criteria inside the program, against scikit-learn and lifelines."""

import jax.numpy as jnp
import numpy as np
import pytest
from lifelines.utils import concordance_index
from sklearn import metrics

from milkit.task import Binary, MultiClass, MultiLabel, Survival, probabilities
from milkit.train.select import criterion

RNG = np.random.default_rng(0)


def value(select, task, logits, target, weight=None):
    weight = np.ones(len(logits)) if weight is None else weight
    return float(
        criterion(
            select, task, jnp.asarray(logits, jnp.float32), jnp.asarray(target), jnp.asarray(weight, jnp.float32),
            jnp.asarray(0.5),
        )
    )  # fmt: skip


@pytest.fixture
def binary():
    return RNG.normal(size=(30, 1)).round(1), RNG.integers(0, 2, 30).astype(np.int32)


def test_binary(binary):
    logits, y = binary
    assert value("auroc", Binary(), logits, y) == pytest.approx(metrics.roc_auc_score(y, logits[:, 0]), rel=1e-6)
    guess = logits[:, 0] > 0
    assert value("accuracy", Binary(), logits, y) == pytest.approx(metrics.accuracy_score(y, guess), rel=1e-6)
    expected = metrics.balanced_accuracy_score(y, guess)
    assert value("balanced_accuracy", Binary(), logits, y) == pytest.approx(expected, rel=1e-6)
    assert value("loss", Binary(), logits, y) == -0.5


def test_fillers_change_nothing(binary):
    logits, y = binary
    more = np.concatenate([logits, 100 * np.ones((5, 1))]), np.concatenate([y, np.zeros(5, np.int32)])
    weight = np.r_[np.ones(30), np.zeros(5)]
    for select in ("auroc", "accuracy", "balanced_accuracy"):
        assert value(select, Binary(), *more, weight) == pytest.approx(value(select, Binary(), logits, y), rel=1e-6)


def test_multi_class_and_multi_label():
    logits, y = RNG.normal(size=(40, 3)), RNG.integers(0, 3, 40).astype(np.int32)
    task = MultiClass()
    expected = metrics.roc_auc_score(y, probabilities(task, logits), multi_class="ovr")
    assert value("auroc", task, logits, y) == pytest.approx(expected, rel=1e-5)
    expected = metrics.balanced_accuracy_score(y, logits.argmax(1))
    assert value("balanced_accuracy", task, logits, y) == pytest.approx(expected, rel=1e-6)
    labels = RNG.integers(0, 2, (40, 3)).astype(np.float32)
    expected = metrics.roc_auc_score(labels, logits, average="macro")
    assert value("auroc", MultiLabel(("a", "b", "c")), logits, labels) == pytest.approx(expected, rel=1e-5)


def test_c_index():
    time, event = RNG.integers(1, 12, 50).astype(float), RNG.integers(0, 2, 50).astype(float)
    risk = RNG.normal(size=50).round(1)
    expected = concordance_index(time, -risk, event)
    target = np.stack([time, event], 1).astype(np.float32)
    assert value("c_index", Survival(loss="cox"), risk[:, None], target) == pytest.approx(expected, rel=1e-5)


def test_one_class_is_undefined_not_zero():
    assert np.isnan(value("auroc", Binary(), np.ones((3, 1)), np.ones(3, np.int32)))
