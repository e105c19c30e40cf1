"""What a finished run says on the terminal."""

from pathlib import Path
from typing import Any

SHOWN = ("auroc", "auprc", "accuracy", "balanced_accuracy", "macro_f1", "subset_accuracy", "c_index", "mae", "r2")
CHOSEN = {
    "validation": "epoch chosen on validation",
    "last": "last epoch, none chosen",
    "optimistic": "epoch chosen on the test part itself: do not quote",
    "locked": "locked model",
}
MOST_NAMED = 12
"""Rows of single labels or values; all stand in table.csv."""


def summary(results: dict[str, Any], out: Path) -> str:
    """The main figures of the test parts with both intervals, every selection under its own heading; the report."""
    lines = [_head(results), *_left_out(results)]
    lines.append(f"{'on test parts':<32} value   sampling 95 %    procedure 95 %")
    for name, part in results["selections"].items():
        own = [mark for mark in part.get("marks", ()) if mark not in results.get("marks", ())]
        lines.append(CHOSEN.get(name, name) + (f"  ({', '.join(own)})" if own else ""))
        lines += _rows(part["metrics"])
    lines += [f"marked: {mark}" for mark in results.get("marks", [])]
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def _head(results: dict[str, Any]) -> str:
    counts = results["counts"]
    slides = f"{counts['bags']} slides of " if results.get("measured") == "slide" else ""
    return f"{results['experiment'] or 'experiment'}: {slides}{counts['patients']} patients, {counts['runs']} runs"


def _left_out(results: dict[str, Any]) -> list[str]:
    reasons = results.get("left_out") or {}
    if not reasons:
        return []
    each = "; ".join(f"{count}: {reason}" for reason, count in reasons.items())
    return [f"left out: {sum(reasons.values())} slides ({each})"]


def _rows(metrics: dict[str, Any]) -> list[str]:
    """Main metrics, then those of single labels or values."""
    wanted = sorted((name for name in metrics if name.partition(":")[0] in SHOWN), key=lambda name: ":" in name)
    named = [name for name in wanted if ":" in name]
    rows = [
        f"  {name:<30} {_number(metrics[name]['value'])}   {_interval(metrics[name]['sampling'])}   "
        f"{_interval(metrics[name]['procedure'])}"
        for name in wanted
        if name not in named[MOST_NAMED:]
    ]
    left = len(named) - MOST_NAMED
    return [*rows, *([f"  and {left} more in table.csv"] if left > 0 else [])]


def _number(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"


def _interval(pair: list[float | None] | None) -> str:
    return "      -       " if pair is None else f"{_number(pair[0])} - {_number(pair[1])}"
