"""Concordance of risks with censored times.

Times are 0 or above in any unit, event is 1 = seen and 0 = censored, and a higher risk means an earlier event. For
predicted times or survival probabilities, where higher means later, give their negative.
"""

import numpy as np
from jaxtyping import Bool, Float

from milkit.metrics.censored import Column, censored_times, same_length
from milkit.metrics.draws import Value, Weight, as_draws, finish, not_finite, ratio, undefined
from milkit.metrics.ipcw import Censoring, censoring

NO_PAIR = "no two patients whose order is known"


def c_index(time: Column, event: Column, risk: Column, weight: Weight = None) -> Value:
    """Harrell's C: share of comparable pairs in which the earlier event has the higher risk, equal risks counted
    half.

    A pair is comparable if the patient with the shorter time had the event; at equal times, if one had the event and
    the other was censored. Two events at one time are not comparable.

    Args:
        time: to event or censoring, 0 or above, in any unit, [n].
        event: 1 = event, 0 = censored, [n].
        risk: higher means earlier, on any scale, [n]; give minus a predicted survival time.
        weight: [n] or [draws, n].

    Returns:
        0 to 1, 0.5 for risks that say nothing; an `Undefined` (NaN with a reason) where no pair is comparable (no
        event, one patient) or a risk is not finite.

    Raises:
        DataError: a time or event that cannot be, or columns of different lengths.

    References:
        Harrell et al. (1982), Evaluating the yield of medical tests; ties as in lifelines and scikit-survival.
    """
    t, seen = censored_times(time, event)
    return _concordance(t, seen, risk, np.ones(len(t)), weight)


def c_index_ipcw(
    time: Column,
    event: Column,
    risk: Column,
    weight: Weight = None,
    *,
    estimate: Censoring | None = None,
    tau: float | None = None,
) -> Value:
    """Uno's C: Harrell's with each event weighed by 1 / G(time)^2, G the probability of being uncensored by then.

    Harrell's C depends on the censoring of the cohort; this one does not, as far as censoring is independent of both
    the event and the risk. Late events, which few are followed up to, weigh heavily: `tau` cuts them off. Pairs of an
    event at which nobody is left uncensored (G = 0) do not count either.

    Args:
        time: to event or censoring, 0 or above, in any unit, [n].
        event: 1 = event, 0 = censored, [n].
        risk: higher means earlier, [n].
        weight: [n] or [draws, n]; G is not estimated anew for each draw.
        estimate: G, `censoring(time, event)` of the training patients, say; of these patients, unweighted, if None.
        tau: pairs whose event lies at `tau` or later do not count; None: all do.

    Returns:
        0 to 1; an `Undefined` where no pair counts or a risk is not finite.

    Raises:
        DataError: a time or event that cannot be, or columns of different lengths.

    References:
        Uno et al. (2011), On the C-statistics for evaluating overall adequacy of risk prediction procedures.
    """
    t, seen = censored_times(time, event)
    free = (censoring(t, seen) if estimate is None else estimate).at(t)
    counts = (free > 0) & (True if tau is None else t < tau)
    return _concordance(t, seen, risk, np.divide(1.0, free**2, out=np.zeros(len(t)), where=counts), weight)


def _concordance(
    time: Float[np.ndarray, "n"],
    event: Bool[np.ndarray, "n"],
    risk: Column,
    worth: Float[np.ndarray, "n"],
    weight: Weight,
) -> Value:
    """Weighted share of concordant pairs; `worth` weighs a pair by its earlier patient."""
    risk = np.asarray(risk, np.float64)
    same_length("risk", risk, time)
    if reason := not_finite(risk):
        return undefined(weight, reason)
    w = as_draws(weight, len(time))
    concordant, comparable = np.zeros(len(w)), np.zeros(len(w))
    for start in range(0, len(time), 1024):  # blocks of rows keep the pair matrix small in a large cohort
        i = slice(start, start + 1024)
        later = (time[i, None] < time) | ((time[i, None] == time) & ~event)
        pair = later & event[i, None]
        right = pair * ((risk[i, None] > risk) + 0.5 * (risk[i, None] == risk))
        first = w[:, i] * worth[i]
        comparable += (first * (w @ pair.T)).sum(1)
        concordant += (first * (w @ right.T)).sum(1)
    return finish(ratio(concordant, comparable), weight, NO_PAIR)
