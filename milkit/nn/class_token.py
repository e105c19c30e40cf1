"""A class token: put in front of a bag's instances, and what it takes from each of them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def in_front(
    token: Float[Array, "e"], x: Float[Array, "b n e"], mask: Bool[Array, "b n"]
) -> tuple[Float[Array, "b l e"], Bool[Array, "b l"]]:
    """The token and then the instances of each bag, and which of them are real: the token always is."""
    tokens = jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, x.shape[2]))
    return jnp.concatenate([tokens, x], 1), jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)


def on_instances(weights: Float[Array, "b n h"], mask: Bool[Array, "b n"]) -> Float[Array, "b n h"]:
    """Its weights on the instances, scaled to sum to 1; even where the class token has taken all from itself."""
    total, count = weights.sum(1, keepdims=True), jnp.maximum(mask.sum(1), 1)[:, None, None]
    scaled = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 1 / count.astype(weights.dtype))
    return jnp.where(mask[..., None], scaled, 0)
