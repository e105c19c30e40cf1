"""Drawings of probabilities: how far they can be believed, and what acting on them is worth."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from milkit.metrics import net_benefit
from milkit.report.decision import DecisionCurve, decision_curve
from milkit.report.figures.classes import positives
from milkit.report.figures.style import BLUE, INK, MUTED, NARROW, ORANGE, WIDE, Drawing, axes, drawing, unit_axes
from milkit.report.reliability import Reliability, reliability
from milkit.report.scores import Scores
from milkit.report.words import shorten

MOST_PANELS = 6


def reliability_diagram(scores: Scores, scaled: Scores | None, task: str, what: str = "patient") -> Drawing:
    """Predicted probability against what was observed, in ten bins of equal width, before and after scaling."""
    found = _reliability(scores, task)
    after = None if scaled is None else _reliability(scaled, task)
    x, y = _labels(scores, task)
    with drawing():
        figure, (ax, below) = axes(height=4.1, nrows=2, sharex=True, height_ratios=(4, 1.2))
        unit_axes(ax, "", y)
        ax.set_aspect("auto")
        ax.plot([0, 1], [0, 1], color=MUTED, lw=0.9, ls=(0, (1, 2)), label="perfectly calibrated")
        _points(ax, found, BLUE, "o-", "as predicted")
        if after is not None:
            _points(ax, after, ORANGE, "s--", "after temperature scaling")
        figure.legend(loc="outside upper left")
        _counts(below, found, after)
        below.set(xlabel=x, ylabel=f"{what.capitalize()}s")
    caption = (
        f"Ten bins of equal width. Bars: 95 % intervals, a bootstrap of patients with all their runs (Wilson's where "
        f"all in a bin are alike). Each {what} counts once, however many runs tested it; below: how many a bin holds."
    )
    if task == "MultiClass":
        caption = "The probability of the predicted class against how often it is right. " + caption
    if task == "MultiLabel":
        caption = f"All labels together; a {what} and label count as one. " + caption
    if after is not None:
        caption += " Scaled: each run's logits divided by the temperature that its validation part chose."
        left = scores.runs - scaled.runs if scaled is not None else 0
        caption += f" {left} of {scores.runs} runs have no temperature and are not in the scaled points." * (left > 0)
    return Drawing("calibration", figure, "Calibration", caption)


def _points(ax: Any, found: Reliability, colour: str, look: str, label: str) -> None:
    spread = [found.observed - found.low, found.high - found.observed]
    ax.errorbar(
        found.predicted,
        found.observed,
        np.maximum(spread, 0),
        fmt=look,
        color=colour,
        ms=4,
        lw=1.2,
        elinewidth=1,
        label=label,
    )


def _counts(below: Any, found: Reliability, after: Reliability | None) -> None:
    width = np.diff(found.edges)
    bars = [(found, BLUE)] if after is None else [(found, BLUE), (after, ORANGE)]
    highest = 0.0
    for i, (one, colour) in enumerate(bars):
        size = one.share * one.patients.sum()
        highest = max(highest, size.max())
        left = one.edges[:-1] + i * 0.46 * width * (len(bars) > 1)
        below.bar(left, size, width * (0.44 if len(bars) > 1 else 0.92), align="edge", color=colour, alpha=0.5)
    for edge, n in zip(found.edges[:-1], found.share * found.patients.sum(), strict=True):
        if n > 0:
            below.text(edge + 0.05, highest * 1.04, f"{n:.0f}" if n >= 1 else "<1", ha="center", size=6.5, color=MUTED)
    below.set_ylim(0, 1.35 * highest)


def _reliability(scores: Scores, task: str) -> Reliability:
    if task == "Binary":
        return reliability(scores.value[:, -1], scores.target[:, 0] > 0, scores.patient, scores.unit)
    if task == "MultiClass":
        hit = scores.value.argmax(1) == scores.target[:, 0]
        return reliability(scores.value.max(1), hit, scores.patient, scores.unit)
    c = scores.value.shape[1]
    patient = (scores.patient[:, None] * c + np.arange(c)).ravel()
    return reliability(scores.value.ravel(), (scores.target > 0).ravel(), patient, np.repeat(scores.unit, c))


def _labels(scores: Scores, task: str) -> tuple[str, str]:
    if task == "Binary":
        name = shorten(scores.names[-1], 16)
        return f"Predicted probability of {name}", f"Share that is {name}"
    if task == "MultiClass":
        return "Probability of the predicted class", "Share predicted rightly"
    return "Predicted probability of a label", "Share that has it"


def decision_curves(scores: Scores, scaled: Scores | None, task: str) -> dict[str, DecisionCurve]:
    """The curve of the positive class, or of each label; {} for several classes, of which none is the one to treat.

    With temperatures of all runs, the scaled probabilities' net benefit stands beside.
    """
    if task not in ("Binary", "MultiLabel"):
        return {}
    whole = scaled is not None and scaled.runs == scores.runs
    after = positives(scaled, task) if scaled is not None and whole else []
    found = {}
    for i, (name, hit, probability) in enumerate(positives(scores, task)):
        curve = decision_curve(hit, probability, scores.patient, scores.unit)
        if scaled is not None and after:
            weight = 1.0 / np.bincount(scaled.patient)[scaled.patient]
            gain = net_benefit(after[i][1].astype(np.int64), after[i][2], curve.thresholds, weight)
            curve = replace(curve, scaled=gain)
        found[name] = curve
    return found


def decision_drawing(curves: Mapping[str, DecisionCurve], what: str = "patient") -> Drawing:
    """Net benefit of the model, of treating all and of treating none; a panel a label."""
    shown = list(curves.items())[:MOST_PANELS]
    across = min(len(shown), 3)
    down = math.ceil(len(shown) / max(across, 1))
    single = len(shown) == 1
    with drawing():
        size = (NARROW, 3.5) if single else (WIDE, 2.8 * down)
        figure, grid = axes(*size, nrows=down, ncols=across, squeeze=False)
        for ax, (name, curve) in zip(grid.ravel(), shown, strict=False):
            _one_decision(ax, curve)
            if not single:
                ax.set_title(shorten(name, 24))
        for ax in grid.ravel()[len(shown) :]:
            ax.set_visible(False)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=1 if single else 4)
    name, curve = shown[0]
    caption = (
        f"True positives less false positives, weighed by the odds of the threshold probability, a {what}: at 0.2 four "
        "false positives cost as much as one true positive gains. Band: 95 %, a bootstrap of patients with all their "
        "runs. Acting on a model is worth it where its line lies above both others."
    )
    if single:
        caption = f"Positive class: {name}, {curve.prevalence:.0%} of {what}s. " + caption
    if len(curves) > len(shown):
        caption += f" {len(curves) - len(shown)} more labels are in figures/decision_curve.csv."
    return Drawing("decision_curve", figure, "Decision curve", caption, wide=not single)


def _one_decision(ax: Any, curve: DecisionCurve) -> None:
    t = curve.thresholds
    ax.axhline(0.0, color=MUTED, lw=1.0, label="treat none")
    ax.plot(t, curve.treat_all, color=INK, lw=1.0, ls=(0, (1, 2)), label="treat all")
    ax.fill_between(t, curve.low, curve.high, color=BLUE, alpha=0.15)
    ax.plot(t, curve.model, color=BLUE, lw=1.8, label="model")
    if curve.scaled is not None:
        ax.plot(t, curve.scaled, color=ORANGE, lw=1.2, ls="--", label="after temperature scaling")
    top = max(curve.prevalence, float(curve.model.max()), 0.01)
    ax.set(xlim=(0, 1), ylim=(-0.3 * top, 1.12 * top), xlabel="Threshold probability", ylabel="Net benefit")
