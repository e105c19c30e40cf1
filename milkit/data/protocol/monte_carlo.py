"""Random test parts drawn anew each time (Monte-Carlo cross-validation), and the single one (hold-out)."""

from dataclasses import dataclass

import numpy as np

from milkit.data.protocol.checks import finish
from milkit.data.protocol.draws import Draws, Group, draws_for
from milkit.data.protocol.fields import check_group
from milkit.data.protocol.plan import Plan, Split
from milkit.data.protocol.rng import Purpose, stream
from milkit.data.study import Study
from milkit.fields import check_fields
from milkit.task import Task


@dataclass(frozen=True)
class MonteCarlo:
    """Test parts drawn anew each time: patients may be tested often or never, and test parts overlap.

    What CLAM and its heirs call "10-fold cross-validation" is this. Each draw is a repeat of its own with one
    fold.
    """

    splits: int = 20
    test: float = 0.2
    """Share of the patients."""
    validation: float = 0.1
    """Share of each split's other patients that selects epochs and thresholds; 0 for none."""
    stratify: bool = True
    """Balance classes, events (and their times), labels or values over roles."""
    group: Group = "patient"
    """"site" draws whole sites."""
    allow_patient_overlap: bool = False
    """Draw bags instead of patients; every number is then marked."""
    allow_single_class: bool = False
    """Let a test part hold one class only."""
    seed: int = 0
    """Of the draws only."""

    def __post_init__(self) -> None:
        check_fields(self, "protocol", splits="[1, inf)", test="(0, 1)", validation="[0, 1)", seed="[0, inf)")
        check_group(self)

    def plan(self, study: Study, task: Task) -> Plan:
        """Draw the test parts.

        Raises:
            ProtocolError: a part with one class, or a share that yields no patient.
        """
        draws = draws_for(study, task, self.group, self.stratify, self.allow_patient_overlap)
        return finish(
            [_one(draws, self, repeat) for repeat in range(self.splits)],
            study,
            task,
            grouped_by=self.group,
            allow_patient_overlap=self.allow_patient_overlap,
            allow_single_class=self.allow_single_class,
        )


@dataclass(frozen=True)
class Holdout:
    """One test part, drawn once: cheap, and the only design under which DeLong's test holds."""

    test: float = 0.2
    """Share of the patients."""
    validation: float = 0.1
    """Share of the other patients that selects epochs and thresholds; 0 for none."""
    stratify: bool = True
    """Balance classes, events (and their times), labels or values over roles."""
    group: Group = "patient"
    """"site" draws whole sites."""
    allow_patient_overlap: bool = False
    """Draw bags instead of patients; every number is then marked."""
    allow_single_class: bool = False
    """Let the test part hold one class only."""
    seed: int = 0
    """Of the draw only."""

    def __post_init__(self) -> None:
        check_fields(self, "protocol", test="(0, 1)", validation="[0, 1)", seed="[0, inf)")
        check_group(self)

    def plan(self, study: Study, task: Task) -> Plan:
        """Draw the test part.

        Raises:
            ProtocolError: a part with one class, or a share that yields no patient.
        """
        draws = draws_for(study, task, self.group, self.stratify, self.allow_patient_overlap)
        return finish(
            [_one(draws, self, 0)],
            study,
            task,
            grouped_by=self.group,
            allow_patient_overlap=self.allow_patient_overlap,
            allow_single_class=self.allow_single_class,
        )


def _one(draws: Draws, protocol: MonteCarlo | Holdout, repeat: int) -> Split:
    test = draws.test(draws.everyone, protocol.test, stream(protocol.seed, repeat, 0, Purpose.TEST))
    rest = np.setdiff1d(draws.everyone, test)
    held = draws.validation(rest, protocol.validation, stream(protocol.seed, repeat, 0, Purpose.VALIDATION))
    return Split(repeat, 0, 0, *map(draws.units.rows, (np.setdiff1d(rest, held), held, test)))
