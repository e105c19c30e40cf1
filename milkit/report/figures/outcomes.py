"""Drawings of tasks without classes: regression, survival."""

import numpy as np

from milkit.report.curves import risk_rank
from milkit.report.figures.style import BLUE, MUTED, NARROW, ORANGE, Drawing, axes, drawing
from milkit.report.scores import Scores
from milkit.report.words import plural, shorten

MOST_POINTS = 3000


def per_patient(patient: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Mean of a value over the runs that tested each patient, in the order of patient numbers that occur."""
    present, number = np.unique(patient, return_inverse=True)
    return np.bincount(number, value, len(present)) / np.bincount(number, minlength=len(present))


def regression(scores: Scores) -> list[Drawing]:
    """Predicted against observed, one drawing a value."""
    made = []
    for i, name in enumerate(scores.names):
        observed = per_patient(scores.patient, scores.target[:, i])
        predicted = per_patient(scores.patient, scores.value[:, i])
        shown = sample(len(observed))
        ends = _ends(observed, predicted)
        with drawing():
            figure, ax = axes(NARROW, NARROW * 0.95)
            ax.plot(ends, ends, color=MUTED, lw=0.9, ls=(0, (1, 2)), label="predicted = observed")
            dots(ax, observed[shown], predicted[shown], BLUE)
            ax.set(xlim=ends, ylim=ends, aspect="equal")
            label = shorten(name, 24)
            ax.set(xlabel=f"Observed {label}", ylabel=f"Predicted {label} (test)")
            ax.legend(loc="upper left")
        caption = f"{_which(len(observed), len(shown))}; predictions averaged over the runs that tested the patient."
        made.append(Drawing(f"regression_{i}", figure, f"Predicted against observed: {name}", caption))
    return made


def survival(scores: Scores, unit: str) -> Drawing:
    """Rank of a patient's risk within its run against time, events apart from censored patients.

    Args:
        scores: test predictions.
        unit: name of the time column, the only thing known of its unit.
    """
    rank = per_patient(scores.patient, risk_rank(scores.value[:, 0], scores.run))
    time = per_patient(scores.patient, scores.target[:, 0])
    event = per_patient(scores.patient, scores.target[:, 1]) > 0.5
    shown = sample(len(rank))
    with drawing():
        figure, ax = axes(NARROW, 3.6)
        censored, seen = shown[~event[shown]], shown[event[shown]]
        dots(ax, time[censored], rank[censored], MUTED, open_=True, label=f"censored ({(~event).sum():,})")
        dots(ax, time[seen], rank[seen], ORANGE, label=f"event ({event.sum():,})")
        ax.set(
            xlabel=f"Time to event or censoring ({shorten(unit, 20)})", ylabel="Risk rank within a run (1 = highest)"
        )
        ax.set_xlim(left=0)
        ax.set_ylim(-0.03, 1.03)
        figure.legend(loc="outside upper left", ncols=2)
    caption = (
        f"{_which(len(rank), len(shown))}; ranks averaged over the runs that tested the patient. Risks of different "
        "runs share no scale, ranks do. A useful model has its early events at the top; a censored patient's event, "
        "if any, lies to the right of its mark."
    )
    return Drawing("risk_time", figure, "Risk against time", caption)


def sample(count: int) -> np.ndarray:
    """At most `MOST_POINTS` of `count` numbers, always the same ones."""
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MOST_POINTS, replace=False))


def dots(ax, x: np.ndarray, y: np.ndarray, color: str, *, open_: bool = False, label: str | None = None) -> None:
    """A scatter whose dots shrink and fade with their number; an image in the page where there are many."""
    many = len(x)
    size = 20 if many < 150 else 10 if many < 800 else 4
    ax.scatter(
        x,
        y,
        s=size,
        facecolors="none" if open_ else color,
        edgecolors=color if open_ else "none",
        linewidths=0.8,
        alpha=0.8 if many < 150 else 0.55 if many < 800 else 0.35,
        rasterized=many > 500,
        label=label,
    )


def _ends(*values: np.ndarray) -> tuple[float, float]:
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    room = 0.04 * (high - low) or 1.0
    return float(low - room), float(high + room)


def _which(count: int, shown: int) -> str:
    if shown == count:
        return f"One dot a patient, {plural(count, 'patient')}"
    return f"One dot a patient, {shown:,} of {plural(count, 'patient')} drawn at random"
