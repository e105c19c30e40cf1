"""`table.tex` for a paper and `table.csv` for a spreadsheet, of a comparison."""

import csv
import io
import math

from milkit.report.comparison import Compared, Comparison
from milkit.report.comparison_words import level, p_text
from milkit.report.tables import tex
from milkit.report.words import interval, lower_is_better, metric_label, number

COLUMNS = (
    "first",
    "second",
    "metric",
    "higher_is_better",
    "first_value",
    "second_value",
    "difference",
    "low",
    "high",
    "sampling_low",
    "sampling_high",
    "p",
    "p_holm",
    "detectable",
    "margin",
    "verdict",
    "better",
    "test",
    "splits",
    "undefined_splits",
    "marks",
    "notes",
)


def to_csv(comparison: Comparison) -> str:
    """One row a pair and metric, at full precision; what is undefined is an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in comparison.rows:
        found = row.json()
        cells = {k: "" if found.get(k) is None else found[k] for k in COLUMNS}
        low, high = row.sampling or ("", "")
        first, second = ("" if v is None else v for v in found["values"])
        cells |= {"metric": row.metric, "higher_is_better": not lower_is_better(row.metric)}
        cells |= {"first_value": first, "second_value": second, "sampling_low": low, "sampling_high": high}
        cells |= {"marks": ";".join(row.marks), "notes": "; ".join(row.notes)}
        table.writerow(cells)
    return text.getvalue()


def to_tex(comparison: Comparison) -> str:
    """A booktabs table: a part a pair, a row a metric, daggers on optimistic numbers."""
    width = level(comparison.alpha).replace(" %", r"\,\%")
    lines = [
        f"% milkit: paired differences, first minus second; {len(comparison.rows)} comparisons, Holm",
        "% needs \\usepackage{booktabs}",
        "\\begin{tabular}{lrrrrrrl}",
        "\\toprule",
        f"Metric & First & Second & Difference & {width} & $p$ (Holm) & Detectable & Verdict \\\\",
    ]
    pair = ""
    for row in comparison.rows:
        if row.pair != pair:
            pair = row.pair
            lines += ["\\midrule", f"\\multicolumn{{8}}{{l}}{{\\emph{{{tex(row.first)} vs {tex(row.second)}}}}} \\\\"]
        lines.append(_tex_row(row))
    lines += ["\\bottomrule", *(f"\\multicolumn{{8}}{{l}}{{\\footnotesize {n}}} \\\\" for n in _foot(comparison))]
    return "\n".join([*lines, "\\end{tabular}"]) + "\n"


def _tex_row(row: Compared) -> str:
    arrow = r" $\downarrow$" if lower_is_better(row.metric) else ""
    dagger = "$^\\dagger$" if "optimistic" in row.marks else ""
    found = row.found
    bounds = "--" if math.isnan(found.low) else _signed(interval((found.low, found.high)))
    p = p_text(row.p_holm)
    cells = [tex(metric_label(row.metric)) + arrow + dagger, *(_number(v) for v in row.values)]
    cells += [_number(found.difference), bounds, "--" if p == "none" else p.replace("<", "$<$")]
    cells += [_number(found.detectable), f"{row.verdict}: {tex(row.better)}" if row.better else row.verdict]
    return " & ".join(cells) + " \\\\"


def _foot(comparison: Comparison) -> list[str]:
    """What must be read with the table."""
    tests = ", ".join(dict.fromkeys(row.test for row in comparison.rows))
    foot = [
        f"Tests: {tex(tests)}; $p$ corrected by Holm over {len(comparison.rows)} comparisons.",
        "Detectable: the smallest difference found in 80 of 100 such studies.",
    ]
    marks = dict.fromkeys(mark for row in comparison.rows for mark in row.marks)
    if "optimistic" in marks:
        foot.append("$^\\dagger$ Optimistic: the epoch of a run was chosen on the test part itself.")
    return [*foot, *(f"Marked: {tex(mark)}." for mark in marks if mark != "optimistic")]


def _number(value: float) -> str:
    return "--" if math.isnan(value) else _signed(number(value))


def _signed(text: str) -> str:
    """Minus signs as mathematics, an en dash between two bounds."""
    return " ".join(f"$-${w[1:]}" if w.startswith("-") else w for w in text.split(" ")).replace("–", "--")
