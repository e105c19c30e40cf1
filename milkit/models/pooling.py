"""The plain baselines: pool the instances' scores, or pool their embeddings, by a fixed rule.

*Instance space*: an MLP scores every instance, the scores are pooled to the bag's. *Embedding space*: an MLP
encodes every instance, the embeddings are pooled, one linear layer (or a small MLP) classifies the bag.

=========  =================================================  =========================================
pooling    in instance space                                  in embedding space
=========  =================================================  =========================================
`mean`     mean of the logits                                 mean of each feature
`max`      highest logit of each output                       highest value of each feature
`lse`      log-mean-exp of the logits, sharpness `r`          the same of each feature
`gm`       generalised mean of the *probabilities*, given     generalised mean of each feature, which
           back as a logit; `r` = 1 is their plain mean       must be >= 0 (after a ReLU)
`topk`     mean of the highest logits of each output          mean of the highest values of each feature
=========  =================================================  =========================================

References:
    Ilse, Tomczak & Welling (2018) on the two spaces; Pinheiro & Collobert (2015, CVPR) on `lse`; Jia et al.
    (2017, IEEE TMI) on `gm`; Campanella et al. (2019, Nature Medicine) for training on the best k instances.

Deviations:
    None known for mean and max in instance space: they agree with the MeanMIL and MaxMIL of Tang et al.
    (2024). `lse` divides by the number of instances inside the logarithm (as Wang et al. 2018 do), so that a
    bag's score does not grow with its size.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import (
    MLP,
    Init,
    LogMeanExp,
    Max,
    Mean,
    Pooling,
    PowerMean,
    Rule,
    TopMean,
    gm_of_probabilities,
    linear,
    masked_lse,
    masked_max,
    masked_mean,
    masked_topk,
    over_instances,
)
from milkit.types import Bags, Output


def _check(config: "InstancePooling | EmbeddingPooling") -> None:
    """Refuse what is out of range, and options that contradict each other, when the config is made."""
    check_fields(
        config, "model",
        encoder="[1, inf)", head="[1, inf)", r="(0, inf)", k="[0, inf)", fraction="[0, 1]", dropout="[0, 1)",
    )  # fmt: skip
    pooling, k, fraction = config.pooling, config.k, config.fraction
    if pooling != "topk" and (k or fraction):
        raise ConfigError(f"k={k} and fraction={fraction} mean something with pooling='topk' only, not {pooling!r}.")
    if pooling == "topk" and bool(k) == bool(fraction):
        raise ConfigError(
            f"pooling='topk' has k={k} and fraction={fraction}; give one of them, "
            "such as k=3, or fraction=0.1 of each bag."
        )


def _pool_scores(
    logits: Float[Array, "b n c"], mask: Bool[Array, "b n"], config: "InstancePooling"
) -> Float[Array, "b c"]:
    match config.pooling:
        case "mean":
            return masked_mean(logits, mask)
        case "max":
            return masked_max(logits, mask)
        case "lse":
            return masked_lse(logits, mask, config.r)
        case "gm":
            return gm_of_probabilities(logits, mask, config.r)
        case "topk":
            return masked_topk(logits, mask, k=config.k, fraction=config.fraction)


def _rule(config: "EmbeddingPooling") -> Rule:
    match config.pooling:
        case "mean":
            return Mean()
        case "max":
            return Max()
        case "lse":
            return LogMeanExp(config.r)
        case "gm":
            return PowerMean(config.r)
        case "topk":
            return TopMean(config.k, config.fraction)


@dataclass(frozen=True)
class InstancePooling:
    """Score every instance, pool the scores. With `encoder=()` the linear instance model."""

    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True

    pooling: Pooling = "max"
    encoder: tuple[int, ...] = (512,)  # MeanMIL and MaxMIL of Tang et al. (2024)
    """Widths of the hidden layers before the score; () scores with one linear layer."""
    r: float = 4.0  # Jia et al. (2017) and Li et al. (2023) for gm
    """Sharpness of `lse` and `gm`: small is near the mean, large near the maximum."""
    k: int = 0
    """How many of the highest instances `topk` averages; all in a smaller bag."""
    fraction: float = 0.0
    """Which share of a bag's instances `topk` averages instead, rounded up."""
    dropout: float = 0.0  # published rates differ; none is the neutral choice
    """Rate after each hidden layer."""
    init: Init = "torch"

    def __post_init__(self) -> None:
        _check(self)
        if self.dropout and not self.encoder:
            raise ConfigError(f"dropout={self.dropout} acts after hidden layers, but encoder=() has none.")

    @property
    def claims(self) -> frozenset[str]:
        """`standard` where one positive instance makes a bag positive and no other instance can undo it."""
        only_the_best_counts = self.pooling == "max" or self.k == 1
        return frozenset({"standard"} if only_the_best_counts else {"collective"})

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "InstancePoolingModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return InstancePoolingModule(self, in_features, out_features, rngs=rngs)


class InstancePoolingModule(nnx.Module):
    """See `InstancePooling`."""

    def __init__(self, config: InstancePooling, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config = replace(config, dropout=0.0)  # the rate is an array: runs that differ in it are one program
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init)
        self.scorer = linear(self.encoder.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits and instance logits; there is no attention and no bag embedding."""

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            return (), self.scorer(self.encoder(x, deterministic=deterministic, rngs=rngs))

        # scores are few numbers an instance: those of a long bag are kept and pooled at once
        _, scores = over_instances(bags, encode, (), rngs)
        return Output(
            _pool_scores(scores, bags.mask, self.config), instance_logits=jnp.where(bags.mask[..., None], scores, 0)
        )


@dataclass(frozen=True)
class EmbeddingPooling:
    """Encode every instance, pool the embeddings, classify the bag's embedding."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    """Even with `max`: the classifier may weigh a pooled feature negatively, so an instance can undo a
    positive bag."""
    position_aware: ClassVar[bool] = False

    pooling: Pooling = "mean"
    encoder: tuple[int, ...] = (512,)  # the projection that slide-level models use; see ABMIL
    """Widths of the instance encoder, each with ReLU; () pools the raw features."""
    head: tuple[int, ...] = ()
    """Widths of hidden layers between the pooled embedding and the logits, each with ReLU."""
    r: float = 4.0  # as in InstancePooling
    """Sharpness of `lse` (above 0) and `gm` (at least 1)."""
    k: int = 0
    """How many of the highest values of a feature `topk` averages; all in a smaller bag."""
    fraction: float = 0.0
    """Which share of a bag's instances `topk` averages instead, rounded up."""
    dropout: float = 0.0  # published rates differ; none is the neutral choice
    """Rate after each hidden layer of encoder and head."""
    init: Init = "torch"

    def __post_init__(self) -> None:
        _check(self)
        if self.pooling == "gm" and (self.r < 1 or not self.encoder):
            raise ConfigError(
                f"pooling='gm' in embedding space has r={self.r} and encoder={self.encoder}; it needs r >= 1 "
                "and embeddings that are not negative, so at least one encoder layer (its ReLU sees to that)."
            )
        if self.dropout and not (self.encoder or self.head):
            raise ConfigError(f"dropout={self.dropout} acts after hidden layers, but encoder=() and head=() have none.")

    @property
    def chunked(self) -> bool:
        """Whether long bags can be read in chunks: not if a share of all values of a bag must be kept."""
        return not self.fraction

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "EmbeddingPoolingModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return EmbeddingPoolingModule(self, in_features, out_features, rngs=rngs)


class EmbeddingPoolingModule(nnx.Module):
    """See `EmbeddingPooling`."""

    def __init__(self, config: EmbeddingPooling, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config = replace(config, dropout=0.0)  # the rate is an array: runs that differ in it are one program
        encode = partial(MLP, rngs=rngs, dropout=config.dropout, init=config.init)
        self.encoder = encode(in_features, config.encoder)
        self.head = encode(self.encoder.out_features, config.head)
        self.classifier = linear(self.head.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits and the pooled embedding; an instance's logits are those of a bag that holds it alone."""

        def classify(z: Float[Array, "*shape e"], rngs: nnx.Rngs | None) -> Float[Array, "*shape c"]:
            return self.classifier(self.head(z, deterministic=deterministic, rngs=rngs))

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            h = self.encoder(x, deterministic=deterministic, rngs=rngs)
            return (h,), classify(h, rngs)

        (pooled,), alone = over_instances(bags, encode, (_rule(self.config),), rngs)
        instance_logits = jnp.where(bags.mask[..., None], alone, 0)
        return Output(classify(pooled, rngs), instance_logits=instance_logits, embedding=pooled)
