"""The sub-group table: counts and the main metrics of each level of each column."""

from typing import Any

from milkit.report.blocks import Block, Heading, Paragraph, Table
from milkit.report.source import Source
from milkit.report.words import interval, is_interval, metric_label, number, plural, sentence


def groups(source: Source) -> list[Block]:
    """One table a column, largest question first as asked; [] without sub-groups."""
    found: dict[str, Any] = source.results.get("subgroups") or {}
    if not found:
        return []
    lines = [sentence(str(note)) for note in source.results.get("subgroup_notes", ())]
    blocks: list[Block] = [Heading("Sub-groups"), Paragraph(" ".join(lines), "note")]
    for column, levels in found.items():
        blocks += [Heading(f"By {column}", 3), _table(column, levels, source.measured == "slide")]
    return blocks


def _table(column: str, levels: dict[str, Any], slides: bool) -> Table:
    """A row a level; with `slides`, classes are counted in slides, whose number stands beside."""
    metrics = list(dict.fromkeys(name for part in levels.values() for name in part["metrics"]))
    classes = list(dict.fromkeys(name for part in levels.values() for name in part["counts"].get("classes", {})))
    header = (column, "Patients", *(("Slides",) if slides else ()), *classes, *(metric_label(name) for name in metrics))
    notes: list[str] = []
    rows = []
    for level, part in levels.items():
        size = part["counts"]
        cells = [level, f"{size['patients']:,}", *([f"{size['bags']:,}"] if slides else [])]
        cells += [*(f"{size['classes'].get(name, 0):,}" for name in classes)]
        cells += [_cell(part, name, notes) for name in metrics]
        rows.append(tuple(cells))
    lines = ["In brackets: sampling 95 % within the group.", *(f"[{i}] {note}" for i, note in enumerate(notes, 1))]
    return Table(header, tuple(rows), numeric=header[1:], notes=tuple(lines))


def _cell(part: dict[str, Any], name: str, notes: list[str]) -> str:
    """Value and interval; what is missing or rests on fewer folds carries a number that a note explains."""
    metric = part["metrics"].get(name)
    if metric is None:
        return _noted("–", str(part.get("note") or "not measured"), notes)
    if metric["value"] is None:
        return _noted("undefined", str(metric["note"] or "no reason recorded"), notes)
    text = number(metric["value"])
    text += f" ({interval(metric['sampling'])})" if is_interval(metric["sampling"]) else ""
    if metric["undefined_folds"]:
        return _noted(text, f"left out: {plural(metric['undefined_folds'], 'fold')} ({metric['note']})", notes)
    return text if is_interval(metric["sampling"]) else _noted(text, str(metric["sampling_note"] or ""), notes)


def _noted(text: str, why: str, notes: list[str]) -> str:
    if not why:
        return text
    if why not in notes:
        notes.append(why)
    return f"{text} [{notes.index(why) + 1}]"
