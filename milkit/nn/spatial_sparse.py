"""A selector of a few tiles, to stand before any pooling: sparse over the bag, and smooth over the grid of tiles.

Each instance gets a score. Either the `k` highest are kept, or those to which 1.5-entmax gives a share, as many as the
scores say. What is kept goes on scaled by its share times the number kept, so that the mean of what goes on is the sum
of all instances by share, and scores learn whatever pooling follows. How rough the scores are over neighbouring tiles
is told, for a loss: regions are then kept rather than single tiles.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.entmax import masked_entmax
from milkit.nn.initialisers import Init, linear
from milkit.nn.masked import masked_softmax


class Selected(NamedTuple):
    """What goes on to pooling.

    Attributes:
        h: instances, scaled; 0 where they are not kept.
        kept: the new mask.
        share: of each instance, its sum 1 over the bag, 0 where it is not kept.
        scores: of each instance, of which the shares were made.
    """

    h: Float[Array, "b n e"]
    kept: Bool[Array, "b n"]
    share: Float[Array, "b n 1"]
    scores: Float[Array, "b n 1"]


class SpatialSparseSelector(nnx.Module):
    """Keeps some instances of each bag; see the module's docstring.

    Args:
        in_features: width of an instance.
        width: of the hidden layer (tanh) under the score.
        select: "entmax", or "topk": the k highest, their shares by softmax; a bag of fewer keeps all, and of equal
            scores the first is kept.
        k: with "topk", how many.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        rngs: nnx.Rngs,
        select: Literal["entmax", "topk"] = "entmax",
        k: int = 0,
        init: Init = "torch",
    ):
        self.select, self.k = select, k
        self.hidden = linear(in_features, width, rngs=rngs, init=init)
        # neither kind of share changes when all scores of a bag move together
        self.score = linear(width, 1, rngs=rngs, init=init, use_bias=False)

    def __call__(self, h: Float[Array, "b n e"], mask: Bool[Array, "b n"]) -> Selected:
        """The instances that are kept."""
        scores = jnp.where(mask[..., None], self.score(jnp.tanh(self.hidden(h))), 0)
        if self.select == "topk":
            share = masked_softmax(scores, highest(scores[..., 0], mask, self.k))
        else:
            share = masked_entmax(scores, mask)
        kept = share[..., 0] > 0
        number = kept.sum(1)[:, None, None].astype(share.dtype)
        gated = jnp.where(kept[..., None], h * (share * number).astype(h.dtype), 0)
        return Selected(gated, kept, share, scores)


def highest(scores: Float[Array, "b n"], mask: Bool[Array, "b n"], k: int) -> Bool[Array, "b n"]:
    """True at the k highest scores of real instances, at all of them in a smaller bag."""
    _, rows = jax.lax.top_k(jnp.where(mask, scores, -jnp.inf), min(k, scores.shape[1]))
    among = jax.vmap(lambda at: jnp.zeros(scores.shape[1], bool).at[at].set(True))(rows)
    return among & mask
