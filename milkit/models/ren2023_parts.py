"""Encoders and decoders of IIB-MIL (`milkit.models.ren2023`): the authors', and those of torchmil."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn import dropout_or_none, linear
from milkit.nn.blockwise import attend, weights_of
from milkit.nn.layer_norm import layer_norm
from milkit.nn.transformer import FeedForward


class CrossAttention(nnx.Module):
    """Multi-head attention as PyTorch's: projections with biases (none of the keys, which a softmax takes away)."""

    def __init__(self, features: int, heads: int, dropout: float, *, rngs: nnx.Rngs):
        self.heads = heads
        self.query, self.value, self.out = (linear(features, features, rngs=rngs) for _ in range(3))
        self.key = linear(features, features, rngs=rngs, use_bias=False)
        self.dropout = dropout_or_none(dropout)

    def __call__(
        self,
        asking: Float[Array, "b m d"],
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        *,
        weights: bool = False,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b n h"] | None]:
        """What `asking` finds in x, and where `weights`, how much of each instance, in the mean over those who ask."""
        q, k, v = (
            part.reshape(*part.shape[:2], self.heads, -1) for part in (self.query(asking), self.key(x), self.value(x))
        )
        found = attend(q, k, v, mask)
        y = self.out(found.value.reshape(asking.shape).astype(x.dtype))
        if self.dropout is not None:
            y = self.dropout(y, deterministic=deterministic, rngs=rngs)
        return y, weights_of(q, k, found.log_total, mask) if weights else None


class Wide(nnx.Module):
    """norm(x + MLP(x)) with one hidden layer and ReLU, as in a transformer's layer with its norms at the end."""

    def __init__(self, features: int, hidden: int, dropout: float, *, rngs: nnx.Rngs):
        self.first, self.second = linear(features, hidden, rngs=rngs), linear(hidden, features, rngs=rngs)
        self.norm, self.dropout = layer_norm(features, rngs), dropout_or_none(dropout)

    def __call__(
        self, x: Float[Array, "b n d"], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b n d"]:
        """Each token by itself."""
        h = jax.nn.relu(self.first(x))
        if self.dropout is not None:
            h = self.dropout(h, deterministic=deterministic, rngs=rngs)
        h = self.second(h)
        if self.dropout is not None:
            h = self.dropout(h, deterministic=deterministic, rngs=rngs)
        return self.norm(x + h)


class Stage(nnx.Module):
    """A stage of the authors' encoder: five layers with tanh and norm, self-attention, and the features beside them."""

    def __init__(self, in_features: int, raw: int, width: int, hidden: int, dropout: float, *, rngs: nnx.Rngs):
        sizes = (in_features, *(width * k for k in (2, 4, 2, 2, 1)))
        self.layers = nnx.List([linear(a, b, rngs=rngs) for a, b in pairwise(sizes)])
        self.norms = nnx.List([layer_norm(b, rngs) for b in sizes[1:]])
        self.attention = CrossAttention(width, 2, dropout, rngs=rngs)  # two heads: the authors' code
        self.norm = layer_norm(width, rngs)
        self.wide = Wide(width, hidden, dropout, rngs=rngs)
        self.beside = linear(raw, width, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        raw: Float[Array, "b n r"],
        mask: Bool[Array, "b n"],
        deterministic: bool,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "b n e"]:
        """Instances that have heard of each other."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(jnp.tanh(layer(x)))
        x = self.norm(x + self.attention(x, x, mask, deterministic=deterministic, rngs=rngs)[0])
        x = self.wide(x, deterministic=deterministic, rngs=rngs)
        return x + jax.nn.relu(self.beside(raw))


class Questions(nnx.Module):
    """A layer of the authors' decoder: questions to each other, then to the instances, then an MLP."""

    def __init__(self, width: int, heads: int, dropout: float, *, rngs: nnx.Rngs):
        self.among = CrossAttention(width, heads, dropout, rngs=rngs)
        self.across = CrossAttention(width, heads, dropout, rngs=rngs)
        self.among_norm, self.across_norm = layer_norm(width, rngs), layer_norm(width, rngs)
        self.wide = Wide(width, 2 * width, dropout, rngs=rngs)  # the authors' code

    def __call__(
        self,
        asking: Float[Array, "b m d"],
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        deterministic: bool,
        rngs: nnx.Rngs | None,
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b n h"]]:
        """The questions as they went on, and what they asked of the instances."""
        some = jnp.ones(asking.shape[:2], bool)
        found = self.among(asking, asking, some, deterministic=deterministic, rngs=rngs)[0]
        asking = self.among_norm(asking + found)
        found, weights = self.across(asking, x, mask, weights=True, deterministic=deterministic, rngs=rngs)
        assert weights is not None
        asking = self.across_norm(asking + found)
        return self.wide(asking, deterministic=deterministic, rngs=rngs), weights


class LibraryLayer(nnx.Module):
    """torchmil's layer, whose attention may be narrower than what it reads: linear(x) + attention(norm(x)), MLP."""

    def __init__(self, in_features: int, width: int, heads: int, *, mlp: bool, rngs: nnx.Rngs):
        self.heads = heads
        self.norm = layer_norm(in_features, rngs)
        self.qkv = linear(in_features, 3 * width, rngs=rngs, use_bias=False)
        self.skip = linear(in_features, width, rngs=rngs) if in_features != width else None
        self.mlp_norm = layer_norm(width, rngs) if mlp else None
        self.mlp = FeedForward(width, 4 * width, rngs=rngs, activation="gelu", dropout=0.0) if mlp else None

    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], *, first_only: bool = False
    ) -> Float[Array, "b m e"]:
        """Tokens that have heard of each other; with `first_only` the first one alone, at a cost linear in them."""
        q, k, v = (a.reshape(*a.shape[:2], self.heads, -1) for a in jnp.split(self.qkv(self.norm(x)), 3, -1))
        if first_only:
            q, x = q[:, :1], x[:, :1]
        found = attend(q, k, v, mask).value
        y = found.reshape(*found.shape[:2], -1).astype(x.dtype) + (x if self.skip is None else self.skip(x))
        return y if self.mlp is None or self.mlp_norm is None else y + self.mlp(self.mlp_norm(y))
