"""What the study reaches with few labelled patients: the curve, its numbers, and what they cost in labels."""

from typing import Any

from milkit.report.blocks import Block, Folded, Heading, Notice, Paragraph, Pictures, Table
from milkit.report.figures.few_labels import curve_figure
from milkit.report.figures.style import save
from milkit.report.source import Source
from milkit.report.words import headline, interval, lower_is_better, metric_label, number, sentence

BESIDE = ("accuracy", "c_index", "rmse")
"""Metrics that are drawn beside the headline where they are there."""


def few_labels(source: Source) -> list[Block]:
    """The section; nothing for a study without label budgets."""
    curve = source.label_curve
    if len(curve.get("points", ())) < 2:
        return []
    name = headline(dict.fromkeys(curve["metrics"]))
    assert name is not None
    drawn = [curve_figure(m, [("", curve)]) for m in dict.fromkeys((name, *BESIDE)) if m in curve["metrics"]]
    pictures = tuple(save(d, source.folder) for d in drawn if d is not None)
    others = tuple(block for m in curve["metrics"] if m != name for block in (_named(m), _table(curve, m)))
    return [
        Heading("Few labels"),
        Paragraph(_answer(curve, name)),
        *_warnings(curve),
        *([Pictures(pictures)] if pictures else []),
        Heading(f"{metric_label(name)} by label budget", 3),
        _table(curve, name),
        *_differences(curve, name),
        Folded("Other metrics by label budget", others),
        *(Paragraph(line, "note") for line in _legend(source)),
    ]


def _named(name: str) -> Block:
    return Heading(metric_label(name), 3)


def _answer(curve: dict[str, Any], name: str) -> str:
    """The two ends of the curve in words."""
    first, last = curve["points"][0], curve["points"][-1]
    value, end = (number(p["metrics"][name]["value"]) for p in (first, last))
    whole = f"all labels (about {last['train_patients']:.0f} {curve['measured']}s)"
    what = whole if last["labels"] == "all" else _a_class(curve, last["labels"])
    return (
        f"{metric_label(name)} is {value} when each training part keeps {_a_class(curve, first['labels'])} "
        f"({first['train_patients']:.0f} labelled {curve['measured']}s), and {end} with {what}. "
        "Test patients are the same."
    )


def _a_class(curve: dict[str, Any], labels: Any) -> str:
    return f"{labels} in all" if in_all(curve) else f"{labels} of each class"


def in_all(curve: dict[str, Any]) -> bool:
    """Whether budgets count patients in all rather than of each class."""
    return curve["task"] in ("MultiLabel", "Regression")


def _warnings(curve: dict[str, Any]) -> list[Block]:
    """Marks, and what a validation part that is too good to be true does to small budgets."""
    lines = [sentence(str(text)) for text in (*curve.get("marks", ()), *curve.get("notes", ()))]
    few = [p for p in curve["points"] if p["labels"] != "all"]
    more = [p for p in few if p["validation_patients"] > p["train_patients"]] if curve["selection"] != "last" else []
    if more:
        of = ", ".join(f"{p['validation_patients']:.3g} with {_a_class(curve, p['labels'])}" for p in more)
        lines.append(
            f"Epochs were chosen on more labelled patients than were trained on ({of}). Somebody with so few labels "
            "does not have them: read these points as what the model could reach, or run with "
            'validation="same budget".'
        )
    return [Notice("Read this curve with this in mind", tuple(lines))] if lines else []


def _table(curve: dict[str, Any], name: str) -> Table:
    rows = []
    for point in curve["points"]:
        metric = point["metrics"][name]
        counts = (f"{point['train_patients']:.4g}", f"{point['validation_patients']:.4g}", f"{point['updates']:,.0f}")
        spread = ("–" if metric[k] is None else number(metric[k]) for k in ("draw_sd", "seed_sd"))
        value = number(metric["value"])
        rows.append(
            (str(point["labels"]), *counts, value, interval(metric["sampling"]), interval(metric["procedure"]), *spread)
        )
    header = (
        "Labels in all" if in_all(curve) else "Labels a class", f"Training {curve['measured']}s",
        f"Validation {curve['measured']}s", "Updates a run", "Value", "Sampling 95 %", "Procedure 95 %", "Draw SD",
        "Seed SD",
    )  # fmt: skip
    notes = ("↓ lower is better.",) if lower_is_better(name) else ()
    return Table(header, tuple(rows), numeric=header, notes=notes)


def _differences(curve: dict[str, Any], name: str) -> list[Block]:
    header = ("From", "To", f"Change of {metric_label(name)}", "Sampling 95 %", "Procedure 95 %")
    rows = []
    for pair in curve["differences"]:
        metric = pair["metrics"][name]
        bounds = (interval(metric["sampling"]), interval(metric["procedure"]))
        rows.append((str(pair["from"]), str(pair["to"]), number(metric["value"]), *bounds))
    if not rows:
        return []
    note = "Paired: the same test patients, splits and bootstrap draws. Not corrected for the number of comparisons."
    return [Heading("What more labels change", 3), Table(header, tuple(rows), numeric=header, notes=(note,))]


def _legend(source: Source) -> tuple[str, ...]:
    curve, budget = source.label_curve, source.label_curve.get("budget") or {}
    who = {
        "Survival": "with the event and without it each count as a class",
        "MultiLabel": "are drawn whatever their labels, so a label may have no positive among a few",
        "Regression": "are drawn whatever their value",
    }.get(curve["task"], "of each class are drawn alike")
    lines = [
        f"Subsets come from each split's training part only; patients {who}. Of one draw, a smaller budget's patients "
        "are among a larger one's. Test parts never change.",
        "Draws and seeds are averaged before intervals are formed: they never add sample size. The procedure interval "
        "takes the share of test patients from the whole training part that subsets are drawn from.",
        "All budgets train for the same number of epochs, so few labels also mean few updates.",
    ]
    if curve["selection"] == "last":
        lines.append("The last epoch was kept, so no labelled patient was spent on choosing one.")
    elif budget.get("validation") == "same budget":
        lines.append(
            "Validation patients are labelled patients too: a budget validates on at most as many patients of each "
            "class as it trains on, and spends the sum of both columns."
        )
    return tuple(lines)
