"""A transformer's layer over the instances of a bag: exact self-attention whatever their number, and an MLP.

References:
    Vaswani et al. (2017, arXiv:1706.03762); Xiong et al. (2020, arXiv:2002.04745) on the norm in front of each part.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.blockwise import Bias, attend, weights_of
from milkit.nn.dropout import dropout_or_none
from milkit.nn.gelu import gelu
from milkit.nn.initialisers import linear
from milkit.nn.layer_norm import LayerNorm, layer_norm
from milkit.nn.products import tall_dot

Activation = Literal["gelu", "relu"]
"""Of an MLP of two layers: "gelu" after the first one; "relu" after either, as in MIL-Lab's."""


class SelfAttention(nnx.Module):
    """Multi-head self-attention of tokens (`milkit.nn.blockwise`).

    Args:
        features: width of a token, in and out; the heads share it out.
        heads: attention heads.
        use_bias: whether queries, keys and values have biases (that of the keys is taken away by the softmax).
        project: whether a linear layer follows.
        dropout: rate after that layer.
        at_once: weights worked at a time; 0 is by device.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        project: bool = True,
        dropout: float = 0.0,
        at_once: int = 0,
    ):
        self.heads, self.at_once = heads, at_once or None
        self.qkv = linear(features, 3 * features, rngs=rngs, use_bias=use_bias)
        self.out = linear(features, features, rngs=rngs) if project else None
        self.dropout = dropout_or_none(dropout)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        bias: Bias | None = None,
        *,
        norm: LayerNorm | None = None,
        first_only: bool = False,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b n h"] | None]:
        """What each token gathers; with `first_only` the first one alone, and what it took from each in each head.

        With `norm` tokens are normalised first.
        """
        kernel, shift = self.qkv.kernel[...], None if self.qkv.bias is None else self.qkv.bias[...]
        if norm is not None:
            x, (kernel, shift) = norm.plain(x).astype(x.dtype), norm.into(self.qkv)

        def projected(x: Float[Array, "b c d"], columns: slice) -> Float[Array, "b c f"]:
            y = tall_dot(x, kernel[:, columns])
            return y if shift is None else y + shift[columns]

        asking = x
        if first_only:
            asking = x[:, :1]
            rows = None if bias is None else jax.tree.map(lambda a: a[:, :1], bias.rows)
            bias = None if bias is None else bias._replace(rows=rows)
            width = kernel.shape[1] // 3
            parts = [projected(a, slice(i * width, (i + 1) * width)) for i, a in enumerate((asking, x, x))]
        else:  # one product, and one for each of its gradients
            parts = jnp.split(projected(x, slice(None)), 3, 2)
        q, k, v = (a.reshape(*a.shape[:2], self.heads, -1) for a in parts)
        found = attend(q, k, v, mask, bias, self.at_once)
        y = found.value.reshape(asking.shape).astype(x.dtype)
        y = y if self.out is None else self.out(y)
        if self.dropout is not None:
            y = self.dropout(y, deterministic=deterministic, rngs=rngs)
        return y, weights_of(q, k, found.log_total, mask, bias, self.at_once) if first_only else None


class FeedForward(nnx.Module):
    """Linear, activation, dropout, linear, dropout."""

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs, activation: Activation, dropout: float):
        self.first, self.second = linear(features, hidden, rngs=rngs), linear(hidden, features, rngs=rngs)
        self.activation, self.dropout = activation, dropout_or_none(dropout)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        norm: LayerNorm | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "b n d"]:
        """Each token by itself; with `norm` it is normalised first."""
        relu = self.activation == "relu"
        h = self.first(x) if norm is None else norm.then(self.first, x)
        h = self._drop(jax.nn.relu(h) if relu else gelu(h), deterministic, rngs)
        h = self.second(h)
        return self._drop(jax.nn.relu(h) if relu else h, deterministic, rngs)

    def _drop(self, h: Float[Array, "b n e"], deterministic: bool, rngs: nnx.Rngs | None) -> Float[Array, "b n e"]:
        return h if self.dropout is None else self.dropout(h, deterministic=deterministic, rngs=rngs)


class TransformerLayer(nnx.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) where `mlp`, its hidden width, is not 0."""

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        mlp: int,
        rngs: nnx.Rngs,
        activation: Activation = "gelu",
        use_bias: bool = True,
        project: bool = True,
        dropout: float = 0.0,
        at_once: int = 0,
    ):
        self.norm = layer_norm(features, rngs)
        self.attention = SelfAttention(
            features,
            heads=heads,
            rngs=rngs,
            use_bias=use_bias,
            project=project,
            dropout=dropout,
            at_once=at_once,
        )
        self.mlp_norm = layer_norm(features, rngs) if mlp else None
        self.mlp = FeedForward(features, mlp, rngs=rngs, activation=activation, dropout=dropout) if mlp else None

    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        bias: Bias | None = None,
        *,
        first_only: bool = False,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b n h"] | None]:
        """Tokens; with `first_only` the first one alone, and its weights, at a cost linear in the tokens."""
        y, weights = self.attention(
            x, mask, bias, norm=self.norm, first_only=first_only, deterministic=deterministic, rngs=rngs
        )
        x = (x[:, :1] if first_only else x) + y
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.mlp(x, norm=self.mlp_norm, deterministic=deterministic, rngs=rngs)
        return x, weights
