"""A forest plot: paired differences with their intervals, the zero line and the margin."""

import math
from collections.abc import Sequence
from typing import Any

from milkit.report.comparison import Compared, Comparison
from milkit.report.comparison_words import difference_text, level, metric_name
from milkit.report.figures.style import BLUE, GREEN, GRID, INK, MUTED, ORANGE, WIDE, Drawing, drawing
from milkit.report.words import plural, shorten

LOOKS = {"different": ("o", BLUE), "indistinguishable": ("s", GREEN), "no power": ("D", ORANGE)}
"""Marker and colour of each verdict."""
MOST_ROWS = 60


def forest(comparison: Comparison) -> Drawing | None:
    """All differences that have a value; None where there is none.

    Metrics between fixed ends share one axis; errors in the target's unit and log losses have one each.
    """
    rows = [row for row in comparison.rows if not math.isnan(row.found.difference)]
    shown = rows[:MOST_ROWS]
    if not shown:
        return None
    panels = _panels(shown)
    several = len(comparison.field.entrants) > 2
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDE, 1.15 + 0.34 * len(shown) + 0.55 * (len(panels) - 1)), layout="constrained")
        ratios = [len(panel) + 0.6 for panel in panels]
        grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})
        for ax, panel in zip(grid[:, 0], panels, strict=True):
            _panel(ax, panel, several)
        first, second = shown[0].first, shown[0].second
        said = "first − second" if several else f"{shorten(first)} − {shorten(second)}"
        grid[-1, 0].set_xlabel(f"difference, {said}")
        _legend(figure, shown, comparison.alpha)
    left_out = len(comparison.rows) - len(shown)
    caption = (
        f"Paired differences with their {level(comparison.alpha)} intervals, as their tests see them (thick), and by a "
        f"bootstrap of {comparison.field.resample}s (thin). Grey: the margin. Verdicts after Holm's correction over "
        f"{plural(len(comparison.rows), 'comparison')}. ↓ lower is better."
    )
    caption += f" {plural(left_out, 'difference')} not drawn." if left_out else ""
    return Drawing("forest", figure, "Differences", caption, wide=True)


def _panels(rows: Sequence[Compared]) -> list[list[Compared]]:
    """Rows that share an axis: those whose margin is on the metric's own scale, and each other metric by itself."""
    panels: dict[str, list[Compared]] = {}
    for row in rows:
        panels.setdefault(row.metric if row.own_scale else "", []).append(row)
    order = list(dict.fromkeys(row.metric for row in rows))
    return [sorted(panel, key=lambda row: order.index(row.metric)) for panel in panels.values()]


def _panel(ax: Any, rows: Sequence[Compared], several: bool) -> None:
    names, said = [], []
    for y, row in enumerate(rows):
        marker, colour = LOOKS[row.verdict]
        ax.fill_betweenx([y - 0.5, y + 0.5], -row.margin, row.margin, color=GRID, alpha=0.7, lw=0, zorder=0)
        if row.sampling is not None:
            ax.plot(row.sampling, [y + 0.2] * 2, color=MUTED, lw=1.0, zorder=2)
        if not math.isnan(row.found.low):
            ax.plot([row.found.low, row.found.high], [y, y], color=colour, lw=2.2, solid_capstyle="butt", zorder=3)
        face = colour if row.verdict == "different" else "white"
        ax.scatter([row.found.difference], [y], s=30, marker=marker, facecolor=face, edgecolor=colour, lw=1.3, zorder=4)
        pair = f", {shorten(row.first, 18)} vs {shorten(row.second, 18)}" if several else ""
        names.append(metric_name(row) + pair)
        said.append(f"{difference_text(row)}  {row.verdict}")
    ax.axvline(0, color=INK, lw=0.9, zorder=1)
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.06)
    for y, text in enumerate(said):
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)


def _legend(figure: Any, rows: Sequence[Compared], alpha: float) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for word in dict.fromkeys(row.verdict for row in rows):
        marker, colour = LOOKS[word]
        face = colour if word == "different" else "white"
        handles.append(Line2D([], [], color=colour, marker=marker, markerfacecolor=face, lw=2.2, ms=5.5, label=word))
    handles.append(Line2D([], [], color=MUTED, lw=1.0, label=f"sampling {level(alpha)}"))
    handles.append(Line2D([], [], color=GRID, lw=7, label="margin"))
    figure.legend(handles=handles, loc="outside upper left", ncols=5)
