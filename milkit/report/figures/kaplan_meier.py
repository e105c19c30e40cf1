"""Kaplan-Meier curves of the risk groups, with the numbers at risk under them."""

from typing import Any

import numpy as np

from milkit.report.figures.style import BLUE, MUTED, ORANGE, WIDE, Drawing, axes, drawing
from milkit.report.words import plural, shorten

GROUPS = (("high", ORANGE, "-"), ("low", BLUE, "--"))
TALL = 4.4
TICKS = 6
"""Most times at which numbers at risk are printed: more would run into each other."""


def kaplan_meier(found: dict[str, Any], unit: str) -> Drawing:
    """Curves, bands, censoring marks and numbers at risk of low and high risk.

    Args:
        found: `survival` of a selection in `results.json`, with at least one group.
        unit: name of the time column, the only thing known of its unit.
    """
    curves = {name: _arrays(curve) for name, curve in found["curves"].items()}
    with drawing():
        figure, (ax, below) = axes(WIDE, TALL, nrows=2, sharex=True, height_ratios=[5, 1])
        for name, color, dash in GROUPS:
            if name in curves:
                group = found["groups"][name]
                label = f"{name} risk ({plural(group['n'], 'patient')}, {plural(group['events'], 'event')})"
                _curve(ax, curves[name], color, dash, label)
        ax.axhline(0.5, color=MUTED, lw=0.7, ls=(0, (1, 2)))
        end = max(curve["time"][-1] for curve in curves.values())
        ax.set(ylim=(-0.02, 1.03), ylabel="Free of the event", xlim=(-0.04 * end, 1.02 * end))
        ax.set_xlabel("Time" if unit == "time" else f"Time ({shorten(unit, 30)})")
        figure.legend(loc="outside upper left", ncols=1)
        _at_risk(ax, below, curves, end)
    return Drawing("kaplan_meier", figure, "Kaplan-Meier curves", _caption(found), wide=True)


def _arrays(curve: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    return {name: np.array([np.nan if v is None else v for v in values], float) for name, values in curve.items()}


def _curve(ax: Any, curve: dict[str, np.ndarray], color: str, dash: str, label: str) -> None:
    """Steps, the band where there is one, and a tick where patients left."""
    time = curve["time"]
    # corners of the steps by hand: matplotlib's own drop the last step where the curve comes to 0 and the band ends
    steps = np.repeat(time, 2)[1:], np.repeat(curve["low"], 2)[:-1], np.repeat(curve["high"], 2)[:-1]
    ax.fill_between(*steps, color=color, alpha=0.15)
    ax.step(time, curve["survival"], where="post", color=color, ls=dash, label=label)
    left = curve["censored"] > 0
    ax.plot(time[left], curve["survival"][left], ls="none", marker="|", ms=5, mew=0.9, color=color)


def _at_risk(ax: Any, below: Any, curves: dict[str, dict[str, np.ndarray]], end: float) -> None:
    """A row of numbers a group, at the ticks of the time axis."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(TICKS, steps=[1, 2, 2.5, 5, 10]))
    times = [t for t in ax.get_xticks() if 0 <= t <= end]
    shown = [(name, color) for name, color, _ in GROUPS if name in curves]
    for row, (name, color) in enumerate(shown):
        curve = curves[name]
        for t in times:
            # at risk at t: those whose own time is at t or beyond
            count = curve["at_risk"][0] - (curve["events"] + curve["censored"])[curve["time"] < t].sum()
            below.text(t, -row, f"{count:,.0f}", ha="center", va="center", color=color, fontsize=8)
    below.set_ylim(-len(shown) + 0.4, 0.6)
    below.set_yticks([-row for row in range(len(shown))], [f"{name} risk" for name, _ in shown])
    below.set_title("Patients at risk", loc="left", fontsize=8)
    ax.tick_params(labelbottom=True)
    below.tick_params(length=0, labelbottom=False)
    below.grid(False)
    for spine in below.spines.values():
        spine.set_visible(False)


def _caption(found: dict[str, Any]) -> str:
    over = f"test parts of {plural(found['folds'], 'fold')}, pooled" if found["folds"] > 1 else "test part"
    if len(found["repeats"]) > 1:
        over += f" (first of {len(found['repeats'])} repeats)"
    return (
        f"Kaplan-Meier curves of the {over}. Bands: pointwise 95 % (Greenwood, log-log). Ticks: censored. The dotted "
        "line is a half: a curve crosses it at its median."
    )
