"""Bag statistics and a linear layer: what can be had without deep learning and without a kernel.

A bag is described by statistics of each raw feature over its instances, and a linear layer reads them: with a
cross-entropy loss this is logistic regression on a fixed-length vector. A deep MIL model that does not beat
it has not shown that it learned anything about instances. Minimum and maximum of each feature are the vector
behind the statistics kernel of Gaertner et al. (2002, ICML); here the kernel is left out, and mean and spread
are added.

Deviations:
    The choice of statistics is ours. Features should be standardised by the training part's scaler.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from flax import nnx

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import masked_max, masked_mean, masked_sd
from milkit.types import Bags, Output

Statistic = Literal["mean", "sd", "min", "max"]


@dataclass(frozen=True)
class BagStatistics:
    """Logistic regression on statistics of a bag's raw features."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False

    statistics: tuple[Statistic, ...] = ("mean", "sd", "min", "max")  # centre, spread and both extremes
    """Which statistics of each feature, in this order; `sd` divides by n, so it is 0 for one instance."""

    def __post_init__(self) -> None:
        check_fields(self, "model")
        if not self.statistics or len(set(self.statistics)) < len(self.statistics):
            raise ConfigError(f"statistics={self.statistics}; name at least one of mean, sd, min, max, none twice.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "BagStatisticsModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return BagStatisticsModule(self, in_features, out_features, rngs=rngs)


class BagStatisticsModule(nnx.Module):
    """See `BagStatistics`."""

    def __init__(self, config: BagStatistics, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.statistics = config.statistics
        # The problem is convex, so the start cannot matter for where it ends: zero, as solvers for it do.
        self.classifier = nnx.Linear(
            in_features * len(config.statistics),
            out_features,
            kernel_init=nnx.initializers.zeros_init(),
            rngs=rngs,
        )

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, and the statistics as the embedding [b, d * statistics]."""
        x, mask = bags.x, bags.mask
        compute = {
            "mean": lambda: masked_mean(x, mask),
            "sd": lambda: masked_sd(x, mask),
            "min": lambda: -masked_max(-x, mask),
            "max": lambda: masked_max(x, mask),
        }
        embedding = jnp.concatenate([compute[name]() for name in self.statistics], -1)
        return Output(self.classifier(embedding), embedding=embedding)
