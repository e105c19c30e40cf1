"""Drawings of attention: where a bag's weight went, and how concentrated it is."""

from typing import Any

import numpy as np

from milkit.report.curves import effective_number
from milkit.report.figures.style import BLUE, INK, MUTED, NARROW, ORANGE, Drawing, axes, drawing, plain_log
from milkit.report.words import plural, shorten, weight

MOST_BARS = 60
FEWEST_TILES = 13
"""A bag of fewer is better read as bars, even where its places are known."""
RINGS = 5


def panel(place: int, bag: dict[str, Any], told: str) -> Drawing:
    """One bag: on the slide where places are known, else its weights from the largest to the smallest.

    Args:
        place: number of the bag on the page, for the file's name.
        bag: an entry of `attention.json`.
        told: its class and prediction, in words.
    """
    weights = np.asarray(bag["attention"], np.float64)
    xy = bag.get("coords_um")
    n = len(weights)
    shown = plural(n, "instance")
    if n > 1:
        effective = effective_number(weights)
        shown += f", effective number {effective:.1f} ({effective / n:.0%})"
    with drawing():
        if xy is not None and n >= FEWEST_TILES:
            figure = _slide(weights, np.asarray(xy, np.float64))
            how = (
                f"Colour: attention over its uniform level 1/n, in doublings. Ringed: the {RINGS} most attended tiles."
            )
        else:
            figure = _bars(weights, bag.get("attention_sd"))
            how = "Dotted: the uniform level 1/n."
            if bag.get("attention_sd") is not None:
                how += " Whiskers: SD over the runs that tested the bag."
    title = f"Bag {shorten(str(bag['bag']), 30)}"
    return Drawing(f"attention_{place}", figure, title, f"{told} {shown[:1].upper()}{shown[1:]}. {how}")


def _bars(weights: np.ndarray, sd: Any):
    """Bars from the largest down, named by the instance's index; a line where there are too many for bars."""
    n = len(weights)
    order = np.argsort(-weights, kind="stable")
    figure, ax = axes(NARROW, 2.9)
    x = np.arange(n) + (n > 20)  # named bars, or ranks from 1
    if n <= MOST_BARS:
        ax.bar(x, weights[order], min(0.8, 0.2 * n), color=BLUE, alpha=0.75)
        if sd is not None:
            error = np.asarray(sd, np.float64)[order]
            ax.errorbar(
                x, weights[order], [np.minimum(error, weights[order]), error], fmt="none", ecolor=INK, elinewidth=0.7
            )
        if n <= 20:
            ax.set_xticks(x, [str(i) for i in order], size=8 if n <= 14 else 7)
            ax.tick_params(axis="x", length=0)
            ax.set_xlabel("Instance (its index in the bag), most attended first")
            ax.set_xlim(-0.7, n - 0.3)
        else:
            ax.set_xlabel("Instances, most attended first")
            ax.set_xlim(0.3, n + 0.7)
    else:
        ax.fill_between(x + 1, weights[order], step="mid", color=BLUE, alpha=0.4)
        ax.plot(x + 1, weights[order], color=BLUE, lw=1, drawstyle="steps-mid")
        ax.set_xscale("log")
        plain_log(ax.xaxis)
        ax.set_xlim(0.8, n)
        ax.set_xlabel("Rank of the instance (logarithmic)")
    ax.axhline(1 / n, color=ORANGE, ls=(0, (1, 1.5)), lw=1.4, label=f"1/n = {weight(1 / n)}")
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("Attention")
    ax.set_ylim(bottom=0)
    figure.legend(loc="outside upper right")
    return figure


def _slide(weights: np.ndarray, xy: np.ndarray):
    """Tiles where they lie, y downwards as on the slide, coloured by attention over the uniform level."""
    from matplotlib.collections import PolyCollection

    n, size = len(weights), pitch(xy)
    level = np.log2(np.maximum(weights * n, 0.25))  # what is far below uniform looks alike, so that noise stays quiet
    top = max(1.0, float(level.max()))
    scale, unit = (1e-3, "mm") if np.ptp(xy, axis=0).max() > 5000 else (1.0, "µm")
    figure, ax = axes(NARROW, 3.4)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
    tiles = PolyCollection(
        list((xy[:, None] + corners) * scale), array=level, cmap="cividis", linewidths=0, rasterized=n > 200
    )
    tiles.set_clim(-2.0, top)
    ax.add_collection(tiles)
    most = (xy[np.argsort(-weights, kind="stable")[:RINGS]] + size / 2) * scale
    ax.scatter(*most.T, s=70, facecolors="none", edgecolors=ORANGE, linewidths=1.3)
    low, high = xy.min(0), xy.max(0) + size
    room = 0.03 * max(high - low)
    ax.set(xlim=(np.array([low[0] - room, high[0] + room]) * scale))
    ax.set(ylim=(np.array([high[1] + room, low[1] - room]) * scale))
    ax.set(aspect="equal", xlabel=f"x ({unit})", ylabel=f"y ({unit})")
    step = max(1, round((top + 2) / 5))
    ticks = np.arange(-2, top + 1e-9, step)
    bar = figure.colorbar(tiles, ax=ax, shrink=0.85, aspect=22, ticks=ticks)
    bar.ax.set_yticklabels([_times(t) for t in ticks])
    bar.outline.set_visible(False)
    bar.set_label("Attention × n")
    return figure


def _times(power: float) -> str:
    """2 to a power as a reader says it: 8, 1, 1/2; the lowest stands for all below it too."""
    if power >= 0:
        return f"{2**power:.0f}"
    return ("≤ " if power <= -2 else "") + f"1/{2**-power:.0f}"


def pitch(xy: np.ndarray) -> float:
    """Side of a tile in micrometres, from the smallest usual step between neighbours in x or y."""
    steps = np.concatenate([np.diff(np.unique(np.round(xy[:, axis], 2))) for axis in (0, 1)])
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 1.0


def _apart(bags: list[tuple[str, float]], classes: list[str]) -> list[float]:
    """Heights of the dots: bags of a class above each other, so that equal ones stay countable."""
    heights = []
    for i, (name, _) in enumerate(bags):
        size = sum(other == name for other, _ in bags)
        rank = sum(other == name for other, _ in bags[:i])
        heights.append(classes.index(name) + min(0.16, 0.7 / size) * (rank - (size - 1) / 2))
    return heights


def concentration(bags: list[tuple[str, float]]) -> Drawing | None:
    """Effective number of instances as a share of n, by class.

    Args:
        bags: (class, effective number / n) of each bag with two or more instances.
    """
    classes = list(dict.fromkeys(name for name, _ in bags))
    if not classes:
        return None
    with drawing():
        figure, ax = axes(NARROW, 1.1 + 0.55 * len(classes))
        place = [classes.index(name) for name, _ in bags]
        ax.scatter([share for _, share in bags], _apart(bags, classes), s=36, color=BLUE, alpha=0.7, linewidths=0)
        ax.set_yticks(range(len(classes)), [f"{shorten(c, 18)} ({place.count(i)})" for i, c in enumerate(classes)])
        ax.set(xlim=(0, 1.03), ylim=(len(classes) - 0.5, -0.5), xlabel="Effective number of instances / n")
        ax.tick_params(axis="y", length=0)
        ax.axvline(1, color=MUTED, ls=(0, (1, 2)), lw=1)
    caption = (
        f"The {plural(len(bags), 'bag')} shown here, not the whole cohort. Effective number: exp of the entropy of the "
        "weights. At 1 all instances weigh the same; near 0 a few carry the bag."
    )
    return Drawing("concentration", figure, "How concentrated attention is", caption)
