"""Kaplan-Meier curves with their bands, medians and numbers at risk."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

from milkit.errors import DataError
from milkit.metrics.censored import Column, censored_times

Z = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, eq=False)
class KaplanMeier:
    """A survival curve: steps at distinct times; before the first it is 1, after the last it is not known.

    Attributes:
        time: 0 and then the distinct times of events and censorings, ascending, [t].
        survival: probability of being free of the event beyond each time, [t].
        low, high: pointwise 95 % interval of it, [t]; NaN where survival is 0, which has none.
        at_risk: patients not yet gone just before each time, [t].
        events: events at each time, [t].
        censored: censored at each time, [t].
    """

    time: Float[np.ndarray, "t"]
    survival: Float[np.ndarray, "t"]
    low: Float[np.ndarray, "t"]
    high: Float[np.ndarray, "t"]
    at_risk: Int[np.ndarray, "t"]
    events: Int[np.ndarray, "t"]
    censored: Int[np.ndarray, "t"]

    def at(self, time: Num[np.ndarray, "*k"]) -> Float[np.ndarray, "*k"]:
        """Survival beyond each time; NaN after the last time of all."""
        value = self.survival[np.searchsorted(self.time, time, side="right") - 1]
        return np.where(np.asarray(time) > self.time[-1], np.nan, value)

    def still_at_risk(self, time: Num[np.ndarray, "*k"]) -> Int[np.ndarray, "*k"]:
        """Patients whose own time is at or beyond each time: the row under a plot."""
        gone = np.r_[0, (self.events + self.censored).cumsum()]
        return self.at_risk[0] - gone[np.searchsorted(self.time, time, side="left")]

    @property
    def median(self) -> float:
        """First time at which survival is 0.5 or less; infinite if it is never reached."""
        return _first(self.time, self.survival)

    @property
    def median_interval(self) -> tuple[float, float]:
        """95 % interval of the median: where the band's lower and upper edge come to 0.5; infinite where never.

        References:
            Brookmeyer & Crowley (1982), A confidence interval for the median survival time, Biometrics 38; here with
            the log-log band, as `conf.type="log-log"` in R's survfit.
        """
        return _first(self.time, self.low), _first(self.time, self.high)


def kaplan_meier(time: Column, event: Column) -> KaplanMeier:
    """The product-limit estimate of survival; at equal times events come before censorings.

    The band is pointwise: Greenwood's variance on the scale of log(-log survival), which keeps it within 0 and 1.

    Args:
        time: to event or censoring, in any unit, [n].
        event: 1 = event, 0 = censored, [n].

    Raises:
        DataError: no patient, or a time or event that cannot be.

    References:
        Kaplan & Meier (1958), Nonparametric estimation from incomplete observations. Greenwood (1926). Kalbfleisch &
        Prentice (1980), section 1.3, for the log-log band.
    """
    t, seen = censored_times(time, event)
    if not len(t):
        raise DataError("There is no patient to draw a survival curve of.")
    distinct, place = np.unique(np.r_[0.0, t], return_inverse=True)
    events = np.bincount(place[1:], weights=seen, minlength=len(distinct)).astype(np.int64)
    left = np.bincount(place[1:], minlength=len(distinct))
    at_risk = left[::-1].cumsum()[::-1]
    survival = np.cumprod(1.0 - events / at_risk)
    low, high = _log_log_band(survival, events, at_risk)
    return KaplanMeier(distinct, survival, low, high, at_risk, events, left - events)


def _log_log_band(
    survival: Float[np.ndarray, "t"], events: Int[np.ndarray, "t"], at_risk: Int[np.ndarray, "t"]
) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
    inner = (survival > 0) & (survival < 1)
    left = at_risk - events
    greenwood = np.divide(events, at_risk * left, out=np.zeros(len(events)), where=left > 0).cumsum()
    log = np.log(np.where(inner, survival, 0.5))
    half = Z * np.sqrt(greenwood) / -log
    edge = np.where(survival >= 1, 1.0, np.nan)  # nobody lost yet: 1; everybody lost: no interval
    return tuple(np.where(inner, np.exp(log * np.exp(sign * half)), edge) for sign in (1, -1))  # type: ignore[return-value]


def _first(time: Float[np.ndarray, "t"], curve: Float[np.ndarray, "t"]) -> float:
    """First time at which a falling curve is at one half or below."""
    # a curve that comes to 1/2 exactly may lie a rounding above it
    below = np.flatnonzero(curve <= 0.5 + 1e-12)
    return float(time[below[0]]) if len(below) else float("inf")
