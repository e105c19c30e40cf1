"""The metrics: one table a selection, both intervals named, spread over folds and over seeds told apart."""

from typing import Any

from milkit.report.blocks import Block, Folded, Heading, Notice, Paragraph, Table
from milkit.report.results import YOUDEN
from milkit.report.sections.opening import reason
from milkit.report.source import Source
from milkit.report.words import (
    SELECTIONS,
    UNDEFINED,
    headline,
    interval,
    is_interval,
    lower_is_better,
    metric_label,
    number,
    plural,
)

HEADER = ("Metric", "Value", "Sampling 95 %", "Procedure 95 %", "Fold SD", "Seed SD")


def numbers(source: Source) -> list[Block]:
    """All metrics of all selections, the primary one open."""
    chosen = source.results.get("selections") or {
        source.selection: {"metrics": source.metrics, "marks": list(source.marks)}
    }
    primary = chosen.get(source.selection, {"metrics": source.metrics})
    blocks: list[Block] = [Heading("Numbers"), Paragraph(_how(source))]
    blocks.append(metric_table(primary["metrics"], headline(source.metrics)))
    others = {name: part for name, part in chosen.items() if name != source.selection}
    if others:
        blocks += [Heading("The same runs, read at another epoch", 3), _compared(source, chosen)]
    for name, part in others.items():
        table = metric_table(part["metrics"], headline(part["metrics"]))
        marks = [str(m) for m in part.get("marks", ())]
        inner: list[Block] = [table]
        if "optimistic" in marks or name == "optimistic":
            line = "The epoch was chosen on the test part itself. These numbers measure a protocol; do not quote them."
            inner.insert(0, Notice("Optimistic", (line,)))
        blocks.append(Folded(f"All metrics, {SELECTIONS.get(name, name)}", tuple(inner)))
    return [*blocks, *legend(source)]


def metric_table(metrics: dict[str, Any], strong: str | None) -> Table:
    """Value, intervals and spreads of each metric; what is undefined carries its reason in a note."""
    notes: list[str] = []

    def noted(text: str, why: Any) -> str:
        if not why:
            return text
        if str(why) not in notes:
            notes.append(str(why))
        return f"{text} [{notes.index(str(why)) + 1}]"

    rows = []
    for name, metric in metrics.items():
        value = number(metric.get("value"))
        gone = value == UNDEFINED
        why = reason(metric) if gone else _aside(metric)
        label = metric_label(name) + (" ↓" if lower_is_better(name) else "")
        procedure = interval(metric.get("procedure"))
        lacking = metric.get("procedure_note") if not is_interval(metric.get("procedure")) and not gone else None
        cells = [noted(label, None if gone else why), noted(value, why if gone else None)]
        cells += [_sampling(metric, gone, noted), noted(procedure, lacking)]
        rows.append((*cells, _spread(metric.get("fold_sd")), _spread(metric.get("seed_sd"))))
    lines = [f"[{i}] {note}" for i, note in enumerate(notes, 1)]
    if any(lower_is_better(name) for name in metrics):
        lines.append("↓ lower is better.")
    names = list(metrics)
    bold = (names.index(strong),) if strong in names else ()
    return Table(HEADER, tuple(rows), numeric=HEADER[1:], strong=bold, notes=tuple(lines))


def _sampling(metric: dict[str, Any], gone: bool, noted: Any) -> str:
    text = interval(metric.get("sampling"))
    return text if gone else noted(text, metric.get("sampling_note"))


def _spread(value: Any) -> str:
    return "–" if value is None else number(value)


def _aside(metric: dict[str, Any]) -> str:
    parts = [str(metric["note"])] if metric.get("note") else []
    if metric.get("undefined_folds"):
        parts.append(f"undefined in {plural(int(metric['undefined_folds']), 'fold')}, which are left out")
    return "; ".join(parts)


def _how(source: Source) -> str:
    text = f"{SELECTIONS.get(source.selection, source.selection)}; one vote a {source.measured}."
    text = text[:1].upper() + text[1:]
    if source.task == "Binary":
        text += (
            f" A {source.measured} is called {source.classes[-1]} from probability 0.5 on; “at threshold” means at the "
            f"cut that was settled beforehand: {source.results.get('threshold') or YOUDEN}."
        )
    if source.measured == "slide":
        text += " Labels belong to slides, so each slide stands for itself; a patient is drawn with all its slides."
    elif source.results.get("unit") == "slide":
        how = {"mean": "mean", "max": "highest"}[source.results.get("aggregate", "mean")]
        text += f" Bags are slides; a patient's score is the {how} of the patient's slides."
    return text


def _compared(source: Source, chosen: dict[str, Any]) -> Table:
    """Value and sampling interval of each metric, a column a selection."""
    marked = {n: "optimistic" in p.get("marks", ()) or n == "optimistic" for n, p in chosen.items()}
    header = ("Metric", *(f"{n} †" if marked[n] else n for n in chosen))
    rows = []
    for metric in source.metrics:
        cells = [metric_label(metric) + (" ↓" if lower_is_better(metric) else "")]
        for part in chosen.values():
            found = part["metrics"].get(metric, {})
            bounds = f" ({interval(found['sampling'])})" if is_interval(found.get("sampling")) else ""
            cells.append(number(found.get("value")) + bounds)
        rows.append(tuple(cells))
    notes = ["In brackets: sampling 95 %."]
    if any(marked.values()):
        notes.append("† optimistic: the epoch was chosen on the test part itself; not a result to quote.")
    return Table(header, tuple(rows), numeric=header[1:], notes=tuple(notes))


def legend(source: Source) -> list[Block]:
    """What the columns mean."""
    group = "sites" if source.results.get("resample") == "site" else "patients"
    draws = f" ({source.results['draws']:,} draws)" if "draws" in source.results else ""
    lines = (
        f"Sampling 95 %: how the number would move with other patients. A bootstrap of {group}{draws}, "
        "each with all its repeats and seeds.",
        "Procedure 95 %: how the number would move with another split and other seeds. Seeds are averaged first; then "
        "the corrected resampled t (Nadeau & Bengio 2003) over folds, which share most of their training patients.",
        "The two answer different questions and are never mixed. Fold SD is the spread of fold means, seed SD the "
        "spread within a fold; more seeds never make an interval narrower.",
    )
    return [Paragraph(line, "note") for line in lines]
