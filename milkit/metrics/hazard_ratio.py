"""The hazard ratio of two groups by Cox's model, its 95 % interval, and nothing else of that model."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.optimize import brentq

from milkit.metrics.censored import Column, censored_times, same_length
from milkit.metrics.draws import Undefined
from milkit.metrics.kaplan_meier import Z

ONE_SIDED = "every event that both groups were at risk of happened in the same group, so the ratio has no finite value"
NEVER_BOTH = "no event happened while patients of both groups were at risk"
_WIDEST = 30.0  # of the log ratio: exp(30) is no ratio anyone could tell from infinity


@dataclass(frozen=True)
class HazardRatio:
    """Hazard of one group over that of the other, taken to be the same at all times.

    Attributes:
        value: the ratio; an `Undefined` with the reason where there is none.
        low, high: Wald's 95 % interval on the log scale; NaN where there is none.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


def hazard_ratio(
    time: Column,
    event: Column,
    member: Bool[np.ndarray, "n"],
    stratum: Shaped[np.ndarray, "n"] | None = None,
) -> HazardRatio:
    """Hazard of the members over that of the others: Cox's model with this one covariate, ties by Efron's way.

    With strata each has a baseline hazard of its own and patients are compared within their stratum only.

    Args:
        time: to event or censoring, in any unit, [n].
        event: 1 = event, 0 = censored, [n].
        member: True for the group in the numerator (high risk), [n].
        stratum: label of each patient's stratum, [n]; all in one if None.

    Raises:
        DataError: a time or event that cannot be, or columns of different lengths.

    References:
        Cox (1972), Regression models and life-tables; Efron (1977), section 5, for ties.
    """
    t, seen = censored_times(time, event)
    member = np.asarray(member, bool)
    stratum = np.zeros(len(t), np.int64) if stratum is None else np.asarray(stratum)
    same_length("member", member, t)
    same_length("stratum", stratum, t)
    own, other, hits = [np.zeros(0)], [np.zeros(0)], 0
    for name in np.unique(stratum):
        mine = stratum == name
        a, b, d = _risk_sets(t[mine], seen[mine], member[mine])
        own, other, hits = [*own, a], [*other, b], hits + d
    a, b = np.concatenate(own), np.concatenate(other)
    both = (a > 0) & (b > 0)
    hits -= int((b[a > 0] <= 0).sum())  # events that only members were at risk of tell nothing
    a, b = a[both], b[both]
    if not len(a):
        return HazardRatio(Undefined(NEVER_BOTH))

    def score(log_ratio: float) -> float:
        return hits - float((a / (a + b * math.exp(-log_ratio))).sum())

    if not (score(-_WIDEST) > 0 > score(_WIDEST)):
        return HazardRatio(Undefined(ONE_SIDED))
    log_ratio = float(brentq(score, -_WIDEST, _WIDEST, xtol=1e-12))
    share = a / (a + b * math.exp(-log_ratio))
    half = Z / math.sqrt(float((share * (1 - share)).sum()))
    return HazardRatio(math.exp(log_ratio), math.exp(log_ratio - half), math.exp(log_ratio + half))


def _risk_sets(
    time: Float[np.ndarray, "n"], seen: Bool[np.ndarray, "n"], member: Bool[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"], int]:
    """Members and others at risk at each event of one stratum, and events of members.

    Of d tied events the l-th (from 0) has l / d of the tied ones taken out of its risk set, which is Efron's way.
    """
    moments, place = np.unique(time, return_inverse=True)
    counts = np.zeros((4, len(moments)))
    for row, who in enumerate((member, ~member, member & seen, ~member & seen)):
        counts[row] = np.bincount(place[who], minlength=len(moments))
    at_risk = counts[:2, ::-1].cumsum(1)[:, ::-1]
    events = counts[2:]
    tied = events.sum(0).astype(np.int64)
    moment = np.repeat(np.arange(len(moments)), tied)
    rank = np.arange(len(moment)) - np.repeat(np.r_[0, tied.cumsum()[:-1]], tied)
    sets = at_risk[:, moment] - rank / tied[moment] * events[:, moment]
    return sets[0], sets[1], int(events[0].sum())
