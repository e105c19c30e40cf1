"""Folds read back from files: what `Plan.save` wrote, another tool's, or a researcher's own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from milkit.data.matching import hint
from milkit.data.protocol.checks import finish
from milkit.data.protocol.draws import draws_for
from milkit.data.protocol.leaks import PATIENTS_LEAK
from milkit.data.protocol.plan import ROLES, GroupedBy, Plan, Split
from milkit.data.protocol.sites import listed, sites_of
from milkit.data.protocol.units import units_of
from milkit.data.protocol.validation import with_validation
from milkit.data.splits_of import NamedSplit, NamedSplits, read_splits
from milkit.data.splits_of.labels import check_labels
from milkit.data.splits_of.match import Matched, match_ids
from milkit.data.splits_of.parts import chosen_roles
from milkit.data.splits_of.patients import check_patients
from milkit.data.study import Study
from milkit.data.where import and_more
from milkit.errors import ProtocolError
from milkit.fields import check_fields
from milkit.task import Task

GROUPS: dict[str, GroupedBy] = {"patient": "patient", "site": "site", "none": "none"}


@dataclass(frozen=True)
class SavedFolds:
    """Folds from files: milkit's folds.csv, those of other tools, or a table of one's own.

    What a file is, is told by its contents; `milkit.data.splits_of` lists what is known: CLAM, TransMIL, MIL_BASELINE,
    Patho-Bench, STAMP, ACMIL, torchmil, soma, and tables with slide_id or patient_id and a column split, fold, or
    fold_0, fold_1, ... Of milkit's own columns only `role` (train, validation or test) and `bag` are needed.
    """

    path: str | tuple[str, ...]
    """The file, a folder of them (CLAM's splits/), or several."""
    allow_missing: bool = False
    """Let bags of the study stand in no split at all."""
    allow_patient_overlap: bool = False
    """Take folds that leak as they are; every number is then marked."""
    allow_single_class: bool = False
    """Let a test part hold one class only."""
    allow_unknown: bool = False
    """Pass over ids of the files that are in no row of the cohort table; they are counted and listed."""
    of: Literal["", "slide", "patient"] = ""
    """What the ids of the files name; "" finds out, and refuses where they could be both."""
    test: str = ""
    """The part that is tested, where the files have several (soma's test_a, test_b) or none ("val" of files that hold
    train and val only)."""
    validation: float = 0.0
    """Share of the training patients (stratified) that selects epochs and thresholds, taken where a split names no
    validation part; 0 for none."""
    seed: int = 0
    """Of the validation parts only."""

    def __post_init__(self) -> None:
        check_fields(self, "protocol", validation="[0, 1)", seed="[0, inf)")

    def plan(self, study: Study, task: Task) -> Plan:
        """Read the files and check them against the study.

        Raises:
            ProtocolError: a file cannot be read, a cell is not understood, an id is unknown, missing or in two parts
                of a split, labels contradict the study's, or the folds do not pass the checks that all plans pass.
        """
        named = read_splits(self.path)
        matched = match_ids(named, study, self.of)
        self._check_unknown(named, matched, study)
        leaks = check_patients(named, matched.rows, study, self.allow_patient_overlap)
        check_labels(named, matched.rows, study, task)
        roles, part_notes = chosen_roles(named, self.test)
        held = [_role_of_bags(split, roles[i], matched, study) for i, split in enumerate(named)]
        self._check_missing(named, study, held)
        grouped_by = GROUPS[named.grouped_by]
        if grouped_by == "site":
            sites_of(study, units_of(study, task))  # refuses unknown sites by name
        plan = finish(
            self._splits(named, held, study, task),
            study,
            task,
            grouped_by=grouped_by,
            allow_patient_overlap=self.allow_patient_overlap,
            allow_single_class=self.allow_single_class,
            drawn=False,
            notes=(*named.notes, *matched.notes, *part_notes, *self._left_out_notes(matched)),
        )
        return replace(plan, marks=tuple(dict.fromkeys((*plan.marks, *[PATIENTS_LEAK] * leaks))))

    def _splits(self, named: NamedSplits, held: list[np.ndarray], study: Study, task: Task) -> list[Split]:
        group: Literal["patient", "site"] = "site" if named.grouped_by == "site" else "patient"
        splits = []
        draws = draws_for(study, task, group, True, self.allow_patient_overlap) if self.validation else None
        for split, role in zip(named, held, strict=True):
            train, valid, test = (np.flatnonzero(role == number).astype(np.int64) for number in range(1, 4))
            if draws is not None:
                key = (split.repeat, split.fold)
                train, valid = with_validation(draws, train, valid, self.validation, self.seed, key)
            splits.append(Split(split.repeat, split.fold, split.inner, train, valid, test))
        return splits

    def _check_unknown(self, named: NamedSplits, matched: Matched, study: Study) -> None:
        if not matched.unknown or self.allow_unknown:
            return
        shown = listed([_said(named, name, why) for name, why in matched.unknown.items()])
        help_ = hint(matched.unknown, matched.names)
        raise ProtocolError(
            f"{_files(named)}: {len(matched.unknown)} {matched.level}s are not in study {study.name!r}: {shown}. "
            f"{help_ + '. ' if help_ else ''}These folds may be of another cohort, the cohort table may lack rows, or "
            "ids may have lost leading zeros in a spreadsheet; remove or mend those rows, or set allow_unknown=True to "
            "pass over them (the report says so)."
        )

    def _left_out_notes(self, matched: Matched) -> list[str]:
        """What the files name and the study does not have: never dropped without a word."""
        notes = []
        if matched.unknown:
            names = list(matched.unknown)
            notes.append(f"{len(names)} {matched.level}(s) of the folds are not in the cohort: {listed(names)}")
        for reason in dict.fromkeys(matched.left_out.values()):
            names = [name for name, why in matched.left_out.items() if why == reason]
            notes.append(f"{len(names)} slide(s) of the folds are left out of the study, {reason}: {listed(names)}")
        return notes

    def _check_missing(self, named: NamedSplits, study: Study, held: list[np.ndarray]) -> None:
        used = np.any(held, axis=0)
        missing = study.bag[~used]
        if len(missing) and not self.allow_missing:
            raise ProtocolError(
                f"{_files(named)}: {len(missing)} bags of study {study.name!r} have no role in any split: "
                f"{listed(missing)}. Add them, or set allow_missing=True to leave them out (the report says so)."
            )


def _role_of_bags(split: NamedSplit, roles: Mapping[str, str], matched: Matched, study: Study) -> np.ndarray:
    """Role of each bag: 0 none, then the order of ROLES; slides of one bag must agree."""
    held = np.zeros(len(study), np.int64)
    by: dict[int, str] = {}
    differ: dict[int, tuple[str, str]] = {}
    for name, role in roles.items():
        for row in matched.rows.get(name, ()) if role else ():
            number = ROLES.index(role) + 1
            if held[row] and held[row] != number:
                differ.setdefault(row, (by[row], name))
            else:
                held[row], by[row] = number, name
    if differ:
        said = [
            f"{study.bag[row]} ({one!r} is {roles[one]}, {split.places[one]}; {other!r} is {roles[other]}, "
            f"{split.places[other]})"
            for row, (one, other) in differ.items()
        ]
        raise ProtocolError(
            f"{split.file}: {len(differ)} patient(s) have slides in two roles of {split}, a leak: "
            f"{and_more(said[:5], len(said))}. Keep each patient in one role; to run such folds as they are, take bags "
            "of one slide (unit='slide') with allow_patient_overlap=True, and every number carries the mark."
        )
    return held


def _said(named: NamedSplits, name: str, why: str) -> str:
    split = next(split for split in named if name in split.parts)
    file = f"{split.file}, " if len(named.files) > 1 else ""
    return f"{name!r} ({file}{split.places[name]}{'; ' + why if why else ''})"


def _files(named: NamedSplits) -> str:
    return and_more(named.files[:1], len(named.files))
