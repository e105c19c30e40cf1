"""ILRA-MIL: iterative low-rank attention (Xiang & Zhang, ICLR 2023, openreview.net/forum?id=01KmhBsEPFO).

Self-attention between all instances goes through a few latent vectors: in each block (GAB, equation 16 of the paper)
the latents attend to the instances, and the instances to what the latents then are, which costs instances times
latents. A learned query pools the last block's instances (NLP), and one linear layer classifies.

Read in the authors' code: queries, keys and values are projected twice, by layers of their own and again inside the
multi-head attention; the attention's result is added to the projected query; a linear layer with ReLU is added to that;
in the blocks the result is multiplied by SiLU of a linear layer of the raw query, and nothing is added to the instances
that came in; the layer norms (after either sum) are off by default.

Deviations:
    - The first projection of the keys has no bias: a softmax takes it away.
    - Kernels start Glorot uniform and biases at 0, where the authors draw normals of the same variance and leave the
      biases as torch has them. Latents and query start as theirs.
    - The paper's contrastive pre-training (LRC) of the patch encoder is not part of the model.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn import linear
from milkit.nn.layer_norm import layer_norm
from milkit.nn.products import tall_dot
from milkit.nn.query_attention import check_heads
from milkit.types import Bags, Output


@dataclass(frozen=True)
class ILRA:
    """Low-rank self-attention between the instances, then attention pooling by one query."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    blocks: int = 2  # the authors' code
    """Low-rank attention blocks."""
    width: int = 256  # the authors' code
    """Of instances and latents."""
    heads: int = 8  # the authors' code
    """They share out `width`."""
    rank: int = 2  # the authors' code (`topk`), which asks to tune it
    """Latent vectors of each block."""
    layer_norm: bool = False  # the authors' code
    """Whether the result is normalised after each sum."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(self, "model", blocks=some, width=some, heads=some, rank=some)
        check_heads(self.width, self.heads)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "ILRAModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return ILRAModule(self, in_features, out_features, rngs=rngs)


class ILRAModule(nnx.Module):
    """See `ILRA`."""

    def __init__(self, config: ILRA, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        widths = [in_features] + [config.width] * (config.blocks - 1)
        self.blocks = nnx.List([LowRankBlock(config, width, rngs=rngs) for width in widths])
        self.query = _start(1, config.width, rngs)
        self.pool = Attend(config, config.width, config.width, gated=False, rngs=rngs)
        self.classifier = linear(config.width, out_features, rngs=rngs, init="glorot")

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the pooled embedding, and the pooling query's attention, a column a head."""
        h = bags.x
        for block in self.blocks:
            h, _ = block(h, bags.mask)
        query = jnp.broadcast_to(self.query[...], (len(h), 1, self.query.shape[1]))
        pooled, attention = self.pool(query.astype(h.dtype), h, bags.mask)
        embedding = pooled[:, 0]
        return Output(self.classifier(embedding), attention=attention[:, :, 0].swapaxes(1, 2), embedding=embedding)


class LowRankBlock(nnx.Module):
    """Latents attend to instances, instances to latents."""

    def __init__(self, config: ILRA, in_features: int, *, rngs: nnx.Rngs):
        self.latents = _start(config.rank, config.width, rngs)
        self.inward = Attend(config, config.width, in_features, gated=True, rngs=rngs)
        self.outward = Attend(config, in_features, config.width, gated=True, rngs=rngs)

    def __call__(
        self, h: Float[Array, "b n d"], mask: Bool[Array, "b n"]
    ) -> tuple[Float[Array, "b n e"], Float[Array, "b r e"]]:
        """The instances, and the latents as they left them."""
        latents = jnp.broadcast_to(self.latents[...], (len(h), *self.latents.shape)).astype(h.dtype)
        latents, _ = self.inward(latents, h, mask)
        # a bag that is all padding leaves its latents finite, so all of them are there
        return self.outward(h, latents, jnp.ones(latents.shape[:2], bool))[0], latents


class Attend(nnx.Module):
    """Multi-head attention with projections twice over, two sums, and perhaps a gate of the raw query."""

    def __init__(self, config: ILRA, query_features: int, key_features: int, *, gated: bool, rngs: nnx.Rngs):
        e, self.heads = config.width, config.heads

        def layer(a: int, b: int, use_bias: bool = True) -> nnx.Linear:
            return linear(a, b, rngs=rngs, init="glorot", use_bias=use_bias)

        self.query, self.key = layer(query_features, e), layer(key_features, e, use_bias=False)
        self.value = layer(key_features, e)
        self.inner = layer(e, 3 * e)  # the attention's own projections of query, key and value, side by side
        self.out, self.hidden = layer(e, e), layer(e, e)
        self.gate = layer(query_features, e) if gated else None
        self.norms = nnx.List([layer_norm(e, rngs) for _ in range(2 * config.layer_norm)])

    def __call__(
        self, query: Float[Array, "b m q"], keys: Float[Array, "b n k"], mask: Bool[Array, "b n"]
    ) -> tuple[Float[Array, "b m e"], Float[Array, "b h m n"]]:
        """What the queries find among the keys, and their weights."""
        q = self.query(query)
        found, weight = self._attention(q, keys, mask)
        o = q + found
        o = self.norms[0](o) if self.norms else o
        o = o + jax.nn.relu(self.hidden(o))
        o = self.norms[1](o) if self.norms else o
        return (o if self.gate is None else o * jax.nn.silu(self.gate(query))), weight

    def _attention(
        self, q: Float[Array, "b m e"], keys: Float[Array, "b n k"], mask: Bool[Array, "b n"]
    ) -> tuple[Float[Array, "b m e"], Float[Array, "b h m n"]]:
        assert self.inner.bias is not None
        kernels, biases = jnp.split(self.inner.kernel[...], 3, 1), jnp.split(self.inner.bias[...], 3)
        # the key's bias would be taken away by the softmax
        parts = (tall_dot(q, kernels[0]) + biases[0], _twice(self.key, kernels[1], 0, keys),
                 _twice(self.value, kernels[2], biases[2], keys))  # fmt: skip
        q, k, v = (jnp.reshape(a, (*a.shape[:2], self.heads, -1)) for a in parts)
        wide = jnp.promote_types(q.dtype, jnp.float32)
        energy = jnp.einsum("bmhc,bnhc->bhmn", q, k, preferred_element_type=wide) / math.sqrt(q.shape[-1])
        weight = jax.nn.softmax(energy, where=mask[:, None, None])
        found = jnp.einsum("bhmn,bnhc->bmhc", weight.astype(v.dtype), v)
        return self.out(found.reshape(*found.shape[:2], -1)), weight


def _twice(
    layer: nnx.Linear, kernel: Float[Array, "e e"], bias: Any, x: Float[Array, "b n k"]
) -> Float[Array, "b n e"]:
    """A second linear map of what a layer gives; of many instances the two are multiplied first, which is less work."""
    if x.shape[1] <= layer.in_features:
        return tall_dot(layer(x), kernel) + bias
    both = layer.kernel[...] @ kernel
    return tall_dot(x, both.astype(x.dtype)) + (bias if layer.bias is None else layer.bias[...] @ kernel + bias)


def _start(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
    """Xavier uniform as torch gives it to an array [1, rows, width]: fans of rows * width and width."""
    limit = math.sqrt(6 / (rows * width + width))
    return nnx.Param(jax.random.uniform(rngs.params(), (rows, width), minval=-limit, maxval=limit))
