"""ACMIL: attention-challenging MIL (Zhang et al., ECCV 2024, arXiv:2311.07125).

Attention on slides overfits to a few instances. Two things are done against it. Multiple-branch attention (MBA):
several attentions, each with a classifier of its own trained on the slide's label, are kept apart by the cosine
similarity of their weights, which is added to the loss; the slide is classified from the mean of the branches.
Stochastic top-k instance masking (STKIM): in training, each branch loses some of its most attended instances, drawn
anew at every step.

    loss = loss of the slide's logits + mean loss of the branches' + mean cosine similarity of pairs of branches

Two attentions, as in the authors' code: `gated` (theirs: GA; Ilse et al. 2018) and `multihead` (theirs: MHA), in which
a learned query a branch attends to the projected instances in several heads.

`QueryPooling` is a baseline of the authors' code: the multi-head attention of one query, without all of the above. The
other baselines there are milkit's `ABMIL` (but for a bias in the encoder) and `LossAttention`.

Read in the authors' code: of the min(k, n) most attended instances int(share * min(k, n)) are masked, per branch and
per head; with one branch its own loss is left out; similarity and slide use the masked attention; queries start near 0
(SD 1e-6); the multi-head block ends in a linear layer, dropout .1 and a layer norm (eps 1e-6), with no residual path.

Deviations:
    - Scores and keys have no bias: a softmax takes both away.
    - Queries are multiplied into the key projection, and the value projection is applied to pooled instances: the same
      numbers by another order of products, in time and memory linear in instances times heads instead of width.
    - A masked instance has weight 0 rather than exp(-1e9 - ...): the same, save where a whole bag would be masked,
      which cannot happen here (`mask_share` < 1).

In October 2024 the authors noted in their repository that `mask_share=0` is sometimes better and stabler than .6.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import AttentionPool, linear, masked_softmax
from milkit.nn.projection import Projection
from milkit.nn.query_attention import Scores, Values, check_heads
from milkit.nn.running import weighted_sum
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class ACMIL:
    """Several attentions kept apart from each other, robbed in training of some of the instances they like best."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    kind: Literal["gated", "multihead"] = "gated"  # the authors' default
    """Which attention a branch is."""
    branches: int = 5  # as the authors run it
    """Attention branches."""
    masked: int = 10  # as the authors run it
    """Of how many most attended instances some are masked in training; 0 is none."""
    mask_share: float = 0.6  # as the authors run it
    """Which share of these."""
    width: int = 512  # the authors' for 1024 features; they use 128 for 384 and 256 for 512
    """Of the projected instances."""
    attention: int = 128  # the authors' code
    """Width of V and U of the gated attention."""
    heads: int = 8  # the authors' code
    """Of the multi-head attention; they share out `width`."""
    dropout: float = 0.1  # the authors' code
    """Rate after the multi-head attention; the gated one has none."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self,
            "model",
            branches=some,
            masked="[0, inf)",
            mask_share="[0, 1)",
            width=some,
            attention=some,
            heads=some,
            dropout="[0, 1)",
        )
        if self.kind == "multihead":
            check_heads(self.width, self.heads)

    @property
    def no_gradient(self) -> frozenset[str]:
        """A single branch is trained through the slide's loss alone, so its own classifier is not."""
        if self.branches > 1:
            return frozenset()
        own = {f"branch_classifiers/0/{leaf}" for leaf in ("kernel", "bias")}
        if self.kind == "multihead":
            own |= {f"branches/values/0/{layer}/{leaf}" for layer in ("value", "out") for leaf in ("kernel", "bias")}
            own |= {f"branches/values/0/norm/{leaf}" for leaf in ("scale", "bias")}
        return frozenset(own)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "ACMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return ACMILModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The slide's loss, the mean of the branches' and the mean similarity of their attentions."""
        assert output.attention is not None
        slide = bag_loss(output.logits)
        if self.branches == 1:
            return slide, {"slide": slide}
        branches = jax.vmap(bag_loss, 1, 1)(output.extras["branch_logits"]).mean(1)
        similarity = mean_similarity(output.attention, self.branches)
        parts = {"slide": slide, "branches": branches, "similarity": similarity}
        return slide + branches + similarity, parts


def mean_similarity(attention: Float[Array, "b n kh"], branches: int) -> Float[Array, "b"]:
    """Mean cosine similarity of the attentions of all pairs of branches, head by head; 0 of a filler.

    Args:
        attention: the heads of a branch lie together.
        branches: how many.
    """
    a = attention.reshape(*attention.shape[:2], branches, -1)
    square = jnp.square(a).sum(1, keepdims=True)
    seen = square > 0
    unit = jnp.where(seen, a * jax.lax.rsqrt(jnp.where(seen, square, 1)), 0)
    products = jnp.einsum("bnkh,bnlh->bkl", unit, unit) / unit.shape[-1]
    pairs = jnp.triu(jnp.ones((branches, branches), bool), 1)
    return jnp.where(pairs, products, 0).sum((1, 2)) / (branches * (branches - 1) / 2)


def masked_top(
    scores: Float[Array, "b n k"], mask: Bool[Array, "b n"], draws: Float[Array, "b k m"], share: float
) -> Bool[Array, "b n k"]:
    """Which instances STKIM masks: of the m highest scores of each column, int(share * m) drawn at random.

    Of a bag smaller than m all instances are candidates, and int(share * n) of them are masked.

    Args:
        scores: of each instance in each branch (and head).
        mask: True on real instances.
        draws: a random number for each candidate, the highest score first; the lowest are masked.
        share: in [0, 1).
    """
    m = draws.shape[2]
    rows = jax.lax.top_k(jnp.where(mask[..., None], scores, -jnp.inf).swapaxes(1, 2), m)[1]
    candidates = jnp.minimum(mask.sum(1), m)
    # how many, by candidates, cut off as Python does in float64
    number = jnp.asarray(np.asarray([int(share * i) for i in range(m + 1)]))[candidates]
    there = jnp.arange(m) < candidates[:, None, None]
    rank = jnp.argsort(jnp.argsort(jnp.where(there, draws, jnp.inf), axis=2), axis=2)
    bag, column = jnp.arange(rows.shape[0])[:, None, None], jnp.arange(rows.shape[1])[:, None]
    chosen = jnp.zeros((rows.shape[0], rows.shape[1], scores.shape[1]), bool)
    return chosen.at[bag, column, rows].set(rank < number[:, None, None]).swapaxes(1, 2)


class GatedBranches(nnx.Module):
    """Gated attention with a head a branch."""

    def __init__(self, config: ACMIL, *, rngs: nnx.Rngs):
        self.pool = AttentionPool(config.width, config.attention, heads=config.branches, rngs=rngs)

    def scores(self, h: Float[Array, "b n e"]) -> Float[Array, "b n k"]:
        """What the softmax is taken of."""
        return self.pool.scores(h)

    def embed(
        self, z: Float[Array, "b k h e"], deterministic: bool, rngs: nnx.Rngs | None
    ) -> tuple[list[Float[Array, "b e"]], Float[Array, "b e"]]:
        """Each branch's embedding and the slide's, of the instances as each branch and head has summed them."""
        return [z[:, k, 0] for k in range(z.shape[1])], z[:, :, 0].mean(1)


class MultiHeadBranches(nnx.Module):
    """Multi-head attention with a learned query a branch."""

    def __init__(self, config: ACMIL, *, rngs: nnx.Rngs):
        width, heads, some = config.width, config.heads, range(config.branches)
        self.queries = first_queries(config.branches, width, rngs)
        self.asked = nnx.List([Scores(width, heads, rngs=rngs) for _ in some])
        self.values = nnx.List([Values(width, heads, config.dropout, rngs=rngs) for _ in some])
        self.slide = Values(width, heads, config.dropout, rngs=rngs)

    def scores(self, h: Float[Array, "b n e"]) -> Float[Array, "b n k"]:
        """What the softmax is taken of; the heads of a branch lie together."""
        return jnp.concatenate([score(self.queries[...][k], h) for k, score in enumerate(self.asked)], -1)

    def embed(
        self, z: Float[Array, "b k h e"], deterministic: bool, rngs: nnx.Rngs | None
    ) -> tuple[list[Float[Array, "b e"]], Float[Array, "b e"]]:
        """As of the gated ones; each branch and the slide have value projections of their own."""
        options: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        branches = [values(z[:, k], **options) for k, values in enumerate(self.values)]
        return branches, self.slide(z.mean(1), **options)


def first_queries(number: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
    """Queries as the authors start them: normal, SD 1e-6, so that attention starts flat."""
    return nnx.Param(1e-6 * jax.random.normal(rngs.params(), (number, width)))


class ACMILModule(nnx.Module):
    """See `ACMIL`."""

    def __init__(self, config: ACMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config = config
        self.projection = Projection(in_features, config.width, rngs=rngs)
        self.branches: Any = (GatedBranches if config.kind == "gated" else MultiHeadBranches)(config, rngs=rngs)
        self.branch_classifiers = nnx.List(
            [linear(config.width, out_features, rngs=rngs) for _ in range(config.branches)]
        )
        self.classifier = linear(config.width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits of the slide; the branches' own [b, k, c] are `extras["branch_logits"]`.

        `attention` has a column a branch (of the multi-head attention a column a branch and head, the heads of a branch
        together), as masked in training; the mean of the columns is the slide's. Of the gated attention an instance's
        logits are those of a bag that holds it alone; the other gives none.
        """
        h = self.projection(bags.x)
        scores, m = self.branches.scores(h), min(self.config.masked, h.shape[1])
        draws = None
        if not deterministic and m:
            if rngs is None:
                raise ConfigError("ACMIL masks at random in training; pass rngs=nnx.Rngs(key), or deterministic=True.")
            draws = jax.random.uniform(rngs.dropout(), (len(h), scores.shape[2], m))
        attention = self.attention_of(scores, bags.mask, draws)
        z = weighted_sum(attention, h).reshape(len(h), self.config.branches, -1, h.shape[2])
        embeddings, slide = self.branches.embed(z, deterministic, rngs)
        each = [head(z) for head, z in zip(self.branch_classifiers, embeddings, strict=True)]
        alone = self.classifier(h) if self.config.kind == "gated" else None
        return Output(
            self.classifier(slide),
            attention=attention,
            instance_logits=None if alone is None else jnp.where(bags.mask[..., None], alone, 0),
            embedding=slide,
            extras={"branch_logits": jnp.stack(each, 1)},
        )

    def attention_of(
        self, scores: Float[Array, "b n k"], mask: Bool[Array, "b n"], draws: Float[Array, "b k m"] | None
    ) -> Float[Array, "b n k"]:
        """Softmax of scores over real instances; over those that STKIM leaves, where there are draws."""
        if draws is None:
            return masked_softmax(scores, mask)
        left = mask[..., None] & ~masked_top(jax.lax.stop_gradient(scores), mask, draws, self.config.mask_share)
        return jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), axis=1, where=left)


@dataclass(frozen=True)
class QueryPooling:
    """Multi-head attention of one learned query, the baseline that the multi-head ACMIL is compared with."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    width: int = 512  # as of `ACMIL`
    """Of the projected instances."""
    heads: int = 8  # the authors' code
    """They share out `width`."""
    dropout: float = 0.1  # the authors' code
    """Rate after the output projection."""

    def __post_init__(self) -> None:
        check_fields(self, "model", width="[1, inf)", heads="[1, inf)", dropout="[0, 1)")
        check_heads(self.width, self.heads)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "QueryPoolingModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return QueryPoolingModule(self, in_features, out_features, rngs=rngs)


class QueryPoolingModule(nnx.Module):
    """See `QueryPooling`."""

    def __init__(self, config: QueryPooling, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.projection = Projection(in_features, config.width, rngs=rngs)
        self.query = first_queries(1, config.width, rngs)
        self.scores = Scores(config.width, config.heads, rngs=rngs)
        self.values = Values(config.width, config.heads, config.dropout, rngs=rngs)
        self.classifier = linear(config.width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, a column of attention a head, and the embedding."""
        h = self.projection(bags.x)
        attention = masked_softmax(self.scores(self.query[...][0], h), bags.mask)
        embedding = self.values(weighted_sum(attention, h), deterministic=deterministic, rngs=rngs)
        return Output(self.classifier(embedding), attention=attention, embedding=embedding)
