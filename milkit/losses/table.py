"""The loss of each task, with one signature, and what it takes from a run's own training part."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from milkit.errors import ConfigError, ProtocolError
from milkit.losses import pointwise, survival
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival, Task


class LossParams(NamedTuple):
    """What a loss needs beside logits and targets; a pytree of arrays, so that runs can be stacked.

    Fields that a task has no use for hold neutral values; shapes depend on the task only, never on the run.

    Attributes:
        class_weights: [2] (negative, positive) for binary, [c] for multi-class, [c, 2] for multi-label, else
            [0].
        cuts: inner bounds of the time bins, [bins - 1], in the unit of the times; [0] without bins.
        target_shift: what is taken off a regression target, [t].
        target_scale: what it is then divided by, [t], above 0.
        focal_gamma: scalar.
        huber_delta: scalar, in units of the scaled target.
        nll_alpha: scalar.
    """

    class_weights: Any
    cuts: Any
    target_shift: Any
    target_scale: Any
    focal_gamma: Any
    huber_delta: Any
    nll_alpha: Any


LossFunction = Callable[[Array, Array, Array, LossParams], Array]


@dataclass(frozen=True)
class LossSpec:
    """A loss as the trainer sees it.

    Attributes:
        fn: `(logits, target, weight, params) -> [b]`, one value a bag, not multiplied by `weight`.
        decomposable: False where a bag's value depends on the other bags of the batch.
    """

    fn: LossFunction
    decomposable: bool = True


def for_task(task: Task) -> LossSpec:
    """The loss that a task asks for."""
    if isinstance(task, MultiClass):
        return LossSpec(_focal_multiclass if task.loss == "focal" else _cross_entropy)
    if isinstance(task, Binary | MultiLabel):
        return LossSpec(_focal if task.loss == "focal" else _bce)
    if isinstance(task, Regression):
        return LossSpec(_huber if task.loss == "huber" else _mse)
    return LossSpec(_cox, decomposable=False) if task.loss == "cox" else LossSpec(_nll)


def loss_params(task: Task, targets: np.ndarray, n_names: int) -> LossParams:
    """Compute a loss's parameters from the targets of one run's training part.

    Balanced class weights are n / (C n_c) with C the number of classes that the training part holds, so their
    mean over the training part is 1. A class that it lacks weighs 1: the weight cannot matter in training,
    and must be finite where validation patients have the class. Time cuts are quantiles of the times of
    events (not of censored patients); repeated event times may leave a bin empty.

    Args:
        task: the task.
        targets: targets of the training part as `milkit.task` lays them out, one row a bag: [n] or [n, t].
        n_names: number of classes, labels or values.

    Raises:
        ProtocolError: an empty training part, targets that are not finite, one class only, or no event: there
            is nothing to learn from.
    """
    targets = np.asarray(targets)
    if not len(targets):
        raise ProtocolError("The training part of a run holds no bag; give it patients or use fewer folds.")
    if not np.isfinite(targets).all():
        row = int(np.flatnonzero(~np.isfinite(targets.reshape(len(targets), -1)).all(1))[0])
        raise ProtocolError(
            f"Row {row} of a run's training targets is not finite ({targets[row]}); "
            "give every training patient a target."
        )
    shift, scale = np.zeros(0), np.ones(0)
    if isinstance(task, Regression):
        shift, scale = _target_scale(task, targets)
    return LossParams(
        class_weights=_class_weights(task, targets, n_names).astype(np.float32),
        cuts=_cuts(task, targets).astype(np.float32),
        target_shift=shift.astype(np.float32),
        target_scale=scale.astype(np.float32),
        focal_gamma=np.float32(getattr(task, "focal_gamma", 2.0)),
        huber_delta=np.float32(getattr(task, "huber_delta", 1.0)),
        nll_alpha=np.float32(getattr(task, "nll_alpha", 0.0)),
    )


def unscale(values: np.ndarray, params: LossParams) -> np.ndarray:
    """Regression outputs [b, t] in the unit of the target, the inverse of what the loss does to targets."""
    return np.asarray(values, np.float64) * np.asarray(params.target_scale) + np.asarray(params.target_shift)


def _class_weights(task: Task, targets: np.ndarray, n_names: int) -> np.ndarray:
    if isinstance(task, Binary | MultiClass):
        n_classes = 2 if isinstance(task, Binary) else n_names
        if n_classes < 2:
            raise ConfigError(f"A multi-class task needs at least 2 classes, but the table holds {n_classes}.")
        if not (np.equal(targets, np.rint(targets)).all() and targets.min() >= 0 and targets.max() < n_classes):
            raise ConfigError(
                f"Class indices must be whole numbers of 0 to {n_classes - 1}; found {np.unique(targets)}."
            )
        counts = np.bincount(targets.astype(np.int64), minlength=n_classes)
        if (counts > 0).sum() < 2:
            raise ProtocolError(
                f"All {len(targets)} bags of a run's training part are of class index {counts.argmax()}; a "
                "classifier needs two classes: use stratified folds, fewer folds or less validation."
            )
        return _balanced(counts) if task.class_weights == "balanced" else np.ones(n_classes)
    if isinstance(task, MultiLabel):
        if task.class_weights == "none":
            return np.ones((n_names, 2))
        positive = targets.sum(0)
        return np.stack([_balanced(np.array([len(targets) - p, p])) for p in positive])
    return np.zeros(0)


def _balanced(counts: np.ndarray) -> np.ndarray:
    """Total / (C n_c) over the classes present; 1 for the others."""
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 1.0)


def _target_scale(task: Regression, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD of each value; SD 1 where the value is constant."""
    values = targets.reshape(len(targets), -1).astype(np.float64)
    if not task.standardise:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    sd = values.std(0)
    return values.mean(0), np.where(sd > 0, sd, 1.0)


def _cuts(task: Task, targets: np.ndarray) -> np.ndarray:
    if not isinstance(task, Survival):
        return np.zeros(0)
    events = targets[targets[:, 1] == 1, 0].astype(np.float64)
    if not len(events):
        raise ProtocolError(
            f"None of the {len(targets)} bags of a run's training part has an event; a survival model cannot "
            "be trained on censored patients alone: stratify folds by event or use fewer folds."
        )
    if task.loss == "cox":
        return np.zeros(0)
    return np.quantile(events, np.arange(1, task.bins) / task.bins)


def _bce(logits: Array, target: Array, weight: Array, params: LossParams) -> Float[Array, "b"]:
    return pointwise.bce(logits, target, jnp.asarray(params.class_weights))


def _focal(logits: Array, target: Array, weight: Array, params: LossParams) -> Float[Array, "b"]:
    weights, gamma = jnp.asarray(params.class_weights), jnp.asarray(params.focal_gamma)
    return pointwise.focal(logits, target, gamma, weights)


def _cross_entropy(logits: Array, target: Array, weight: Array, params: LossParams) -> Float[Array, "b"]:
    return pointwise.cross_entropy(logits, target, jnp.asarray(params.class_weights))


def _focal_multiclass(logits: Array, target: Array, weight: Array, params: LossParams) -> Float[Array, "b"]:
    weights, gamma = jnp.asarray(params.class_weights), jnp.asarray(params.focal_gamma)
    return pointwise.focal_multiclass(logits, target, gamma, weights)


def _mse(logits: Array, target: Array, weight: Array, params: LossParams) -> Float[Array, "b"]:
    return pointwise.mse(logits, (target - params.target_shift) / params.target_scale)


def _huber(logits: Array, target: Array, weight: Array, params: LossParams) -> Float[Array, "b"]:
    scaled = (target - params.target_shift) / params.target_scale
    return pointwise.huber(logits, scaled, jnp.asarray(params.huber_delta))


def _cox(logits: Array, target: Array, weight: Array, params: LossParams) -> Float[Array, "b"]:
    return survival.cox(logits, target, weight)


def _nll(logits: Array, target: Array, weight: Array, params: LossParams) -> Float[Array, "b"]:
    cuts, alpha = jnp.asarray(params.cuts), jnp.asarray(params.nll_alpha)
    return survival.discrete_time_nll(logits, target, cuts, alpha)
