"""The two intervals of every number: `sampling` (other patients) and `procedure` (another split and seed).

They answer different questions and are never mixed; `docs/statistics.md` says what each claims.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from scipy.special import stdtrit

LEVEL = 0.95
DRAWS = 2000  # the bounds then move by about 2 % of the interval's width from seed to seed
SEED = 20230825  # any fixed number: the same predictions give the same interval


class Interval(NamedTuple):
    """Lower and upper bound; not cut at the ends of a metric's range."""

    low: float
    high: float


def corrected_resampled_t(
    values: Float[np.ndarray, "j"],
    n_test: float | int | Num[np.ndarray, "j"],
    n_train: float | int | Num[np.ndarray, "j"],
    level: float = LEVEL,
) -> tuple[Interval | None, str]:
    """Interval of the mean over J splits whose training parts overlap.

    mean +- t(J - 1) * sqrt(s^2 (1 / J + n_test / n_train)), s^2 the variance over splits. The second term stands for
    the correlation of values whose models saw mostly the same patients; without it the interval is far too short.

    Args:
        values: one a split (repeat and fold), seeds averaged beforehand; NaN is left out.
        n_test: patients of the test part, one number or one a split.
        n_train: patients of the training part, likewise.
        level: coverage aimed at.

    Returns:
        The interval and ""; or None and the reason.

    References:
        Nadeau & Bengio (2003), Inference for the generalization error, section 3; for repeated k-fold: Bouckaert &
        Frank (2004), Evaluating the replicability of significance tests.
    """
    values = np.asarray(values, np.float64)
    seen = ~np.isnan(values)
    j = int(seen.sum())
    if j < 2:
        return None, f"needs at least 2 splits with a value; there {'is' if j == 1 else 'are'} {j}"
    share = np.broadcast_to(np.asarray(n_test, np.float64) / np.asarray(n_train, np.float64), values.shape)[seen].mean()
    half = float(stdtrit(j - 1, 0.5 + level / 2) * np.sqrt(values[seen].var(ddof=1) * (1 / j + share)))
    mean = float(values[seen].mean())
    return Interval(mean - half, mean + half), ""


def bootstrap_counts(units: int, draws: int = DRAWS, seed: int = SEED) -> Float[np.ndarray, "draws units"]:
    """How often each unit (patient, or site) stands in each draw of `units` units with replacement.

    References:
        Efron & Tibshirani (1993), An introduction to the bootstrap, chapters 6 and 13.
    """
    share = np.full(units, 1.0 / units)
    return np.random.default_rng(seed).multinomial(units, share, size=draws).astype(np.float64)


def percentile_interval(values: Float[np.ndarray, "draws"], level: float = LEVEL) -> tuple[Interval | None, str]:
    """The middle `level` of a bootstrap's values.

    Args:
        values: one a draw; NaN where a draw left nothing to compute.
        level: coverage aimed at.

    Returns:
        The interval and a note ("" if no draw was left out); None where fewer than half of the draws have a value.
    """
    seen = values[~np.isnan(values)]
    missing = len(values) - len(seen)
    if len(seen) * 2 < len(values) or not len(seen):
        return None, f"undefined in {missing} of {len(values)} bootstrap draws"
    low, high = np.quantile(seen, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high)), f"{missing} of {len(values)} bootstrap draws left out" if missing else ""
