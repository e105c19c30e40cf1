"""Which drawings a task gets, and in what order."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from milkit.report.blocks import Block, Heading, Paragraph, Pictures, Table
from milkit.report.curves import effective_number
from milkit.report.figures import attention, classes, outcomes, runs
from milkit.report.figures.style import Drawing, save
from milkit.report.source import MOST_BAGS, Source
from milkit.report.words import headline, number, plural, shorten, weight

CLASSIFICATION = ("Binary", "MultiClass", "MultiLabel")
TOP = 5
NEARLY_UNIFORM = 0.9
"""Effective number of instances / n above which a page says that attention is nearly uniform."""


def pictures(source: Source) -> list[Block]:
    """All figures, drawn and saved."""
    return [*_answers(source), *_course(source), *_attention(source)]


def _shown(drawings: list[Drawing | None], folder: Path) -> list[Block]:
    made = [save(d, folder) for d in drawings if d is not None]
    return [Pictures(tuple(made))] if made else []


def _answers(source: Source) -> list[Block]:
    scores, task = source.scores, source.task
    if not len(scores.run):
        return [Heading("Pictures"), Paragraph("No test score is finite, so there is nothing to draw.", "note")]
    name = headline(source.metrics)
    drawings: list[Drawing | None] = []
    if name is not None:
        drawings.append(
            runs.spread(name, source.results.get("per_run", []), source.metrics[name], nested=source.inner > 1)
        )
    blocks: list[Block] = [Heading("Pictures")]
    if task in CLASSIFICATION:
        curves = [classes.curve("roc", scores, task), classes.curve("pr", scores, task)]
        drawings += [*curves, classes.confusion_matrix(scores, task)]
        if None in curves:
            text = "ROC and precision-recall curves are undefined: no fold holds both classes in its test part."
            blocks.append(Paragraph(text, "note"))
    elif task == "Regression":
        drawings += outcomes.regression(scores)
    else:
        drawings.append(outcomes.survival(scores, str(source.experiment.get("task", {}).get("time", "time"))))
    blocks += _shown(drawings, source.folder)
    if task == "MultiLabel":
        blocks += _label_table(source)
    return blocks


def _label_table(source: Source) -> list[Block]:
    header = (
        "Label",
        "True positive",
        "False positive",
        "False negative",
        "True negative",
        "Sensitivity",
        "Specificity",
    )
    rows = []
    for name, tp, fp, fn, tn in classes.label_counts(source.scores):
        share = [number(a / (a + b)) if a + b else "undefined" for a, b in ((tp, fn), (tn, fp))]
        rows.append((name, *(f"{c:,}" for c in (tp, fp, fn, tn)), *share))
    note = f"At threshold 0.5; counts are summed over all {plural(source.scores.runs, 'run')}."
    return [Heading("Right and wrong, by label", 3), Table(header, tuple(rows), header[1:], notes=(note,))]


def _course(source: Source) -> list[Block]:
    # without selection the "selected" epoch is where training ended
    chosen = source.scores.epoch if source.selection != "last" else np.array([])
    drawn = _shown([*runs.training(source.history, chosen)], source.folder)
    return [Heading("Training"), *drawn] if drawn else []


def _attention(source: Source) -> list[Block]:
    if not source.attention:
        return [*_heading_if(source), *_top_table(source, [])]
    bags = list(source.attention)[:MOST_BAGS]
    drawings = [attention.panel(i, bag, told(source, bag)) for i, bag in enumerate(bags)]
    shares = []
    for bag in source.attention:
        weights = np.asarray(bag["attention"], np.float64)
        if len(weights) > 1 and np.isfinite(effective := effective_number(weights)):
            shares.append((true_class(source, bag), effective / len(weights)))
    order = list(source.scores.names)
    shares.sort(key=lambda pair: order.index(pair[0]) if pair[0] in order else -1)
    drawings += [d for d in [attention.concentration(shares)] if d is not None]
    text = (
        "Test bags only, each seen by runs that did not train on it. Attention says what the model weighed, not what "
    )
    text += "caused its answer."
    if shares and min(share for _, share in shares) > NEARLY_UNIFORM:
        text += " In these bags it is nearly uniform: all instances weigh about the same, so their order says little."
    table = _top_table(source, [str(b["bag"]) for b in bags])
    return [Heading("The most attended instances"), Paragraph(text), *_shown([*drawings], source.folder), *table]


def _heading_if(source: Source) -> list[Block]:
    return [Heading("The most attended instances")] if source.top else []


def chance(probability: float) -> str:
    """Two decimals, but never a 0 or 1 that is none."""
    return "below 0.01" if probability < 0.005 else "above 0.99" if probability > 0.995 else f"{probability:.2f}"


def told(source: Source, bag: dict[str, Any]) -> str:
    """A bag's class and what was predicted for it, in words; from the prediction file where the bag stands in it."""
    scores, task, key = source.scores, source.task, str(bag["bag"])
    value, truth = scores.bags.get(key), scores.truth.get(key)
    if value is None or truth is None:
        return f"True: {bag.get('target')}."
    if task == "Binary":
        return f"True: {true_class(source, bag)}; predicted probability of {scores.names[-1]} {chance(value[-1])}."
    if task == "MultiClass":
        best = int(value.argmax())
        return f"True: {true_class(source, bag)}; predicted: {scores.names[best]} ({chance(value[best])})."
    if task == "MultiLabel":
        each = [f"{n} {int(t)} ({chance(v)})" for n, t, v in zip(scores.names, truth, value, strict=True)]
        return f"Labels, and in brackets their predicted probability: {', '.join(each[:6])}."
    if task == "Regression":
        each = [f"{n} {number(t)}, predicted {number(v)}" for n, t, v in zip(scores.names, truth, value, strict=True)]
        return f"Observed {'; '.join(each[:4])}."
    state = "event" if truth[1] > 0 else "censored"
    return f"{state.capitalize()} at {number(truth[0])}; predicted risk {number(value[0])}."


def true_class(source: Source, bag: dict[str, Any]) -> str:
    """The class of a bag in words; "all" for tasks without classes."""
    truth = source.scores.truth.get(str(bag["bag"]))
    if source.task in ("Binary", "MultiClass"):
        return str(bag.get("target")) if truth is None else source.scores.names[int(truth[0])]
    if source.task == "Survival" and truth is not None:
        return "event" if truth[1] > 0 else "censored"
    return "all"


def _top_table(source: Source, bags: list[str]) -> list[Block]:
    """The few instances of each bag that have the largest mean attention over the runs that tested it."""
    if not source.top:
        return []
    of_bag: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    tested: dict[str, set[str]] = defaultdict(set)
    for row in source.top:
        of_bag[row["bag"]][row["instance"]].append(row)
        tested[row["bag"]].add(row["run"])
    bags = [b for b in bags if b in of_bag] or list(of_bag)[:MOST_BAGS]
    places = any(row.get("x_um") for row in source.top)
    several = any(len({r.get("slide") for r in source.top if r["bag"] == b}) > 1 for b in bags)
    header = ("Bag", *(("Slide",) if several else ()), "Instance", *(("x (µm)", "y (µm)") if places else ()))
    header += ("Attention", "Most attended in", f"Among the top {TOP} in")
    rows: list[tuple[str, ...]] = []
    for bag in bags:
        best = sorted(of_bag[bag].items(), key=lambda item: -sum(float(r["attention"]) for r in item[1]))[:TOP]
        for instance, seen in best:
            row = seen[0]
            mean = sum(float(r["attention"]) for r in seen) / len(seen)
            where = (_micrometres(row.get("x_um")), _micrometres(row.get("y_um"))) if places else ()
            ranks = Counter(int(r["rank"]) for r in seen)
            runs_ = len(tested[bag])
            cells = (shorten(bag, 40), *((shorten(row.get("slide", ""), 30),) if several else ()), instance, *where)
            among = sum(c for rank, c in ranks.items() if rank <= TOP)
            rows.append((*cells, weight(mean), f"{ranks[1]} of {runs_} runs", f"{among} of {runs_} runs"))
    notes = (
        "Instance: its index in the bag, from 0. Attention: mean over the runs in whose list the instance stands.",
        "Every test bag's list is in top_instances.csv.",
    )
    numeric = tuple(h for h in header if h not in ("Bag", "Slide"))
    return [Heading("Top instances", 3), Table(header, tuple(rows), numeric=numeric, notes=notes)]


def _micrometres(text: str | None) -> str:
    return f"{float(text):,.0f}" if text else "–"
