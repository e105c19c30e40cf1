"""Few labels: nested subsets of each split's training part, by patient and class, for a label-budget curve.

A budget of k keeps k patients of each class of a split's training part. Of one draw, the patients of a smaller budget
are among those of a larger one; the test part never changes, and neither does the split that has all labels.

References:
    Oliver, Odena, Raffel, Cubuk, Goodfellow (2018), Realistic evaluation of deep semi-supervised learning algorithms,
    NeurIPS, on small validation sets: who has few labels to train on has few to select on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int64

from milkit.data.protocol.plan import Plan, Split
from milkit.data.protocol.rng import few_label_stream, shuffled
from milkit.data.protocol.units import Units, units_of
from milkit.data.study import Study
from milkit.errors import ConfigError, ProtocolError
from milkit.fields import check_fields
from milkit.task import Task

FEW_ROLES = ("train", "validation")


@dataclass(frozen=True)
class LabelBudget:
    """How few labelled patients the same study is repeated with; all labels are always the curve's last point.

    A class is what folds are balanced by: the class (binary and multi-class tasks; of a patient whose slides differ,
    the most frequent one), event or censored (survival), or everybody (multi-label and regression: k patients in all).
    """

    patients_per_class: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Training patients of each class, one a point of the curve. A budget that some training part cannot fill is left
    out, for all folds, and the report says so: all points of a curve rest on the same folds."""
    draws: int = 5
    """Subsets drawn for each budget and split. They are averaged: draws, like seeds, never add sample size."""
    validation: Literal["same budget", "whole"] = "same budget"
    """Who chooses epochs and thresholds. `same budget`: at most k patients of each class of the validation part, as
    few as train, since who has two labelled patients a class has no fifty to validate on. `whole`: the validation part
    as it is, which flatters small budgets; the report says by how many patients. With `train.select="last"` no
    validation patient is needed to choose an epoch."""
    seed: int = 0
    """Of the subsets only."""

    def __post_init__(self) -> None:
        check_fields(self, "labels", patients_per_class="[1, inf)", draws="[1, inf)", seed=f"[0, {2**32})")
        budgets = self.patients_per_class
        if not budgets or list(budgets) != sorted(set(budgets)):
            raise ConfigError(
                f"labels.patients_per_class is {budgets!r}; expected rising numbers, each once, such as (1, 2, 4, 8)."
            )


@dataclass(frozen=True, eq=False)
class FewLabels:
    """The splits of all budgets.

    Attributes:
        splits: by budget (the largest first), then in the plan's order, then by draw.
        notes: budgets that were left out, and why.
    """

    splits: tuple[Split, ...]
    notes: tuple[str, ...]


def few_label_splits(budget: LabelBudget, plan: Plan, study: Study, task: Task) -> FewLabels:
    """Draw the subsets of every split of a plan.

    Who is drawn depends on `budget.seed`, the split's numbers, the draw and who is in its part; never on the other
    budgets, the number of draws, seeds or models.

    Args:
        budget: what is wanted.
        plan: the splits with all labels.
        study: the study that they are of.
        task: how to read its targets.

    Raises:
        ProtocolError: no budget can be filled.
    """
    units = units_of(study, task)
    budgets, notes = _possible(budget, plan, units)
    splits = []
    for k in sorted(budgets, reverse=True):
        for split in plan.splits:
            for draw in range(1, budget.draws + 1):
                train, validation = (_few(units, split, role, k, draw, budget) for role in FEW_ROLES)
                splits.append(replace(split, train=train, validation=validation, labels=k, draw=draw))
    return FewLabels(tuple(splits), tuple(notes))


def _possible(budget: LabelBudget, plan: Plan, units: Units) -> tuple[list[int], list[str]]:
    """The budgets that every training part can fill, and a note on each other one."""
    outcome = units.outcome
    present = np.flatnonzero(outcome.counts(np.arange(len(units), dtype=np.int64)))
    fewest = min(
        (int(outcome.counts(units.of_rows(split.train))[c]), outcome.names[c], str(split))
        for split in plan.splits
        for c in present
    )
    kept = [k for k in budget.patients_per_class if k <= fewest[0]]
    of_class = f" of class {fewest[1]!r}" if len(present) > 1 else ""
    why = f"the training part of {fewest[2]} has {fewest[0]} {units.what}s{of_class}"
    if not kept:
        raise ProtocolError(
            f"labels.patients_per_class={budget.patients_per_class} asks for {budget.patients_per_class[0]} or more, "
            f"but {why}; give smaller budgets."
        )
    left_out = [k for k in budget.patients_per_class if k not in kept]
    return kept, [f"Label budget of {k} left out: {why}." for k in left_out]


def _few(units: Units, split: Split, role: str, k: int, draw: int, budget: LabelBudget) -> Int64[np.ndarray, " r"]:
    """Rows of the k first patients of each class in a part, in the order of this draw."""
    rows: np.ndarray = getattr(split, role)
    if role == "validation" and budget.validation == "whole":
        return rows
    members = units.of_rows(rows)
    stratum = units.outcome.stratum[members]
    chosen = []
    for c in np.unique(stratum):
        rng = few_label_stream(budget.seed, split.key, draw, FEW_ROLES.index(role), int(c))
        order = shuffled(int((stratum == c).sum()), rng)
        chosen.append(members[stratum == c][order[:k]])
    mine = np.concatenate(chosen) if chosen else members
    return rows[np.isin(units.of_bag[rows], mine)]


def few_label_rows(splits: Sequence[Split], study: Study) -> list[tuple[object, ...]]:
    """A table of who trains and validates with each budget, its header first; tests are those of the plan."""
    table: list[tuple[object, ...]] = [("labels", "draw", "repeat", "fold", "inner", "role", "bag", "patient")]
    for split in splits:
        for role in FEW_ROLES:
            for row in getattr(split, role):
                table.append((split.labels, split.draw, *split.key, role, study.bag[row], study.patient[row]))
    return table
