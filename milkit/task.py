"""What is predicted: the task of an experiment, which columns hold its targets and how its logits are read.

A task is a frozen dataclass that an experiment file states. It holds no data: class names come from the cohort
(`milkit.data.targets`). Targets travel as one array a batch:

=============  =======================  ==============================================
task           target                   logits
=============  =======================  ==============================================
`Binary`       int32 [b], 1 = positive  [b, 1], probability = sigmoid
`MultiClass`   int32 [b], class index   [b, c], probabilities = softmax
`MultiLabel`   float32 [b, c] of 0, 1   [b, c], probabilities = sigmoid
`Regression`   float32 [b, c]           [b, c], the value itself
`Survival`     float32 [b, 2]:          cox: [b, 1], the log risk;
               time, event (1 = event)  nll: [b, bins], logits of the hazard of each bin
=============  =======================  ==============================================
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from milkit.errors import ConfigError
from milkit.fields import check_fields

ClassWeights = Literal["none", "balanced"]


@dataclass(frozen=True)
class Binary:
    """One yes-or-no label a patient."""

    label: str = "label"
    """Column of the cohort table that holds the class."""
    positive: str = ""
    """Name of the positive class as it stands in that column; "" takes the last name in sorted order (of 0, 1: 1)."""
    loss: Literal["bce", "focal"] = "bce"
    class_weights: ClassWeights = "none"
    """`balanced`: each class weighs the same in sum, computed on each run's own training part."""
    focal_gamma: float = 2.0  # Lin et al. (2017), section 5.1

    def __post_init__(self) -> None:
        check_fields(self, "task", focal_gamma="[0, inf)")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort table that must be there."""
        return (self.label,)

    def out_features(self, n_names: int) -> int:
        """Number of logits; `n_names` is the number of classes."""
        return 1


@dataclass(frozen=True)
class MultiClass:
    """One of several classes a patient."""

    label: str = "label"
    classes: tuple[str, ...] = ()
    """Names in the order wanted (needed for quadratic kappa); () takes the sorted names found in the table."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    class_weights: ClassWeights = "none"
    focal_gamma: float = 2.0

    def __post_init__(self) -> None:
        check_fields(self, "task", focal_gamma="[0, inf)")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort table that must be there."""
        return (self.label,)

    def out_features(self, n_names: int) -> int:
        """Number of logits: one a class."""
        return n_names


@dataclass(frozen=True)
class MultiLabel:
    """Several yes-or-no labels a patient, each in a column of 0 and 1."""

    labels: tuple[str, ...]
    """Columns of the cohort table, one a label."""
    loss: Literal["bce", "focal"] = "bce"
    class_weights: ClassWeights = "none"
    focal_gamma: float = 2.0

    def __post_init__(self) -> None:
        check_fields(self, "task", focal_gamma="[0, inf)")
        _check_labels(self.labels, "hold 0 or 1")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort table that must be there."""
        return self.labels

    def out_features(self, n_names: int) -> int:
        """Number of logits: one a label."""
        return len(self.labels)


@dataclass(frozen=True)
class Regression:
    """One or more real values a patient."""

    labels: tuple[str, ...] = ("target",)
    loss: Literal["mse", "huber"] = "mse"
    huber_delta: float = 1.0
    """In units of the standardised target when `standardise` is on."""
    standardise: bool = True
    """Train on targets scaled to mean 0 and SD 1 of each run's own training part; predictions are scaled back."""

    def __post_init__(self) -> None:
        check_fields(self, "task", huber_delta="(0, inf)")
        _check_labels(self.labels, "hold the values")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort table that must be there."""
        return self.labels

    def out_features(self, n_names: int) -> int:
        """Number of outputs: one a value."""
        return len(self.labels)


@dataclass(frozen=True)
class Survival:
    """Time to an event, right-censored."""

    time: str = "time"
    """Column with the time to event or to last follow-up, any unit, positive."""
    event: str = "event"
    """Column with 1 = event seen, 0 = censored."""
    loss: Literal["nll", "cox"] = "nll"  # nll works with one bag a step; Cox needs a batch to form risk sets
    """`nll`: discrete time, the likelihood over `bins`; `cox`: the partial likelihood within a step's bags, so it needs
    `train.batch_bags` of 16 or more."""
    bins: int = 4  # as in MCAT and Patch-GCN
    """Time bins of the discrete-time model, cut at quantiles of the training events' times."""
    nll_alpha: float = 0.0
    """Weight moved from the censored to the uncensored term (Zadeh & Schmid 2021); MCAT uses 0, .15 or .4."""

    def __post_init__(self) -> None:
        check_fields(self, "task", bins="[2, 100]", nll_alpha="[0, 1]")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort table that must be there."""
        return (self.time, self.event)

    def out_features(self, n_names: int) -> int:
        """Number of logits: the hazards' bins, or one log risk."""
        return self.bins if self.loss == "nll" else 1


def _check_labels(labels: tuple[str, ...], what: str) -> None:
    if not labels or not all(labels) or len(set(labels)) < len(labels):
        raise ConfigError(f"task.labels is {labels!r}; name the columns that {what}, at least one and none twice.")


Task = Binary | MultiClass | MultiLabel | Regression | Survival


def probabilities(task: Task, logits: np.ndarray) -> np.ndarray:
    """Logits [b, c] to what `predictions.csv` calls probabilities (classification), values or one risk [b, 1].

    Survival: the risk is the log risk itself (Cox) or minus the sum over bins of the survival function (MCAT's
    definition); higher means an earlier event in both.
    """
    logits = np.asarray(logits, np.float64)
    if isinstance(task, Regression) or (isinstance(task, Survival) and task.loss == "cox"):
        return logits
    if isinstance(task, MultiClass):
        e = np.exp(logits - logits.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)
    # tanh form: exact 0.5 at 0 and no overflow for large negative logits
    p = 0.5 * (1.0 + np.tanh(0.5 * logits))
    if isinstance(task, Survival):
        return -np.cumprod(1.0 - p, -1).sum(-1, keepdims=True)
    return p
