"""Findings on bags that share tiles: across roles an error, else a warning."""

from collections.abc import Sequence

from milkit.check.duplicates import COPY, RARE, RATIO, Pair, alike, by_nature
from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, Severity, finding, plural

FAINT = 1
"""Equal rows that are said in a note, or across roles in a warning."""
TWO = 2


def look(e: Evidence) -> list[Finding]:
    """Bags that are the same to the bit, scans of one slide, copied parts, and rows that many bags share."""
    g = e.g
    if g is None or len(g.ids) < 2:
        return []
    pairs, common = alike(g)
    nature = by_nature(g, pairs)
    same = [p for p in pairs if p.same]
    near = [p for p in pairs if p.whole and not p.same]
    rest = [p for p in pairs if not p.whole]
    # where no row is common, two rows that are equal to the bit are no blank tiles
    part = [p for p in rest if p.part or (p.equal >= TWO and not common and not nature)]
    faint = [p for p in rest if p.equal >= FAINT and p not in part]
    found = [
        *_group(
            e, same, "duplicate_features", "hold the same instances to the bit", "certain: equal to the bit", False
        ),
        *_group(
            e,
            near,
            "near_duplicate_features",
            "are nearly the same bag (one slide scanned or extracted twice)",
            f"likely: half of the instances or more are each other's nearest, at {RATIO:g} of the way to any third bag",
            nature,
        ),
        *_group(
            e,
            part,
            "copied_instances",
            "share a part of their instances",
            f"certain where equal to the bit; the others lie nearer than {COPY:g} of what is usual between bags",
            nature,
        ),
    ]
    if faint:
        across = [p for p in faint if _across(e, p)] if not (common or nature) else []
        found.append(
            finding(
                "repeated_rows",
                "warning" if across else "note",
                [_said(e, p, _across(e, p)) for p in across or faint],
                f"{plural(len(across or faint), 'pair')} of bags share one or two equal instances"
                + (", in two roles of a split" if across else ""),
                "Nothing, if these are blank tiles.",
                "too few to tell chance from a copy",
            )
        )
    if common:
        found.append(
            finding(
                "repeated_rows",
                "note",
                [f"{common:,} distinct instances"],
                f"{plural(common, 'distinct instance')} stand in more than {RARE} bags each, equal to the bit",
                "Nothing, if these are blank tiles; they were left out of the comparison.",
                "certain: equal to the bit",
            )
        )
    return found


def _group(e: Evidence, pairs: Sequence[Pair], kind: str, what: str, sure: str, nature: bool) -> list[Finding]:
    """One finding for the pairs across roles, one for the others."""
    across = [(p, where) for p in pairs if (where := _across(e, p))]
    within = [(p, "") for p in pairs if not _across(e, p)]
    found = []
    for some, severity in ((across, "error"), (within, "warning")):
        if not some:
            continue
        level: Severity = "warning" if nature or severity == "warning" else "error"
        roles = ", in two roles of a split" if severity == "error" else ""
        why = (
            " Shared rows are common in this cohort and values are counts (as of words), so instances may belong to "
            "several bags by nature."
            if nature
            else ""
        )
        found.append(
            finding(
                kind,
                level,
                [_said(e, p, where) for p, where in some],
                f"{plural(len(some), 'pair')} of bags {what}{roles}.{why}",
                "Keep such bags in one role, or keep one of them; what is tested would have been trained on."
                if severity == "error"
                else "Keep one of them, or keep them in one role when folds are drawn.",
                sure,
            )
        )
    return found


def _across(e: Evidence, p: Pair) -> str:
    """The first split in which two bags have different roles, "" where there is none."""
    a, b = e.rows[p.first], e.rows[p.second]
    for s in e.folds.splits:
        if s.role[a] and s.role[b] and s.role[a] != s.role[b]:
            return f"{s.name}: {s.role[a]}, {s.role[b]}"
    return ""


def _said(e: Evidence, p: Pair, where: str) -> str:
    assert e.g is not None
    g = e.g
    a, b = p.first, p.second
    said = f"{p.equal} equal" if p.equal else f"{p.near} near-equal"
    labels = ""
    if e.label is not None:
        y = e.bag_y[[a, b]]
        labels = ", different labels" if (y >= 0).all() and y[0] != y[1] else ""
    size = f"{said} of {g.lengths[a]} and {g.lengths[b]} instances"
    return f"{g.ids[a]} and {g.ids[b]} ({size}{labels}{'; ' if where else ''}{where})"
