"""What a reader of the report should know about the folds. All of it is read off the splits themselves."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from milkit.data.protocol.plan import ROLES, Plan, Split
from milkit.data.protocol.sites import listed
from milkit.data.protocol.units import Outcome, Units
from milkit.data.study import Study

FEW = 5  # below this many of a class in a test part, one patient moves sensitivity by 20 points or more
FEW_SITES = 10  # the lower end of what the literature calls few clusters is 5 to 30 (Cameron et al., 2008)
TOLERANCE = 0.2  # of the patients expected: how far a fold may be off before its balance is called poor


def notes_on(plan: Plan, study: Study, units: Units, bags: Units) -> tuple[str, ...]:
    """All notes on a plan.

    Args:
        plan: the splits.
        study: whose rows they name.
        units: its patients and their outcome.
        bags: its bags and theirs: where a patient's bags differ, a class may occur in bags though in no patient.
    """
    notes = [_unused(plan, study), *_degenerate(plan, bags), _few(plan, units), _repeated(plan)]
    if plan.grouped_by == "site":
        notes += [
            _few_sites(study),
            *_joined_sites(study),
            _shared_validation_sites(plan, study),
            _site_balance(plan, units),
        ]
    return tuple(note for note in notes if note)


def _unused(plan: Plan, study: Study) -> str:
    used = np.zeros(len(study), bool)
    for split in plan.splits:
        for role in ROLES:
            used[getattr(split, role)] = True
    unused = study.bag[~used]
    return f"Bags without a role in any split: {len(unused)} ({listed(unused)})." if len(unused) else ""


def _degenerate(plan: Plan, units: Units) -> list[str]:
    outcome = units.outcome
    if outcome.kind == "values":
        return []

    def lacking(role: str) -> Callable[[Split], list[str]]:
        return lambda split: _lacking(outcome, units.of_rows(getattr(split, role)))

    notes = []
    for role, consequence in (
        ("train", "it cannot be learned there"),
        ("validation", "metrics that need it are NaN there, so select on the loss"),
        ("test", "metrics that need it are NaN there"),
    ):
        found = [(split, lacking(role)(split)) for split in plan.splits if len(getattr(split, role))]
        found = [(split, names) for split, names in found if names]
        if found:
            split, names = found[0]
            notes.append(
                f"{len(found)} of {len(plan.splits)} {role} parts lack {_a_kind(outcome)}: {consequence} "
                f"(first: {split}, without {listed(names)})."
            )
    return notes


def _a_kind(outcome: Outcome) -> str:
    return {"classes": "a class", "events": "an event"}.get(outcome.kind, "one side of a label")


def _lacking(outcome: Outcome, members: Int64[np.ndarray, " m"]) -> list[str]:
    """Names of the classes that do not occur; "event"; or labels that are all 0 or all 1."""
    if outcome.kind == "labels" and outcome.labels is not None:
        positive = outcome.labels[members].sum(0)
        constant = (positive == 0) | (positive == len(members))
        return [name for name, c in zip(outcome.label_names, constant, strict=True) if c]
    counts = outcome.counts(members)
    missing = [name for name, count in zip(outcome.names, counts, strict=True) if count == 0]
    return [name for name in missing if outcome.kind == "classes" or name == "event"]


def _few(plan: Plan, units: Units) -> str:
    outcome = units.outcome
    if outcome.kind not in ("classes", "events"):
        return ""
    rows = []
    for split in plan.splits:
        counts = outcome.counts(units.of_rows(split.test))
        watched = range(len(counts)) if outcome.kind == "classes" else range(1, 2)
        rows += [(int(counts[i]), split, outcome.names[i]) for i in watched if 0 < counts[i] < FEW]
    if not rows:
        return ""
    least, split, name = min(rows, key=lambda row: row[0])
    return (
        f"Few patients in a test part: as few as {least} of {name!r} ({split}), so a fold's own metrics move "
        "in large steps; read the mean over folds and its interval."
    )


def _repeated(plan: Plan) -> str:
    """Redraws that came out the same add no information, as happens with few sites."""
    seen: dict[tuple[bytes, ...], int] = {}
    repeats = sorted({split.repeat for split in plan.splits})
    for repeat in repeats:
        tests = sorted({s.test.tobytes() for s in plan.splits if s.repeat == repeat})
        seen.setdefault(tuple(tests), repeat)
    if len(seen) == len(repeats):
        return ""
    return (
        f"Only {len(seen)} of {len(repeats)} repeats have test parts of their own; the others draw the same "
        "ones again and add seeds, not information about the split."
    )


def _few_sites(study: Study) -> str:
    n = len(np.unique(study.site))
    if n >= FEW_SITES:
        return ""
    return (
        f"Only {n} sites: the bootstrap resamples sites, and from so few its intervals tend to be too narrow; say how "
        "many there are beside them."
    )


def _joined_sites(study: Study) -> list[str]:
    notes = []
    for patient in np.unique(study.patient):
        sites = np.unique(study.site[study.patient == patient])
        if len(sites) > 1:
            notes.append((str(patient), "+".join(sites)))
    if not notes:
        return []
    return [
        f"Patients seen at more than one site: {len(notes)} "
        f"({listed([f'{patient} at {sites}' for patient, sites in notes])}); such sites are kept together."
    ]


def _shared_validation_sites(plan: Plan, study: Study) -> str:
    with_validation = [split for split in plan.splits if len(split.validation)]
    shared = [s for s in with_validation if np.isin(study.site[s.validation], study.site[s.train]).any()]
    if not shared:
        return ""
    return (
        f"{len(shared)} of {len(with_validation)} validation parts share sites with training (first: "
        f"{shared[0]}): no set of whole sites fitted the share, so patients were taken. Test sites are kept "
        "apart in every split."
    )


def _site_balance(plan: Plan, units: Units) -> str:
    """Test parts whose size or outcome is far from an even split, with their counts."""
    outcome, n = units.outcome, len(units)
    poor = []
    for split in plan.splits:
        if split.inner:
            continue  # the same test part again
        members = units.of_rows(split.test)
        folds = len({s.fold for s in plan.splits if s.repeat == split.repeat})
        counts = _kinds(outcome, members)
        size_off = folds > 1 and _far(len(members), n / folds)
        whole = _kinds(outcome, np.arange(n, dtype=np.int64))
        off = [_far(count, whole[name] * len(members) / n) for name, count in counts.items()]
        if size_off or any(off):
            shown = ", ".join(f"{name} {count}" for name, count in counts.items())
            poor.append(f"{split}: {len(members)} patients ({shown})")
    if not poor:
        return ""
    more = f"; and {len(poor) - 10} more" if len(poor) > 10 else ""
    return (
        f"Sites kept whole leave {len(poor)} test parts more than {TOLERANCE:.0%} away from an even share of "
        f"patients or outcome: {'; '.join(poor[:10])}{more}."
    )


def _kinds(outcome: Outcome, members: Int64[np.ndarray, " m"]) -> dict[str, int]:
    if outcome.kind == "labels" and outcome.labels is not None:
        return dict(zip(outcome.label_names, outcome.labels[members].sum(0).tolist(), strict=True))
    if outcome.kind == "values":
        return {}
    return dict(zip(outcome.names, outcome.counts(members).tolist(), strict=True))


def _far(count: int, expected: float) -> bool:
    return abs(count - expected) > max(1.0, TOLERANCE * expected)
