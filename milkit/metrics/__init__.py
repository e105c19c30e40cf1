"""Metrics of patients' scores, in NumPy: values, curves, thresholds and intervals. They know no files.

`metrics_of(kind, names)` lists what is computed for a task; `docs/statistics.md` defines each metric and both
intervals.
"""

from milkit.metrics.calibration import ece, ece_top_label
from milkit.metrics.classification import (
    accuracy,
    balanced_accuracy,
    brier,
    brier_labels,
    confusion,
    macro_f1,
    macro_f1_labels,
    mcc,
    quadratic_kappa,
    sensitivity,
    specificity,
    subset_accuracy,
)
from milkit.metrics.draws import Undefined, why
from milkit.metrics.intervals import (
    Interval,
    bootstrap_blocks,
    bootstrap_counts,
    corrected_resampled_t,
    percentile_interval,
)
from milkit.metrics.ranking import (
    Auprc,
    PrecisionRecall,
    Roc,
    auprc,
    auroc,
    average_precision,
    macro_auroc,
    macro_average_precision,
    macro_prevalence,
    pr_curve,
    prevalence,
    roc_curve,
    sensitivity_at_specificity,
)
from milkit.metrics.regression import mae, pearson, r2, rmse, spearman
from milkit.metrics.survival import Censoring, c_index, c_index_ipcw, censoring
from milkit.metrics.table import Metric, TestPart, metrics_of
from milkit.metrics.thresholds import youden_threshold, youden_thresholds

__all__ = [
    "Auprc",
    "Censoring",
    "Interval",
    "Metric",
    "PrecisionRecall",
    "Roc",
    "TestPart",
    "Undefined",
    "accuracy",
    "auprc",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap_blocks",
    "bootstrap_counts",
    "brier",
    "brier_labels",
    "c_index",
    "c_index_ipcw",
    "censoring",
    "confusion",
    "corrected_resampled_t",
    "ece",
    "ece_top_label",
    "macro_auroc",
    "macro_average_precision",
    "macro_f1",
    "macro_f1_labels",
    "macro_prevalence",
    "mae",
    "mcc",
    "metrics_of",
    "pearson",
    "percentile_interval",
    "pr_curve",
    "prevalence",
    "quadratic_kappa",
    "r2",
    "rmse",
    "roc_curve",
    "sensitivity",
    "sensitivity_at_specificity",
    "spearman",
    "specificity",
    "subset_accuracy",
    "why",
    "youden_threshold",
    "youden_thresholds",
]
