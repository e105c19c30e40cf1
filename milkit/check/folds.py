"""Who trains, validates and tests, read from whatever a folds table looks like; faults become findings, not errors.

`milkit.data.protocol.saved` refuses folds that leak. This reader takes them, so that the leak can be named.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from milkit.data.matching import repairs
from milkit.data.splits import ROLE_NAMES
from milkit.data.splits_of import read_splits
from milkit.data.splits_of.named import role_of
from milkit.data.table import CohortTable
from milkit.data.targets import MISSING
from milkit.data.text import parse, read_text
from milkit.errors import ProtocolError

ROLES = ("train", "validation", "test")
WORDS = {**ROLE_NAMES, "training": "train", "valid": "validation", "dev": "validation", "testing": "test"}
"""Words for roles, in any case."""
ID_NAMES = (
    "bag", "bag_id", "bag_name", "slide_id", "slide", "slide_name", "image", "image_id", "sample_id", "sample",
    "filename", "patient_id", "patient", "case_id", "case", "id", "name",
)  # fmt: skip
PATIENT_NAMES = ("patient", "patient_id", "case", "case_id")
ROLE_COLUMNS = ("role", "split", "set", "subset", "part", "partition", "phase", "data_split", "fold")
TESTED_COLUMNS = ("fold", "test_fold", "cv_fold", "fold_id", "split", "split_id")
NUMBER_COLUMNS = ("repeat", "repetition", "rep", "seed", *TESTED_COLUMNS, "inner", "inner_fold")


@dataclass(frozen=True, eq=False)
class Roles:
    """One split: what each row of the table does in it.

    Attributes:
        name: of the split, in words, such as "repeat 0, fold 3".
        role: "train", "validation", "test" or "" of each row, text [R].
        twice: (id, its roles) of every id that the folds give two roles in this split.
    """

    name: str
    role: np.ndarray
    twice: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def rows(self, *roles: str) -> np.ndarray:
        """Rows of the table with one of these roles, int64 [.]."""
        return np.flatnonzero(np.isin(self.role, roles))


@dataclass(frozen=True, eq=False)
class Folds:
    """All splits of a folds table, and what of it did not fit the cohort's table.

    Attributes:
        splits: in the order of their numbers.
        file: where they stand.
        level: what their ids are: "slide" or "patient".
        unknown: ids of the folds that no row of the table has, not even after a repair.
        repaired: ids of the folds that name a row only after a repair, with that row's id.
        how: which repair.
        without: slides of the table that no split gives a role.
        grouped_by: "site" where the folds say that sites are kept whole, else "".
        patient: the patient the folds name for each row, "" where none; text [R].
    """

    splits: tuple[Roles, ...]
    file: str
    level: str = "slide"
    unknown: tuple[str, ...] = ()
    repaired: Mapping[str, str] = field(default_factory=dict)
    how: str = ""
    without: tuple[str, ...] = ()
    grouped_by: str = ""
    patient: np.ndarray = field(default_factory=lambda: np.zeros(0, np.str_))


def read_folds(path: str | Path, table: CohortTable) -> Folds:
    """Read who trains, validates and tests.

    A table with one row an id and split, a column of roles (`role`, `split`, `set` ...) and columns of numbers
    (`repeat`, `fold`, `inner`), or an id and the fold in which it is tested, is read here, whatever its columns are
    called; everything else (CLAM, STAMP, Patho-Bench ..., folders of files) by `milkit.data.splits_of`.

    Raises:
        ProtocolError: a file that cannot be read, or in which no ids or roles are found; says what its columns are.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix.lower() != ".json":
        text, _ = read_text(path, "folds file", ProtocolError)
        cells = parse(text, str(path), ProtocolError)
        header, rows = list(cells.header), [list(row) for row in cells.rows]
        lower = [name.strip().lower() for name in header]
        given = _long(lower, rows)
        if given:
            return _on_table(str(path), given, table, _told(lower, rows), _grouped(lower, rows))
    named = read_splits(path, allow_twice=True)
    pairs = {
        (str(s) if len(named) > 1 else "the split"): [
            *s.roles.items(), *((t.id, role_of(part)) for t in s.twice for part in t.parts),
        ]
        for s in named
    }  # fmt: skip
    told = {name: patient for s in named for name, patient in s.patients.items()}
    return _on_table(str(path), pairs, table, told, "site" if named.grouped_by == "site" else "")


def of_table(table: CohortTable, splits: Sequence[tuple[str, np.ndarray]]) -> Folds:
    """Folds from roles that stand in the cohort's table itself."""
    made = tuple(Roles(name, role) for name, role in splits)
    none = np.all([r.role == "" for r in made], axis=0) if made else np.zeros(len(table), bool)
    blank = np.full(len(table), "", np.str_)
    return Folds(made, table.file, without=tuple(table.slide[none].tolist()) if made else (), patient=blank)


def _long(lower: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, list[tuple[str, str]]]:
    """(id, role) of each split from a table with one row an id, or an id and a split; {} where it is none."""
    ids = next((lower.index(name) for name in ID_NAMES if name in lower), None)
    if ids is None or not rows:
        return {}
    role = next((lower.index(n) for n in ROLE_COLUMNS if n in lower and _are_words(rows, lower.index(n))), None)
    numbers = [i for i, n in enumerate(lower) if n in NUMBER_COLUMNS and i not in (role, ids) and _are_numbers(rows, i)]
    numbers = [i for i in numbers if lower[i] == "fold" or any(_number(row[i]) != "0" for row in rows)]
    made: dict[str, list[tuple[str, str]]] = {}
    if role is not None:
        for row in rows:
            name = ", ".join(f"{lower[i].replace('_', ' ')} {_number(row[i])}" for i in numbers) or "the split"
            made.setdefault(name, []).append((row[ids], WORDS.get(row[role].lower(), "")))
        return made
    tested = next((i for i in numbers if lower[i] in TESTED_COLUMNS), None)
    return _by_number(lower, rows, ids, tested, [i for i in numbers if i != tested]) if tested is not None else {}


def _by_number(
    lower: Sequence[str], rows: Sequence[Sequence[str]], ids: int, tested: int, repeats: Sequence[int]
) -> dict[str, list[tuple[str, str]]]:
    """The number of the fold in which an id is tested: all others train."""
    made: dict[str, list[tuple[str, str]]] = {}
    groups: dict[str, list[Sequence[str]]] = {}
    for row in rows:
        groups.setdefault(", ".join(f"{lower[i]} {_number(row[i])}" for i in repeats), []).append(row)
    for group, members in groups.items():
        for number in sorted({_number(row[tested]) for row in members if row[tested]}, key=int):
            name = (group + ", " if group else "") + f"fold {number}"
            made[name] = [
                (row[ids], "test" if _number(row[tested]) == number else "train") for row in members if row[tested]
            ]
    return made


def _are_words(rows: Sequence[Sequence[str]], column: int) -> bool:
    filled = [row[column].lower() for row in rows if row[column]]
    return bool(filled) and sum(cell in WORDS for cell in filled) >= 0.9 * len(filled)


def _are_numbers(rows: Sequence[Sequence[str]], column: int) -> bool:
    filled = [row[column] for row in rows if row[column].lower() not in MISSING]
    return bool(filled) and all(re.fullmatch(r"\d+(\.0*)?", cell) for cell in filled)


def _number(cell: str) -> str:
    return cell.partition(".")[0].lstrip("0") or "0"


def _told(lower: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """The patient that the folds name beside each id."""
    ids = next((lower.index(name) for name in ID_NAMES if name in lower), None)
    patient = next((lower.index(name) for name in PATIENT_NAMES if name in lower), None)
    return {} if ids is None or patient in (None, ids) else {row[ids]: row[patient] for row in rows}


def _grouped(lower: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    found = {row[lower.index("grouped_by")] for row in rows} if "grouped_by" in lower else set()
    return "site" if found == {"site"} else ""


def _on_table(
    file: str, given: Mapping[str, list[tuple[str, str]]], table: CohortTable, told: Mapping[str, str], grouped: str
) -> Folds:
    """The roles laid onto the table's rows; ids are slides or patients, whichever are known."""
    ids = {name for pairs in given.values() for name, _ in pairs if name}
    matched = {}
    for level, names in (("slide", table.slide), ("patient", table.patient)):
        known = set(names.tolist())
        mended = repairs(sorted(ids - known), sorted(known - ids))
        matched[level] = (len(ids & known) + len(mended[0]), len(ids & known), mended)
    level = max(matched, key=lambda name: matched[name][:2])  # of equal ones the slide
    repaired, how = matched[level][2]
    rows_of: dict[str, list[int]] = {}
    for i, name in enumerate((table.slide if level == "slide" else table.patient).tolist()):
        rows_of.setdefault(name, []).append(i)
    splits = []
    for split, pairs in given.items():
        role = np.full(len(table), "", "U10")
        said: dict[str, dict[str, None]] = {}
        for name, what in pairs:
            if what:
                said.setdefault(name, {})[what] = None
            for i in rows_of.get(repaired.get(name, name), ()):
                role[i] = what if not role[i] or what == "test" else role[i]
        twice = tuple((name, tuple(roles)) for name, roles in said.items() if len(roles) > 1)
        splits.append(Roles(split, role, twice))
    none = np.all([s.role == "" for s in splits], axis=0)
    patient = np.array([told.get(name, "") for name in table.slide.tolist()], np.str_)
    unknown = tuple(sorted(ids - set(rows_of) - set(repaired)))
    without = tuple(table.slide[none].tolist())
    return Folds(tuple(splits), file, level, unknown, repaired, how, without, grouped, patient)
