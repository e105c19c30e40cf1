"""What every plan passes before it leaves this room: roles, leaks, outcomes; and the notes on it."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int64

from milkit.data.protocol.leaks import check_leaks
from milkit.data.protocol.notes import notes_on
from milkit.data.protocol.plan import GroupedBy, Plan, Split
from milkit.data.protocol.units import Outcome, Units, units_of
from milkit.data.study import Study
from milkit.errors import ProtocolError
from milkit.task import Task


def finish(
    splits: Iterable[Split],
    study: Study,
    task: Task,
    *,
    grouped_by: GroupedBy,
    allow_patient_overlap: bool,
    allow_single_class: bool,
    drawn: bool = True,
    notes: Sequence[str] = (),
) -> Plan:
    """Check splits and make them a plan.

    Args:
        splits: in any order; each (repeat, fold, inner) once.
        study: whose rows they name.
        task: how to read its targets.
        grouped_by: what the bootstrap resamples.
        allow_patient_overlap: let patients and slides stand in two roles; the plan is then marked.
        allow_single_class: let test parts hold one class only (leave-one-out).
        drawn: milkit drew them, so that other draws can be advised; False for folds that came with a table.
        notes: what the draws had to say.

    Raises:
        ProtocolError: an empty role, a leak, a training or test part with one class (or no event).
    """
    bare = Plan(tuple(sorted(splits, key=lambda split: split.key)), grouped_by)
    for split in bare.splits:
        _check_roles(split)
    marks = check_leaks(bare, study, allow_patient_overlap)
    units, bags = units_of(study, task), units_of(study, task, "bag")
    for split in bare.splits:
        _check_outcome(split, units, bags, allow_single_class, drawn)
    every = (*notes, *notes_on(bare, study, units, bags))
    return Plan(bare.splits, grouped_by, marks, tuple(dict.fromkeys(every)))


def _check_roles(split: Split) -> None:
    for role in ("train", "test"):
        if len(getattr(split, role)) == 0:
            raise ProtocolError(
                f"{str(split).capitalize()} has nobody in the role {role!r}; every split needs a bag to "
                "train on and one to test on. Mend the folds, or choose other shares."
            )


def _check_outcome(split: Split, units: Units, bags: Units, allow_single_class: bool, drawn: bool) -> None:
    outcome = units.outcome

    def fault_in(rows: Int64[np.ndarray, " r"]) -> str | None:
        """Patients whose bags differ in class count as one class each; then it is the bags that hold several."""
        return fault_of(outcome, units.of_rows(rows)) and fault_of(bags.outcome, bags.of_rows(rows))

    if fault := fault_in(split.train):
        advice = "Use fewer folds, a smaller test part, or stratify=True." if drawn else "Mend that fold in its table."
        raise ProtocolError(
            f"{str(split).capitalize()}: the training part holds {fault}; nothing can be learned from it. "
            f"{_counts_hint(outcome, len(units))}{advice}"
        )
    if outcome.kind == "values" or allow_single_class:
        return
    if fault := fault_in(split.test):
        advice = "Use fewer folds, a larger test part or stratify=True" if drawn else "Mend that fold in its table"
        raise ProtocolError(
            f"{str(split).capitalize()}: the test part holds {fault}, so AUROC, C-index and the like are "
            f"undefined there. {_counts_hint(outcome, len(units))}{advice}; or set allow_single_class=True (for "
            "leave-one-out), and those metrics become NaN with the reason."
        )


def fault_of(outcome: Outcome, members: Int64[np.ndarray, " m"]) -> str | None:
    """What makes a part useless for learning or ranking ("one class only (...)"), or None."""
    if outcome.kind == "labels" and outcome.labels is not None:
        positive = outcome.labels[members].sum(0)
        if ((positive > 0) & (positive < len(members))).any():
            return None
        return f"no label of which both 0 and 1 occur ({_tally(outcome.label_names, positive)} positive)"
    if outcome.kind == "values":
        several = outcome.distinct is not None and len(np.unique(outcome.distinct[members])) > 1
        return None if several else f"one value only ({len(members)} patients)"
    counts = outcome.counts(members)
    if outcome.kind == "events":
        return None if counts[1] else f"no event ({_tally(outcome.names, counts)})"
    return None if (counts > 0).sum() > 1 else f"one class only ({_tally(outcome.names, counts)})"


def _tally(names: tuple[str, ...], counts: Int64[np.ndarray, " s"]) -> str:
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts.tolist(), strict=True))


def _counts_hint(outcome: Outcome, n: int) -> str:
    if outcome.kind not in ("classes", "events"):
        return ""
    counts = outcome.counts(np.arange(n, dtype=np.int64))
    return f"The study has {n} patients: {_tally(outcome.names, counts)}. "
