"""Metrics of patients' scores, in NumPy: values, curves, thresholds and intervals. They know no files.

`metrics_of(kind, names)` lists what is computed for a task; `docs/statistics.md` defines each metric and both
intervals. Of maps against masks: `milkit.metrics.segmentation`.
"""

import importlib
from types import ModuleType

from milkit.metrics.calibration import ece, ece_labels, ece_top_label, nll, nll_labels
from milkit.metrics.classification import (
    accuracy,
    balanced_accuracy,
    brier,
    brier_labels,
    confusion,
    f1,
    macro_f1,
    macro_f1_labels,
    mcc,
    npv,
    ppv,
    quadratic_kappa,
    sensitivity,
    specificity,
    subset_accuracy,
)
from milkit.metrics.concordance import c_index, c_index_ipcw
from milkit.metrics.decision import net_benefit, net_benefit_of_treating_all
from milkit.metrics.draws import Undefined, why
from milkit.metrics.hazard_ratio import HazardRatio, hazard_ratio
from milkit.metrics.intervals import (
    Interval,
    bootstrap_blocks,
    bootstrap_counts,
    corrected_resampled_t,
    percentile_interval,
)
from milkit.metrics.ipcw import Censoring, auroc_at, brier_ipcw, censoring
from milkit.metrics.kaplan_meier import KaplanMeier, kaplan_meier
from milkit.metrics.logrank import LogRank, logrank
from milkit.metrics.pooling import Aggregate, pool
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
from milkit.metrics.risk_groups import compare_groups, median_risk, risk_groups
from milkit.metrics.table import Metric, TestPart, metrics_of
from milkit.metrics.temperature import Temperature, fit_temperature
from milkit.metrics.thresholds import threshold_at_sensitivity, youden_threshold, youden_thresholds
from milkit.metrics.training_part import TrainingPart, survival_at_cuts

__all__ = [
    "Aggregate",
    "Auprc",
    "Censoring",
    "HazardRatio",
    "Interval",
    "KaplanMeier",
    "LogRank",
    "Metric",
    "PrecisionRecall",
    "Roc",
    "Temperature",
    "TestPart",
    "TrainingPart",
    "Undefined",
    "accuracy",
    "auprc",
    "auroc",
    "auroc_at",
    "average_precision",
    "balanced_accuracy",
    "bootstrap_blocks",
    "bootstrap_counts",
    "brier",
    "brier_ipcw",
    "brier_labels",
    "c_index",
    "c_index_ipcw",
    "censoring",
    "compare_groups",
    "confusion",
    "corrected_resampled_t",
    "ece",
    "ece_labels",
    "ece_top_label",
    "f1",
    "fit_temperature",
    "hazard_ratio",
    "kaplan_meier",
    "logrank",
    "macro_auroc",
    "macro_average_precision",
    "macro_f1",
    "macro_f1_labels",
    "macro_prevalence",
    "mae",
    "mcc",
    "median_risk",
    "metrics_of",
    "net_benefit",
    "net_benefit_of_treating_all",
    "nll",
    "nll_labels",
    "npv",
    "pearson",
    "percentile_interval",
    "pool",
    "ppv",
    "pr_curve",
    "prevalence",
    "quadratic_kappa",
    "r2",
    "risk_groups",
    "rmse",
    "roc_curve",
    "sensitivity",
    "sensitivity_at_specificity",
    "spearman",
    "specificity",
    "subset_accuracy",
    "survival_at_cuts",
    "threshold_at_sensitivity",
    "why",
    "youden_threshold",
    "youden_thresholds",
]


def __getattr__(name: str) -> ModuleType:
    """`milkit.metrics.segmentation`, imported when it is asked for: its parts of SciPy nearly double the time."""
    if name == "segmentation":
        return importlib.import_module("milkit.metrics.segmentation")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
