"""What a search tried, how often each value was chosen, and what the validation parts said."""

from collections import Counter
from typing import Any

from milkit.report.blocks import Block, Heading, Paragraph, Pictures, Table
from milkit.report.figures.search import fields_figure
from milkit.report.figures.style import save
from milkit.report.sections.making import readable
from milkit.report.source import Source
from milkit.report.words import metric_label, plural, shorten

KINDS = {"Grid": "a grid", "Random": "random draws", "Tpe": "a tree-structured Parzen estimator (Optuna)"}
MOST_VALUES = 6


def search(source: Source) -> list[Block]:
    """The section; nothing for a study that stated its one configuration."""
    said = source.results.get("search")
    if not said:
        return []
    drawn = fields_figure(said, source.trials)
    return [
        Heading("How the configurations were chosen"),
        Paragraph(told(said)),
        _table(said),
        *([Pictures((save(drawn, source.folder),))] if drawn is not None else []),
    ]


def told(said: dict[str, Any]) -> str:
    """How many were tried, and that each fold's was chosen on its validation part and tested once."""
    folds = len(said["chosen"])
    label = metric_label(said["criterion"])
    by = f"validation {label if label.isupper() else label.lower()}"
    own = "the same in every fold" if said["shared"] else "each fold's proposed from its own validation part"
    failed = f", of which {plural(said['failed'], 'trial')} did not stay finite and lost" if said["failed"] else ""
    text = (
        f"{plural(said['tried'], 'configuration')} ({own}) were tried in {plural(folds, 'fold')} by "
        f"{KINDS[said['kind']]}: {plural(said['trainings'], 'training')} in all{failed}. Each fold's configuration was "
        f"chosen on its validation part by {by} and tested once; the others were never shown a test part. A chosen "
        f"configuration's validation figures are the best of {said['tried']} and flatter it; its test figures do not."
    )
    if "optimistic" in said:
        text += " The numbers marked optimistic chose configuration and epoch on the test part instead."
    return text


def _table(said: dict[str, Any]) -> Table:
    rows = []
    for name, space in said["space"].items():
        values = [entry["values"][name] for entry in said["chosen"]]
        rows.append((name, _range(space), _counts(values, space)))
    note = f"Chosen: by {plural(len(said['chosen']), 'fold')}."
    return Table(("Field", "Values tried", "Chosen"), tuple(rows), notes=(note,))


def _range(space: dict[str, Any]) -> str:
    if space["type"] == "Choice":
        return ", ".join(_named(v, space) for v in space["values"])
    scale = " (logarithmic)" if space["type"] == "LogUniform" else ""
    return f"{space['low']:g} to {space['high']:g}{scale}"


def _counts(values: list[Any], space: dict[str, Any]) -> str:
    """How often each value was chosen; of a range, its least, middle and largest where they are many."""
    found = Counter(readable(v) for v in values)
    numeric = space["type"] != "Choice"
    if numeric and len(found) > MOST_VALUES:
        ordered = sorted(values)
        ends = (ordered[0], ordered[len(ordered) // 2], ordered[-1])
        low, middle, high = (f"{v:.3g}" for v in ends)
        return f"{low} to {high}, median {middle}"
    label = {readable(v): f"{v:.3g}" if numeric else _named(v, space) for v in values}
    return ", ".join(f"{label[v]} ({count}×)" for v, count in found.most_common())


def _named(value: Any, space: dict[str, Any]) -> str:
    """A value in a few words; of a dataclass its name, where that tells it from the other choices."""
    kinds = [v["type"] for v in space["values"] if isinstance(v, dict)]
    if isinstance(value, dict) and kinds.count(value["type"]) == 1:
        return str(value["type"])
    return shorten(readable(value))
