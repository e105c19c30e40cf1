"""Drawings of a locked model on another cohort: its operating point on the ROC curve, and its numbers then and now."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from milkit.metrics.ranking import roc_curve
from milkit.report.curves import GRID, pr_at
from milkit.report.figures.style import BLUE, INK, MUTED, NARROW, ORANGE, WIDE, Drawing, axes, drawing, unit_axes
from milkit.report.reliability import wilson
from milkit.report.words import is_interval, metric_label, number, plural, shorten

SHOWN = (
    *("auroc", "auprc", "accuracy", "balanced_accuracy_at_threshold", "sensitivity_at_threshold"),
    *("specificity_at_threshold", "balanced_accuracy", "macro_f1", "subset_accuracy", "c_index", "c_index_ipcw"),
    *("pearson", "spearman", "r2", "brier"),
)
"""Metrics on one scale, of which a picture shows those that a task has."""


def roc(
    positive: Bool[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    threshold: float,
    name: str,
    auroc: dict[str, Any],
) -> Drawing | None:
    """ROC curve with the locked threshold's point and its intervals; None with one class.

    Args:
        positive: truth.
        score: probability of the positive class.
        threshold: locked; positive from there on.
        name: of the positive class.
        auroc: its entry in `results.json`.
    """
    if positive.all() or not positive.any():
        return None
    x, y, _ = roc_curve(positive.astype(np.int64), score)
    called = score >= threshold
    point = np.array([called[~positive].mean(), called[positive].mean()])
    sizes = np.array([(~positive).sum(), positive.sum()], np.float64)
    low, high = wilson(point, sizes)
    bounds = f" ({_pair(auroc['sampling'])})" if is_interval(auroc.get("sampling")) else ""
    with drawing():
        figure, ax = axes(NARROW, NARROW)
        unit_axes(ax, "False positive rate (1 − specificity)", "True positive rate (sensitivity)")
        ax.plot([0, 1], [0, 1], color=MUTED, lw=0.9, ls=(0, (1, 2)), label="chance")
        ax.plot(x, y, color=BLUE, lw=2, label=f"AUROC {number(auroc['value'])}{bounds}")
        spread = [np.maximum(side, 0)[:, None] for side in (point - low, high - point)]
        ax.errorbar(
            [point[0]], [point[1]], [spread[0][1], spread[1][1]], [spread[0][0], spread[1][0]],
            fmt="o", color=ORANGE, ms=6, elinewidth=1.2, label=f"locked threshold {threshold:.3f}",
        )  # fmt: skip
        ax.legend(loc="lower right")
    caption = (
        f"{plural(int(sizes[1]), 'patient')} with {shorten(name, 20)}, {int(sizes[0]):,} without. The point is "
        "where the threshold falls that was locked before these patients were seen; bars: Wilson's 95 % "
        "intervals. In brackets: sampling 95 % (bootstrap of patients)."
    )
    return Drawing("roc_locked", figure, "ROC curve and the locked threshold", caption)


def precision_recall(
    positive: Bool[np.ndarray, "n"], score: Float[np.ndarray, "n"], threshold: float, name: str, auprc: dict[str, Any]
) -> Drawing | None:
    """Precision-recall curve with the locked threshold's point; arguments as in `roc`."""
    if positive.all() or not positive.any():
        return None
    called = score >= threshold
    with drawing():
        figure, ax = axes(NARROW, NARROW)
        unit_axes(ax, "Recall (sensitivity)", "Precision (PPV)")
        ax.axhline(positive.mean(), color=MUTED, lw=0.9, ls=(0, (1, 2)), label=f"prevalence {positive.mean():.2f}")
        label = f"average precision {number(auprc['value'])}"
        ax.plot(GRID, pr_at(positive, score), color=BLUE, lw=2, drawstyle="steps-pre", label=label)
        if called.any():
            at = ([called[positive].mean()], [positive[called].mean()])
            ax.plot(*at, "o", color=ORANGE, ms=6, label=f"locked threshold {threshold:.3f}")
        ax.legend(loc="lower left")
    caption = (
        f"Positive: {shorten(name, 20)}. A precision depends on how many are positive here, not on the model alone."
    )
    return Drawing("pr_locked", figure, "Precision and recall", caption)


def then_and_now(against: dict[str, Any]) -> Drawing | None:
    """Values and sampling intervals in the study and here, a row a metric; None where there is nothing to compare."""
    names = [n for n in SHOWN if n in against and against[n]["difference"] is not None]
    if not names:
        return None
    with drawing():
        figure, ax = axes(WIDE * 0.8, 1.1 + 0.42 * len(names))
        for i, name in enumerate(names):
            for key, colour, shift, mark in (("study", MUTED, -0.13, "s"), ("here", BLUE, 0.13, "o")):
                part, y = against[name][key], len(names) - 1 - i - shift
                label = {"study": "cross-validated in the study", "here": "here"}[key] if i == 0 else None
                if is_interval(part["sampling"]):
                    ax.plot(part["sampling"], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
                ax.plot([part["value"]], [y], mark, color=colour, ms=5, label=label)
        ax.set_yticks(range(len(names)), [metric_label(n) for n in reversed(names)])
        ax.set_ylim(-0.6, len(names) - 0.4)
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("Value")
        figure.legend(loc="outside upper left", ncols=2)
    caption = (
        "Lines: sampling 95 %. The study's value is the mean over runs that each trained on a part of its patients; "
        "the model here is what was kept of it."
    )
    return Drawing("then_and_now", figure, "In the study, and here", caption, wide=True)


def _pair(bounds: Any) -> str:
    low, high = (number(b) for b in bounds)
    return f"{low}–{high}"
