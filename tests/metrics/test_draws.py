"""Every metric of every task: a weight is a patient that stands so often, and many draws are one call."""

import numpy as np
import pytest

from milkit.metrics import TestPart, metrics_of, why
from milkit.metrics.draws import Undefined

NAMES = {
    "Binary": ("no", "yes"),
    "MultiClass": ("a", "b", "c"),
    "MultiLabel": ("x", "y"),
    "Regression": ("u", "v"),
    "Survival": ("risk",),
}
AGREED = {
    "Binary": """auroc auprc accuracy balanced_accuracy macro_f1 mcc quadratic_kappa sensitivity_at_specificity_0.90
        sensitivity_at_threshold specificity_at_threshold balanced_accuracy_at_threshold
        ppv_at_threshold npv_at_threshold f1_at_threshold nll brier ece""",
    "MultiClass": "auroc auprc accuracy balanced_accuracy macro_f1 mcc quadratic_kappa nll brier ece",
    "MultiLabel": "auroc auprc subset_accuracy macro_f1 nll brier ece auroc:x auroc:y auprc:x auprc:y",
    "Regression": "mae:u mae:v rmse:u rmse:v r2:u r2:v pearson:u pearson:v spearman:u spearman:v",
    "Survival": "c_index c_index_ipcw",
}


def part(kind, n=24, seed=0, threshold=0.4):
    rng = np.random.default_rng(seed)
    if kind in ("Binary", "MultiClass"):
        classes = len(NAMES[kind])
        y = rng.integers(0, classes, n)
        score = np.round(rng.dirichlet(np.ones(classes), n) * 0.7 + 0.3 * np.eye(classes)[y], 2)
        target = y[:, None].astype(float)
    elif kind == "MultiLabel":
        target = (rng.random((n, 2)) < 0.5).astype(float)
        score = np.round(0.3 * target + 0.7 * rng.random((n, 2)), 2)
    elif kind == "Regression":
        target = np.round(rng.normal(size=(n, 2)), 1)
        score = np.round(target + rng.normal(size=(n, 2)), 1)
    else:
        target = np.stack([rng.integers(1, 9, n), rng.integers(0, 2, n)], 1).astype(float)
        score = np.round(rng.normal(size=(n, 1)) * 3 - target[:, :1])
    return TestPart(target, score, np.full(n, threshold))


def rows(p, index):
    return TestPart(p.target[index], p.score[index], p.threshold[index], p.censoring)


@pytest.mark.parametrize("kind", list(NAMES))
def test_the_table_is_as_agreed(kind):
    assert [m.name for m in metrics_of(kind, NAMES[kind])] == AGREED[kind].split()
    assert [m.name for m in metrics_of(kind, NAMES[kind]) if m.pooled] == (
        ["ece"] if kind in ("Binary", "MultiClass", "MultiLabel") else []
    )


def test_one_regression_value_needs_no_name():
    assert [m.name for m in metrics_of("Regression", ("age",))] == ["mae", "rmse", "r2", "pearson", "spearman"]


@pytest.mark.parametrize("kind", list(NAMES))
def test_a_weight_is_a_patient_that_stands_so_often(kind):
    p = part(kind)
    for metric in metrics_of(kind, NAMES[kind]):
        if metric.name == "c_index_ipcw":
            continue  # its censoring estimate is that of the patients as given, in every draw
        for seed in range(4):
            weight = np.random.default_rng(seed).integers(0, 3, len(p))
            repeated = metric.compute(rows(p, np.repeat(np.arange(len(p)), weight)), None)
            assert metric.compute(p, weight) == pytest.approx(repeated, nan_ok=True, abs=1e-12), metric.name


@pytest.mark.parametrize("kind", list(NAMES))
def test_many_draws_are_one_call(kind):
    p = part(kind, n=12)
    weights = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=50)
    weights[7] = 0
    weights[8] = np.eye(12)[0]
    for metric in metrics_of(kind, NAMES[kind]):
        together = metric.compute(p, weights)
        apart = [metric.compute(p, w) for w in weights]
        assert together.shape == (50,)
        np.testing.assert_allclose(together, apart, atol=1e-12, err_msg=metric.name)
        assert np.isnan(together[7])
        assert isinstance(apart[7], Undefined)
        assert np.isfinite(together).sum() > 40
        assert metric.compute(p, None) == pytest.approx(metric.compute(p, np.ones(12)))
        assert metric.compute(p, weights.reshape(5, 10, 12)).shape == (5, 10)


@pytest.mark.parametrize("kind", list(NAMES))
def test_scores_that_are_no_numbers_are_undefined_not_wrong(kind):
    p = part(kind)
    score = p.score.copy()
    score[3] = np.nan
    broken = TestPart(p.target, score, p.threshold)
    for metric in metrics_of(kind, NAMES[kind]):
        assert "not finite" in why(metric.compute(broken, None)), metric.name
        assert np.isnan(metric.compute(broken, np.ones((3, len(p))))).all()


@pytest.mark.parametrize("kind", list(NAMES))
def test_the_order_of_patients_does_not_matter(kind):
    p = part(kind)
    turned = rows(p, np.random.default_rng(5).permutation(len(p)))
    for metric in metrics_of(kind, NAMES[kind]):
        assert metric.compute(turned, None) == pytest.approx(metric.compute(p, None), abs=1e-12), metric.name


def test_no_threshold_is_undefined_with_its_reason():
    p = part("Binary", threshold=np.nan)
    found = {m.name: why(m.compute(p, None)) for m in metrics_of("Binary", NAMES["Binary"])}
    missing = {name for name, reason in found.items() if reason}
    assert missing == {name for name in found if name.endswith("_at_threshold")}
    assert found["sensitivity_at_threshold"] == "no threshold was chosen on validation patients"


def test_the_validation_threshold_is_used_as_it_is():
    p = TestPart(np.array([[0.0], [1.0]]), np.array([[0.8, 0.2], [0.7, 0.3]]), np.array([0.25, 0.25]))
    table = {m.name: m.compute(p, None) for m in metrics_of("Binary", ("no", "yes"))}
    assert table["sensitivity_at_threshold"] == table["specificity_at_threshold"] == 1.0
    assert table["balanced_accuracy_at_threshold"] == 1.0
    assert table["balanced_accuracy"] == 0.5  # at 0.5 both are called negative


def test_prevalence_stands_beside_the_average_precision():
    for kind in ("Binary", "MultiClass", "MultiLabel"):
        p = part(kind)
        metric = {m.name: m for m in metrics_of(kind, NAMES[kind])}["auprc"]
        name, compute = metric.baseline
        assert name == "prevalence"
        truth = p.target if kind == "MultiLabel" else p.y[:, None] == np.arange(len(NAMES[kind]))
        expected = truth[:, 1].mean() if kind == "Binary" else truth.mean(0).mean()
        assert compute(p, None) == pytest.approx(expected)


def test_notes_say_what_a_number_rests_on():
    notes = {m.name: m.note for m in metrics_of("Binary", NAMES["Binary"], specificity=0.95)}
    assert "fewer than 20 negatives" in notes["sensitivity_at_specificity_0.95"]
    assert "15 bins of equal width" in notes["ece"]
    notes = {m.name: m.note for m in metrics_of("Binary", NAMES["Binary"], specificity=1.0)}
    assert "fewer" not in notes["sensitivity_at_specificity_1.00"]
    assert "predicted class" in {m.name: m.note for m in metrics_of("MultiClass", NAMES["MultiClass"])}["ece"]
