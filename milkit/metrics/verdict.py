"""What a difference, its standard error and the margin asked for allow to say: a verdict in words.

- `different`: the test rejects equality (after Holm's correction, where several were compared);
- `no power`: it does not, but a difference as large as the margin could have gone unseen;
- `indistinguishable`: it does not, and a difference of the margin would most likely have been seen.

`docs/comparing.md` says what these words do not claim.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtr, stdtrit

Word = Literal["different", "no power", "indistinguishable"]

ALPHA = 0.05
MARGIN = 0.05  # five points of AUROC or accuracy: what papers of the field call an improvement
POWER = 0.8  # the customary one; the smallest difference that is found in four of five such studies


@dataclass(frozen=True)
class Verdict:
    """A difference with what can be said about it.

    Attributes:
        verdict: the word.
        difference: first minus second.
        low, high: 1 - alpha interval of the difference, not corrected for several comparisons; NaN for none.
        p: two-sided, not corrected; NaN where there is no test.
        detectable: the smallest difference that would have been found in 80 of 100 such studies; NaN for unknown.
    """

    verdict: Word
    difference: float
    low: float
    high: float
    p: float
    detectable: float


def t_verdict(
    difference: float, standard_error: float, dof: float | int, *, margin: float = MARGIN, alpha: float = ALPHA
) -> Verdict:
    """The two-sided t test of a difference against zero, its interval, and its verdict.

    With a standard error of 0 there is nothing to test by: a difference of 0 (the same predictions twice) is
    `indistinguishable` with p = 1, any other has no p, and no power.

    Args:
        difference: first minus second.
        standard_error: of the difference; NaN where it is not known.
        dof: degrees of freedom of the standard error; infinity makes it the normal test.
        margin: the smallest difference that matters, on the metric's own scale.
        alpha: two-sided error allowed, in (0, 1).

    Raises:
        ValueError: a negative standard error or margin, or alpha outside (0, 1).
    """
    if standard_error < 0 or margin < 0 or not 0 < alpha < 1:
        raise ValueError(f"standard error {standard_error} and margin {margin} must be >= 0, alpha {alpha} in (0, 1)")
    if difference == 0 and standard_error == 0:
        return Verdict("indistinguishable", 0.0, 0.0, 0.0, 1.0, 0.0)
    if not (math.isfinite(difference) and math.isfinite(standard_error) and standard_error > 0 and dof > 0):
        return Verdict("no power", float(difference), math.nan, math.nan, math.nan, math.nan)
    half = quantile(1 - alpha / 2, dof) * standard_error
    p = 2 * float(stdtr(dof, -abs(difference) / standard_error))
    least = detectable(standard_error, dof, alpha)
    return Verdict(word(p, least, margin, alpha), difference, difference - half, difference + half, p, least)


def against_published(
    value: float,
    standard_error: float,
    dof: float | int,
    published: float,
    published_se: float | None = None,
    *,
    margin: float = MARGIN,
    alpha: float = ALPHA,
) -> Verdict:
    """Our value against a number that somebody printed, which is not paired with ours.

    The degrees of freedom stay ours even where the published number brings an error of its own, since those of the
    publication are not known: with few splits of ours that is the careful side.

    Args:
        value: ours.
        standard_error: of ours, such as sqrt(s^2 (1 / J + n_test / n_train)) over J splits.
        dof: of our standard error (J - 1); infinity for one that is known.
        published: theirs.
        published_se: their standard error, added in quadrature; None takes their number as exact.
        margin: the smallest difference that matters, on the metric's own scale.
        alpha: two-sided error allowed.

    Returns:
        The verdict on ours minus theirs.
    """
    return t_verdict(
        value - published, math.hypot(standard_error, published_se or 0.0), dof, margin=margin, alpha=alpha
    )


def word(p: float, least: float, margin: float, alpha: float = ALPHA) -> Word:
    """The verdict for a p value (corrected where it has to be) and the smallest difference that could be seen."""
    if p < alpha:
        return "different"
    return "indistinguishable" if least <= margin else "no power"  # an unknown (NaN) is no power


def detectable(standard_error: float, dof: float | int, alpha: float = ALPHA) -> float:
    """The difference that a two-sided test at `alpha` finds with a power of 80 %: (t(1 - alpha / 2) + t(.8)) * se.

    References:
        Bloom (1995), Minimum detectable effects. By the noncentral t, its power is .791 at 4 degrees of freedom and
        .799 at 9.
    """
    return (quantile(1 - alpha / 2, dof) + quantile(POWER, dof)) * standard_error


def quantile(probability: float, dof: float | int) -> float:
    """Quantile of Student's t; of the normal at infinite degrees of freedom."""
    return float(ndtri(probability) if math.isinf(dof) else stdtrit(float(dof), probability))


def holm(p: Sequence[float] | Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    """P values corrected for having been looked at together; the chance of one false alarm in all stays under alpha.

    The smallest is multiplied by m, the next by m - 1, and none may be smaller than the one before. NaN (no test was
    made) stays NaN and does not count.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p, np.float64)
    out = np.full(len(values), np.nan)
    order = [i for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * float(values[i])))
        out[i] = highest
    return out
