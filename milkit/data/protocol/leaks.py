"""The leak check that every plan passes: nobody stands in two roles of one split."""

import numpy as np
from jaxtyping import Int64

from milkit.data.protocol.plan import ROLES, Plan, Split
from milkit.data.protocol.sites import listed
from milkit.data.study import Study
from milkit.errors import ProtocolError

PATIENTS_LEAK = "patients in two roles"
SLIDES_LEAK = "slides in two roles"


def check_leaks(plan: Plan, study: Study, allow: bool) -> tuple[str, ...]:
    """Look for a bag, a patient or a slide in two roles of one split, and for a test site met in training.

    Args:
        plan: the splits.
        study: whose rows they name.
        allow: let patients and slides stand in two roles, at the price of a mark. A *bag* in two roles is
            refused even then: its prediction would be of both.

    Returns:
        Marks that every number of the run must carry; () if there is no leak.

    Raises:
        ProtocolError: a leak; lists up to ten offenders with their roles.
    """
    _, patient = np.unique(study.patient, return_inverse=True)
    _, site = np.unique(study.site, return_inverse=True)
    slide_of, slide_names = _shared_slides(study)
    marks: dict[str, None] = {}
    for split in plan.splits:
        rows = {role: getattr(split, role) for role in ROLES}
        _refuse(split, "bag", _twice({role: (r, study.bag[r]) for role, r in rows.items()}), "")
        patients = _twice({role: (patient[r].astype(np.int64), study.patient[r]) for role, r in rows.items()})
        slides = _twice({role: _slides(r, slide_of, slide_names) for role, r in rows.items()})
        if not allow:
            advice = (
                " The test part would hold what training has seen. Keep each {0} in one role, or set "
                "allow_patient_overlap=True: every number then carries the mark."
            )
            _refuse(split, "patient", patients, advice.format("patient"))
            _refuse(split, "slide", slides, advice.format("slide"))
        marks |= dict.fromkeys([PATIENTS_LEAK] * bool(patients) + [SLIDES_LEAK] * bool(slides))
        if plan.grouped_by == "site":
            seen = np.concatenate([rows["train"], rows["validation"]])
            both = {"train or validation": seen, "test": rows["test"]}
            sites = _twice({role: (site[r].astype(np.int64), study.site[r]) for role, r in both.items()})
            _refuse(split, "site", sites, ' These folds are said to keep sites whole; use group="patient" if not.')
    return tuple(marks)


def _refuse(split: Split, what: str, offenders: list[str], advice: str) -> None:
    if offenders:
        many = f"{len(offenders)} {what}s are" if len(offenders) > 1 else f"1 {what} is"
        raise ProtocolError(f"{str(split).capitalize()}: {many} in two roles: {listed(offenders)}.{advice}")


def _twice(members: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """Names that stand in two roles, each with its roles; `members`: role -> (numbers, names)."""
    numbers = {role: np.unique(number, return_index=True) for role, (number, _) in members.items()}
    number, times = np.unique(np.concatenate([n for n, _ in numbers.values()]), return_counts=True)
    offenders = []
    for one in number[times > 1]:
        roles = [role for role, (n, _) in numbers.items() if one in n]
        unique, first = numbers[roles[0]]
        name = members[roles[0]][1][first[np.searchsorted(unique, one)]]
        offenders.append(f"{name} ({', '.join(roles)})")
    return offenders


def _shared_slides(study: Study) -> tuple[list[Int64[np.ndarray, " k"]], np.ndarray]:
    """Numbers of the slides of each bag, of those slides only that stand in two bags; and their names."""
    every = [slide for slides in study.slides for slide in slides]
    names, times = np.unique(np.array(every, dtype=str), return_counts=True)
    shared = {str(name): i for i, name in enumerate(names[times > 1])}
    return [np.array([shared[s] for s in slides if s in shared], dtype=np.int64) for slides in study.slides], names[
        times > 1
    ]


def _slides(
    rows: Int64[np.ndarray, " r"], slide_of: list[np.ndarray], names: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.concatenate([np.zeros(0, np.int64), *[slide_of[row] for row in rows]])
    return numbers, names[numbers]
