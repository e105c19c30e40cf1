"""`table.tex` for a paper and `table.csv` for a spreadsheet: the same numbers as the page."""

import csv
import io
import re
from typing import Any

from milkit.report.sections.opening import reason, study_size
from milkit.report.source import Source
from milkit.report.words import is_interval, metric_label, number

COLUMNS = (
    "experiment",
    "selection",
    "marks",
    "metric",
    "value",
    "sampling_low",
    "sampling_high",
    "procedure_low",
    "procedure_high",
    "procedure_note",
    "fold_sd",
    "seed_sd",
    "undefined_folds",
    "note",
)
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "²": r"\textsuperscript{2}",
    "ρ": r"$\rho$",
    "–": "--",
    "×": r"$\times$",
}
_TEX_SIGNS = re.compile("|".join(re.escape(sign) for sign in _TEX))


def tex(text: str) -> str:
    """Plain text with LaTeX's own signs escaped."""
    return _TEX_SIGNS.sub(lambda found: _TEX[found.group()], re.sub(r"\s+", " ", text))


def selections(source: Source) -> dict[str, dict[str, Any]]:
    """Metrics and marks of every selection, the primary one first."""
    found = dict(source.results.get("selections") or {})
    first = found.pop(source.selection, {"metrics": source.metrics, "marks": list(source.marks)})
    return {source.selection: first, **found}


def to_csv(source: Source) -> str:
    """One row a selection and metric, at full precision; what is undefined is an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for selection, part in selections(source).items():
        for name, metric in part["metrics"].items():
            row = {
                "experiment": source.name,
                "selection": selection,
                "marks": ";".join(_marks(source, part)),
                "metric": name,
            }
            row |= {k: _cell(metric.get(k)) for k in ("value", "fold_sd", "seed_sd", "undefined_folds")}
            row |= {k: metric.get(k) or "" for k in ("procedure_note", "note")}
            for kind in ("sampling", "procedure"):
                low, high = metric[kind] if is_interval(metric.get(kind)) else (None, None)
                row |= {f"{kind}_low": _cell(low), f"{kind}_high": _cell(high)}
            table.writerow(row)
    return text.getvalue()


def _cell(value: Any) -> str:
    return repr(value) if isinstance(value, int | float) and value == value else ""


def _marks(source: Source, part: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys([*map(str, part.get("marks", ())), *map(str, source.cohort.get("marks", ()))]))


def to_tex(source: Source) -> str:
    """A booktabs table: a row a metric, a part a selection, daggers on optimistic numbers."""
    digest = source.config.get("digest") or source.config.get("folds_digest") or "not recorded"
    lines = [
        f"% milkit: {_comment(source.name)}; {study_size(source)}".replace("×", "x"),
        f"% digest: {_comment(str(digest))}",
        "% needs \\usepackage{booktabs}",
        "\\begin{tabular}{lrrrrr}",
        "\\toprule",
        "Metric & Value & Sampling 95\\,\\% & Procedure 95\\,\\% & Fold SD & Seed SD \\\\",
    ]
    foot: list[str] = []
    for selection, part in selections(source).items():
        marks = _marks(source, part)
        optimistic = "optimistic" in marks or selection == "optimistic"
        lines += ["\\midrule", f"\\multicolumn{{6}}{{l}}{{\\emph{{Selection: {tex(selection)}}}}} \\\\"]
        lines += [_tex_row(name, metric, optimistic, foot) for name, metric in part["metrics"].items()]
        if optimistic:
            _footnote(foot, "$^\\dagger$ Optimistic: the epoch was chosen on the test part itself.")
        for mark in marks:
            if mark != "optimistic":
                _footnote(foot, f"All numbers: {tex(mark)}.")
    lines.append("\\bottomrule")
    lines += [f"\\multicolumn{{6}}{{l}}{{\\footnotesize {note}}} \\\\" for note in foot]
    return "\n".join([*lines, "\\end{tabular}"]) + "\n"


def _tex_row(name: str, metric: dict[str, Any], optimistic: bool, foot: list[str]) -> str:
    value = number(metric.get("value"))
    if value == "undefined":
        _footnote(foot, f"{tex(metric_label(name))} is undefined: {tex(reason(metric))}.")
    elif not is_interval(metric.get("procedure")) and metric.get("procedure_note"):
        _footnote(foot, f"No procedure interval: {tex(str(metric['procedure_note']))}.")
    dagger = "$^\\dagger$" if optimistic else ""
    cells = [tex(metric_label(name)) + dagger, _signed(value)]
    cells += [_pair(metric.get("sampling")), _pair(metric.get("procedure"))]
    cells += ["--" if metric.get(k) is None else _signed(number(metric[k])) for k in ("fold_sd", "seed_sd")]
    return " & ".join(cells) + " \\\\"


def _footnote(foot: list[str], text: str) -> None:
    if text not in foot:
        foot.append(text)


def _pair(bounds: Any) -> str:
    if not is_interval(bounds):
        return "--"
    low, high = (_signed(number(b)) for b in bounds)
    return f"{low} to {high}" if "$-$" in low + high else f"{low}--{high}"


def _signed(text: str) -> str:
    return "$-$" + text[1:] if text.startswith("-") else text


def _comment(text: str) -> str:
    """One line: a line break in a name would end the comment."""
    return re.sub(r"\s+", " ", text)
