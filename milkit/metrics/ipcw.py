"""Inverse probability of censoring weights, and what is measured with them at a fixed time."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from milkit.errors import DataError
from milkit.metrics.censored import Column, censored_times, same_length
from milkit.metrics.draws import Value, Weight, as_draws, finish, not_finite, ratio, undefined
from milkit.metrics.kaplan_meier import kaplan_meier

NO_TIME = "at none of the times is anybody left uncensored, among those that the censoring was estimated on"


class Censoring(NamedTuple):
    """Kaplan-Meier estimate of staying uncensored: `free[i]` from `time[i]` on, 1 before the first.

    Attributes:
        time: distinct times in ascending order.
        free: probability of being uncensored, falling.
    """

    time: Float[np.ndarray, "t"]
    free: Float[np.ndarray, "t"]

    def at(self, time: Float[np.ndarray, "*k"] | float) -> Float[np.ndarray, "*k"]:
        """Probability at each time, steps taken at the time itself; after the last time, the last value."""
        return np.r_[1.0, self.free][np.searchsorted(self.time, time, side="right")]


def censoring(time: Column, event: Column) -> Censoring:
    """Kaplan-Meier estimate of the censoring times; at equal times events come before censorings.

    Args:
        time: to event or censoring, [n].
        event: 1 = event, 0 = censored, [n].

    Raises:
        DataError: a time or event that cannot be.

    References:
        Kaplan & Meier (1958); Uno et al. (2011), section 2.
    """
    t, seen = censored_times(time, event)
    distinct, place = np.unique(t, return_inverse=True)
    censored = np.bincount(place, weights=~seen, minlength=len(distinct))
    events = np.bincount(place, weights=seen, minlength=len(distinct))
    here = censored + events
    at_risk = here[::-1].cumsum()[::-1] - events
    return Censoring(
        distinct, np.cumprod(1.0 - np.divide(censored, at_risk, out=np.zeros_like(at_risk), where=at_risk > 0))
    )


def auroc_at(
    time: Column,
    event: Column,
    risk: Column,
    at: float,
    weight: Weight = None,
    *,
    estimate: Censoring | None = None,
) -> Value:
    """Time-dependent AUROC: does who has the event by `at` have a higher risk than who is free of it beyond?

    Cumulative cases, dynamic controls. A case weighs 1 / G(its time); who is censored by `at` is neither. Equal risks
    count half.

    Args:
        time: to event or censoring, [n].
        event: 1 = event, 0 = censored, [n].
        risk: higher means earlier, [n].
        at: the time, in the unit of `time`.
        weight: [n] or [draws, n]; G is not estimated anew for each draw.
        estimate: G, of the training patients; of these patients, unweighted, if None.

    References:
        Uno et al. (2007), Evaluating prediction rules for t-year survivors with censored regression models, JASA 102;
        Hung & Chiang (2010).
    """
    t, seen = censored_times(time, event)
    r = np.asarray(risk, np.float64)
    same_length("risk", r, t)
    if reason := not_finite(r):
        return undefined(weight, reason)
    free = (censoring(t, seen) if estimate is None else estimate).at(t)
    case, control = seen & (t <= at) & (free > 0), t > at
    won = (r[case][:, None] > r[control]) + 0.5 * (r[case][:, None] == r[control])
    w = as_draws(weight, len(t))
    cases, controls = w[:, case] / free[case], w[:, control]
    value = ratio(((cases @ won) * controls).sum(1), cases.sum(1) * controls.sum(1))
    return finish(value, weight, f"no event by {at:g}, or nobody known to be free of it beyond")


def brier_ipcw(
    time: Column,
    event: Column,
    survival: Float[np.ndarray, "n k"],
    at: Float[np.ndarray, "k"],
    weight: Weight = None,
    *,
    estimate: Censoring | None = None,
) -> Value:
    """Integrated Brier score: mean squared distance of predicted survival from the truth, averaged over time.

    At one time: (0 - S)^2 / G(time) for who had the event by then, (1 - S)^2 / G(at) for who was free of it beyond, 0
    for who was censored before; the mean over patients. Over several times: the trapezium rule from the first to the
    last, divided by their distance. Times at which G is 0 are left out. 0 is best; a coin (S = 0.5 always) has 0.25
    where nobody is censored.

    Args:
        time: to event or censoring, [n].
        event: 1 = event, 0 = censored, [n].
        survival: predicted probability of being free of the event beyond each time, 0 to 1, [n, k].
        at: those times, ascending, [k].
        weight: [n] or [draws, n]; G is not estimated anew for each draw.
        estimate: G, of the training patients; of these patients, unweighted, if None.

    Raises:
        DataError: a time or event that cannot be, a survival outside 0 to 1, or shapes that do not fit.

    References:
        Graf et al. (1999), Assessment and comparison of prognostic classification schemes for survival data,
        Statistics in Medicine 18.
    """
    t, seen = censored_times(time, event)
    if survival.shape != (len(t), len(at)):
        raise DataError(f"survival has the shape {survival.shape}; expected {(len(t), len(at))}: patients, times.")
    if reason := not_finite(survival):
        return undefined(weight, reason)
    if ((survival < 0) | (survival > 1)).any():
        raise DataError("survival holds a number outside 0 to 1; give probabilities of being free of the event.")
    free = censoring(t, seen) if estimate is None else estimate
    usable = free.at(at) > 0
    if not usable.any():
        return undefined(weight, NO_TIME)
    each = _squared(t, seen, survival[:, usable], at[usable], free) @ _trapezium(at[usable])
    w = as_draws(weight, len(t))
    return finish(ratio(w @ each, w.sum(1)), weight, "no patient")


def survival_before(time: Column, event: Column, at: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """Kaplan-Meier survival just before each time: what to predict for everybody if nothing is known of a patient."""
    curve = kaplan_meier(time, event)
    return np.r_[1.0, curve.survival][np.searchsorted(curve.time, at, side="left")]


def _squared(
    time: Float[np.ndarray, "n"],
    seen: Bool[np.ndarray, "n"],
    survival: Float[np.ndarray, "n k"],
    at: Float[np.ndarray, "k"],
    free: Censoring,
) -> Float[np.ndarray, "n k"]:
    """Weighted squared error of each patient at each time."""
    own = free.at(time)
    gone = (seen & (own > 0))[:, None] & (time[:, None] <= at)
    there = time[:, None] > at
    lost = np.divide(1.0, own, out=np.zeros(len(time)), where=own > 0)[:, None]
    return gone * lost * survival**2 + there / free.at(at) * (1.0 - survival) ** 2


def _trapezium(at: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """Weights of the times that sum to 1; equal ones where the times are a single point."""
    step = np.diff(at)
    if not step.sum() > 0:
        return np.full(len(at), 1.0 / len(at))
    return (np.r_[step, 0.0] + np.r_[0.0, step]) / 2 / step.sum()
