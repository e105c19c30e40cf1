"""Terms: what each image adds to a metric, so that a bootstrap draw is a weighted sum of rows.

Every metric of this room is a function of sums over images: a pooled one of its counts, a mean over images of the
values and of how many there are. So rows of one patient can be added up once, and 2,000 draws are one product.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from milkit.metrics.draws import Value, Weight, as_draws, finish, ratio

Terms = Float[np.ndarray, "n k"]


def mean_terms(values: Sequence[float] | Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 2"]:
    """Terms of a mean over images: the value and 1, or 0 and 0 where it is NaN."""
    column = np.asarray(values, np.float64)
    seen = ~np.isnan(column)
    return np.stack([np.where(seen, column, 0.0), seen.astype(np.float64)], 1)


def mean_of(terms: Float[np.ndarray, "n 2"], weight: Weight, reason: str) -> Value:
    """The mean of what has a value."""
    return quotient(summed(terms, weight), weight, reason)


def summed(terms: Terms, weight: Weight) -> Float[np.ndarray, "d k"]:
    """Terms added up in each draw."""
    return as_draws(weight, len(terms)) @ terms


def quotient(sums: Float[np.ndarray, "d 2"], weight: Weight, reason: str) -> Value:
    """First over second, NaN with `reason` where the second is 0."""
    return finish(ratio(sums[:, 0], sums[:, 1]), weight, reason)
