"""Min-cut pooling: the nodes of a graph shared out, softly, among a few clusters, and what keeps the shares apart.

References:
    Bianchi, Grattarola & Alippi (2020, arXiv:1907.00481), equations 6 to 8.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from milkit.nn.smooth import Edges, adjacent


def shares_of(scores: Float[Array, "b n c"], mask: Bool[Array, "b n"]) -> Float[Array, "b n c"]:
    """How much of each instance each cluster gets: a softmax over the clusters, 0 on padding; at least in float32."""
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    return jnp.where(mask[..., None], jax.nn.softmax(wide, axis=-1), 0)


def pooled_by(shares: Float[Array, "b n c"], h: Float[Array, "b n e"]) -> Float[Array, "b c e"]:
    """Each cluster's sum of what its instances hold."""
    return jnp.einsum("bnc,bne->bce", shares.astype(h.dtype), h, preferred_element_type=shares.dtype).astype(h.dtype)


def cut_loss(shares: Float[Array, "b n c"], edges: Edges) -> Float[Array, "b"]:
    """- tr(S' A S) / tr(S' D S), D the row sums of A: -1 when no edge is cut; 0 for a graph without edges."""
    weight = edges.weight.sum(2) + edges.own
    kept = (shares * adjacent(shares, edges)).sum((1, 2))
    whole = (weight[..., None] * jnp.square(shares)).sum((1, 2))
    return -jnp.where(whole > 0, kept / jnp.where(whole > 0, whole, 1), 0)


def orthogonality_loss(shares: Float[Array, "b n c"]) -> Float[Array, "b"]:
    """| S'S / |S'S| - I / |I| |, norms of Frobenius: 0 when clusters are of one size and share no instance.

    It is at most the root of 2; a bag that is all padding gives 1.
    """
    c = shares.shape[2]
    overlap = jnp.einsum("bnc,bnd->bcd", shares, shares, precision="highest")
    apart = overlap / _norm(overlap, 1.0)[:, None, None] - jnp.eye(c, dtype=shares.dtype) / c**0.5
    return _norm(apart, 0.0)


def _norm(a: Float[Array, "b c c"], of_nothing: float) -> Float[Array, "b"]:
    """Of Frobenius, with gradient 0 where all is 0."""
    square = jnp.square(a).sum((1, 2))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), of_nothing)
