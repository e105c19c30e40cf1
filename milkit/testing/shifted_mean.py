"""ShiftedMean: bags whose exact posterior is known, so that a model's AUROC has a ceiling to stand beside.

A bag holds S instances, S uniform on 15 to 45, of M = 768 features N(0, 1), in an order that matters. In a positive bag
R = 3 neighbouring instances, at a start uniform on the places where they fit, have one feature shifted by Delta. The
feature is the same in all bags: with 768 to choose from, a learner must find it, a Bayesian who knows how the bags were
made need not.

References:
    Harvey, Loevlie & Hughes (2025), Synthetic data reveals generalization gaps in correlated multiple instance
    learning. Machine Learning for Health, arXiv:2510.25759.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from scipy.special import logsumexp

from milkit.errors import ConfigError
from milkit.testing.draws import SIZES, Draw, Sizes, draw

BACKGROUND, SHIFTED = 0, 1
"""Kinds of instance."""


@dataclass(frozen=True)
class ShiftedMean:
    """How the bags are made."""

    delta: float
    """Shift, in units of the features' SD."""
    features: int = 768
    """M."""
    run: int = 3
    """R, neighbouring instances that are shifted."""
    shortest: int = 15
    longest: int = 45
    """Instances of a bag, both ends included."""

    def __post_init__(self) -> None:
        if not 1 <= self.run <= self.shortest <= self.longest:
            raise ConfigError(
                f"ShiftedMean has run={self.run}, shortest={self.shortest}, longest={self.longest}; the shifted run "
                "must fit the shortest bag, and that be no longer than the longest."
            )

    def draw(self, seed: int, sizes: Sizes = SIZES) -> Draw:
        """Bags of each role; all roles are drawn alike."""
        return draw(seed, sizes, self._bag)

    def _bag(self, rng: Generator, positive: bool, train: bool) -> tuple[np.ndarray, np.ndarray]:
        n = int(rng.integers(self.shortest, self.longest + 1))
        x = rng.standard_normal((n, self.features), dtype=np.float32)
        kinds = np.full(n, BACKGROUND)
        if positive:
            start = int(rng.integers(n - self.run + 1))
            kinds[start : start + self.run] = SHIFTED
            x[kinds == SHIFTED, 0] += np.float32(self.delta)
        return x, kinds


def log_odds(
    x: Float[np.ndarray, "n d"], delta: float, run: int = 3, feature: int | None = 0, prior: float = 0.5
) -> float:
    """Exact log odds that a bag is positive: log P(positive | bag) / P(negative | bag).

    A shift of feature k from start u changes the bag's density by prod_(j = u .. u + R - 1) N(x_jk; Delta, 1) /
    N(x_jk; 0, 1) = exp(Delta * sum_j x_jk - R Delta^2 / 2), and all other factors cancel. Start (and feature, if it is
    not known) are unknown with equal chances, so the bag's likelihood ratio is the mean of that over them. It is
    summed in log space: the product over a bag's densities itself would underflow.

    Args:
        x: one bag, in order.
        delta: the shift.
        run: R.
        feature: which one is shifted, in all bags; None if it is drawn anew for each bag.
        prior: share of positive bags.
    """
    seen = np.asarray(x if feature is None else x[:, [feature]], np.float64)
    total = np.cumsum(np.vstack([np.zeros(seen.shape[1]), seen]), axis=0)
    sums = total[run:] - total[:-run]  # of the run that starts at each place, [n - R + 1, features]
    ratio = logsumexp(delta * sums - run * delta**2 / 2) - np.log(sums.size)
    return float(ratio + np.log(prior) - np.log1p(-prior))
