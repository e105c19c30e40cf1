"""WiKG: a dynamic graph with knowledge-aware attention (Li et al., CVPR 2024, arXiv:2403.07719).

Every instance has a head h (what it asks) and a tail t (what it answers). Its neighbours are the k instances of the
bag, itself perhaps among them, whose tails have the highest products with its head; p is the softmax of these products.
An edge is r = p t + (1 - p) h, the neighbours' weights are a softmax of t . tanh(h + r), and their weighted tails are
joined with the head. The instances are then pooled and normalised, and a linear layer classifies.

Read in the authors' code: a projection with LeakyReLU, then half of each instance and half of the bag's mean; products
divided by the square root of the width; attention pooling by a small network of their own; a layer norm after pooling;
dropout before it. Their training script pools by the mean.

A bag of no more than k instances is a complete graph (the authors' code fails for fewer). Neighbours are found exactly
in blocks of instances, so that memory is linear in their number while time is not; of the gradient only what leads
through the neighbours is computed, which is all there is.

`compat="authors"`: their einsum multiplies the sum of t by the sum of tanh(h + r), which is no dot product; the paper's
equation is one, and so is the default. `compat="mil_lab"` is MIL-Lab's version (commit dfc3c17): a dot product, but
r = p t, and ReLU after the projection.

Deviations:
    - The authors' gate_U, gate_V and gate_W, which they never use, are not there.
    - The score of the attention pooling has no bias: a softmax takes it away.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.fields import check_fields
from milkit.nn import dropout_or_none, linear, masked_max, masked_mean, masked_softmax
from milkit.nn.graph import AT_ONCE
from milkit.nn.layer_norm import layer_norm
from milkit.nn.row_blocks import in_row_blocks
from milkit.nn.running import weighted_sum
from milkit.types import Bags, Output


@dataclass(frozen=True)
class WiKG:
    """A graph between instances whose heads and tails fit, and attention along its edges."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    width: int = 512  # the authors' code
    """Of the projection, heads and tails."""
    k: int = 6  # the authors' code and the paper's ablation
    """Neighbours of an instance; all instances in a smaller bag."""
    aggregation: Literal["bi-interaction", "gcn", "sage"] = "bi-interaction"  # the paper's
    """How a head and its neighbourhood are joined: their sum and their product, each with a layer; the sum; side by
    side."""
    pooling: Literal["attention", "mean", "max"] = "attention"  # the authors' model; their script has the mean
    """How instances are pooled."""
    dropout: float = 0.3  # the authors' code
    """Rate on the joined instances."""
    compat: Literal["correct", "authors", "mil_lab"] = "correct"
    """See the module's docstring."""

    def __post_init__(self) -> None:
        check_fields(self, "model", width="[2, inf)", k="[1, inf)", dropout="[0, 1)")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "WiKGModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return WiKGModule(self, in_features, out_features, rngs=rngs)


class WiKGModule(nnx.Module):
    """See `WiKG`."""

    def __init__(self, config: WiKG, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config, e = config, config.width
        self.projection = linear(in_features, e, rngs=rngs)
        self.head, self.tail = linear(e, e, rngs=rngs), linear(e, e, rngs=rngs)
        joins = {"bi-interaction": (e, e), "gcn": (e,), "sage": (2 * e,)}[config.aggregation]
        self.joins = nnx.List([linear(width, e, rngs=rngs) for width in joins])
        self.dropout = dropout_or_none(config.dropout)
        attends = config.pooling == "attention"
        self.hidden = linear(e, e // 2, rngs=rngs) if attends else None
        self.score = linear(e // 2, 1, rngs=rngs, use_bias=False) if attends else None
        self.norm = layer_norm(e, rngs)
        self.classifier = linear(e, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the normalised embedding, and the pooling's attention where it has one."""
        stages = self.stages(bags.x, bags.mask)
        h = self._join(stages["head"], stages["heard"])
        if self.dropout is not None:
            h = self.dropout(h, deterministic=deterministic, rngs=rngs)
        pooled, attention = self._pool(h, bags.mask)
        embedding = self.norm(pooled.astype(h.dtype))
        return Output(self.classifier(embedding), attention=attention, embedding=embedding)

    def stages(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> dict[str, Any]:
        """What comes before pooling: the projection, head and tail [b, n, e], the graph (`index` [b, n, k], -1 none),
        its weights `p` [b, n, k], and what each instance heard from its neighbours [b, n, e].
        """
        activation = jax.nn.relu if self.config.compat == "mil_lab" else jax.nn.leaky_relu
        projected = activation(self.projection(x))
        mixed = (projected + masked_mean(projected, mask)[:, None].astype(projected.dtype)) * 0.5
        head, tail = self.head(mixed), self.tail(mixed)
        index, exists = best_matches(head, tail, mask, self.config.k)
        p, heard = self._hear(head, tail, index, exists)
        return {"projected": projected, "head": head, "tail": tail, "index": index, "p": p, "heard": heard}

    def _hear(
        self, head: Float[Array, "b n e"], tail: Float[Array, "b n e"], index: Int[Array, "b n k"], exists: Any
    ) -> tuple[Float[Array, "b n k"], Float[Array, "b n e"]]:
        """The neighbours' weights p, and the mean of their tails by knowledge-aware attention.

        One neighbour of all instances at a time, so that no [b, n, k, e] is held, nor kept for the gradient.
        """
        compat, wide = self.config.compat, jnp.promote_types(head.dtype, jnp.float32)
        scale = head.shape[-1] ** -0.5
        where, there = jnp.moveaxis(index, 2, 0), jnp.moveaxis(exists, 2, 0)

        def dot(a: Array, b: Array) -> Array:
            return jnp.einsum("bne,bne->bn", a, b, preferred_element_type=wide)

        def product(_: None, column: Array) -> tuple[None, Array]:
            return None, dot(head, _tail_of(tail, column)) * scale

        def knowledge(_: None, column: tuple[Array, Array]) -> tuple[None, Array]:
            t, p = _tail_of(tail, column[0]), column[1][..., None].astype(head.dtype)
            gate = jnp.tanh(head + (p * t if compat == "mil_lab" else head + p * (t - head)))
            if compat == "authors":
                return None, t.astype(wide).sum(-1) * gate.astype(wide).sum(-1)
            return None, dot(t, gate)

        def add(total: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
            return total + column[1][..., None] * _tail_of(tail, column[0]).astype(wide), None

        def through(step: Any, start: Any, columns: Any) -> Any:
            return jax.lax.scan(jax.checkpoint(step, prevent_cse=False), start, columns)

        p = jax.nn.softmax(through(product, None, where)[1], axis=0, where=there)
        weight = jax.nn.softmax(through(knowledge, None, (where, p))[1], axis=0, where=there)
        heard = through(add, jnp.zeros(head.shape, wide), (where, weight))[0]
        return jnp.moveaxis(p, 0, 2), heard.astype(head.dtype)

    def _join(self, head: Float[Array, "b n e"], heard: Float[Array, "b n e"]) -> Float[Array, "b n e"]:
        aggregation = self.config.aggregation
        if aggregation == "sage":
            return jax.nn.leaky_relu(self.joins[0](jnp.concatenate([head, heard], -1)))
        joined = jax.nn.leaky_relu(self.joins[0](head + heard))
        return joined if aggregation == "gcn" else joined + jax.nn.leaky_relu(self.joins[1](head * heard))

    def _pool(
        self, h: Float[Array, "b n e"], mask: Bool[Array, "b n"]
    ) -> tuple[Float[Array, "b e"], Float[Array, "b n 1"] | None]:
        if self.hidden is None or self.score is None:
            return (masked_mean if self.config.pooling == "mean" else masked_max)(h, mask), None
        attention = masked_softmax(self.score(jax.nn.leaky_relu(self.hidden(h))), mask)
        return weighted_sum(attention, h)[:, 0], attention


def _tail_of(tail: Float[Array, "b n e"], column: Int[Array, "b n"]) -> Float[Array, "b n e"]:
    """The tail of one neighbour of each instance; anything where there is none."""
    return jnp.take_along_axis(tail, jnp.maximum(column, 0)[..., None], 1)


def best_matches(
    head: Float[Array, "b n e"], tail: Float[Array, "b n e"], mask: Bool[Array, "b n"], k: int, at_once: int = AT_ONCE
) -> tuple[Int[Array, "b n j"], Bool[Array, "b n j"]]:
    """The k tails with the highest products with each head, best first, as a graph; an instance may be its own.

    Exact: all products are looked at, `at_once` at a time. No gradient goes through the choice.

    Args:
        head: what instances ask.
        tail: what they answer.
        mask: True on real instances.
        k: how many; all real instances where there are no more. j is k, or n where that is less.
        at_once: products to hold at a time.
    """
    n = mask.shape[1]
    head, tail = jax.lax.stop_gradient((head, tail))
    wide = jnp.promote_types(head.dtype, jnp.float32)

    def of_rows(rows: tuple[Array, Array]) -> tuple[Array, Array]:
        h, real = rows
        product = jnp.einsum("bre,bne->brn", h, tail, preferred_element_type=wide)
        best, index = jax.lax.top_k(jnp.where(mask[:, None], product, -jnp.inf), min(k, n))
        exists = (best > -jnp.inf) & real[..., None]
        return jnp.where(exists, index, -1), exists

    return in_row_blocks(of_rows, (head, mask), n, at_once)
