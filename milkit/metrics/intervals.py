"""The two intervals of every number: `sampling` (other patients) and `procedure` (another split and seed).

They answer different questions and are never mixed; `docs/statistics.md` says what each claims.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from scipy.special import stdtrit

LEVEL = 0.95
DRAWS = 2000  # the bounds then move by about 2 % of the interval's width from seed to seed
SEED = 20230825  # any fixed number: the same predictions give the same interval


class Interval(NamedTuple):
    """Lower and upper bound."""

    low: float
    high: float

    def within(self, bounds: tuple[float, float]) -> "Interval":
        """Cut at the ends of a metric's range, where no value can lie; what it covers stays the same."""
        low, high = bounds
        return Interval(min(max(self.low, low), high), min(max(self.high, low), high))


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
    return np.concatenate(list(bootstrap_blocks(units, draws, seed)))


def bootstrap_blocks(
    units: int, draws: int = DRAWS, seed: int = SEED, cells: int = 2_000_000
) -> Iterator[Float[np.ndarray, "block units"]]:
    """The rows of `bootstrap_counts` in blocks of about `cells` numbers, for cohorts that would not fit at once."""
    share, rng = np.full(units, 1.0 / units), np.random.default_rng(seed)
    step = max(1, cells // units)
    for start in range(0, draws, step):
        yield rng.multinomial(units, share, size=min(step, draws - start)).astype(np.float64)


def percentile_interval(
    values: Float[np.ndarray, "draws"], centre: float | None = None, level: float = LEVEL
) -> tuple[Interval | None, str]:
    """The middle `level` of a bootstrap's values, moved so that their mean lies on the estimate.

    A draw holds fewer different patients than the sample (63 %), so metrics that grow or shrink with the number of
    different patients (ECE, sensitivity at a specificity in small folds) are off in every draw alike; taking that
    bias off leaves AUROC and accuracy, which have none, as they are.

    Args:
        values: one a draw; NaN where a draw left nothing to compute.
        centre: the estimate; None leaves the percentiles where they are.
        level: coverage aimed at.

    Returns:
        The interval and a note ("" if no draw was left out); None where fewer than half of the draws have a value.

    References:
        Efron & Tibshirani (1993), sections 10.2 (bias) and 13.3 (percentiles).
    """
    seen = values[~np.isnan(values)]
    missing = len(values) - len(seen)
    if len(seen) * 2 < len(values) or not len(seen):
        return None, f"undefined in {missing} of {len(values)} bootstrap draws"
    bias = 0.0 if centre is None else float(seen.mean()) - centre
    low, high = np.quantile(seen, [(1 - level) / 2, (1 + level) / 2]) - bias
    return Interval(float(low), float(high)), f"{missing} of {len(values)} bootstrap draws left out" if missing else ""
