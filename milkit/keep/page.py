"""The report of a locked model on another cohort, and the other files of an evaluation folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np

import milkit
from milkit.data.study import Study
from milkit.keep.external import LOCKED, MODEL, NO_PROCEDURE
from milkit.keep.folder import Kept
from milkit.predictions import Predictions
from milkit.report.blocks import Block, Facts, Folded, Heading, Notice, Page, Paragraph, Pictures, Table
from milkit.report.figures import classes, locked, outcomes
from milkit.report.figures.style import Drawing, save
from milkit.report.html import to_html
from milkit.report.markdown import to_markdown
from milkit.report.scores import scores_of
from milkit.report.sections.cohort import cohort
from milkit.report.sections.groups import groups
from milkit.report.sections.opening import question, reason
from milkit.report.sections.probabilities import probabilities_section
from milkit.report.sections.survival import survival
from milkit.report.source import Source
from milkit.report.tables import to_csv, to_tex
from milkit.report.validation import CALIBRATED, scale
from milkit.report.words import headline, interval, is_interval, lower_is_better, metric_label, number, plural, sentence

EVALUATION = "evaluation.json"
RECALIBRATION = {
    "slope": ("Calibration slope", "1; below 1: probabilities too extreme"),
    "intercept": ("Calibration intercept", "0; fitted together with the slope"),
    "in_the_large": ("Calibration-in-the-large", "0; below 0: risks overstated on the whole (slope held at 1)"),
    "observed_to_expected": ("Observed / expected positives", "1"),
}


def write_evaluation(
    folder: Path, kept: Kept, study: Study, rows: Predictions, results: dict[str, Any], environment: dict[str, Any]
) -> None:
    """Write all files of an evaluation into a folder.

    Args:
        folder: exists and is empty.
        kept: the model.
        study: the cohort.
        rows: the predictions.
        results: from `milkit.keep.external.measure`.
        environment: versions and device, for the record.
    """
    source = source_of(folder, kept, study, rows, results, environment)
    (folder / "figures").mkdir()
    rows.write(folder / "predictions.csv")
    page = page_of(source, kept)
    facts = {
        "milkit": milkit.__version__,
        "model": results["locked"],
        "cohort": source.cohort,
        "marks": results["marks"],
        "environment": environment,
    }
    for name, text in (
        ("results.json", json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n"),
        (EVALUATION, json.dumps(facts, indent=1, allow_nan=False, ensure_ascii=False, default=str) + "\n"),
        ("report.md", to_markdown(page)),
        ("report.html", to_html(page)),
        ("table.tex", to_tex(source)),
        ("table.csv", to_csv(source)),
    ):
        (folder / name).write_text(text, encoding="utf-8")


def source_of(
    folder: Path, kept: Kept, study: Study, rows: Predictions, results: dict[str, Any], environment: dict[str, Any]
) -> Source:
    """What the sections of a report read, without a run folder."""
    aggregate, measured = kept.facts["aggregate"], results["measured"]
    after = rows.take(np.zeros(len(rows), bool))
    if kept.kind in CALIBRATED:
        after = scale(rows, {MODEL: kept.temperature.tolist()})
    return Source(
        folder=folder,
        config={"experiment": kept.facts["experiment"], "unit": kept.facts["unit"], "aggregate": aggregate},
        environment=environment,
        results=results,
        cohort={
            "flow": study.flow.as_dict(),
            "grouped_by": "",  # nothing is trained, so there are no folds
            "instances": {
                "min": int(study.lengths.min()),
                "median": float(np.median(study.lengths)),
                "max": int(study.lengths.max()),
                "total": int(study.lengths.sum()),
            },
            "provenance": json.loads(json.dumps({"name": study.name, **study.provenance}, default=str)),
        },
        runs=(),
        history=(),
        scores=scores_of(rows, aggregate, "patient", measured),
        scaled=scores_of(after, aggregate, "patient", measured) if len(after) else None,
    )


def page_of(source: Source, kept: Kept) -> Page:
    """All sections in order; draws and saves the figures on the way."""
    name = f"{source.name} on {source.cohort['provenance']['name']}"
    blocks: list[Block] = [
        *_opening(source, kept),
        *_against(source),
        *_numbers(source),
        *cohort(source),
        *survival(source),
        *_pictures(source, kept),
        *_recalibrated(source),
        *probabilities_section(source),
        *groups(source),
        *_made(source, kept),
    ]
    return Page(name, tuple(blocks))


def _opening(source: Source, kept: Kept) -> list[Block]:
    asked = question(source).split(" Answered by ")[0]
    members = plural(len(kept.members), "member")
    made = {"ensemble": "fold ensemble", "refit": "refit on all bags"}.get(kept.facts["how"], "imported weights")
    known = kept.facts["how"] != "imported"
    text = (
        f"{asked} Answered by a locked model ({kept.facts['model']['type']}, {made} of {members}) on "
        f"{plural(source.results['counts']['patients'], 'patient')} of another cohort, "
        + ("none of whom it was trained on." if known else "of whom nobody knows whether it was trained on them.")
    )
    blocks: list[Block] = [Paragraph(text, "question"), Paragraph(_answer(source), "lead")]
    if source.marks:
        marks = tuple(sentence(mark) for mark in source.marks)
        blocks.append(Notice("Read every number on this page with this in mind", marks))
    return blocks


def _answer(source: Source) -> str:
    name = headline(source.metrics)
    if name is None:
        return "No metric could be computed."
    metric = source.metrics[name]
    if metric["value"] is None:
        return f"{metric_label(name)} is undefined here ({reason(metric)})."
    text = f"{metric_label(name)} {number(metric['value'])}"
    if is_interval(metric["sampling"]):
        text += f" (sampling 95 % {interval(metric['sampling'])})"
    row = source.results["against_study"].get(name)
    if row is None or row["difference"] is None:
        return f"{text}."
    text += f"; {number(row['study']['value'])} when cross-validated in the study: {_signed(row['difference'])}"
    bounds = f" (95 % {_signed(row['low'])} to {_signed(row['high'])})" if row["low"] is not None else ""
    return f"{text}{bounds}."


def _signed(value: float) -> str:
    text = number(value)
    return text if text.startswith("-") else f"+{text}"


def _against(source: Source) -> list[Block]:
    against = source.results["against_study"]
    if not against:  # imported weights: no study is known
        return []
    rows = []
    for name, row in against.items():
        label = metric_label(name) + (" ↓" if lower_is_better(name) else "")
        bounds = f"{_signed(row['low'])} to {_signed(row['high'])}" if row["low"] is not None else "–"
        change = "–" if row["difference"] is None else _signed(row["difference"])
        rows.append((label, _with_interval(row["study"]), _with_interval(row["here"]), change, bounds))
    header = ("Metric", "In the study", "Here", "Difference", "Its 95 % interval")
    notes = (
        "In brackets: sampling 95 %. In the study: cross-validated, the mean over runs. The interval of the difference "
        "(MOVER, Zou & Donner 2008) takes both cohorts as samples of patients; how the study's value would move with "
        "other splits is not in it. ↓ lower is better.",
        "A difference is not one of the model alone: prevalence, case mix, scanner and laboratory differ as well.",
    )
    drawing = locked.then_and_now(against)
    drawn: list[Block] = [Pictures((save(drawing, source.folder),))] if drawing is not None else []
    return [
        Heading("From the study to here"),
        *drawn,
        Folded("Every metric, in the study and here", (Table(header, tuple(rows), header[1:], notes=notes),)),
    ]


def _with_interval(part: dict[str, Any]) -> str:
    bounds = f" ({interval(part['sampling'])})" if is_interval(part["sampling"]) else ""
    return number(part["value"]) + bounds


def _numbers(source: Source) -> list[Block]:
    metrics, notes = source.metrics, []
    rows = []
    for name, metric in metrics.items():
        value = number(metric["value"])
        why = reason(metric) if metric["value"] is None else metric["note"] or metric.get("sampling_note")
        if why and why not in notes:
            notes.append(why)
        mark = f" [{notes.index(why) + 1}]" if why else ""
        label = metric_label(name) + (" ↓" if lower_is_better(name) else "")
        rows.append((label, value + mark, "–" if metric["value"] is None else interval(metric["sampling"])))
    header = ("Metric", "Value", "Sampling 95 %")
    lines = [f"[{i}] {note}" for i, note in enumerate(notes, 1)]
    strong = tuple(i for i, name in enumerate(metrics) if name == headline(metrics))
    delong = metrics.get("auroc", {}).get("delong")
    if delong:
        lines.append(f"AUROC by DeLong, for a locked model on one set of patients: 95 % {interval(delong)}.")
    lines.append(
        f"Sampling 95 %: bootstrap of patients ({source.results['draws']:,} draws). Procedure: {NO_PROCEDURE}."
    )
    text = f"{SENTENCE} One vote a {source.results['measured']}."
    if source.task in ("Binary", "MultiLabel"):
        text += f" “At threshold”: the locked cut, {source.results['threshold']}; all else from probability 0.5 on."
    return [Heading("Numbers"), Paragraph(text), Table(header, tuple(rows), header[1:], strong, tuple(lines))]


SENTENCE = "Model, threshold and temperature were locked before these patients were seen; nothing was fitted here."


def _pictures(source: Source, kept: Kept) -> list[Block]:
    scores, task = source.scores, source.task
    drawings: list[Drawing | None] = []
    if task == "Binary":
        positive, score, cut = scores.target[:, 0] > 0, scores.value[:, -1], float(kept.threshold[0])
        drawings += [
            locked.roc(positive, score, cut, scores.names[-1], source.metrics["auroc"]),
            locked.precision_recall(positive, score, cut, scores.names[-1], source.metrics["auprc"]),
            classes.confusion_matrix(scores, task, cut),
        ]
    elif task in ("MultiClass", "MultiLabel"):
        curves = [classes.curve(kind, scores, task) for kind in ("roc", "pr")]
        drawings += [*curves, classes.confusion_matrix(scores, task)]
    elif task == "Regression":
        drawings += outcomes.regression(scores)
    else:
        drawings.append(outcomes.survival(scores, str(source.experiment.get("task", {}).get("time", "time"))))
    made = tuple(save(d, source.folder) for d in drawings if d is not None)
    blocks: list[Block] = [Heading("Pictures")]
    if None in drawings[:2]:
        blocks.append(Paragraph("ROC and precision-recall curves need both classes; only one is here.", "note"))
    return [*blocks, Pictures(made)] if made else []


def _recalibrated(source: Source) -> list[Block]:
    """Slope and intercepts, before and after the temperature that was locked with the model."""
    found = source.results.get("recalibration")
    if not found:
        return []
    rows, notes = [], []
    for name, (label, ideal) in RECALIBRATION.items():
        cells = []
        for part in ("raw", "scaled"):
            metric = found[part][name]
            cells.append(_with_interval(metric))
            if metric["value"] is None and reason(metric) not in notes:
                notes.append(reason(metric))
        rows.append((label, *cells, ideal))
    header = ("What", "As predicted", "After the locked temperature", "Ideal")
    lines = ("In brackets: sampling 95 %.", *(f"Undefined: {note}." for note in notes))
    return [
        Heading("Calibration on these patients"),
        Table(header, tuple(rows), ("As predicted", "After the locked temperature"), notes=lines),
    ]


def _made(source: Source, kept: Kept) -> list[Block]:
    facts = kept.facts
    pairs = [
        ("Model", f"{facts['model']['type']}, {facts['how']}, {plural(len(kept.members), 'member')}"),
        ("Digest of the model", facts["digest"]),
        ("Digest of its run", facts["run_digest"]),
        ("Threshold", f"{', '.join(f'{t:.4f}' for t in kept.threshold)} ({facts['threshold']['from']})"),
        ("Temperature", f"{', '.join(f'{t:.4f}' for t in kept.temperature)} ({facts['temperature']['from']})"),
        ("Selection", LOCKED),
    ]
    rest = [(k.replace("_", " "), str(v)) for k, v in source.environment.items() if v not in (None, "")]
    kept_pairs = tuple((k, v) for k, v in pairs if not v.startswith(" ("))
    return [Heading("How it was made"), Facts(kept_pairs), Folded("Versions and settings", (Facts(tuple(rest)),))]
