"""Attention scores by a small network, and how rough scores are over the graph of neighbouring tiles.

Two papers share both: Wu et al. (2023), where the roughness is a loss, and Castro-Macias et al. (2025), where it is
part of the prior of scores that are drawn.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.gelu import gelu
from milkit.nn.initialisers import Init, linear
from milkit.nn.smooth import Edges, adjacent


class ScoreNet(nnx.Module):
    """Two layers with GELU, each twice `width` wide, and a linear layer to one score or more."""

    def __init__(self, in_features: int, width: int, scores: int, *, rngs: nnx.Rngs, init: Init = "torch"):
        self.first = linear(in_features, 2 * width, rngs=rngs, init=init)
        self.second = linear(2 * width, 2 * width, rngs=rngs, init=init)
        self.scores = nnx.List([linear(2 * width, 1, rngs=rngs, init=init) for _ in range(scores)])

    def __call__(self, h: Float[Array, "b n e"]) -> tuple[Float[Array, "b n 1"], ...]:
        """The scores, one by one, in float32 at least."""
        for layer in (self.first, self.second):
            h = gelu(layer(h))
        return tuple(score(h).astype(jnp.promote_types(h.dtype, jnp.float32)) for score in self.scores)


def roughness(
    scores: Float[Array, "b n 1"], mask: Bool[Array, "b n"], edges: Edges, order: Literal[1, 2] = 1
) -> Float[Array, "b"]:
    """The Dirichlet energy f' L f of the scores f of each bag, or f' L L f, over its number of instances.

    L = I - A is the graph's normalised Laplacian. With order 1 it sums, over all pairs of neighbours, the squared
    difference of their scores, each over the root of its degree; with order 2 scores may also rise and fall evenly. 0
    for a bag that is all padding.

    References:
        Wu et al. (2023, arXiv:2307.09457), the first and second order constraints.
    """
    f = jnp.where(mask[..., None], scores, 0)
    steep = f - adjacent(f, jax.lax.stop_gradient(edges))
    energy = (f * steep if order == 1 else steep * steep).sum((1, 2))
    return energy / jnp.maximum(mask.sum(1), 1).astype(energy.dtype)
