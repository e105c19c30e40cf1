"""What MHIM-MIL is put together from: the models it trains, the choice of instances to mask, and merging."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.errors import ConfigError
from milkit.models.li2021 import DSMIL
from milkit.nn import dropout_or_none, linear, masked_softmax
from milkit.nn.bias_free_attention import Activation, BiasFreeAttention
from milkit.nn.instance_ppeg import on_instances
from milkit.nn.layer_norm import layer_norm
from milkit.nn.nystrom import NystromAttention
from milkit.nn.ppeg import PPEG
from milkit.nn.running import weighted_sum
from milkit.nn.squares import take_rows
from milkit.types import Bags

Score = Literal["class", "attention"]


class Seen(NamedTuple):
    """What a base model says of bags.

    Attributes:
        features: a bag's vectors: one, or of DSMIL one a logit.
        logits: of the bag.
        attention: weights of the instances, which of self-attention may be below 0.
        hard: how much each instance stands out, a column a head: the higher, the easier to tell the class by.
        instance_logits: of each instance, or None.
        streams: of DSMIL, the logits of its two streams.
    """

    features: Float[Array, "b k e"]
    logits: Float[Array, "b c"]
    attention: Float[Array, "b n h"]
    hard: Float[Array, "b n s"]
    instance_logits: Float[Array, "b n c"] | None
    streams: dict[str, Float[Array, "b c"]]


def sure_of_a_class(classifier: nnx.Linear, weighted: Float[Array, "b n e"]) -> Float[Array, "b n 1"]:
    """The highest probability that the classifier gives any class for an instance times its attention, without bias.

    A single logit stands for two classes.
    """
    logits = weighted @ classifier.kernel[...]
    if logits.shape[-1] == 1:
        return jax.nn.sigmoid(abs(logits))
    return jax.nn.softmax(logits).max(-1, keepdims=True)


class AttentionBase(nnx.Module):
    """ABMIL as the authors have it: one hidden layer, no biases."""

    def __init__(
        self, width: int, out_features: int, *, hidden: int, activation: Activation, score: Score, rngs: nnx.Rngs
    ):
        self.score: Score = score
        self.pool = BiasFreeAttention(width, hidden, rngs=rngs, activation=activation, init="glorot")
        self.classifier = linear(width, out_features, rngs=rngs, init="glorot")

    def __call__(
        self, h: Float[Array, "b n e"], mask: Bool[Array, "b n"], *, deterministic: bool, rngs: nnx.Rngs | None
    ) -> Seen:
        """An instance's logits are those of a bag that holds it alone."""
        attention = masked_softmax(self.pool(h), mask)
        features = weighted_sum(attention, h)
        hard = attention if self.score == "attention" else sure_of_a_class(self.classifier, attention * h)
        return Seen(features, self.classifier(features[:, 0]), attention, hard, self.classifier(h), {})


class DSMILBase(nnx.Module):
    """DSMIL with values; both streams' mean answers."""

    def __init__(self, width: int, out_features: int, *, hidden: int, score: Score, rngs: nnx.Rngs):
        self.score: Score = score
        self.inner = DSMIL(query=hidden, values=width, init="glorot").build(width, out_features, rngs=rngs)

    def __call__(
        self, h: Float[Array, "b n e"], mask: Bool[Array, "b n"], *, deterministic: bool, rngs: nnx.Rngs | None
    ) -> Seen:
        """The features are a class's embedding each."""
        said = self.inner(Bags(h, mask))
        assert said.embedding is not None
        assert said.attention is not None
        assert said.instance_logits is not None
        features = said.embedding.reshape(len(h), said.logits.shape[1], -1)
        hard = said.attention if self.score == "attention" else said.instance_logits
        hard = hard.max(-1, keepdims=True)
        return Seen(features, said.logits, said.attention, hard, said.instance_logits, said.extras)


class SelfAttentionBase(nnx.Module):
    """A transformer of two Nystrom layers like TransMIL, of the instances and a class token.

    Unlike TransMIL, only the convolutions for positions work on a square that repeats instances.
    """

    def __init__(
        self,
        width: int,
        out_features: int,
        *,
        heads: int,
        landmarks: int,
        kernel: int,
        score: Score,
        compat: Literal["correct", "authors"],
        dropout: float,
        rngs: nnx.Rngs,
    ):
        self.score: Score = score
        self.least = 7 if compat == "authors" else 1

        def attention() -> NystromAttention:
            return NystromAttention(
                width, rngs=rngs, heads=heads, head_width=width // heads, landmarks=landmarks, kernel=kernel,
                dropout=dropout, compat=compat, init="glorot",
            )  # fmt: skip

        self.class_token = nnx.Param(jax.random.normal(rngs.params(), (width,)))
        self.attentions = nnx.List([attention() for _ in range(2)])
        self.norms = nnx.List([layer_norm(width, rngs) for _ in range(3)])
        self.ppeg = PPEG(width, rngs=rngs)
        self.classifier = linear(width, out_features, rngs=rngs, init="glorot")

    def __call__(
        self, h: Float[Array, "b n e"], mask: Bool[Array, "b n"], *, deterministic: bool, rngs: nnx.Rngs | None
    ) -> Seen:
        """`attention` is what the class token takes in the second layer, `hard` goes by the first."""
        n = h.shape[1]
        rows, places = in_front(mask)
        own = jnp.arange(n) < mask.sum(1)[:, None]
        token = jnp.broadcast_to(self.class_token[...].astype(h.dtype), (len(h), 1, h.shape[2]))
        x = jnp.concatenate([token, take_rows(h, rows, places)], 1)
        there = jnp.concatenate([mask.any(1, keepdims=True), own], 1)
        normal = self.norms[0](x)
        found, first = self.attentions[0](normal, there, deterministic=deterministic, rngs=rngs)
        x = jnp.where(there[..., None], x + found, 0)
        x = jnp.concatenate([x[:, :1], on_instances(self.ppeg, x[:, 1:], own, self.least)], 1)
        found, second = self.attentions[1](self.norms[1](x), there, deterministic=deterministic, rngs=rngs)
        features = self.norms[2](x[:, :1] + found[:, :1])
        hard = first[:, 1:] if self.score == "attention" else self._sure(normal[:, 1:], first[:, 1:])
        attention, hard = (take_rows(a, places, rows) for a in (second[:, 1:], hard))
        return Seen(features, self.classifier(features[:, 0]), attention, hard, None, {})

    def _sure(self, x: Float[Array, "b n e"], weight: Float[Array, "b n h"]) -> Float[Array, "b n 1"]:
        """As with plain attention: an instance's values of each head, weighted, are what the class token is given."""
        attention = self.attentions[0]
        values = attention.values(x).reshape(*weight.shape, -1) * weight[..., None]
        assert attention.out is not None
        return sure_of_a_class(self.classifier, attention.out(values.reshape(x.shape).astype(x.dtype)))


def in_front(mask: Bool[Array, "b n"]) -> tuple[Int[Array, "b n 1"], Int[Array, "b n 1"]]:
    """The instance of each place when the real ones stand in front, in their order, and the place of each; -1 none."""
    order = jnp.argsort(~mask, axis=1, stable=True)
    rows = jnp.where(jnp.arange(mask.shape[1]) < mask.sum(1)[:, None], order, -1)
    return rows[..., None], jnp.where(mask, jnp.cumsum(mask, 1) - 1, -1)[..., None]


class Merge(nnx.Module):
    """A few tokens in place of many instances: attention of a few queries to them, without a residual path."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float, *, rngs: nnx.Rngs):
        self.heads, inner = heads, heads * head_width
        self.norm = layer_norm(width, rngs)
        self.query = linear(width, inner, rngs=rngs, init="glorot", use_bias=False)
        self.key_value = linear(width, 2 * inner, rngs=rngs, init="glorot", use_bias=False)
        self.out = linear(inner, width, rngs=rngs, init="glorot")
        self.dropout = dropout_or_none(dropout)

    def __call__(
        self,
        queries: Float[Array, "m e"],
        x: Float[Array, "b n e"],
        mask: Bool[Array, "b n"],
        *,
        deterministic: bool,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "b m e"]:
        """What each query finds among the instances of `mask`."""

        def drop(a: Array) -> Array:
            return a if self.dropout is None else self.dropout(a, deterministic=deterministic, rngs=rngs)

        def by_head(a: Array) -> Array:
            return a.reshape(*a.shape[:-1], self.heads, -1)

        q = by_head(self.query(self.norm(queries.astype(x.dtype))))
        k, v = (by_head(a) for a in jnp.split(self.key_value(self.norm(x)), 2, -1))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        energy = jnp.einsum("mhc,bnhc->bhmn", q, k, preferred_element_type=wide) / math.sqrt(q.shape[-1])
        weight = drop(jax.nn.softmax(energy, where=mask[:, None, None]))
        found = jnp.einsum("bhmn,bnhc->bmhc", weight.astype(v.dtype), v)
        return drop(self.out(found.reshape(*found.shape[:2], -1)))


def shares(n: int, share: float, rounded: Literal["up", "down"]) -> Int[Array, "m"]:
    """Which number `share` is of 0, 1 ... n; worked in float64, where .1 of 30 is 3 and not a little more."""
    of = np.round(share * np.arange(n + 1), 6)
    return jnp.asarray((np.ceil(of) if rounded == "up" else np.floor(of)).astype(np.int32))


def ranks(values: Float[Array, "b n s"], among: Bool[Array, "b n"]) -> Int[Array, "b n s"]:
    """The place of each value in its column, the highest first; of equal ones the first. Others come last."""
    order = jnp.argsort(jnp.where(among[..., None], -values, jnp.inf), axis=1, stable=True)
    return jnp.argsort(order, axis=1)


def highest(values: Float[Array, "b n s"], mask: Bool[Array, "b n"], number: Int[Array, "b"]) -> Bool[Array, "b n"]:
    """The `number` instances with the highest values; of several columns those with most votes, then the best ranks.

    A column votes for the `number` highest of its own.
    """
    rank = ranks(values, mask)
    if rank.shape[-1] > 1:
        votes = (rank < number[:, None, None]).sum(-1, keepdims=True)
        rank = ranks(votes + 1 / (2 + rank.mean(-1, keepdims=True, dtype=jnp.float32)), mask)
    return mask & (rank[..., 0] < number[:, None])


def drawn(among: Bool[Array, "b n"], number: Int[Array, "b"], rngs: nnx.Rngs) -> Bool[Array, "b n"]:
    """`number` instances at random."""
    draws = jax.random.uniform(rngs.dropout(), (*among.shape, 1))
    return highest(draws, among, number)


class Masking(NamedTuple):
    """Which shares of a bag are masked.

    Attributes:
        hard: of the bag, those that stand out most.
        hard_of: which share of the candidates that is; hard / hard_of of the bag are candidates, all at most.
        low: of the bag, those that stand out least.
        random: of the bag, at random.
    """

    hard: float
    hard_of: float
    low: float
    random: float

    def __call__(
        self, values: Float[Array, "b n s"], mask: Bool[Array, "b n"], rngs: nnx.Rngs | None
    ) -> Bool[Array, "b n"]:
        """The instances to mask: the three kinds together, each number rounded up.

        One always stays: where all would go, the one in the middle of the (first) ranking.
        """
        count = mask.sum(1)
        gone = jnp.zeros_like(mask)

        def number(share: float, of: Any = count) -> Int[Array, "b"]:
            return shares(mask.shape[1], share, "up")[of]

        if self.hard:
            whole = self.hard >= self.hard_of
            candidates = number(1.0 if whole else self.hard / self.hard_of)
            share = self.hard if whole else self.hard_of
            gone = highest(values, mask, candidates)
            if share < 1:
                gone = drawn(gone, number(share, candidates), _needed(rngs))
        if self.low:
            gone |= highest(-values, mask, number(self.low))
        if self.random:
            gone |= drawn(mask, number(self.random), _needed(rngs))
        middle = mask & (ranks(values, mask)[..., 0] == (count // 2)[:, None])
        return gone & ~(middle & (gone.sum(1) == count)[:, None])


def _needed(rngs: nnx.Rngs | None) -> nnx.Rngs:
    if rngs is None:
        raise ConfigError("MHIM draws which instances it masks; pass rngs=nnx.Rngs(key).")
    return rngs
