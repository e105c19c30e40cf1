"""Predicted probability against observed share, in bins: the points of a reliability diagram and their intervals."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from milkit.metrics import bootstrap_blocks
from milkit.metrics.intervals import SEED

DRAWS = 1000
"""Enough for a drawing; the numbers of the page rest on more."""


@dataclass(frozen=True)
class Reliability:
    """Reliability diagram in bins of equal width; empty bins are left out.

    Attributes:
        predicted: mean predicted probability of each bin, [k].
        observed: share of hits in it, [k].
        low: lower bound of its 95 % interval, [k].
        high: upper bound, [k].
        patients: patients in the bin, each weighing 1 in sum over the runs that tested it, [k].
        edges: of all bins, for the histogram, [bins + 1].
        share: share of patients in each bin, also the empty ones, [bins].
    """

    predicted: Float[np.ndarray, "k"]
    observed: Float[np.ndarray, "k"]
    low: Float[np.ndarray, "k"]
    high: Float[np.ndarray, "k"]
    patients: Float[np.ndarray, "k"]
    edges: Float[np.ndarray, "e"]
    share: Float[np.ndarray, "bins"]


def reliability(
    probability: Float[np.ndarray, "n"],
    hit: Bool[np.ndarray, "n"],
    patient: Int[np.ndarray, "n"],
    unit: Int[np.ndarray, "p"] | None = None,
    bins: int = 10,
    draws: int = DRAWS,
) -> Reliability:
    """Predicted probability against observed share.

    A patient tested by many runs has many rows; each weighs one over their number, so that more seeds never make an
    interval narrower. Intervals are percentiles of a bootstrap of patients (or of their sites) with all their rows.
    Where all patients of a bin are alike no draw can differ: such a bin has Wilson's interval.

    Args:
        probability: of a hit.
        hit: whether it was one.
        patient: number of each row's patient, 0 to p - 1; a patient may have no row.
        unit: number of each patient's resampling unit; the patient itself if None.
        bins: number of bins of equal width, each open below and closed above, 0 in the first.
        draws: bootstrap draws.

    References:
        Guo et al. (2017), section 2, for the diagram; Wilson (1927) for the interval.
    """
    count = int(patient.max()) + 1
    unit = np.arange(count) if unit is None else unit
    weight = 1.0 / np.bincount(patient)[patient]
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)

    def by_patient(value: np.ndarray) -> np.ndarray:
        """Sum of each patient's rows in each bin, [p, bins]."""
        return np.bincount(patient * bins + place, value, minlength=len(unit) * bins).reshape(len(unit), bins)

    held, hits = by_patient(weight), by_patient(weight * hit)
    size = held.sum(0)
    kept = size > 0
    n = size[kept]
    predicted = by_patient(weight * probability).sum(0)[kept] / n
    observed = hits.sum(0)[kept] / n
    low, high = wilson(observed, n)
    mixed = (observed > 1e-12) & (observed < 1 - 1e-12)
    drawn = []
    for block in bootstrap_blocks(int(unit.max()) + 1, draws, SEED):
        counts = block[:, unit]
        there = counts @ held[:, kept]
        drawn.append(np.divide(counts @ hits[:, kept], there, out=np.full(there.shape, np.nan), where=there > 0))
    if mixed.any():
        low[mixed], high[mixed] = np.nanquantile(np.concatenate(drawn)[:, mixed], [0.025, 0.975], axis=0)
    return Reliability(predicted, observed, low, high, n, edges, size / size.sum())


def wilson(
    share: Float[np.ndarray, "k"], n: Float[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Wilson's 95 % score interval of a share of n."""
    z = 1.959963984540054
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)
