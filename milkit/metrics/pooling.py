"""Scores of a patient's bags to one score a patient."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Aggregate = Literal["mean", "max"]


def pool(
    kind: str, score: Float[np.ndarray, "n s"], group: Int[np.ndarray, "n"], count: int, aggregate: Aggregate
) -> Float[np.ndarray, "p s"]:
    """One row a patient: the mean of its bags' scores, or the highest.

    The highest: of the positive class (binary), or of each class, label or value by itself, the probabilities of
    several classes then made to sum to 1 again.

    Args:
        kind: class name of the task.
        score: of each bag; binary: of both classes.
        group: number of each bag's patient, 0 to count - 1; every patient has a bag.
        count: patients.
        aggregate: how.
    """
    if len(score) == count:
        return score[np.argsort(group, kind="stable")]
    if aggregate == "mean":
        total = np.stack([np.bincount(group, column, count) for column in score.T], 1)
        return total / np.bincount(group, minlength=count)[:, None]
    out = np.full((count, score.shape[1]), -np.inf)
    np.maximum.at(out, group, score)
    if kind == "Binary":
        out[:, 0] = 1.0 - out[:, 1]
    return out / out.sum(1, keepdims=True) if kind == "MultiClass" else out
