"""Test images beside their masks and maps: what a model of pixels saw, and where it was right."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from milkit.report.figures.style import WIDE, Drawing, axes, drawing
from milkit.report.words import shorten

MOST_PIXELS = 400
"""Longer sides are drawn with every second, third ... pixel: a page is no viewer."""
CONTOUR = "#ffffff"
"""Of the truth, on a dark line of its own, so that it stands out on any image."""
RIGHT, TOO_MUCH, MISSED = "#f0f0f0", "#d55e00", "#0072b2"
COLUMNS = 3
LOWEST, HIGHEST = 0.9, 3.4  # inches of a row


@dataclass(frozen=True, eq=False)
class Shown:
    """A test image as the page shows it.

    Attributes:
        said: which it is, and how well it went: `best: a.png, Dice 0.9`.
        image: pixels.
        truth: its mask; above 0 is foreground.
        map: probability of foreground.
        threshold: from here on a pixel is called foreground.
    """

    said: str
    image: UInt8[np.ndarray, "h w 3"]
    truth: Any
    map: Float[np.ndarray, "h w"]
    threshold: float


def sheet(shown: list[Shown]) -> Drawing:
    """A row an image: itself and its map, both with the outline of the truth, and what is called foreground."""
    with drawing():
        width = WIDE / COLUMNS - 0.25
        heights = [float(np.clip(width * s.map.shape[0] / s.map.shape[1], LOWEST, HIGHEST)) for s in shown]
        figure, grid = axes(
            WIDE, sum(heights) + 0.32 * len(shown) + 0.5, nrows=len(shown), ncols=COLUMNS, squeeze=False,
            gridspec_kw={"height_ratios": heights},
        )  # fmt: skip
        for row, one in zip(grid, shown, strict=True):
            step = -(-max(one.map.shape) // MOST_PIXELS)
            truth = (np.asarray(one.truth) > 0)[::step, ::step]
            level = one.map[::step, ::step]
            row[0].imshow(one.image[::step, ::step], interpolation="nearest")
            drawn = row[1].imshow(level, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
            row[2].imshow(_called(level >= one.threshold, truth), interpolation="nearest")
            for ax in row:
                ax.set(xticks=[], yticks=[], anchor="N")
                ax.grid(visible=False)
            for ax in row[:2]:
                _outline(ax, truth)
            place, _, rest = one.said.partition(": ")
            row[0].set_ylabel(place, fontsize=9, fontweight="bold")
            row[0].set_title(_title(rest), fontsize=8.5, loc="left")
            row[1].set_title("map: probability of foreground", fontsize=8.5, loc="left")
            row[2].set_title(f"from {one.threshold:.3g} on", fontsize=8.5, loc="left")
        _scale(figure, grid[-1, 1], drawn, heights[-1])
        _key(grid[-1, -1], heights[-1])
    said = "; ".join(one.said for one in shown)
    caption = (
        f"{said}. White outline: the truth. Right column: grey where foreground was found, orange where background was "
        "called foreground, blue where foreground was missed."
    )
    return Drawing("segmentation", figure, "Images, masks and maps", caption, wide=True)


def _called(called: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Colours of what was found, of what was called wrongly, and of what was missed; background is dark."""
    picture = np.full((*truth.shape, 3), 0.16)
    for where, colour in ((called & truth, RIGHT), (called & ~truth, TOO_MUCH), (~called & truth, MISSED)):
        picture[where] = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return picture


def _outline(ax: Any, truth: np.ndarray) -> None:
    """The border of the truth, white on dark; none where all or nothing is foreground."""
    if truth.any() and not truth.all():
        for colour, width in (("#000000", 1.8), (CONTOUR, 0.8)):
            ax.contour(truth.astype(np.float64), levels=[0.5], colors=[colour], linewidths=width)


def _scale(figure: Any, ax: Any, drawn: Any, height: float) -> None:
    """The colours of maps, as a bar below one of them whose height is given in inches."""
    bar = figure.colorbar(
        drawn, cax=ax.inset_axes((0.05, -0.17 / height, 0.9, 0.08 / height)), orientation="horizontal"
    )
    bar.set_ticks([])
    for at, text, align in ((-0.02, "0", "right"), (1.02, "1", "left")):  # beside it: no room is needed below
        bar.ax.text(at, 0.4, text, ha=align, va="center", fontsize=8, transform=bar.ax.transAxes)


def _key(ax: Any, height: float) -> None:
    """What the colours of the right column mean, below the last of them."""
    from matplotlib.patches import Patch

    names = (("found", RIGHT), ("too much", TOO_MUCH), ("missed", MISSED))
    handles = [Patch(facecolor=colour, edgecolor="#66717c", linewidth=0.6, label=name) for name, colour in names]
    how = {"ncols": 3, "handlelength": 1.2, "columnspacing": 1.2, "borderpad": 0.0}
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.03 / height), **how)


def _title(text: str) -> str:
    """Id and value of an image, the id shortened to what fits."""
    name, found, value = text.rpartition(", ")
    return f"{shorten(name, 22)}, {value}" if found else shorten(text, 30)
