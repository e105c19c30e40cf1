"""DeepAttnMISL: instances in clusters of like appearance ("phenotypes"), attention over the clusters (Yao, Zhu,
Jonnagaddala, Hawkins & Huang, Medical Image Analysis 65:101789, 2020, arXiv:2009.11169).

Instances are encoded and averaged cluster by cluster; attention weighs the clusters' means, and a small network reads
the weighted sum. Clusters that a bag lacks take no part.

How clusters come in. The authors cluster patches beforehand and store their numbers beside the features; so does MCAT
(Chen et al. 2021). milkit's bags hold no such numbers, and clusters worked out on a whole cohort have seen its test
patients. Here the clusters are k-means on the features, its centres being state of the module that only training bags
move (`milkit.nn.kmeans`): an instance belongs to the nearest centre. Where numbers are given, `of_clusters` takes them.

Two versions:
    - the authors': one encoder for all clusters, attention without a gate, one hidden layer (the defaults).
    - MCAT's: `DeepAttnMISL(shared=False, encoder=(512, 512), between=(512,), gated=True, attention=256, head=(256,),
      dropout=0.25, drop="all")`. An encoder a cluster, which costs as many forward passes as there are clusters.

Deviations:
    - Clusters are found while training (see above) instead of before it.
    - An empty cluster has weight 0, as the authors' mask means it. In MCAT's code it is a vector of zeros that takes
      its share of the attention.
    - The attention's score has no bias: a softmax takes it away. Dropout inside MCAT's gates is not there.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, AttentionPool, Init, linear, masked_softmax
from milkit.nn.kmeans import RunningKMeans
from milkit.nn.running import weighted_sum
from milkit.types import Bags, Output


@dataclass(frozen=True)
class DeepAttnMISL:
    """Attention over the means of a bag's clusters."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    clusters: int = 10  # MCAT's; the authors try 6 to 12
    """Centres of k-means."""
    shared: bool = True  # the authors' code
    """Whether all clusters have the same encoder."""
    encoder: tuple[int, ...] = (64,)  # the authors' code
    """Widths of the layers on each instance, each with ReLU."""
    between: tuple[int, ...] = ()  # the authors' code
    """Widths of layers on each cluster's mean, each with ReLU, before the attention."""
    attention: int = 32  # the authors' code
    """Width of the attention's hidden layer."""
    gated: bool = False  # the authors' code
    """Whether the attention is gated."""
    head: tuple[int, ...] = (32,)  # the authors' code
    """Widths of hidden layers behind the attention, each with ReLU."""
    dropout: float = 0.5  # the authors' code
    """Rate."""
    drop: Literal["head", "all"] = "head"  # the authors' code
    """After which layers: those of the head, or all."""
    init: Init = "torch"  # the authors' code is PyTorch with defaults

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self,
            "model",
            clusters=some,
            encoder=some,
            between=some,
            attention=some,
            head=some,
            dropout="[0, 1)",
        )
        if self.dropout and not self.head and self.drop == "head":
            raise ConfigError(f"dropout={self.dropout} acts after the head's layers, but head=() has none.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "DeepAttnMISLModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return DeepAttnMISLModule(self, in_features, out_features, rngs=rngs)


class DeepAttnMISLModule(nnx.Module):
    """See `DeepAttnMISL`."""

    def __init__(self, config: DeepAttnMISL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.clusters = config.clusters
        early = config.dropout if config.drop == "all" else 0.0

        def stack(features: int, widths: tuple[int, ...], rate: float) -> MLP:
            return MLP(features, widths, rngs=rngs, dropout=rate, init=config.init)

        self.kmeans = RunningKMeans(config.clusters, in_features, rngs=rngs)
        each = 1 if config.shared else config.clusters
        self.encoders = nnx.List([stack(in_features, config.encoder, early) for _ in range(each)])
        self.between = stack(self.encoders[0].out_features, config.between, early)
        width = self.between.out_features
        self.pool = AttentionPool(width, config.attention, gated=config.gated, rngs=rngs, init=config.init)
        self.head = stack(width, config.head, config.dropout)
        self.classifier = linear(self.head.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention and embedding; see `of_clusters`."""
        cluster = self.kmeans(bags.x, bags.mask, deterministic=deterministic, rngs=rngs)
        return self.of_clusters(bags.x, bags.mask, cluster, deterministic=deterministic, rngs=rngs)

    def of_clusters(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        cluster: Int[Array, "b n"],
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Output:
        """The model's output for given clusters.

        Args:
            x: features.
            mask: True on real instances.
            cluster: of each instance, 0 to clusters - 1; of no account on padding.
            deterministic, rngs: as of the module's call.

        Returns:
            Logits; as attention each instance's share of its cluster's weight; the embedding before the last layer;
            `extras["clusters"]` the clusters' weights [b, k].
        """
        options: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        member = (cluster[..., None] == jnp.arange(self.clusters)) & mask[..., None]
        size = member.sum(1)
        share = member / jnp.maximum(size, 1)[:, None]  # of an instance in the mean of its cluster
        if len(self.encoders) == 1:
            means = weighted_sum(share, self.encoders[0](x, **options))
        else:
            each = [weighted_sum(share[..., k : k + 1], e(x, **options)) for k, e in enumerate(self.encoders)]
            means = jnp.concatenate(each, 1)
        h = self.between(means, **options)
        weight = masked_softmax(self.pool.scores(h), size > 0)
        pooled = weighted_sum(weight, h)[:, 0]
        embedding = self.head(pooled, **options)
        return Output(
            self.classifier(embedding),
            attention=jnp.einsum("bnk,bkj->bnj", share, weight),
            embedding=embedding,
            extras={"clusters": weight[..., 0]},
        )
