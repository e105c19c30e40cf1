"""The log-rank test between groups, with strata."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import chdtrc

from milkit.metrics.censored import Column, censored_times, same_length
from milkit.metrics.draws import Undefined

ONE_GROUP = "only one group holds patients, so there is nothing to compare"
NO_RISK_SET = "no event happened while patients of more than one group were at risk"


@dataclass(frozen=True, eq=False)
class LogRank:
    """A log-rank test.

    Attributes:
        chi2: statistic; an `Undefined` with the reason where there is none.
        p: of the chi-squared distribution, two-sided; likewise.
        degrees: groups - 1.
        groups: labels, sorted.
        observed: events in each group, [g].
        expected: events expected in each group if hazards were equal, [g].
        strata: strata in which groups were compared.
    """

    chi2: float
    p: float
    degrees: int
    groups: tuple
    observed: Float[np.ndarray, "g"]
    expected: Float[np.ndarray, "g"]
    strata: int


def logrank(
    time: Column,
    event: Column,
    group: Shaped[np.ndarray, "n"],
    stratum: Shaped[np.ndarray, "n"] | None = None,
) -> LogRank:
    """Mantel's log-rank test: do the groups have the same hazard at every time?

    With strata, patients are compared within their stratum only and the sums of all strata are added: the test to take
    where groups were made by a rule that differs between strata (each fold's model with its own cut-off).

    Args:
        time: to event or censoring, in any unit, [n].
        event: 1 = event, 0 = censored, [n].
        group: label of each patient's group, [n]; two or more groups.
        stratum: label of each patient's stratum, [n]; all in one if None.

    Raises:
        DataError: a time or event that cannot be, or columns of different lengths.

    References:
        Mantel (1966), Evaluation of survival data and two new rank order statistics. Peto & Peto (1972).
    """
    t, seen = censored_times(time, event)
    group = np.asarray(group)
    stratum = np.zeros(len(t), np.int64) if stratum is None else np.asarray(stratum)
    same_length("group", group, t)
    same_length("stratum", stratum, t)
    names, number = np.unique(group, return_inverse=True)
    g = len(names)
    observed, expected, variance, compared = np.zeros(g), np.zeros(g), np.zeros((g, g)), 0
    for name in np.unique(stratum):
        mine = stratum == name
        o, e, v = _sums(t[mine], seen[mine], number[mine], g)
        observed, expected, variance = observed + o, expected + e, variance + v
        compared += bool(v.any())
    labels = tuple(names.tolist())
    reason = ONE_GROUP if g < 2 else NO_RISK_SET if not compared else ""
    if reason:
        none = Undefined(reason)
        return LogRank(none, none, g - 1, labels, observed, expected, 0)
    difference = (observed - expected)[1:]
    # groups of which nobody was at risk at any event leave empty rows, which the pseudo-inverse passes over
    inner = variance[1:, 1:]
    chi2 = float(difference @ np.linalg.pinv(inner, hermitian=True) @ difference)
    degrees = int(np.linalg.matrix_rank(inner, hermitian=True))
    p = float(chdtrc(degrees, chi2))
    return LogRank(chi2, p, degrees, labels, observed, expected, compared)


def _sums(
    time: Float[np.ndarray, "n"], seen: Shaped[np.ndarray, "n"], number: Int[np.ndarray, "n"], g: int
) -> tuple[Float[np.ndarray, "g"], Float[np.ndarray, "g"], Float[np.ndarray, "g g"]]:
    """Observed and expected events and the covariance of their difference, over the event times of one stratum."""
    moments, place = np.unique(time, return_inverse=True)
    shape = (len(moments), g)
    left, events = np.zeros(shape), np.zeros(shape)
    np.add.at(left, (place, number), 1.0)
    np.add.at(events, (place[seen], number[seen]), 1.0)
    at_risk = left[::-1].cumsum(0)[::-1]
    n, d = at_risk.sum(1), events.sum(1)
    share = at_risk / n[:, None]
    # hypergeometric: with one patient at risk there is no variance
    spread = np.divide(d * (n - d), n - 1, out=np.zeros(len(n)), where=n > 1)
    covariance = np.einsum("t,ti,ij->ij", spread, share, np.eye(g)) - np.einsum("t,ti,tj->ij", spread, share, share)
    return events.sum(0), (d[:, None] * share).sum(0), covariance
