"""Risk groups: patients on either side of a cut-off that was locked before, and how their survival differs."""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from milkit.errors import DataError
from milkit.metrics.censored import Column, censored_times, same_length
from milkit.metrics.draws import Undefined, not_finite, why
from milkit.metrics.hazard_ratio import HazardRatio, hazard_ratio
from milkit.metrics.kaplan_meier import KaplanMeier, kaplan_meier
from milkit.metrics.logrank import LogRank, logrank

LOW, HIGH = "low", "high"


def median_risk(risk: Column) -> float:
    """The cut-off between low and high risk: the median of the patients given (validation or training, never test).

    Returns:
        Half-way between the two middle risks of an even number; an `Undefined` of no patient or of risks that are not
        finite.
    """
    r = np.asarray(risk, np.float64)
    if reason := not_finite(r):
        return Undefined(reason)
    return float(np.median(r)) if len(r) else Undefined("no patient to take the median of")


def risk_groups(risk: Column, cutoff: float | Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """True for high risk: risk >= cut-off, as with every threshold here.

    Args:
        risk: higher means an earlier event, [n].
        cutoff: on the same scale, from other patients: one for all, or each patient's own.

    Raises:
        DataError: a risk or a cut-off that is not finite.
    """
    r, cut = np.asarray(risk, np.float64), np.asarray(cutoff, np.float64)
    if not (np.isfinite(r).all() and np.isfinite(cut).all()):
        raise DataError("A risk or the cut-off is not a finite number, so there are no risk groups.")
    return r >= cut


def compare_groups(
    time: Column,
    event: Column,
    high: Bool[np.ndarray, "n"],
    stratum: Shaped[np.ndarray, "n"] | None = None,
) -> dict[str, Any]:
    """Low against high risk as `results.json` tells it: counts, medians, log-rank test, hazard ratio and curves.

    Args:
        time: to event or censoring, in any unit, [n].
        event: 1 = event, 0 = censored, [n].
        high: True for the patients of high risk, [n], as `risk_groups` gives.
        stratum: label of what patients are compared within (the fold), [n]; all in one if None.

    Returns:
        `groups` (by name: n, events, median and its interval), `logrank` (chi2, p, strata), `hazard_ratio` (value and
        interval, high against low), `curves` (by name, the columns of `KaplanMeier`). What does not exist is None,
        with a note.

    Raises:
        DataError: a time or event that cannot be, or columns of different lengths.
    """
    t, seen = censored_times(time, event)
    same_length("high", high, t)
    members = {name: high == (name == HIGH) for name in (LOW, HIGH)}
    curves = {name: kaplan_meier(t[mine], seen[mine]) for name, mine in members.items() if mine.any()}
    test = logrank(t, seen, high.astype(np.int64), stratum)
    return {
        "groups": {name: _group(curves.get(name)) for name in members},
        "logrank": logrank_entry(test),
        "hazard_ratio": _ratio(hazard_ratio(t, seen, high, stratum)),
        "curves": {name: _curve(curve) for name, curve in curves.items()},
    }


def logrank_entry(test: LogRank) -> dict[str, Any]:
    """A log-rank test as `results.json` holds it."""
    return {"chi2": _number(test.chi2), "p": _number(test.p), "strata": test.strata, "note": why(test.chi2)}


def _ratio(found: HazardRatio) -> dict[str, Any]:
    interval = [_number(found.low), _number(found.high)]
    return {
        "value": _number(found.value),
        "interval": None if None in interval else interval,
        "note": why(found.value),
    }


def _group(curve: KaplanMeier | None) -> dict[str, Any]:
    if curve is None:
        return {"n": 0, "events": 0, "median": None, "median_interval": None, "note": "no patient in this group"}
    low, high = curve.median_interval
    reached = math.isfinite(curve.median)
    return {
        "n": int(curve.at_risk[0]),
        "events": int(curve.events.sum()),
        "median": _number(curve.median),
        "median_interval": [_number(low), _number(high)],
        "note": "" if reached else "median not reached: more than half were free of the event at the end",
    }


def _curve(curve: KaplanMeier) -> dict[str, Any]:
    return {
        "time": curve.time.tolist(),
        "survival": curve.survival.tolist(),
        "low": [_number(v) for v in curve.low],
        "high": [_number(v) for v in curve.high],
        "at_risk": curve.at_risk.tolist(),
        "events": curve.events.tolist(),
        "censored": curve.censored.tolist(),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
