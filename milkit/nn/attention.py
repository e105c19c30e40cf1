"""Attention pooling over the instances of a bag."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.dropout import dropout_or_none
from milkit.nn.initialisers import Init, linear
from milkit.nn.masked import masked_softmax
from milkit.nn.running import weighted_sum


class AttentionPool(nnx.Module):
    """Weights a = softmax over instances of w' tanh(V h), or of w' (tanh(V h) * sigmoid(U h)) when gated.

    V and U have biases, as in the authors' code (the paper's equations show none). w has none: it would add
    the same number to all scores of a bag, which the softmax takes away. `dropout` acts on tanh(V h) and sigmoid(U h),
    each for itself, in `scores` that are told not to be deterministic (CLAM has it, the paper has not).

    References:
        Ilse, Tomczak & Welling (2018), equations 8 and 9.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        rngs: nnx.Rngs,
        heads: int = 1,
        gated: bool = True,
        init: Init = "torch",
        dropout: float = 0.0,
    ):
        self.tanh = linear(in_features, width, rngs=rngs, init=init)
        self.gate = linear(in_features, width, rngs=rngs, init=init) if gated else None
        self.score = linear(width, heads, rngs=rngs, init=init, use_bias=False)
        self.dropout = dropout_or_none(dropout)

    def __call__(
        self, h: Float[Array, "b n e"], mask: Bool[Array, "b n"]
    ) -> tuple[Float[Array, "b k e"], Float[Array, "b n k"]]:
        """Pool h [b, n, e] to one embedding a head [b, k, e]; also the weights [b, n, k].

        A head's weights sum to 1 over real instances and are 0 on padding; a bag that is all padding gives
        zeros.
        """
        attention = masked_softmax(self.scores(h), mask)
        return weighted_sum(attention, h), attention

    def scores(
        self, h: Float[Array, "b n e"], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b n k"]:
        """What the softmax is taken of: for models that pool with `over_instances`."""

        def drop(hidden: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
            return hidden if self.dropout is None else self.dropout(hidden, deterministic=deterministic, rngs=rngs)

        hidden = drop(jnp.tanh(self.tanh(h)))
        if self.gate is not None:
            hidden = hidden * drop(jax.nn.sigmoid(self.gate(h)))
        return self.score(hidden)
