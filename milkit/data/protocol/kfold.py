"""k-fold cross-validation, once or repeated."""

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
class KFold:
    """Each patient is tested once a repeat: the cohort is cut into folds, each the test part of one split."""

    folds: int = 5
    """5 leaves 80 % of the patients outside the test part; more folds leave more but cost as many fits."""
    repeats: int = 1
    """New folds each time; shows how far the numbers hang on the split."""
    validation: float = 0.1
    """Share of each split's other patients that selects epochs and thresholds; 0 for none."""
    stratify: bool = True
    """Balance classes, events (and their times), labels or values over folds."""
    group: Group = "patient"
    """"site" keeps each site's patients in one fold (Howard et al., 2021)."""
    allow_patient_overlap: bool = False
    """Deal bags instead of patients, as papers that split by slide do; every number is then marked."""
    allow_single_class: bool = False
    """Let a test part hold one class only (leave-one-out)."""
    seed: int = 0
    """Of the folds only; training seeds are the experiment's."""

    def __post_init__(self) -> None:
        check_fields(self, "protocol", folds="[2, inf)", repeats="[1, inf)", validation="[0, 1)", seed="[0, inf)")
        check_group(self)

    def plan(self, study: Study, task: Task) -> Plan:
        """Deal the folds.

        Raises:
            ProtocolError: fewer patients (or sites) than folds, a part with one class, none to validate on.
        """
        draws = draws_for(study, task, self.group, self.stratify, self.allow_patient_overlap)
        splits: list[Split] = []
        notes: list[str] = []
        for repeat in range(self.repeats):
            rng = stream(self.seed, repeat, 0, Purpose.FOLDS)
            folds, said = draws.folds(draws.everyone, self.folds, rng, "folds")
            notes += said
            for fold, test in enumerate(folds):
                rest = np.setdiff1d(draws.everyone, test)
                held = draws.validation(rest, self.validation, stream(self.seed, repeat, fold, Purpose.VALIDATION))
                train = np.setdiff1d(rest, held)
                splits.append(Split(repeat, fold, 0, *map(draws.units.rows, (train, held, test))))
        return finish(
            splits,
            study,
            task,
            grouped_by=self.group,
            allow_patient_overlap=self.allow_patient_overlap,
            allow_single_class=self.allow_single_class,
            notes=notes,
        )
