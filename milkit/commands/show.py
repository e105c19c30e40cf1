"""What a finished run says on the terminal."""

import sys
from pathlib import Path
from typing import Any

SHOWN = ("auroc", "auprc", "accuracy", "balanced_accuracy", "macro_f1", "c_index", "mae", "r2")


def summary(results: dict[str, Any], out: Path) -> str:
    """The main figures with both intervals, every selection on lines of its own, and where the report is."""
    counts = results["counts"]
    lines = [
        f"{results['experiment'] or 'experiment'}: {counts['patients']} patients, {counts['runs']} runs",
        f"{'test, epoch chosen by':>28}  value   sampling 95 %    procedure 95 %",
    ]
    for name, part in results["selections"].items():
        marks = f"  ({', '.join(part['marks'])})" if part.get("marks") else ""
        for metric in (m for m in SHOWN if m in part["metrics"]):
            m = part["metrics"][metric]
            lines.append(
                f"{name + ' ' + metric:>28}  {number(m['value'])}   {pair(m['sampling'])}   "
                f"{pair(m['procedure'])}{marks}"
            )
    lines += [f"marked: {mark}" for mark in results.get("marks", [])]
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def number(value: float | None) -> str:
    """Three decimals, or as much room."""
    return "  -  " if value is None else f"{value:.3f}"


def pair(bounds: list[float | None] | None) -> str:
    """Two bounds, or as much room."""
    return "      -       " if bounds is None else f"{number(bounds[0])} - {number(bounds[1])}"


def on_one_line(text: str) -> None:
    """Progress that overwrites itself on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def bags_done(done: int, of: int) -> None:
    """Progress over bags; the line is taken away at the end."""
    on_one_line("" if done == of else f"bag {done} of {of}")
