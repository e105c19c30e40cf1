"""Patients that a split file names beside its slides: they must be the study's, and stand in one part of a split."""

from collections.abc import Mapping

from milkit.data.splits_of.named import NamedSplit, NamedSplits
from milkit.data.study import Study
from milkit.data.where import and_more
from milkit.errors import ProtocolError


def check_patients(named: NamedSplits, rows: Mapping[str, tuple[int, ...]], study: Study, allow_overlap: bool) -> bool:
    """Check the file's patients.

    Where the study knows patients, they must agree. Where it has none (each slide is its own), the file's are all that
    is known, and the leak check of plans cannot see them: so it is done here.

    Returns:
        Whether a patient stands in two parts, which `allow_overlap` has let pass.

    Raises:
        ProtocolError: another patient than in the study, or (unless `allow_overlap`) a patient in two parts.
    """
    own = named.splits[0].of == "bag"
    has_patients = own or any(
        patient not in slides for patient, slides in zip(study.patient, study.slides, strict=True)
    )
    leaks = False
    for split in named:
        if has_patients:
            _check_same(split, rows, study)
        elif found := _two_parts(split):
            leaks = True
            if not allow_overlap:
                said = and_more(found[:5], len(found))
                raise ProtocolError(
                    f"{split.file}: {len(found)} patient(s) are in two parts of {split}: {said}. "
                    "The cohort table names no patients, but this file does. Keep each patient in one part, or set "
                    "allow_patient_overlap=True: every number then carries the mark."
                )
    return leaks


def _check_same(split: NamedSplit, rows: Mapping[str, tuple[int, ...]], study: Study) -> None:
    for name, patient in split.patients.items():
        for row in rows.get(name, ()):
            known = str(study.patient[row])
            if patient != known.strip():
                raise ProtocolError(
                    f"{split.file}, {split.places[name]}: {'bag' if split.of == 'bag' else 'slide'} {name!r} is of "
                    f"patient {patient!r}, but of {known!r} in the study."
                )


def _two_parts(split: NamedSplit) -> list[str]:
    roles = split.roles
    seen: dict[str, tuple[str, str]] = {}
    found: dict[str, str] = {}
    for name, patient in split.patients.items():
        first, role = seen.setdefault(patient, (name, roles[name]))
        if role != roles[name]:
            found.setdefault(patient, f"{patient} ({first!r} {role}, {name!r} {roles[name]})")
    return list(found.values())
