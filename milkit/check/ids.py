"""Ids that do not match: lost leading zeros, other spellings, rows without features and features without rows."""

from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, finding, plural

ZEROS = "leading zeros"


def look(e: Evidence) -> list[Finding]:
    """Ids of the table against those of the features and of the folds."""
    return [*_features(e), *_folds(e)]


def _features(e: Evidence) -> list[Finding]:
    if e.g is None:
        return []
    found = []
    if e.repaired:
        items = [f"{row} (table) is {slide} (features)" for row, slide in e.repaired.items()]
        found.append(_repaired(items, e.how, f"{plural(len(items), 'row')} of {e.table.file}"))
    have, repaired = set(e.ids), set(e.repaired)
    lacking = [name for name in e.table.slide.tolist() if name not in have and name not in repaired]
    if lacking:
        every = len(lacking) == len(e.table)
        found.append(
            finding(
                "missing_features",
                "error" if every or len(lacking) > len(e.table) / 2 else "warning",
                lacking,
                f"{len(lacking)} of {len(e.table)} slides of the table have no features",
                "Extract them, or take the rows out and say so: slides dropped in silence change who is studied.",
                "certain: no such id in the features",
            )
        )
    extra = sorted(have - set(e.table.slide.tolist()) - set(e.repaired.values()))
    if extra:
        found.append(
            finding(
                "features_without_row",
                "note",
                extra,
                f"{plural(len(extra), 'slide')} with features have no row in the table",
                "Nothing, if the table is meant to be a part of them.",
                "certain: no such id in the table",
            )
        )
    return found


def _folds(e: Evidence) -> list[Finding]:
    found = []
    if e.folds.repaired:
        items = [f"{there} (folds) is {row} (table)" for there, row in e.folds.repaired.items()]
        found.append(_repaired(items, e.folds.how, f"{plural(len(items), 'id')} of {e.folds.file}"))
    if e.folds.unknown:
        every = not any((s.role != "").any() for s in e.folds.splits)
        found.append(
            finding(
                "folds_unknown_id",
                "error" if every else "warning",
                e.folds.unknown,
                f"{plural(len(e.folds.unknown), 'id')} of {e.folds.file} in no row of the table",
                "Use the folds of this cohort, or mend the ids.",
                "certain: no such id in the table",
            )
        )
    if e.folds.without and len(e.folds.without) < len(e.table):
        found.append(
            finding(
                "folds_without_slide",
                "warning",
                e.folds.without,
                f"{plural(len(e.folds.without), 'slide')} of the table have a role in no split",
                "Add them to the folds, or say that they are left out.",
                "certain: the folds do not name them",
            )
        )
    return found


def _repaired(items: list[str], how: str, what: str) -> Finding:
    zeros = ZEROS in how and "all of" not in how
    return finding(
        "leading_zeros" if zeros else "id_mismatch",
        "error" if zeros else "warning",
        items,
        f"{what} match only after {how}",
        "Write the ids as text and as the files have them; otherwise these slides are left out, or matched by guess."
        + (" A spreadsheet or pandas without dtype=str turns 0012 into 12." if zeros else ""),
        "likely: each has exactly one partner after that repair; the checks below took them as mended",
    )
