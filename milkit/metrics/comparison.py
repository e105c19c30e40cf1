"""Tests of a difference between two models on the same patients. Which one is used when: `docs/comparing.md`.

All take first minus second and give a `Verdict` at `alpha`, not corrected for several comparisons.
"""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy.special import ndtri
from scipy.stats import binom

from milkit.metrics.delong import DeLong
from milkit.metrics.intervals import corrected_resampled_t, percentile_interval
from milkit.metrics.verdict import ALPHA, MARGIN, POWER, Verdict, quantile, t_verdict, word


def corrected_standard_error(
    values: Float[np.ndarray, "j"],
    n_test: float | int | Num[np.ndarray, "j"],
    n_train: float | int | Num[np.ndarray, "j"],
) -> tuple[float, int]:
    """What `corrected_resampled_t` rests on: sqrt(s^2 (1 / J + n_test / n_train)) and its J - 1 degrees of freedom.

    Args:
        values: one a split (repeat and fold), or differences of two models; NaN is left out.
        n_test: patients of the test part, one number or one a split.
        n_train: patients of the training part, likewise.

    Returns:
        NaN and 0 where there are fewer than two splits.
    """
    dof = int((~np.isnan(values)).sum()) - 1
    interval, _ = corrected_resampled_t(values, n_test, n_train, 0.5)
    if interval is None:
        return math.nan, 0
    return (interval.high - interval.low) / 2 / quantile(0.75, dof), dof


def corrected_t_test(
    differences: Float[np.ndarray, "j"],
    n_test: float | int | Num[np.ndarray, "j"],
    n_train: float | int | Num[np.ndarray, "j"],
    *,
    margin: float = MARGIN,
    alpha: float = ALPHA,
) -> Verdict:
    """Corrected resampled t test of the differences of J splits, whose training parts overlap.

    Args:
        differences: one a split, seeds averaged beforehand; NaN is left out.
        n_test: patients of the test part, one number or one a split.
        n_train: patients of the training part, likewise.
        margin: the smallest difference that matters.
        alpha: two-sided error allowed.

    References:
        Nadeau & Bengio (2003), Inference for the generalization error, section 3; for repeated k-fold: Bouckaert &
        Frank (2004).
    """
    seen = differences[~np.isnan(differences)]
    if len(seen) and np.ptp(seen) < 1e-12:  # equal up to rounding: a variance of 1e-34 would prove anything
        error, dof = (0.0, len(seen) - 1) if len(seen) > 1 else (math.nan, 0)
        mean = 0.0 if abs(seen.mean()) < 1e-12 else float(seen.mean())
        return t_verdict(mean, error, dof, margin=margin, alpha=alpha)
    error, dof = corrected_standard_error(differences, n_test, n_train)
    mean = float(seen.mean()) if len(seen) else math.nan
    return t_verdict(mean, error, dof, margin=margin, alpha=alpha)


def bootstrap_test(
    difference: float, draws: Float[np.ndarray, "d"], units: int, *, margin: float = MARGIN, alpha: float = ALPHA
) -> Verdict:
    """Test by inverting `percentile_interval`: p < alpha where the 1 - alpha interval leaves zero out.

    p = 2 min(share of draws <= 0, share >= 0), the draws moved so that their mean lies on the difference, and one draw
    added on each side, so that 2,000 draws never give less than .001. Where every draw shows the same difference (one
    model right and the other wrong on every patient), p is also never less than 2^(1 - units), what swapping the
    models patient by patient could show at most; nothing is known of what could have been detected then.

    Args:
        difference: of the sample itself.
        draws: differences in bootstrap draws that both models shared; NaN where a draw left nothing to compute.
        units: patients or sites that were drawn.
        margin: the smallest difference that matters.
        alpha: two-sided error allowed.

    References:
        Efron & Tibshirani (1993), chapters 13 and 15.4.
    """
    seen = draws[~np.isnan(draws)]
    interval, _ = percentile_interval(draws, difference, 1 - alpha)
    if interval is None or math.isnan(difference) or units < 2:
        return t_verdict(difference, math.nan, math.inf, margin=margin, alpha=alpha)
    if seen.std() < 1e-12:
        if abs(difference) < 1e-12:
            return t_verdict(0.0, 0.0, math.inf, margin=margin, alpha=alpha)
        p = max(2 / (len(seen) + 1), 2.0 ** (1 - units))
        return Verdict(word(p, math.nan, margin, alpha), difference, difference, difference, p, math.nan)
    moved = seen - seen.mean() + difference
    p = 2 * (min(int((moved <= 0).sum()), int((moved >= 0).sum())) + 1) / (len(moved) + 1)
    return _with_p(min(1.0, p), difference, (interval.low, interval.high), float(seen.std(ddof=1)), margin, alpha)


def delong_test(found: DeLong, *, margin: float = MARGIN, alpha: float = ALPHA) -> Verdict:
    """The normal test of a difference of AUROCs by its DeLong standard error."""
    error = found.standard_error if found.standard_error > 1e-12 else 0.0
    difference = found.difference if abs(found.difference) > 1e-12 else 0.0
    return t_verdict(difference, error, math.inf, margin=margin, alpha=alpha)


def mcnemar_p(first_right: Bool[np.ndarray, "n"], second_right: Bool[np.ndarray, "n"]) -> float:
    """Exact two-sided p of McNemar's test: of the patients that one model alone gets right, is it half?

    Args:
        first_right: whether the first model calls each patient rightly.
        second_right: likewise, of the same patients.

    Returns:
        1 where the models err on the same patients.

    References:
        McNemar (1947); Dietterich (1998), Approximate statistical tests, section 3.1.
    """
    b, c = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    return min(1.0, 2 * float(binom.cdf(min(b, c), b + c, 0.5)))


def mcnemar_test(
    first_right: Bool[np.ndarray, "n"],
    second_right: Bool[np.ndarray, "n"],
    draws: Float[np.ndarray, "d"],
    *,
    margin: float = MARGIN,
    alpha: float = ALPHA,
) -> Verdict:
    """McNemar's exact p for a difference of accuracies; its interval and the detectable difference by the bootstrap.

    Args:
        first_right: whether the first model calls each patient rightly.
        second_right: likewise.
        draws: differences of accuracy in bootstrap draws.
        margin: the smallest difference that matters.
        alpha: two-sided error allowed.
    """
    difference = float(first_right.mean() - second_right.mean())
    by_draws = bootstrap_test(difference, draws, len(first_right), margin=margin, alpha=alpha)
    p = mcnemar_p(first_right, second_right)
    return replace(by_draws, p=p, verdict=word(p, by_draws.detectable, margin, alpha))


def _with_p(
    p: float, difference: float, bounds: tuple[float, float], error: float, margin: float, alpha: float
) -> Verdict:
    least = float(ndtri(1 - alpha / 2) + ndtri(POWER)) * error
    return Verdict(word(p, least, margin, alpha), difference, *bounds, p, least)
