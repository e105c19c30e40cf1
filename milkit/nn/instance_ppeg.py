"""PPEG of instances without a class token, cut back to the instances (Tang et al. 2023, 2024)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from milkit.nn.ppeg import PPEG
from milkit.nn.squares import as_tokens, squares_of, take_rows


def on_instances(ppeg: PPEG, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], least: int) -> Float[Array, "b n d"]:
    """The convolutions over each bag's square, of which the instances themselves are kept; 0 on padding.

    Args:
        ppeg: the convolutions.
        x: instances.
        mask: True on real ones.
        least: the smallest side of a square. A bag whose square is smaller, the repeated instances among them, is laid
            out anew in rows of that length, with zeros after it. The authors have 7, the side of the largest kernel,
            which a convolution with zeros around needs not; 1 leaves each bag its square.
    """
    square = squares_of(mask)
    tokens = as_tokens(x, square)
    room = max(math.isqrt(tokens.shape[1]), least) ** 2 - tokens.shape[1]
    side = jnp.where(square.side > 0, jnp.maximum(square.side, least), 0)
    placed = ppeg.on_squares(jnp.pad(tokens, ((0, 0), (0, room), (0, 0))), side)[:, : tokens.shape[1]]
    first = jnp.where(jnp.arange(tokens.shape[1]) < mask.sum(1)[:, None], square.rows, -1)
    return take_rows(placed, square.tokens[..., :1], first[..., None])
