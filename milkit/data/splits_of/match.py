"""Whom the ids of a split file name in a study: slides, patients or bags, and which bags those are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from milkit.data.build import NO_ROW
from milkit.data.matching import as_number, examples, file_stem, hint, in_one_way
from milkit.data.splits_of.named import NamedSplits
from milkit.data.study import Study
from milkit.data.where import and_more
from milkit.errors import ProtocolError

Of = Literal["", "slide", "patient"]

_REPAIRS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("without folder and file extension", file_stem),
    ("as numbers, which have lost leading zeros or gained a .0", lambda name: as_number(file_stem(name))),
)


@dataclass(frozen=True, eq=False)
class Matched:
    """Ids of a split file in a study.

    Attributes:
        level: what the ids name: "slide", "patient" or "bag".
        rows: id -> rows of the study; several for a patient with several bags.
        left_out: ids of slides that the cohort has but the study leaves out, with the reason.
        unknown: ids of nobody in the cohort, with what else is known of them ("" for nothing).
        exact: how many ids match as they stand.
        notes: ids that match only after a repair.
        names: ids of the study that no id of the file names.
    """

    level: str
    rows: Mapping[str, tuple[int, ...]]
    left_out: Mapping[str, str]
    unknown: Mapping[str, str]
    exact: int
    notes: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def known(self) -> int:
        """How many ids the cohort has."""
        return len(self.rows) + len(self.left_out)


def match_ids(named: NamedSplits, study: Study, of: Of = "") -> Matched:
    """Find the bags that the ids of a split file name.

    Which column of the study the ids are of is told by how many of them it holds. Ids that differ from the study's by a
    folder, a file extension or leading zeros are matched where that is possible in one way only.

    Args:
        named: the splits.
        study: whose bags they arrange.
        of: "slide" or "patient" says what the ids are; "" finds out.

    Raises:
        ProtocolError: no id is in the study, or the ids could be slides and patients.
    """
    lists = [split.parts for split in named]
    ids = list(dict.fromkeys(name for parts in lists for name in parts))
    said = named.splits[0].of
    if said == "bag":
        return _matched(lists, study, "bag")
    if said in ("slide", "patient") and not of:
        whole = _matched(lists, study, said)
        if whole.exact == len(ids):
            return whole
    found = [_matched(lists, study, level) for level in ((of,) if of else ("slide", "patient"))]
    best = max(found, key=lambda match: (match.known, match.exact, match.level == said))
    if not best.known:
        raise ProtocolError(_nobody(ids, study, named, found))
    for other in found:
        tied = (other.known, other.exact) == (best.known, best.exact)
        differ = [name for name in best.rows if set(best.rows[name]) != set(other.rows.get(name, ()))]
        if other is not best and tied and differ and said == "unknown":
            raise ProtocolError(
                f"{_files(named)}: its {len(ids)} ids could be slides or patients of study {study.name!r}; "
                f"{differ[0]!r} is both, with other bags. Say which: of='slide' or of='patient'."
            )
    return best


def _matched(lists: Sequence[Mapping[str, str]], study: Study, level: str) -> Matched:
    ids = list(dict.fromkeys(name for parts in lists for name in parts))
    out = dict(study.flow.left_out) if level == "slide" else {}
    rows = _rows(study, level)
    held: dict[str, str] = {}  # id of the file -> name in the cohort
    for name in ids:
        for same in (name.strip(), name):
            if same in rows or same in out:
                held[name] = same
    exact, notes = len(held), []
    doubtful: dict[str, str] = {}
    if level != "bag":  # milkit wrote those itself
        for what, repair in _REPAIRS:
            if len(held) == len(ids):
                break
            repaired, unclear = in_one_way(lists, {**rows, **out}, held, repair)
            doubtful |= unclear
            if repaired:
                name, meant = next(iter(repaired.items()))
                count = len(set(repaired.values()))
                notes.append(f"{count} id(s) of the folds match {what} ({name!r} is {meant!r})")
                held |= repaired
    left_out = {n: out[m] for n, m in held.items() if m not in rows and out[m] != NO_ROW}
    no_row = {n: out[m] for n, m in held.items() if m not in rows and out[m] == NO_ROW}
    unknown = {n: no_row.get(n) or doubtful.get(n, "") for n in ids if n not in held or n in no_row}
    used = set(held.values())
    return Matched(
        level=level,
        rows={n: rows[m] for n, m in held.items() if m in rows},
        left_out=left_out,
        unknown=unknown,
        exact=exact,
        notes=tuple(notes),
        names=tuple(name for name in rows if name not in used),
    )


def _rows(study: Study, level: str) -> dict[str, tuple[int, ...]]:
    """Name -> rows of the study."""
    rows: dict[str, list[int]] = {}
    for row in range(len(study)):
        names = (
            study.slides[row] if level == "slide" else (str((study.patient if level == "patient" else study.bag)[row]),)
        )
        for name in dict.fromkeys(names):
            rows.setdefault(name, []).append(row)
    return {name: tuple(found) for name, found in rows.items()}


def _files(named: NamedSplits) -> str:
    return and_more(named.files[:1], len(named.files))


def _nobody(ids: Sequence[str], study: Study, named: NamedSplits, found: Sequence[Matched]) -> str:
    help_ = next((h for match in found if (h := hint(ids, match.names))), "")
    return (
        f"{_files(named)}: none of its {len(ids)} ids is in study {study.name!r}. Ids of the folds: {examples(ids)}; "
        f"slides: {examples([s for bag in study.slides for s in bag])}; patients: {examples(study.patient.tolist())}. "
        f"{help_ + '; make the ids equal.' if help_ else 'Are these folds of this cohort?'}"
    )
