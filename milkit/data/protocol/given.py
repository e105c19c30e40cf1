"""The splits that ship with the data."""

from dataclasses import dataclass

import numpy as np

from milkit.data.protocol.checks import finish
from milkit.data.protocol.draws import draws_for
from milkit.data.protocol.plan import Plan, Split
from milkit.data.protocol.validation import with_validation
from milkit.data.study import Study
from milkit.errors import ProtocolError
from milkit.fields import check_fields
from milkit.task import Task


@dataclass(frozen=True)
class GivenFolds:
    """The folds that ship with the data: what a published number was measured on."""

    validation: float = 0.1
    """Share of the training patients (stratified) that selects epochs and thresholds, taken where a given
    split names no validation bag; 0 for none. A given validation part is kept as it is."""
    repeats: int | None = None
    """Use only the first so many repetitions; None uses all."""
    allow_patient_overlap: bool = False
    """Take given folds that leak as they are; every number is then marked."""
    allow_single_class: bool = False
    """Let a given test part hold one class only."""
    seed: int = 0
    """Of the validation parts only."""

    def __post_init__(self) -> None:
        check_fields(self, "protocol", validation="[0, 1)", repeats="[1, inf)", seed="[0, inf)")

    def plan(self, study: Study, task: Task) -> Plan:
        """Read the study's own splits.

        Raises:
            ProtocolError: the study has none, or one is given twice, leaks, or has an empty role.
        """
        if not study.given:
            raise ProtocolError(
                f"Study {study.name!r} comes without splits: its table has no split or fold column. Name "
                "one, give SavedFolds(path) a table of your own, or draw folds with KFold."
            )
        chosen = [given for given in study.given if self.repeats is None or given.repeat < self.repeats]
        keys = [(given.repeat, given.fold) for given in chosen]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ProtocolError(f"Study {study.name!r} gives repeat {twice[0][0]}, fold {twice[0][1]} more than once.")
        draws = draws_for(study, task, "patient", stratify=True, by_bag=self.allow_patient_overlap)
        splits = []
        for given in chosen:
            role = np.asarray(given.role)
            train, held, test = (np.flatnonzero(role == name) for name in ("train", "validation", "test"))
            number = (given.repeat, given.fold)
            train, held = with_validation(draws, train, held, self.validation, self.seed, number)
            splits.append(Split(given.repeat, given.fold, 0, train, held, test))
        return finish(
            splits,
            study,
            task,
            grouped_by="patient",
            allow_patient_overlap=self.allow_patient_overlap,
            allow_single_class=self.allow_single_class,
            drawn=False,
        )
