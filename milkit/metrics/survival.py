"""Concordance of risks with censored times.

Times are positive in any unit, event is 1 = seen and 0 = censored, and a higher risk means an earlier event.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from milkit.metrics.draws import Value, Weight, as_draws, finish, not_finite, ratio, undefined

NO_PAIR = "no two patients whose order is known"

Times = Num[np.ndarray, "n"]


class Censoring(NamedTuple):
    """Kaplan-Meier estimate of staying uncensored: `free[i]` from `time[i]` on, 1 before the first.

    Attributes:
        time: distinct times in ascending order.
        free: probability of being uncensored, falling.
    """

    time: Float[np.ndarray, "t"]
    free: Float[np.ndarray, "t"]

    def at(self, time: Times) -> Float[np.ndarray, "n"]:
        """Probability at each time, steps taken at the time itself."""
        return np.r_[1.0, self.free][np.searchsorted(self.time, time, side="right")]


def censoring(time: Times, event: Num[np.ndarray, "n"]) -> Censoring:
    """Kaplan-Meier estimate of the censoring times; at equal times events come before censorings.

    References:
        Kaplan & Meier (1958); Uno et al. (2011), section 2.
    """
    distinct, place = np.unique(np.asarray(time, np.float64), return_inverse=True)
    censored = np.bincount(place, weights=event == 0, minlength=len(distinct))
    events = np.bincount(place, weights=event == 1, minlength=len(distinct))
    here = censored + events
    at_risk = here[::-1].cumsum()[::-1] - events
    return Censoring(
        distinct, np.cumprod(1.0 - np.divide(censored, at_risk, out=np.zeros_like(at_risk), where=at_risk > 0))
    )


def c_index(time: Times, event: Num[np.ndarray, "n"], risk: Float[np.ndarray, "n"], weight: Weight = None) -> Value:
    """Harrell's C: share of comparable pairs in which the earlier event has the higher risk, equal risks counted
    half.

    A pair is comparable if the patient with the shorter time had the event; at equal times, if one had the event and
    the other was censored. Two events at one time are not comparable.

    Args:
        time: to event or censoring.
        event: 1 = event, 0 = censored.
        risk: higher means earlier.
        weight: [n] or [draws, n].

    References:
        Harrell et al. (1982), Evaluating the yield of medical tests; ties as in lifelines and scikit-survival.
    """
    return _concordance(time, event, risk, np.ones(len(time)), weight)


def c_index_ipcw(
    time: Times,
    event: Num[np.ndarray, "n"],
    risk: Float[np.ndarray, "n"],
    weight: Weight = None,
    *,
    estimate: Censoring | None = None,
) -> Value:
    """Uno's C: Harrell's with each event weighed by 1 / G(time)^2, G the probability of being uncensored by then.

    Harrell's C depends on the censoring of the cohort; this one does not, as far as censoring is independent.
    Pairs of an event at which nobody is left uncensored (G = 0) do not count, as if follow-up were cut before it.

    Args:
        time: to event or censoring.
        event: 1 = event, 0 = censored.
        risk: higher means earlier.
        weight: [n] or [draws, n]; G is not estimated anew for each draw.
        estimate: G, better of a whole cohort than of one small fold; of these patients, unweighted, if None.

    References:
        Uno et al. (2011), On the C-statistics for evaluating overall adequacy of risk prediction procedures.
    """
    free = (censoring(time, event) if estimate is None else estimate).at(time)
    return _concordance(time, event, risk, np.divide(1.0, free**2, out=np.zeros(len(time)), where=free > 0), weight)


def _concordance(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, worth: Float[np.ndarray, "n"], weight: Weight
) -> Value:
    """Weighted share of concordant pairs; `worth` weighs a pair by its earlier patient."""
    if reason := not_finite(risk):
        return undefined(weight, reason)
    w = as_draws(weight, len(time))
    concordant, comparable = np.zeros(len(w)), np.zeros(len(w))
    for start in range(0, len(time), 1024):  # blocks of rows keep the pair matrix small in a large cohort
        i = slice(start, start + 1024)
        later = (time[i, None] < time) | ((time[i, None] == time) & (event == 0))
        pair = later & (event[i, None] == 1)
        right = pair * ((risk[i, None] > risk) + 0.5 * (risk[i, None] == risk))
        first = w[:, i] * worth[i]
        comparable += (first * (w @ pair.T)).sum(1)
        concordant += (first * (w @ right.T)).sum(1)
    return finish(ratio(concordant, comparable), weight, NO_PAIR)
