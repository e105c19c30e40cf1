"""A comparison in words: what was found between two runs, and what could have been."""

import math

from milkit.report.comparison import Compared
from milkit.report.words import interval, lower_is_better, metric_label, number


def level(alpha: float) -> str:
    """`95 %`."""
    return f"{100 * (1 - alpha):g} %"


def metric_name(row: Compared) -> str:
    """A metric's name, ↓ where lower is better."""
    return metric_label(row.metric) + (" ↓" if lower_is_better(row.metric) else "")


def p_text(p: float) -> str:
    """`0.032`, `<0.001`, or `none` where there was no test."""
    if math.isnan(p):
        return "none"
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def difference_text(row: Compared) -> str:
    """`-0.002 (-0.043 to 0.039)`."""
    if math.isnan(row.found.difference):
        return "undefined"
    bounds = (row.found.low, row.found.high)
    return number(row.found.difference) + ("" if math.isnan(bounds[0]) else f" ({interval(bounds)})")


def sentence(row: Compared, alpha: float) -> str:
    """The verdict as a sentence that can be quoted."""
    name, found = metric_label(row.metric), row.found
    marks = f" [{', '.join(row.marks)}]" if row.marks else ""
    if math.isnan(found.difference):
        return f"{name}: nothing to compare {row.first} and {row.second} by ({'; '.join(row.notes)}).{marks}"
    bounds = "" if math.isnan(found.low) else f"{level(alpha)} {interval((found.low, found.high))}; "
    figures = f"difference {number(found.difference)}, {bounds}p after Holm {p_text(row.p_holm)}, {row.test}"
    if row.verdict == "different":
        worse = row.second if row.better == row.first else row.first
        return f"{name}: {row.better} is better than {worse} ({figures}).{marks}"
    least = f"one of {number(found.detectable)} would have been found in 80 of 100 such studies"
    if row.verdict == "indistinguishable" and found.detectable == 0:
        return f"{name}: {row.first} and {row.second} have the same value throughout ({figures}).{marks}"
    if row.verdict == "indistinguishable":
        return f"{name}: {row.first} and {row.second} cannot be told apart ({figures}); {least}.{marks}"
    if math.isnan(found.detectable):
        return f"{name}: too few data to test {row.first} against {row.second} ({figures}).{marks}"
    return (
        f"{name}: too few data to tell {row.first} from {row.second} ({figures}); a difference "
        f"of {number(row.margin)} could have gone unseen: only {least}.{marks}"
    )
