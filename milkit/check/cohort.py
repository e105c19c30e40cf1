"""The whole check: a table, its folds and its features in; findings out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from milkit.check import (
    balance,
    batch_effects,
    copies,
    file_labels,
    ids,
    label_column,
    roles,
    scaler,
    size_label,
    values,
)
from milkit.check.evidence import Evidence, batch_columns, label_of
from milkit.check.finding import Finding, by_severity, finding, plural
from milkit.check.folds import Folds, of_table, read_folds
from milkit.check.gather import gather
from milkit.data.features import FeatureSource, open_features
from milkit.data.matching import repairs, without_extensions
from milkit.data.splits import given_splits
from milkit.data.table import ALIASES, CohortTable, read_cohort, table_of
from milkit.data.text import parse, read_text
from milkit.errors import CohortError

LOOKS: tuple[Callable[[Evidence], list[Finding]], ...] = (
    roles.look,
    ids.look,
    copies.look,
    label_column.look,
    file_labels.look,
    size_label.look,
    scaler.look,
    values.look,
    balance.look,
    batch_effects.look,
)
"""All checks; each is given the evidence and says what it found."""


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        findings: errors first.
        facts: what was looked at, in words.
    """

    findings: tuple[Finding, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(f for f in self.findings if f.severity == "error")

    def json(self) -> list[dict[str, Any]]:
        """The findings as JSON-able values."""
        return [f.as_dict() for f in self.findings]


def check_cohort(
    table: str | Path,
    features: str | Path | Sequence[str | Path] | FeatureSource = "",
    folds: str | Path = "",
    *,
    label: str = "",
    slide: str = "",
    patient: str = "",
    site: str = "",
    split: str = "",
    encoder: str = "",
    patches: str = "",
    tick: Callable[[int], None] = lambda done: None,
) -> Checked:
    """Look for leaks and for what is unhealthy in a cohort, before anything is trained.

    Args:
        table: the cohort's CSV, one row a slide.
        features: a store, files or folders of another tool, or an open `FeatureSource`; "" checks table and folds only.
        folds: who trains, validates and tests; "" takes the split or fold columns of the table, if it has any.
        label: column of the labels; "" recognises label, target, class, y, diagnosis, outcome, event.
        slide, patient, site: columns, as in `milkit.data.table.read_cohort`.
        split: columns of the table with splits, as in `milkit.data.cohort.Cohort`.
        encoder, patches: as in `milkit.data.features.open_features`.
        tick: told how many slides have been read.

    Raises:
        MilkitError: a file that cannot be read; what is wrong with its *content* is a finding.
    """
    read, found = _table(table, slide=slide, patient=patient, site=site)
    source = _source(features, encoder, patches)
    laid = read_folds(folds, read) if folds else _own_folds(read, split)
    known = label_of(read, label, [read.used.get(k, "") for k in ("slide", "patient", "site")])
    evidence = Evidence(read, laid, known, batch=batch_columns(read, known))
    if source is not None:
        evidence = _gathered(evidence, source, tick)
    for look in LOOKS:
        found += look(evidence)
    return Checked(by_severity([*found, *_unasked(evidence)]), _facts(evidence))


def _table(path: str | Path, **columns: str) -> tuple[CohortTable, list[Finding]]:
    """The table; rows that name a slide again become a finding, and the first is kept."""
    try:
        return read_cohort(path, **columns), []
    except CohortError:
        again = _without_repeats(Path(path).expanduser(), columns)
        if again is None:
            raise
        return again


def _without_repeats(path: Path, columns: dict[str, str]) -> tuple[CohortTable, list[Finding]] | None:
    """The table without rows whose slide stands in an earlier one; None where that is not what is wrong."""
    text, digest = read_text(path, "cohort table", CohortError)
    cells = parse(text, str(path), CohortError)
    names = [name.lower().replace(" ", "_").replace("-", "_") for name in cells.header]
    column = columns["slide"] or next((cells.header[names.index(n)] for n in ALIASES["slide"] if n in names), "")
    if column not in cells.header:
        return None
    at = cells.header.index(column)
    first: dict[str, int] = {}
    again = []
    for i, row in enumerate(cells.rows):
        if row[at] in first:
            again.append((i, first[row[at]]))
        first.setdefault(row[at], i)
    if not again:
        return None
    kept = sorted(first.values())
    arrays = {name: np.array([cells.rows[i][j] for i in kept], np.str_) for j, name in enumerate(cells.header) if name}
    lines = np.array([cells.lines[i] for i in kept])
    named = {role: columns[role] for role in ("slide", "patient", "site")}
    table = table_of(str(path), arrays, lines, digest=digest, **named)  # type: ignore[arg-type]
    differ = [pair for pair in again if cells.rows[pair[0]] != cells.rows[pair[1]]]
    items = [f"{cells.rows[i][at]} (lines {cells.lines[was]} and {cells.lines[i]})" for i, was in again]
    return table, [
        finding(
            "slide_twice",
            "error",
            items,
            f"{plural(len(items), 'row')} name a slide that has a row already, {len(differ)} of them with other cells",
            "Keep one row a slide; milkit refuses such a table.",
            "certain: the ids are equal; the first row was taken below",
        )
    ]


def _source(features: Any, encoder: str, patches: str) -> FeatureSource | None:
    if isinstance(features, FeatureSource):
        return features
    if not features:
        return None
    return open_features(features, encoder=encoder, patches=patches, allow=("encoder", "tile", "mpp"))


def _own_folds(table: CohortTable, split: str) -> Folds:
    """Splits that stand in the table itself."""
    given, _, _ = given_splits(table.columns, split, table.where)
    names = [f"fold {g.fold}" if len(given) > 1 else "the split" for g in given]
    return of_table(table, [(name, g.role) for name, g in zip(names, given, strict=True)])


def _gathered(e: Evidence, source: FeatureSource, tick: Callable[[int], None]) -> Evidence:
    """The evidence with what a pass over the features leaves."""
    slides = [str(name) for name in source.ids]
    have = set(slides)
    rows = e.table.slide.tolist()
    plain = without_extensions(rows, slides)
    table = replace(e.table, slide=np.array([plain.get(name, name) for name in rows], np.str_)) if plain else e.table
    if plain and "patient" not in table.used:
        table = replace(table, patient=table.slide)
    rows = table.slide.tolist()
    repaired, how = repairs([r for r in rows if r not in have], [s for s in slides if s not in set(rows)])
    matched = [(i, repaired.get(name, name)) for i, name in enumerate(rows) if repaired.get(name, name) in have]
    g = gather(source, [name for _, name in matched], tick)
    return replace(
        e,
        table=table,
        g=g,
        rows=np.array([i for i, _ in matched], np.int64),
        ids=tuple(slides),
        repaired=repaired,
        how=how,
        bag_labels=_file_labels(source),
        encoders=_encoders(source),
    )


def _parts(source: FeatureSource) -> list[FeatureSource]:
    """The sources that a source is made of."""
    where = getattr(source, "where", None)
    return list({id(part): part for part in where.values()}.values()) if isinstance(where, Mapping) else [source]


def _file_labels(source: FeatureSource) -> dict[str, str]:
    """Label of each slide, as far as the files state them."""
    found: dict[str, str] = {}
    for part in _parts(source):
        labels = getattr(part, "labels", None)
        if isinstance(labels, Mapping):
            found |= {str(name): str(label) for name, label in labels.items()}
    return found


def _encoders(source: FeatureSource) -> dict[str, str]:
    """Encoder of each slide, as far as the files state it."""
    found: dict[str, str] = {}
    for part in _parts(source):
        slides = getattr(part, "slides", {})
        whole = str(part.provenance.get("encoder") or "")
        found |= {str(name): str(getattr(slides.get(name), "encoder", "") or whole) for name in part.ids}
    return found


def _unasked(e: Evidence) -> list[Finding]:
    """What could not be looked at, and what would help."""
    notes = []
    if e.g is None:
        notes.append(("features", "no features were given: duplicates, columns, scaling and values were not looked at",
                      "Give them with --store."))  # fmt: skip
    if not e.folds.splits:
        notes.append(("folds", "no folds were given and the table has none: nothing was compared between roles",
                      "Give them with --folds."))  # fmt: skip
    if e.label is None:
        notes.append(("label", f"no column of the table is called like a label: {list(e.table.columns)}",
                      "Name it with --label."))  # fmt: skip
    return [finding("not_checked", "note", [what], detail, advice, "certain") for what, detail, advice in notes]


def _facts(e: Evidence) -> dict[str, str]:
    facts = {"table": f"{e.table.file}: {len(e.table)} slides of {len(set(e.table.patient.tolist()))} patients"}
    if e.folds.splits:
        facts["folds"] = f"{e.folds.file}: {plural(len(e.folds.splits), 'split')}"
    if e.label is not None:
        facts["label"] = f"column {e.label.column!r}: {plural(len(e.label.names), 'class')}" + (
            " (a number, halved at its median)" if e.label.numeric else "")  # fmt: skip
    if e.g is not None:
        instances = int(e.g.lengths.sum())
        facts["features"] = f"{len(e.g.ids)} slides, {instances:,} instances of {e.g.mean.shape[1]} features"
    return facts
