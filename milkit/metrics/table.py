"""Which metrics a task is measured by, all with one signature: (test part, weight) -> value."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from milkit.metrics import calibration, classification, concordance, ipcw, ranking, regression
from milkit.metrics.draws import Value, Weight, not_finite, undefined
from milkit.metrics.training_part import TrainingPart


@dataclass(frozen=True, eq=False)
class TestPart:
    """Patients that are compared with each other: those that one run predicts.

    Attributes:
        target: class index [n, 1]; labels or values [n, t]; time and event [n, 2].
        score: probabilities of classes (binary: both) or labels, values, or the risk, [n, s].
        threshold: of the positive class, chosen on validation patients, one a patient; NaN for none.
        censoring: for the IPCW C-index; estimated on these patients if None.
        training: survival: what the training part says, which comes before `censoring`; None if it is not known.
        survival: probability of being free of the event at each of the training part's cuts, [n, k]; None for a model
            that predicts none.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    target: Float[np.ndarray, "n t"]
    score: Float[np.ndarray, "n s"]
    threshold: Float[np.ndarray, "n"]
    censoring: ipcw.Censoring | None = None
    training: TrainingPart | None = None
    survival: Float[np.ndarray, "n k"] | None = None

    def __len__(self) -> int:
        return len(self.target)

    @property
    def y(self) -> np.ndarray:
        """Class index, [n]."""
        return self.target[:, 0].astype(np.int64)


_BINS = "15 bins of equal width of the positive class's probability, each weighing as much as it has patients"
_TOP_LABEL = "15 bins of equal width of the predicted class's probability, each weighing as much as it has patients"
_LABEL_BINS = "15 bins of equal width of each label's probability, mean over labels"
_CENSORING = "censoring estimated once, on all patients tested"
_CENSORING_OF_TRAINING = (
    "censoring estimated on each run's training part; events after its longest follow-up do not count"
)
_BRIER = (
    "the score of the training part's Kaplan-Meier curve for everybody; averaged over time from a run's first to its "
    "last time cut; censoring estimated on the training part"
)

Compute = Callable[[TestPart, Weight], Value]


@dataclass(frozen=True, eq=False)
class Metric:
    """One number of a results table.

    Attributes:
        name: its key in `results.json`; a label or value stands after a colon.
        compute: the metric itself.
        pooled: computed over the test parts of one repeat and seed together, not within each fold.
        note: what a reader must know to compare it.
        bounds: lowest and highest possible value; infinite where there is none.
        baseline: name and function of the value that makes this one readable (the prevalence for AUPRC).
    """

    name: str
    compute: Compute
    pooled: bool = False
    note: str = ""
    bounds: tuple[float, float] = (0.0, 1.0)
    baseline: tuple[str, Compute] | None = None


def metrics_of(
    kind: str, names: tuple[str, ...], specificity: float = 0.9, *, training: bool = False, curves: bool = False
) -> tuple[Metric, ...]:
    """The metrics of a task, the headline first.

    Args:
        kind: class name of the task.
        names: classes, labels or values.
        specificity: where `sensitivity_at_specificity_...` reads the ROC curve.
        training: survival: test parts know what their training part says.
        curves: survival: and predict survival at its time cuts.
    """
    return {
        "Binary": lambda: _binary(specificity),
        "MultiClass": lambda: _multi_class(len(names)),
        "MultiLabel": lambda: _multi_label(names),
        "Regression": lambda: _regression(names),
        "Survival": lambda: _survival(training, curves),
    }[kind]()


def _binary(specificity: float) -> tuple[Metric, ...]:
    def positive(part: TestPart) -> np.ndarray:
        return part.score[:, 1]

    def at_half(metric: Callable[..., Value]) -> Compute:
        return scored(lambda p, w: metric(p.y, (positive(p) >= 0.5).astype(np.int64), 2, w))

    def prevalence(p: TestPart, w: Weight) -> Value:
        return ranking.prevalence(p.y, w)

    return (
        Metric("auroc", lambda p, w: ranking.auroc(p.y, positive(p), w)),
        Metric(
            "auprc", lambda p, w: ranking.average_precision(p.y, positive(p), w), baseline=("prevalence", prevalence)
        ),
        Metric("accuracy", at_half(lambda y, called, _, w: classification.accuracy(y, called, w))),
        Metric("balanced_accuracy", at_half(classification.balanced_accuracy)),
        Metric("macro_f1", at_half(classification.macro_f1)),
        Metric("mcc", at_half(classification.mcc), bounds=(-1.0, 1.0)),
        Metric("quadratic_kappa", at_half(classification.quadratic_kappa), bounds=(-np.inf, 1.0)),
        Metric(
            f"sensitivity_at_specificity_{specificity:.2f}",
            lambda p, w: ranking.sensitivity_at_specificity(p.y, positive(p), specificity, w),
            note=_at_specificity(specificity),
        ),
        *_at_threshold(),
        Metric("nll", lambda p, w: calibration.nll(p.y, p.score, w), bounds=(0.0, np.inf)),
        Metric("brier", lambda p, w: classification.brier(p.y, positive(p), w)),
        Metric("ece", lambda p, w: calibration.ece(p.y, positive(p), w), pooled=True, note=_BINS),
    )


def _at_specificity(specificity: float) -> str:
    note = "read off the ROC curve of each test part itself"
    if specificity < 1:
        fewest = math.ceil(1 / (1 - specificity) - 1e-9)
        note += f"; one with fewer than {fewest} negatives allows no false positive"
    return note


def _at_threshold() -> tuple[Metric, ...]:
    def at(metric: Callable[..., Value]) -> Compute:
        def compute(p: TestPart, w: Weight) -> Value:
            if np.isnan(p.threshold).any():
                return undefined(w, "no threshold was chosen on validation patients")
            return metric(p.y, p.score[:, 1] >= p.threshold, w)

        return scored(compute)

    def balanced(y: np.ndarray, called: np.ndarray, w: Weight) -> Value:
        return classification.balanced_accuracy(y, called.astype(np.int64), 2, w)

    return (
        Metric("sensitivity_at_threshold", at(classification.sensitivity)),
        Metric("specificity_at_threshold", at(classification.specificity)),
        Metric("balanced_accuracy_at_threshold", at(balanced)),
        Metric("ppv_at_threshold", at(classification.ppv)),
        Metric("npv_at_threshold", at(classification.npv)),
        Metric("f1_at_threshold", at(classification.f1)),
    )


def _multi_class(classes: int) -> tuple[Metric, ...]:
    def one_hot(p: TestPart) -> np.ndarray:
        return (p.y[:, None] == np.arange(classes)).astype(np.int64)

    def most_likely(metric: Callable[..., Value]) -> Compute:
        return scored(lambda p, w: metric(p.y, p.score.argmax(1), classes, w))

    def prevalence(p: TestPart, w: Weight) -> Value:
        return ranking.macro_prevalence(one_hot(p), w)

    return (
        Metric("auroc", lambda p, w: ranking.macro_auroc(one_hot(p), p.score, w)),
        Metric(
            "auprc",
            lambda p, w: ranking.macro_average_precision(one_hot(p), p.score, w),
            baseline=("prevalence", prevalence),
        ),
        Metric("accuracy", most_likely(lambda y, called, _, w: classification.accuracy(y, called, w))),
        Metric("balanced_accuracy", most_likely(classification.balanced_accuracy)),
        Metric("macro_f1", most_likely(classification.macro_f1)),
        Metric("mcc", most_likely(classification.mcc), bounds=(-1.0, 1.0)),
        Metric("quadratic_kappa", most_likely(classification.quadratic_kappa), bounds=(-np.inf, 1.0)),
        Metric("nll", lambda p, w: calibration.nll(p.y, p.score, w), bounds=(0.0, np.inf)),
        Metric("brier", lambda p, w: classification.brier(p.y, p.score, w), bounds=(0.0, 2.0)),
        Metric("ece", lambda p, w: calibration.ece_top_label(p.y, p.score, w), pooled=True, note=_TOP_LABEL),
    )


def _multi_label(labels: tuple[str, ...]) -> tuple[Metric, ...]:
    def at_half(metric: Callable[..., Value]) -> Compute:
        return scored(lambda p, w: metric(p.target, p.score >= 0.5, w))

    def each(name: str, metric: Callable[..., Value]) -> tuple[Metric, ...]:
        def of(i: int) -> Compute:
            return lambda p, w: metric(p.target[:, i], p.score[:, i], w)

        return tuple(Metric(f"{name}:{label}", of(i)) for i, label in enumerate(labels))

    def prevalence(p: TestPart, w: Weight) -> Value:
        return ranking.macro_prevalence(p.target, w)

    return (
        Metric("auroc", lambda p, w: ranking.macro_auroc(p.target, p.score, w)),
        Metric(
            "auprc",
            lambda p, w: ranking.macro_average_precision(p.target, p.score, w),
            baseline=("prevalence", prevalence),
        ),
        Metric("subset_accuracy", at_half(classification.subset_accuracy)),
        Metric("macro_f1", at_half(classification.macro_f1_labels)),
        Metric("nll", lambda p, w: calibration.nll_labels(p.target, p.score, w), bounds=(0.0, np.inf)),
        Metric("brier", lambda p, w: classification.brier_labels(p.target, p.score, w)),
        Metric("ece", lambda p, w: calibration.ece_labels(p.target, p.score, w), pooled=True, note=_LABEL_BINS),
        *each("auroc", ranking.auroc),
        *each("auprc", ranking.average_precision),
    )


def _regression(names: tuple[str, ...]) -> tuple[Metric, ...]:
    functions: dict[Callable[..., Value], tuple[float, float]] = {
        regression.mae: (0.0, np.inf),
        regression.rmse: (0.0, np.inf),
        regression.r2: (-np.inf, 1.0),
        regression.pearson: (-1.0, 1.0),
        regression.spearman: (-1.0, 1.0),
    }

    def of(metric: Callable[..., Value], i: int) -> Compute:
        return lambda p, w: metric(p.target[:, i], p.score[:, i], w)

    single = len(names) == 1
    return tuple(
        Metric(f.__name__ if single else f"{f.__name__}:{name}", of(f, i), bounds=bounds)
        for f, bounds in functions.items()
        for i, name in enumerate(names)
    )


def _survival(training: bool, curves: bool) -> tuple[Metric, ...]:
    def at(p: TestPart) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return p.target[:, 0], p.target[:, 1], p.score[:, 0]

    def uno(p: TestPart, w: Weight) -> Value:
        if p.training is None:
            return concordance.c_index_ipcw(*at(p), w, estimate=p.censoring)
        return concordance.c_index_ipcw(*at(p), w, estimate=p.training.censoring, tau=p.training.follow_up)

    found = (
        Metric("c_index", lambda p, w: concordance.c_index(*at(p), w)),
        Metric("c_index_ipcw", uno, note=_CENSORING_OF_TRAINING if training else _CENSORING),
    )
    return (*found, _integrated_brier()) if curves else found


def _integrated_brier() -> Metric:
    def brier(p: TestPart, w: Weight, everybody: bool) -> Value:
        if p.training is None or p.survival is None or not len(p.training.cuts):
            return undefined(w, "the model predicts no survival curve, or its time cuts were not recorded")
        known = p.training
        survival = np.tile(known.everybody, (len(p), 1)) if everybody else p.survival
        at = known.before_cuts
        return ipcw.brier_ipcw(p.target[:, 0], p.target[:, 1], survival, at, w, estimate=known.censoring)

    return Metric(
        "integrated_brier",
        lambda p, w: brier(p, w, False),
        note=_BRIER,
        bounds=(0.0, np.inf),
        baseline=("kaplan_meier", lambda p, w: brier(p, w, True)),
    )


def scored(compute: Compute) -> Compute:
    """`compute`, or NaN with the reason if a score is not finite: a cut would read NaN as negative."""

    def checked(part: TestPart, weight: Weight) -> Value:
        reason = not_finite(part.score)
        return undefined(weight, reason) if reason else compute(part, weight)

    return checked
