"""The validation criterion of all trials against each field that was searched."""

import json
from typing import Any

import numpy as np

from milkit.report.figures.style import MUTED, NARROW, ORANGE, WIDE, Drawing, axes, drawing, plain_log
from milkit.report.words import metric_label, plural, shorten

MOST_FIELDS = 6
HIGH = 0.98
"""A few trials that went wrong do not set the scale: losses beyond this quantile are drawn at its height."""


def fields_figure(said: dict[str, Any], trials: tuple[dict[str, str], ...]) -> Drawing | None:
    """A panel a field, a dot a trial and fold; None without a finite figure.

    Args:
        said: `search` of `results.json`.
        trials: rows of `trials.csv`.
    """
    points = _means(said, trials)
    if not points:
        return None
    names = list(said["space"])[:MOST_FIELDS]
    across = min(len(names), 3)
    down = -(-len(names) // across)
    value = np.array([p["figure"] for p in points])
    top = float(np.quantile(value, HIGH)) if said["criterion"] == "loss" else float(value.max())
    chosen = np.array([p["chosen"] for p in points])
    with drawing():
        width = WIDE if across > 1 else NARROW
        figure, grid = axes(width, 2.7 * down, nrows=down, ncols=across, squeeze=False, sharey=True)
        panels = grid.ravel()
        for ax, name in zip(panels, names, strict=False):
            x = _places(ax, said["space"][name], [p[name] for p in points])
            y = np.minimum(value, top)
            ax.scatter(x[~chosen], y[~chosen], s=9, color=MUTED, alpha=0.45, linewidths=0, label="tried")
            ax.scatter(x[chosen], y[chosen], s=20, color=ORANGE, marker="D", alpha=0.8, linewidths=0, label="chosen")
            ax.set_xlabel(name if len(name) < 30 else name.rsplit(".", 1)[-1])
        for ax in panels[len(names) :]:
            ax.set_visible(False)
        for ax in grid[:, 0]:
            ax.set_ylabel(_label(said["criterion"]))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return Drawing("search", figure, "What the validation parts said", _caption(said, names, value, top), across > 1)


def _label(criterion: str) -> str:
    return "Validation loss" if criterion == "loss" else f"{metric_label(criterion)}, validation"


def _caption(said: dict[str, Any], names: list[str], value: np.ndarray, top: float) -> str:
    text = "A dot is a configuration in a fold, the mean over its seeds and inner folds. No test part is in it."
    if said["failed"]:
        text += f" Not drawn: {plural(said['failed'], 'trial')} that failed."
    if (value > top).any():
        text += f" {plural(int((value > top).sum()), 'loss')} above {top:.3g} are drawn there."
    if len(names) < len(said["space"]):
        text += f" The first {len(names)} of {len(said['space'])} fields."
    return text


def _means(said: dict[str, Any], trials: tuple[dict[str, str], ...]) -> list[dict[str, Any]]:
    """Each trial of each fold once: its values, whether it was chosen, and its mean criterion; failed ones left out."""
    column = f"validation_{said['criterion']}"
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in trials:
        groups.setdefault((row["repeat"], row["fold"], row["trial"]), []).append(row)
    points = []
    for rows in groups.values():
        if any(row["status"] == "failed" or not row.get(column) for row in rows):
            continue
        figure = float(np.mean([float(row[column]) for row in rows]))
        if np.isfinite(figure):
            own = {name: rows[0][name] for name in said["space"]}
            points.append({**own, "figure": figure, "chosen": rows[0]["chosen"] == "yes"})
    return points


def _places(ax: Any, space: dict[str, Any], cells: list[str]) -> np.ndarray:
    """Where the values stand on an axis: numbers as such, choices side by side."""
    if space["type"] != "Choice":
        if space["type"] == "LogUniform":
            ax.set_xscale("log")
            beyond = (space["high"] / space["low"]) ** 0.04
            ax.set_xlim(space["low"] / beyond, space["high"] * beyond)
            plain_log(ax.xaxis)
        return np.array([float(cell) for cell in cells])
    texts = [json.dumps(v) if isinstance(v, list | dict) else "" if v is None else str(v) for v in space["values"]]
    labels = [shorten(_named(v), 14) for v in space["values"]]
    ax.set_xticks(range(len(texts)), labels)
    ax.set_xlim(-0.5, len(texts) - 0.5)
    spread = np.linspace(-0.18, 0.18, 7)  # dots of one value side by side, the same in every report
    return np.array([texts.index(cell) + spread[i % 7] for i, cell in enumerate(cells)])


def _named(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("type", value))
    return str(tuple(value)) if isinstance(value, list) else str(value)
