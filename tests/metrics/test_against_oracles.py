"""Metrics against scikit-learn, SciPy, lifelines, and the shared oracle file."""

import json
import warnings

import lifelines.utils
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk

from milkit import metrics

CLOSE = {"rel": 1e-9, "abs": 1e-12}


def cases(shared, kind):
    with open(shared / "parity/pixel/metrics_oracle.json", encoding="utf-8") as file:
        found = [c for c in json.load(file)["cases"] if c["kind"] == kind]
    assert len(found) > 3
    for case in found:
        yield case["note"], {k: np.asarray(v) for k, v in case.items() if isinstance(v, list)}, case["expected"]


def agree(note, actual, expected):
    for name, value in actual.items():
        if expected[name] is None:
            assert np.isnan(value), (note, name)
        else:
            assert value == pytest.approx(expected[name], **CLOSE), (note, name)


def test_binary_cases(shared):
    single = 0
    for note, data, expected in cases(shared, "binary"):
        y, score, weight = data["y"], data["score"].astype(float), data.get("weight")
        called = (score >= 0.5).astype(int)
        agree(
            note,
            {
                "auroc": metrics.auroc(y, score, weight),
                "accuracy": metrics.accuracy(y, called, weight),
                "brier": metrics.brier(y, score, weight),
                "ece15_positive_class": metrics.ece(y, score, weight),
                "ece15_top_label": metrics.ece((called == y).astype(int), np.maximum(score, 1 - score), weight),
            },
            expected,
        )
        both = {
            "average_precision": metrics.average_precision(y, score, weight),
            "balanced_accuracy": metrics.balanced_accuracy(y, called, 2, weight),
            "mcc": metrics.mcc(y, called, 2, weight),
            "kappa": metrics.quadratic_kappa(y, called, 2, weight),
        }
        if note.startswith("single class"):  # scikit-learn gives 0, 0.5 or 1 here; milkit says undefined
            single += 1
            assert all(np.isnan(v) for v in both.values())
        else:
            agree(note, both, expected)
        if "roc" in expected:
            roc = metrics.roc_curve(y, score, weight)
            np.testing.assert_allclose(roc.fpr, expected["roc"]["fpr"], atol=1e-12, err_msg=note)
            np.testing.assert_allclose(roc.tpr, expected["roc"]["tpr"], atol=1e-12, err_msg=note)
            np.testing.assert_allclose(roc.threshold, [float(t) for t in expected["roc"]["thresholds"]])
    assert single == 2


def test_multi_class_cases(shared):
    for note, data, expected in cases(shared, "multiclass"):
        y, prob, weight = data["y"], data["prob"], data.get("weight")
        classes = prob.shape[1]
        one_hot, called = (y[:, None] == np.arange(classes)).astype(int), prob.argmax(1)
        present = one_hot.any(0).sum()
        agree(
            note,
            {
                "auroc_ovr_macro_over_present": metrics.macro_auroc(one_hot, prob, weight),
                "accuracy": metrics.accuracy(y, called, weight),
                "balanced_accuracy": metrics.balanced_accuracy(y, called, classes, weight),
                "macro_f1": metrics.macro_f1(y, called, classes, weight),
                "mcc": metrics.mcc(y, called, classes, weight),
                "quadratic_kappa": metrics.quadratic_kappa(y, called, classes, weight),
                "brier_sum_over_classes": metrics.brier(y, prob, weight),
                "ece15_top_label": metrics.ece_top_label(y, prob, weight),
                # scikit-learn counts 0 for a class that is absent, milkit leaves it out
                "average_precision_macro": metrics.macro_average_precision(one_hot, prob, weight) * present / classes,
            },
            expected,
        )
        np.testing.assert_array_equal(metrics.confusion(y, called, classes), expected["confusion"], note)


def test_survival_cases(shared):
    ipcw = 0
    for note, data, expected in cases(shared, "survival"):
        time, event, risk = data["time"].astype(float), data["event"].astype(int), data["risk"].astype(float)
        agree(note, {"harrell_brute": metrics.c_index(time, event, risk)}, expected)
        if "sksurv_uno_ipcw" in expected:
            ipcw += 1
            agree(note, {"sksurv_uno_ipcw": metrics.c_index_ipcw(time, event, risk)}, expected)
    assert ipcw == 6


def random_binary(seed, n=40):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    y[:2] = 0, 1
    score = np.round(np.clip(0.3 * y + rng.random(n) * 0.7, 0, 1), rng.integers(1, 4))
    return y, score, rng.integers(0, 4, n)


@pytest.mark.parametrize("seed", range(8))
def test_binary_against_scikit_learn_with_weights(seed):
    y, score, weight = random_binary(seed)
    weight[:2] = 1, 2
    called = (score >= 0.5).astype(int)
    w = {"sample_weight": weight}
    pairs = [
        (metrics.auroc(y, score, weight), sk.roc_auc_score(y, score, **w)),
        (metrics.average_precision(y, score, weight), sk.average_precision_score(y, score, **w)),
        (metrics.accuracy(y, called, weight), sk.accuracy_score(y, called, **w)),
        (metrics.balanced_accuracy(y, called, 2, weight), sk.balanced_accuracy_score(y, called, **w)),
        (metrics.macro_f1(y, called, 2, weight), sk.f1_score(y, called, average="macro", **w)),
        (metrics.mcc(y, called, 2, weight), sk.matthews_corrcoef(y, called, **w)),
        (metrics.quadratic_kappa(y, called, 2, weight), sk.cohen_kappa_score(y, called, weights="quadratic", **w)),
        (metrics.brier(y, score, weight), sk.brier_score_loss(y, score, **w)),
        (metrics.sensitivity(y, called == 1, weight), sk.recall_score(y, called, **w)),
        (metrics.specificity(y, called == 1, weight), sk.recall_score(y, called, pos_label=0, **w)),
        (metrics.ppv(y, called == 1, weight), sk.precision_score(y, called, **w)),
        (metrics.npv(y, called == 1, weight), sk.precision_score(y, called, pos_label=0, **w)),
        (metrics.f1(y, called == 1, weight), sk.f1_score(y, called, **w)),
        (metrics.nll(y, np.stack([1 - score, score], 1), weight), sk.log_loss(y, score, **w)),
    ]
    for i, (ours, theirs) in enumerate(pairs):
        assert ours == pytest.approx(theirs, **CLOSE), i
    for specificity in (0.5, 0.8, 0.9):
        fpr, tpr, _ = sk.roc_curve(y, score, drop_intermediate=False, **w)
        best = tpr[fpr <= 1 - specificity + 1e-9].max()
        assert metrics.sensitivity_at_specificity(y, score, specificity, weight) == pytest.approx(best)
    fpr, tpr, threshold = sk.roc_curve(y, score, drop_intermediate=False)
    ours = metrics.roc_curve(y, score)
    np.testing.assert_allclose(ours.fpr, fpr)
    np.testing.assert_allclose(ours.tpr, tpr)
    np.testing.assert_allclose(ours.threshold, threshold)
    # Youden: no other cut is better
    cut = metrics.youden_threshold(y, score)
    j = metrics.sensitivity(y, score >= cut) + metrics.specificity(y, score >= cut) - 1
    assert j == pytest.approx((tpr - fpr)[1:-1].max())


@pytest.mark.parametrize("seed", range(5))
def test_many_classes_and_labels_against_scikit_learn_with_weights(seed):
    rng = np.random.default_rng(100 + seed)
    n, classes = 60, 4
    y = rng.integers(0, classes, n)
    prob = rng.dirichlet(np.ones(classes), n) * 0.6 + 0.4 * np.eye(classes)[y] * rng.random((n, 1))
    prob = prob / prob.sum(1, keepdims=True)
    weight, called = rng.integers(0, 3, n), prob.argmax(1)
    one_hot = np.eye(classes, dtype=int)[y]
    w = {"sample_weight": weight}
    kappa = sk.cohen_kappa_score(y, called, weights="quadratic", **w)
    pairs = [
        (metrics.macro_auroc(one_hot, prob, weight), sk.roc_auc_score(y, prob, multi_class="ovr", **w)),
        (metrics.macro_average_precision(one_hot, prob, weight), sk.average_precision_score(one_hot, prob, **w)),
        (metrics.balanced_accuracy(y, called, classes, weight), sk.balanced_accuracy_score(y, called, **w)),
        (metrics.macro_f1(y, called, classes, weight), sk.f1_score(y, called, average="macro", **w)),
        (metrics.mcc(y, called, classes, weight), sk.matthews_corrcoef(y, called, **w)),
        (metrics.quadratic_kappa(y, called, classes, weight), kappa),
        (metrics.nll(y, prob, weight), sk.log_loss(y, prob, **w)),
    ]
    for i, (ours, theirs) in enumerate(pairs):
        assert ours == pytest.approx(theirs, **CLOSE), i
    many = (rng.random((n, 3)) < 0.4).astype(int)
    score = np.round(0.3 * many + 0.7 * rng.random((n, 3)), 2)
    cut = score >= 0.5
    pairs = [
        (metrics.macro_auroc(many, score, weight), sk.roc_auc_score(many, score, **w)),
        (metrics.subset_accuracy(many, cut, weight), sk.accuracy_score(many, cut, **w)),
        (metrics.macro_f1_labels(many, cut, weight), sk.f1_score(many, cut, average="macro", **w)),
        (
            metrics.nll_labels(many, score, weight),
            np.mean([sk.log_loss(t, p, **w) for t, p in zip(many.T, score.T, strict=True)]),
        ),
        (metrics.macro_prevalence(many, weight), np.average(many, axis=0, weights=weight).mean()),
    ]
    for i, (ours, theirs) in enumerate(pairs):
        assert ours == pytest.approx(theirs, **CLOSE), i


@pytest.mark.parametrize("seed", range(5))
def test_regression_against_scikit_learn_and_scipy(seed):
    rng = np.random.default_rng(200 + seed)
    y = np.round(rng.normal(size=30), 1)
    guess = np.round(y + rng.normal(size=30), 1)
    weight = rng.integers(0, 3, 30)
    times = np.repeat(np.arange(30), weight)
    w = {"sample_weight": weight}
    assert metrics.mae(y, guess, weight) == pytest.approx(sk.mean_absolute_error(y, guess, **w))
    assert metrics.rmse(y, guess, weight) == pytest.approx(sk.root_mean_squared_error(y, guess, **w))
    assert metrics.r2(y, guess, weight) == pytest.approx(sk.r2_score(y, guess, **w))
    assert metrics.pearson(y, guess, weight) == pytest.approx(scipy.stats.pearsonr(y[times], guess[times])[0])
    assert metrics.spearman(y, guess, weight) == pytest.approx(scipy.stats.spearmanr(y[times], guess[times])[0])


@pytest.mark.parametrize("seed", range(5))
def test_c_index_against_lifelines_with_repeated_rows(seed):
    rng = np.random.default_rng(300 + seed)
    time = rng.integers(1, 12, 30).astype(float)
    event = rng.integers(0, 2, 30)
    risk = np.round(-time + 4 * rng.normal(size=30))
    weight = rng.integers(0, 3, 30)
    rows = np.repeat(np.arange(30), weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = lifelines.utils.concordance_index(time[rows], -risk[rows], event[rows])
    assert metrics.c_index(time, event, risk, weight) == pytest.approx(expected, **CLOSE)


def test_censoring_is_kaplan_meier_of_censoring():
    rng = np.random.default_rng(7)
    time, event = rng.random(40), rng.integers(0, 2, 40)  # no ties: events first makes no difference
    fitted = lifelines.KaplanMeierFitter().fit(time, 1 - event)
    ours = metrics.censoring(time, event)
    np.testing.assert_allclose(ours.free, fitted.survival_function_.to_numpy()[1:, 0], atol=1e-12)
    np.testing.assert_allclose(ours.time, fitted.survival_function_.index[1:])


def test_a_large_cohort_is_taken_in_blocks():
    rng = np.random.default_rng(8)
    n = 2500
    time, event = rng.exponential(size=n), rng.integers(0, 2, n)
    risk = rng.normal(size=n) - time
    expected = lifelines.utils.concordance_index(time, -risk, event)
    assert metrics.c_index(time, event, risk) == pytest.approx(expected, **CLOSE)
