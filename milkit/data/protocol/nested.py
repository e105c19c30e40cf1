"""Nested cross-validation: each outer training part is cut into inner folds, each of which validates one fit."""

from dataclasses import dataclass

import numpy as np

from milkit.data.protocol.checks import finish
from milkit.data.protocol.draws import Group, draws_for
from milkit.data.protocol.fields import check_group
from milkit.data.protocol.plan import Plan, Split
from milkit.data.protocol.rng import Purpose, stream
from milkit.data.study import Study
from milkit.fields import check_fields
from milkit.task import Task


@dataclass(frozen=True)
class Nested:
    """Each outer fold is tested by `inner` fits, each validating on another inner fold of the outer rest.

    All inner fits of an outer fold share its test part and never see it. Within the outer rest each patient
    validates once, so epochs and thresholds rest on all of it instead of a tenth. Each inner fit chooses for itself;
    nothing is chosen over the inner fits (no hyper-parameters yet).
    """

    folds: int = 5
    """Outer folds, each the test part of `inner` splits."""
    inner: int = 4
    """Folds of each outer rest: with 5 outer folds, 4 give a validation part as large as the test part."""
    repeats: int = 1
    """New folds each time."""
    stratify: bool = True
    """Balance classes, events (and their times), labels or values over folds."""
    group: Group = "patient"
    """"site" keeps each site in one outer fold, and in one inner fold where there are sites enough."""
    allow_patient_overlap: bool = False
    """Deal bags instead of patients; every number is then marked."""
    allow_single_class: bool = False
    """Let a test part hold one class only."""
    seed: int = 0
    """Of the folds only."""

    def __post_init__(self) -> None:
        check_fields(self, "protocol", folds="[2, inf)", inner="[2, inf)", repeats="[1, inf)", seed="[0, inf)")
        check_group(self)

    def plan(self, study: Study, task: Task) -> Plan:
        """Deal the outer folds, then the inner ones.

        Raises:
            ProtocolError: fewer patients (or sites) than folds, or a part with one class.
        """
        draws = draws_for(study, task, self.group, self.stratify, self.allow_patient_overlap)
        splits: list[Split] = []
        notes: list[str] = []
        for repeat in range(self.repeats):
            rng = stream(self.seed, repeat, 0, Purpose.FOLDS)
            outer, said = draws.folds(draws.everyone, self.folds, rng, "folds")
            notes += said
            for fold, test in enumerate(outer):
                rest = np.setdiff1d(draws.everyone, test)
                inner, said = draws.inner_folds(rest, self.inner, stream(self.seed, repeat, fold, Purpose.INNER))
                notes += said
                for i, held in enumerate(inner):
                    rows = map(draws.units.rows, (np.setdiff1d(rest, held), held, test))
                    splits.append(Split(repeat, fold, i, *rows))
        return finish(
            splits,
            study,
            task,
            grouped_by=self.group,
            allow_patient_overlap=self.allow_patient_overlap,
            allow_single_class=self.allow_single_class,
            notes=notes,
        )
