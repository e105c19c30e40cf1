"""The first screen: what was asked, the answer in one sentence, and what it must be read with."""

from typing import Any

from milkit.report.blocks import Block, Notice, Paragraph
from milkit.report.source import Source
from milkit.report.words import SELECTIONS, headline, is_interval, metric_label, number, plural, sentence

_MARKS = {
    "optimistic": "Optimistic: the epoch was chosen on the test part itself, so these numbers are better than they "
    "will be on new patients.",
    "each slide counted as a patient": "Each slide counted as a patient: the table names no patients. If some have "
    "several slides, folds may tear them apart, and every interval is too narrow.",
    "patients in two roles": "Patients in two roles: some patients train and test in the same fold, so the model may "
    "know them already.",
    "computed in bfloat16": "Computed in bfloat16: models and predictions in half precision. How far that moved "
    "predictions of the same parameters stands below, under How it was made.",
}


def opening(source: Source) -> list[Block]:
    """Question, answer, warnings."""
    blocks: list[Block] = [Paragraph(question(source), "question"), Paragraph(answer(source), "lead")]
    lines = [_told(mark) for mark in source.marks]
    if lines:
        blocks.append(Notice("Read every number on this page with this in mind", tuple(lines)))
    return blocks


def _told(mark: str) -> str:
    """A mark as a sentence."""
    if mark.startswith("unfinished"):
        return sentence(mark) + " Every number is of the others only; `--resume` finishes the study."
    return _MARKS.get(mark, sentence(mark))


def question(source: Source) -> str:
    """What was asked: the target, the model, the data."""
    task = source.experiment.get("task", {})
    names = source.classes
    who = source.measured
    asked = {
        "Binary": lambda: f"Is a {who} {names[-1]} rather than {names[0]}?",
        "MultiClass": lambda: f"Which of {plural(len(names), 'class')} is a {who}: {_listed(names)}?",
        "MultiLabel": lambda: f"Which of {plural(len(names), 'label')} has a {who}: {_listed(names)}?",
        "Regression": lambda: f"What is a {who}'s {_listed(names)}?",
        "Survival": lambda: (
            f"Which patients come to the event first ({task.get('time', 'time')}, {task.get('event', 'event')})?"
        ),
    }[source.task]()
    model = source.experiment.get("model", {}).get("type", "model")
    data = source.experiment.get("data", {})
    where = data.get("name") or data.get("type") or "the given data"
    return f"{asked} Answered by {model} on {where}, from weak labels: one a {who}, none an instance."


def answer(source: Source) -> str:
    """The headline metric with both intervals, on how many patients, folds and seeds, and how the epoch was chosen."""
    name = headline(source.metrics)
    ending = f"on {study_size(source)}; {SELECTIONS.get(source.selection, source.selection)}."
    if name is None:
        return f"No metric is in results.json; predictions are there {ending}"
    metric = source.metrics[name]
    if not isinstance(metric.get("value"), int | float):
        return f"{metric_label(name)} is undefined ({reason(metric)}) {ending}"
    decimals = places(metric)
    bounds = [_bounds(metric, kind, decimals) for kind in ("sampling", "procedure")]
    text = f"{metric_label(name)} {_fixed(metric['value'], decimals)} ({'; '.join(bounds)})"
    return f"{text} {ending}"


def study_size(source: Source) -> str:
    """`92 patients, 5 repeats × 10 folds × 3 seeds`, counted in the prediction file."""
    scores = source.scores
    folds = len(scores.splits) / max(scores.repeats, 1)
    parts = [plural(scores.repeats, "repeat")] if scores.repeats > 1 else []
    if len(scores.splits) == 1:
        parts.append("1 fold (one held-out split)")
    else:
        parts.append(plural(round(folds), "fold") if folds == int(folds) else plural(len(scores.splits), "fold in all"))
    if source.inner > 1:
        parts.append(plural(source.inner, "inner fold"))
    parts.append(plural(len(scores.seeds), "seed"))
    size = plural(len(scores.patients), source.measured)
    if source.measured == "slide":
        size += f" of {plural(int(source.results.get('counts', {}).get('patients', 0)), 'patient')}"
    return f"{size}, {' × '.join(parts)}"


def places(metric: dict[str, Any]) -> int | None:
    """Decimals that mean something: two, or three where an interval is narrower than 0.02; None beyond 10."""
    pairs: list[Any] = [metric.get("sampling"), metric.get("procedure")]
    widths = [high - low for low, high in filter(is_interval, pairs)]
    if abs(metric["value"]) >= 10:
        return None
    return 3 if widths and min(widths) < 0.02 else 2


def reason(metric: dict[str, Any]) -> str:
    """Why a metric has no value."""
    return str(metric.get("note") or "no reason recorded").rstrip(".")


def _bounds(metric: dict[str, Any], kind: str, decimals: int | None) -> str:
    pair: Any = metric.get(kind)
    if not is_interval(pair):
        why = metric.get(f"{kind}_note") or ("no reason recorded" if kind == "procedure" else metric.get("note"))
        return f"{kind} interval undefined" + (f": {str(why).rstrip('.')}" if why else "")
    low, high = (_fixed(b, decimals) for b in pair)
    return f"{kind} 95 % {low} to {high}" if "-" in low + high else f"{kind} 95 % {low}–{high}"


def _fixed(value: float, decimals: int | None) -> str:
    return number(value) if decimals is None else f"{value:.{decimals}f}"


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
