"""The label-budget curves of several runs in one picture, for a comparison's page."""

import json
from pathlib import Path
from typing import Any

from milkit.report.blocks import Block, Heading, Paragraph, Picture, Pictures, Table
from milkit.report.comparison import Comparison
from milkit.report.figures.few_labels import curve_figure
from milkit.report.figures.style import Drawing
from milkit.report.words import headline, interval, metric_label, number

NOTE = (
    "Values with their procedure intervals; nothing is tested here: intervals of two runs may overlap although their "
    "paired difference is clear, and the other way round. Subsets of labelled patients are the same where folds, "
    "budgets and labels.seed are."
)


def curves(comparison: Comparison) -> list[tuple[str, dict[str, Any]]]:
    """Name and `label_curve.json` of the runs that have one for the epoch that is compared."""
    found = []
    for entrant in comparison.field.entrants:
        file = Path(entrant.path) / "label_curve.json"
        if file.is_file():
            curve = json.loads(file.read_text(encoding="utf-8"))
            if curve["selection"] == entrant.selection:
                found.append((entrant.name, curve))
    return found


def compared_figure(found: list[tuple[str, dict[str, Any]]]) -> Drawing | None:
    """Their curves of the headline metric; None for fewer than two."""
    name = _metric(found)
    return curve_figure(name, found) if name and len(found) > 1 else None


def compared_curves(found: list[tuple[str, dict[str, Any]]], picture: Picture | None) -> list[Block]:
    """Heading, picture and table; nothing for fewer than two curves."""
    name = _metric(found)
    if name is None or picture is None:
        return []
    budgets = list(dict.fromkeys(point["labels"] for _, curve in found for point in curve["points"]))
    budgets.sort(key=lambda labels: (labels == "all", 0 if labels == "all" else labels))
    rows = []
    for labels in budgets:
        cells = []
        for _, curve in found:
            metric = next((p["metrics"][name] for p in curve["points"] if p["labels"] == labels), None)
            cells.append("–" if metric is None else f"{number(metric['value'])} ({interval(metric['procedure'])})")
        rows.append((str(labels), *cells))
    header = ("Labels a class", *(label for label, _ in found))
    title = Heading(f"{metric_label(name)} with few labels")
    return [title, Pictures((picture,)), Table(header, tuple(rows), numeric=header), Paragraph(NOTE, "note")]


def _metric(found: list[tuple[str, dict[str, Any]]]) -> str | None:
    """The headline among the metrics that all curves have."""
    shared = [m for m in found[0][1]["metrics"] if all(m in c["metrics"] for _, c in found)] if found else []
    return headline(dict.fromkeys(shared))
