"""Who is in the study: the cohort's flow from table to folds."""

from collections import Counter
from typing import Any

from milkit.data.build import NO_ROW
from milkit.report.blocks import Block, Bullets, Facts, Folded, Heading, Paragraph, Table
from milkit.report.source import Source
from milkit.report.words import number, spread_of

MOST_IDS = 20
_ROLES = ("train", "validation", "test")


def cohort(source: Source) -> list[Block]:
    """Rows, matched, left out and why, patients, positives per fold."""
    blocks: list[Block] = [Heading("Cohort")]
    if not source.cohort:
        return [*blocks, Paragraph("No cohort.json in the run folder: how patients came in was not recorded.", "note")]
    flow = source.cohort.get("flow", {})
    blocks.append(Facts(tuple(_flow(source, flow))))
    blocks += _left_out(flow.get("left_out", ()))
    blocks += _folds(source)
    notes = [*flow.get("notes", ()), *source.cohort.get("notes", ())]
    if notes:
        blocks += [Heading("Notes on cohort and folds", 3), Bullets(tuple(str(n) for n in dict.fromkeys(notes)))]
    provenance = source.cohort.get("provenance", {})
    if provenance:
        pairs = tuple((str(k).replace("_", " "), _short(v)) for k, v in provenance.items())
        blocks.append(Folded("Where the data come from", (Facts(pairs),)))
    return blocks


def _flow(source: Source, flow: dict[str, Any]) -> list[tuple[str, str]]:
    left_out = [str(why) for _, why in flow.get("left_out", ())]
    extra = left_out.count(NO_ROW)
    rows = flow.get("rows")
    pairs = [
        ("Rows (slides) in the table", _count(rows)),
        ("Of these with features", _count(flow.get("matched"))),
        ("Of these left out", _count(len(left_out) - extra)),
        ("Of these used", _count(rows - len(left_out) + extra) if isinstance(rows, int) else ""),
        ("Slides with features but no row", _count(extra) if extra else ""),
        ("Bags", _count(flow.get("bags"))),
        ("Patients", _count(flow.get("patients"))),
    ]
    sizes = source.cohort.get("instances", {})
    if sizes:
        middle = number(sizes["median"]).rstrip("0").rstrip(".") if "median" in sizes else "?"
        ends = f"{_count(sizes.get('min'))} to {_count(sizes.get('max'))}"
        pairs.append(("Instances a bag", f"{ends}, median {middle}; {_count(sizes.get('total'))} in all"))
    pairs.append(("Classes", _classes(source)))
    pairs.append(("Folds grouped by", str(source.cohort.get("grouped_by", "?"))))
    return [(name, value) for name, value in pairs if value]


def _classes(source: Source) -> str:
    """Patients of each class among those tested, counted in the prediction file."""
    scores, task = source.scores, source.task
    first = {int(p): row for p, row in zip(scores.patient, scores.target, strict=True)}
    rows = list(first.values())
    if task in ("Binary", "MultiClass"):
        found = Counter(int(r[0]) for r in rows)
        return ", ".join(f"{name} {found.get(i, 0):,}" for i, name in enumerate(scores.names))
    if task == "MultiLabel":
        return ", ".join(f"{name} {int(sum(r[i] > 0 for r in rows)):,}" for i, name in enumerate(scores.names))
    if task == "Survival":
        events = int(sum(r[1] > 0 for r in rows))
        return f"{events:,} with event, {len(rows) - events:,} censored"
    return ""


def _left_out(left_out: Any) -> list[Block]:
    pairs = [(str(i), str(why)) for i, why in left_out]
    if not pairs:
        return []
    by_reason: dict[str, list[str]] = {}
    for who, why in pairs:
        by_reason.setdefault(why, []).append(who)
    rows = []
    for why, ids in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(ids[:MOST_IDS]) + (f" … ({len(ids) - MOST_IDS:,} more)" if len(ids) > MOST_IDS else "")
        rows.append((why, f"{len(ids):,}", shown))
    table = Table(("Reason", "Left out", "Which"), tuple(rows), numeric=("Left out",))
    note = Paragraph("The whole list is in cohort.json.", "note")
    return [Heading("Left out, and why", 3), table, *([note] if len(pairs) > MOST_IDS else [])]


def _folds(source: Source) -> list[Block]:
    rows = [f for f in source.cohort.get("folds", ()) if f.get("role") in _ROLES]
    if not rows:
        return []
    nested = any(f.get("inner") for f in rows)
    names = list(dict.fromkeys(name for f in rows for name in f.get("counts", {})))
    header = ("Repeat", "Fold", *(("Inner",) if nested else ()), "Role", "Patients", "Bags", *names)
    cells = tuple(
        (
            str(f["repeat"]),
            str(f["fold"]),
            *((str(f.get("inner") or 0),) if nested else ()),
            str(f["role"]),
            f"{f['patients']:,}",
            f"{f['bags']:,}",
            *(f"{f.get('counts', {}).get(n, 0):,}" for n in names),
        )
        for f in rows
    )
    numeric = tuple(h for h in header if h != "Role")
    return [
        Heading("Folds", 3),
        _summary(rows, names, source),
        Folded(f"Every fold and role ({len(rows)} rows)", (Table(header, cells, numeric),)),
    ]


def _summary(rows: list[dict[str, Any]], names: list[str], source: Source) -> Table:
    """One row a role: how many patients and how many of each class a fold holds, from the least to the most."""
    header = ("Role", "Folds", "Patients a fold", *(f"{n} a fold" for n in names))
    cells = []
    for role in _ROLES:
        part = [f for f in rows if f["role"] == role]
        if part:
            counts = [spread_of([int(f.get("counts", {}).get(n, 0)) for f in part]) for n in names]
            cells.append((role, f"{len(part):,}", spread_of([int(f["patients"]) for f in part]), *counts))
    notes = [] if any(c[0] == "validation" for c in cells) else ["No fold has a validation part."]
    if source.config.get("unit", source.experiment.get("unit")) == "slide":
        notes.append("Classes are counted in bags (slides).")
    return Table(header, tuple(cells), numeric=header[1:], notes=tuple(notes))


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 300 else text[:299] + "…"
