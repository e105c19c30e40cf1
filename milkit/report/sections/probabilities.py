"""Can the probabilities be believed, and what is acting on them worth?"""

from typing import Any

import numpy as np

from milkit.report.blocks import Block, Heading, Paragraph, Pictures, Table
from milkit.report.decision import DecisionCurve, decision_csv
from milkit.report.figures import probabilities
from milkit.report.figures.style import save
from milkit.report.source import Source
from milkit.report.words import interval, is_interval, metric_label, number, plural

CLASSIFICATION = ("Binary", "MultiClass", "MultiLabel")
HEADER = ("Metric", "As predicted", "After scaling", "Change", "Sampling 95 % of the change", "Procedure 95 %")


def probabilities_section(source: Source) -> list[Block]:
    """Calibration before and after temperature scaling, the diagram, and the decision curve."""
    if source.task not in CLASSIFICATION or not len(source.scores.run):
        return []
    what = source.measured
    blocks: list[Block] = [Heading("Probabilities"), *_scaling(source, source.results.get("calibration"))]
    drawings = [probabilities.reliability_diagram(source.scores, source.scaled, source.task, what)]
    curves = probabilities.decision_curves(source.scores, source.scaled, source.task)
    if curves:
        drawings.append(probabilities.decision_drawing(curves, what))
        (source.folder / "figures" / "decision_curve.csv").write_text(decision_csv(curves), encoding="utf-8")
        blocks.append(Paragraph(_worth(curves)))
    return [*blocks, Pictures(tuple(save(d, source.folder) for d in drawings))]


def _scaling(source: Source, block: Any) -> list[Block]:
    if not isinstance(block, dict):
        return []
    text = scaling_sentence(block, source.scores.runs)
    if not block.get("metrics"):
        return [Paragraph(text)]
    rows = []
    for name, raw in block["raw"].items():
        after, change = block["metrics"][name], block["change"][name]
        cells = (metric_label(name) + " ↓", number(raw["value"]), number(after["value"]), number(change["value"]))
        rows.append((*cells, _bounds(change, "sampling"), _bounds(change, "procedure")))
    notes = ("↓ lower is better. ECE is pooled over folds and has no procedure interval.",)
    return [Paragraph(text), Table(HEADER, tuple(rows), numeric=HEADER[1:], notes=notes)]


def scaling_sentence(block: dict[str, Any], runs: int) -> str:
    """What the temperatures were and what they did to the log loss, in words."""
    temperature = block["temperature"]
    said = [f"{note} ({plural(count, 'run')})" for note, count in temperature.get("notes", {}).items()]
    if temperature["median"] is None:
        return f"No run has a temperature: {'; '.join(said)}."
    low, high = temperature["range"]
    text = (
        f"Temperature scaling divides logits by one number, settled {block.get('settled', '')}: median "
        f"{number(temperature['median'])} ({number(low)} to {number(high)}) over {plural(block['runs'], 'run')}; "
        "above 1 means that the model was too sure."
    )
    if said:
        text += f" Of note: {'; '.join(said)}."
    if block["runs_without"]:
        text += f" {block['runs_without']} of {plural(runs, 'run')} have none and are left out of this table."
    return f"{text} {_told(block['change'].get('nll'))}".rstrip()


def _told(change: Any) -> str:
    """What can be said of the change of the log loss."""
    if not change or change.get("value") is None:
        return ""
    pair = next((change[k] for k in ("procedure", "sampling") if is_interval(change.get(k))), None)
    kind = "procedure" if is_interval(change.get("procedure")) else "sampling"
    if pair is None:
        return "Whether it helped cannot be said: the change of the log loss has no interval."
    if pair[1] < 0:
        return f"It helped: the log loss fell ({kind} interval of the change {interval(pair)})."
    if pair[0] > 0:
        return f"It did harm: the log loss rose ({kind} interval of the change {interval(pair)})."
    return f"Whether it helped cannot be told: the {kind} interval of the change of the log loss holds 0."


def _bounds(change: dict[str, Any], kind: str) -> str:
    return interval(change[kind]) if is_interval(change.get(kind)) else "–"


def _worth(curves: dict[str, DecisionCurve]) -> str:
    """Where acting on the model is worth more than treating all or none, as far as the line goes."""
    parts = []
    for name, curve in list(curves.items())[:8]:
        useful = stretches(curve.thresholds, curve.useful)
        spans = [f"{a:.2f} to {b:.2f}" if b > a else f"{a:.2f}" for a, b in useful]
        found = " and ".join(spans) if spans else "nowhere"
        parts.append(f"{name}: {found}" if len(curves) > 1 else found)
    if len(curves) > 1:
        text = f"Threshold probabilities at which the model is worth more than both others: {'; '.join(parts)}."
    else:
        where = "no threshold probability" if parts == ["nowhere"] else f"threshold probabilities {parts[0]}"
        text = f"Acting on the model is worth more than treating everybody, and than treating nobody, at {where}."
    return f"{text} This is the line, not its interval, and it is worth only what the probabilities are."


def stretches(thresholds: np.ndarray, holds: np.ndarray) -> list[tuple[float, float]]:
    """First and last threshold of each stretch in which something holds, three stretches at most."""
    edges = np.flatnonzero(np.diff(np.r_[0, holds.astype(int), 0]))
    return [(float(thresholds[a]), float(thresholds[b - 1])) for a, b in edges.reshape(-1, 2)][:3]
