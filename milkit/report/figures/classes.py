"""Drawings of classification: ROC, precision-recall, confusion matrix."""

import numpy as np

from milkit.report.curves import GRID as AT
from milkit.report.curves import Curve, average_curve, confusion
from milkit.report.figures.style import BLUE, DASHES, INK, LINES, MUTED, NARROW, Drawing, axes, drawing, unit_axes
from milkit.report.scores import Scores
from milkit.report.words import plural, shorten

MOST_LINES = 60  # thin lines of single folds
_AXES = {
    "roc": ("False positive rate (1 − specificity)", "True positive rate (sensitivity)"),
    "pr": ("Recall (sensitivity)", "Precision"),
}
_TITLES = {"roc": "ROC curve", "pr": "Precision-recall curve"}


def positives(scores: Scores, task: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, is it so, its score) of each class that is ranked against the rest."""
    if task == "Binary":
        return [(scores.names[-1], scores.target[:, 0] > 0, scores.value[:, -1])]
    if task == "MultiClass":
        return [(n, scores.target[:, 0] == i, scores.value[:, i]) for i, n in enumerate(scores.names)]
    return [(n, scores.target[:, i] > 0, scores.value[:, i]) for i, n in enumerate(scores.names)]


def curve(kind: str, scores: Scores, task: str) -> Drawing | None:
    """ROC ("roc") or precision-recall ("pr") of every class; None where no fold holds both classes."""
    ranked = positives(scores, task)
    found = [(name, average_curve(kind, hit, score, scores.run, scores.fold)) for name, hit, score in ranked]
    drawn = [(name, curve) for name, curve in found if curve is not None]
    if not drawn:
        return None
    with drawing():
        figure, ax = axes()
        unit_axes(ax, *_AXES[kind])
        if kind == "roc":
            ax.plot([0, 1], [0, 1], color=MUTED, lw=0.9, ls=(0, (1, 2)), label="chance")
        if len(ranked) == 1:
            _one_curve(ax, kind, drawn[0][1])
        else:
            _many_curves(ax, kind, drawn)
        ax.legend(loc="lower right" if kind == "roc" else "lower left")
    caption = _curve_caption(kind, scores, found, len(ranked) > 1)
    return Drawing(kind, figure, _TITLES[kind], caption)


def _one_curve(ax, kind: str, curve: Curve) -> None:
    step = "steps-post" if kind == "roc" else "steps-pre"
    for line in curve.folds[:MOST_LINES]:
        ax.plot(AT, line, color=BLUE, lw=0.6, alpha=0.3, drawstyle=step)
    if len(curve.folds) > 2:
        ax.fill_between(AT, curve.low, curve.high, step=step[6:], color=BLUE, alpha=0.15, label="middle 80 % of folds")
    label = "mean over folds" if len(curve.folds) > 1 else "the one fold"
    ax.plot(AT, curve.mean, color=BLUE, lw=2, drawstyle=step, label=label)
    if kind == "pr":
        ax.axhline(curve.prevalence, color=MUTED, lw=0.9, ls=(0, (1, 2)), label=f"prevalence {curve.prevalence:.2f}")


def _many_curves(ax, kind: str, drawn: list[tuple[str, Curve]]) -> None:
    step = "steps-post" if kind == "roc" else "steps-pre"
    for i, (name, curve) in enumerate(drawn):
        if i < len(LINES):
            look = {"color": LINES[i], "ls": DASHES[i], "lw": 1.7, "label": shorten(name, 22)}
        else:
            look = {"color": MUTED, "lw": 0.6, "alpha": 0.6}
        ax.plot(AT, curve.mean, drawstyle=step, **look)
        if kind == "pr" and i < len(LINES):  # a short mark at the right edge: lines across would hide the curves
            ax.plot([0.97, 1.015], [curve.prevalence] * 2, color=LINES[i], lw=2)


def _curve_caption(kind: str, scores: Scores, found: list[tuple[str, Curve | None]], many: bool) -> str:
    parts = ["Patients are ranked within a run, never across runs; all runs of a fold are averaged first, then folds."]
    if many:
        parts.append("Each class against the rest: the vertical average over folds.")
        if len(found) > len(LINES):
            parts.append(f"Grey: the other {len(found) - len(LINES)} classes.")
        if kind == "pr":
            parts.append("Marks at the right edge: prevalence of each class, what chance would reach.")
    elif found[0][1] is not None:
        name, curve = found[0][0], found[0][1]
        thin = min(len(curve.folds), MOST_LINES)
        shown = plural(len(curve.folds), "fold") if thin == len(curve.folds) else f"{thin} of {len(curve.folds)} folds"
        lines = f" Thin lines: {shown}; thick line: their vertical average." if thin > 1 else ""
        parts.insert(0, f"Positive class: {name}.{lines}")
    undefined = [(n, c.undefined if c else len(scores.splits)) for n, c in found]
    for name, count in undefined:
        if count:
            parts.append(
                f"{name}: {count} of {plural(len(scores.splits), 'fold')} held one class only and have no curve."
            )
    return " ".join(parts)


def confusion_matrix(scores: Scores, task: str, cut: float = 0.5) -> Drawing | None:
    """Counts over all runs, and the share of each true class; at a threshold (binary) or the largest probability."""
    if task == "MultiLabel":
        return None  # `label_counts` gives its table
    classes = len(scores.names)
    truth = scores.target[:, 0].astype(np.int64)
    guess = scores.value.argmax(1) if task == "MultiClass" else (scores.value[:, -1] >= cut).astype(np.int64)
    counts = confusion(truth, guess.astype(np.int64), classes)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with drawing():
        side = max(NARROW, 1.1 + 0.62 * classes)
        figure, ax = axes(side, side * 0.86)
        _cells(ax, counts, share)
        ticks = [shorten(n, 14 if classes < 5 else 10) for n in scores.names]
        slanted = sum(map(len, ticks)) > 36
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        ax.set_xticks(range(classes), ticks, **turn)
        ax.set_yticks(range(classes), ticks)
        ax.set(xlabel="Predicted class", ylabel="True class", aspect="equal")
        ax.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5))
        ax.tick_params(length=0)
        ax.grid(False)
        ax.spines[:].set_visible(False)
    rule = "the most probable class" if task == "MultiClass" else f"{scores.names[-1]} from probability {cut:.3g} on"
    times = np.unique(np.bincount(scores.patient))
    often = f"{times[0]} times" if len(times) == 1 else f"{times[0]} to {times[-1]} times"
    counted = "" if times[-1] == 1 else f" a patient counts {often} (once a run that tested it);"
    caption = (
        f"Predicted: {rule}. Counts are summed over all {plural(scores.runs, 'run')};{counted} the share is of "
        "the true class (row)."
    )
    return Drawing("confusion", figure, "Confusion matrix", caption)


def _cells(ax, counts: np.ndarray, share: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    size = 9 if len(counts) < 6 else 7
    for i, j in np.ndindex(*counts.shape):
        # transparency instead of a colour map: ink stays readable on white and on black
        ax.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, facecolor=BLUE, alpha=0.06 + 0.5 * share[i, j]))
        if len(counts) <= 12:
            ax.text(j, i, f"{counts[i, j]:,}\n{share[i, j]:.0%}", ha="center", va="center", size=size, color=INK)


def label_counts(scores: Scores) -> list[tuple[str, int, int, int, int]]:
    """(label, true positives, false positives, false negatives, true negatives) at threshold 0.5, over all runs."""
    rows = []
    for i, name in enumerate(scores.names):
        truth, guess = (scores.target[:, i] > 0.5).astype(np.int64), (scores.value[:, i] >= 0.5).astype(np.int64)
        (tn, fp), (fn, tp) = confusion(truth, guess, 2)
        rows.append((name, int(tp), int(fp), int(fn), int(tn)))
    return rows
