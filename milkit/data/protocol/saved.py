"""Folds read back from a table: what `Plan.save` wrote, or a researcher's own."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milkit.data.protocol.checks import finish
from milkit.data.protocol.plan import COLUMNS, ROLES, GroupedBy, Plan, Split
from milkit.data.protocol.sites import listed, sites_of
from milkit.data.protocol.units import units_of
from milkit.data.study import Study
from milkit.errors import ProtocolError
from milkit.fields import check_fields
from milkit.task import Task

NEEDED = ("role", "bag")
GROUPS: tuple[GroupedBy, ...] = ("patient", "site", "none")


@dataclass(frozen=True)
class SavedFolds:
    """Folds from a CSV with the columns repeat, fold, inner, role, bag, patient, grouped_by.

    Only `role` (train, validation or test) and `bag` are needed: without the numbers all rows make one split,
    `patient` is compared with the study's where it is there, and `grouped_by` (patient, site or none) is
    patient where it is not.
    """

    path: str
    """The CSV."""
    allow_missing: bool = False
    """Let bags of the study stand in no split at all."""
    allow_patient_overlap: bool = False
    """Take folds that leak as they are; every number is then marked."""
    allow_single_class: bool = False
    """Let a test part hold one class only."""

    def __post_init__(self) -> None:
        check_fields(self, "protocol")

    def plan(self, study: Study, task: Task) -> Plan:
        """Read the table and check it against the study.

        Raises:
            ProtocolError: the file cannot be read, a cell is not understood, a bag is unknown, missing or
                twice in a split, or the folds do not pass the checks that all plans pass.
        """
        roles, grouped_by = self._read(study)
        self._check_missing(study, roles)
        if grouped_by == "site":
            sites_of(study, units_of(study, task))  # refuses unknown sites by name
        splits = [
            Split(*key, *(np.flatnonzero(role == number) for number in range(1, len(ROLES) + 1)))
            for key, role in roles.items()
        ]
        return finish(
            splits,
            study,
            task,
            grouped_by=grouped_by,
            allow_patient_overlap=self.allow_patient_overlap,
            allow_single_class=self.allow_single_class,
            drawn=False,
        )

    def _read(self, study: Study) -> tuple[dict[tuple[int, int, int], np.ndarray], GroupedBy]:
        """Role of each bag (0 none, then the order of ROLES) in each split, and what they are grouped by."""
        row_of = {str(bag): row for row, bag in enumerate(study.bag)}
        roles: dict[tuple[int, int, int], np.ndarray] = {}
        groups: set[str] = set()
        unknown: dict[str, int] = {}
        for line, cells in self._rows():
            key = self._key(line, cells)
            role, bag = cells["role"].strip(), cells["bag"]
            bag = bag if bag in row_of else bag.strip()
            groups.add(cells.get("grouped_by", "patient").strip())
            if role not in ROLES:
                raise self._fault(line, f"role is {role!r}; expected one of {', '.join(ROLES)}")
            if bag not in row_of:
                unknown.setdefault(bag, line)
                continue
            row = row_of[bag]
            patient = str(study.patient[row])
            if cells.get("patient", patient).strip() != patient.strip():
                raise self._fault(
                    line, f"bag {bag!r} is of patient {cells['patient']!r}, but of {patient!r} in the study"
                )
            held = roles.setdefault(key, np.zeros(len(study), np.int64))
            if held[row]:
                before = ROLES[held[row] - 1]
                raise self._fault(line, f"bag {bag!r} has a role in this split already ({before}); expected one")
            held[row] = ROLES.index(role) + 1
        if unknown:
            shown = listed([f"{bag!r} (line {line})" for bag, line in unknown.items()])
            raise ProtocolError(
                f"{self.path}: {len(unknown)} bags are not in study {study.name!r}: {shown}. These folds may "
                "be of another cohort, or ids may have lost leading zeros in a spreadsheet; remove or mend "
                "those rows."
            )
        if not roles:
            raise ProtocolError(f"{self.path}: the table has a header but no row, so it holds no split.")
        return roles, self._group(groups)

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Line number and cells of each row that is not blank."""
        try:
            with Path(self.path).open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                header = [name.strip() for name in next(reader, [])]
                absent = [name for name in NEEDED if name not in header]
                if absent or len(set(header)) != len(header):
                    what = f"no column {' and no column '.join(absent)}" if absent else "a column twice"
                    raise ProtocolError(f"{self.path}: {what} in the header {header}; expected {', '.join(COLUMNS)}.")
                for cells in reader:
                    if not any(cell.strip() for cell in cells):
                        continue
                    if len(cells) != len(header):
                        raise self._fault(reader.line_num, f"{len(cells)} cells; the header has {len(header)}")
                    yield reader.line_num, dict(zip(header, cells, strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ProtocolError(
                f"The folds in {self.path} cannot be read: {error}. Expected a CSV in UTF-8 as Plan.save writes it."
            ) from error

    def _key(self, line: int, cells: dict[str, str]) -> tuple[int, int, int]:
        numbers = []
        for name in ("repeat", "fold", "inner"):
            text = cells.get(name, "0").strip()
            if not (text.isascii() and text.isdigit()):
                raise self._fault(line, f"{name} is {text!r}; expected a whole number from 0")
            numbers.append(int(text))
        return (numbers[0], numbers[1], numbers[2])

    def _group(self, found: set[str]) -> GroupedBy:
        for group in GROUPS:
            if found == {group}:
                return group
        raise ProtocolError(
            f"{self.path}: column grouped_by holds {sorted(found)}; expected one of {', '.join(GROUPS)} in all rows."
        )

    def _check_missing(self, study: Study, roles: dict[tuple[int, int, int], np.ndarray]) -> None:
        used = np.any(list(roles.values()), axis=0)
        missing = study.bag[~used]
        if len(missing) and not self.allow_missing:
            raise ProtocolError(
                f"{self.path}: {len(missing)} bags of study {study.name!r} have no role in any split: "
                f"{listed(missing)}. Add them, or set allow_missing=True to leave them out (the report says "
                "so)."
            )

    def _fault(self, line: int, what: str) -> ProtocolError:
        return ProtocolError(f"{self.path}, line {line}: {what}.")
