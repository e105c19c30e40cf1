"""Who is drawn into a role: patients (or bags, where a leak is asked for), and what is balanced."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64, Shaped

from milkit.data.study import Study
from milkit.errors import ProtocolError
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival, Task

OutcomeKind = Literal["classes", "events", "labels", "values"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What stratification balances, one entry a unit.

    Attributes:
        kind: classes (binary, multi-class), events (survival), labels (multi-label) or values (regression).
        stratum: class (binary, multi-class) or event (survival), int64 [u]; 0 for all where there is none.
        spread: value to spread evenly within a stratum (time, regression value), float64 [u]; 0 where there
            is none.
        names: name of each stratum.
        labels: 0/1 labels, int64 [u, t], of a multi-label task; else None.
        label_names: name of each label, () unless multi-label.
        distinct: number of the unit's value or combination of values, int64 [u], in regression; else None.
    """

    kind: OutcomeKind
    stratum: np.ndarray
    spread: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    distinct: np.ndarray | None = None

    def flat(self) -> "Outcome":
        """The outcome of a protocol that does not stratify: all units alike."""
        return Outcome("values", np.zeros_like(self.stratum), np.zeros_like(self.spread), ("all",))

    def counts(self, members: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " s"]:
        """Number of units of each stratum among `members`."""
        return np.bincount(self.stratum[members], minlength=len(self.names)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a study, sorted by id, so that draws do not depend on the order of the table's rows.

    Attributes:
        id: the patient's (or the bag's) id, text [u].
        of_bag: unit of each bag, int64 [b].
        outcome: what to balance.
        what: "patient" or "bag", for messages.
    """

    id: np.ndarray
    of_bag: np.ndarray
    outcome: Outcome
    what: str

    def __len__(self) -> int:
        """Number of units."""
        return len(self.id)

    def rows(self, members: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " r"]:
        """Rows of the study that belong to `members`."""
        return np.flatnonzero(np.isin(self.of_bag, members)).astype(np.int64)

    def of_rows(self, rows: Int64[np.ndarray, " r"]) -> Int64[np.ndarray, " m"]:
        """Units that `rows` belong to, rising."""
        return np.unique(self.of_bag[rows])

    def unstratified(self) -> "Units":
        """The same units, all alike."""
        return replace(self, outcome=self.outcome.flat())


def units_of(study: Study, task: Task, by: str = "patient") -> Units:
    """Gather a study's bags into the units that roles are drawn for.

    Args:
        study: the bags and targets.
        task: how to read the targets.
        by: "patient", or "bag" where a protocol was told to let patients stand in two roles.

    Raises:
        ProtocolError: the study has no bag.
    """
    if len(study) == 0:
        raise ProtocolError(f"Study {study.name!r} holds no bag, so there is nobody to train or test on.")
    ids, of_bag = np.unique(study.patient if by == "patient" else study.bag, return_inverse=True)
    of_bag = of_bag.astype(np.int64)
    return Units(ids, of_bag, _outcome(study, task, of_bag, len(ids)), by)


def _outcome(study: Study, task: Task, of_bag: Int64[np.ndarray, " b"], n: int) -> Outcome:
    values, names = np.asarray(study.targets.values), tuple(study.targets.names)
    nothing = np.zeros(n, np.int64)
    if isinstance(task, Binary | MultiClass):
        classes = _most_frequent(values.astype(np.int64), of_bag, n, len(names))
        return Outcome("classes", classes, np.zeros(n), names)
    if isinstance(task, MultiLabel):
        positive = np.zeros((n, values.shape[1]), np.int64)
        np.maximum.at(positive, of_bag, (values > 0.5).astype(np.int64))  # positive if any slide is
        return Outcome("labels", nothing, np.zeros(n), ("all",), positive, names)
    if isinstance(task, Survival):
        event = nothing.copy()
        np.maximum.at(event, of_bag, (values[:, 1] > 0.5).astype(np.int64))
        return Outcome("events", event, _mean(values[:, 0], of_bag, n), ("censored", "event"))
    if isinstance(task, Regression):
        means = np.stack([_mean(column, of_bag, n) for column in values.reshape(len(values), -1).T], axis=1)
        # Several values a patient: their mean rank, so that none counts more for its unit.
        ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in means.T])
        distinct = np.unique(means, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
        return Outcome("values", nothing, ranks.mean(0), ("all",), distinct=distinct)
    raise ProtocolError(f"No protocol for tasks of type {type(task).__name__}; use one of milkit.task.")


def _most_frequent(
    values: Int64[np.ndarray, " b"], of_bag: Int64[np.ndarray, " b"], n: int, classes: int
) -> Int64[np.ndarray, " u"]:
    """Each unit's most frequent class; on a tie the last one (of a binary task: the positive)."""
    table = np.zeros((n, classes), np.int64)
    np.add.at(table, (of_bag, values), 1)
    return (classes - 1 - np.argmax(table[:, ::-1], axis=1)).astype(np.int64)


def _mean(values: Shaped[np.ndarray, " b"], of_bag: Int64[np.ndarray, " b"], n: int) -> Float[np.ndarray, " u"]:
    total = np.bincount(of_bag, weights=values.astype(np.float64), minlength=n)
    return total / np.bincount(of_bag, minlength=n)
