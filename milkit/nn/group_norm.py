"""Group normalisation over the real pixels of each image."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.nn.images import masked


class GroupNorm(nnx.Module):
    """Each image's channels, group by group, to mean 0 and variance 1 over its real pixels; no statistics are kept.

    Args:
        channels: channels.
        groups: of equally many channels.
        epsilon: added to the variance.

    Raises:
        ConfigError: `groups` does not divide `channels`.

    References:
        Wu & He (2018, ECCV).
    """

    def __init__(self, channels: int, groups: int, *, epsilon: float = 1e-5):
        if channels % groups:
            raise ConfigError(f"{groups} groups do not divide {channels} channels; choose a divisor.")
        self.groups, self.epsilon = groups, epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b h w c"]:
        """`x` normalised."""
        values = masked(x, mask).astype(jnp.promote_types(x.dtype, jnp.float32))
        count = jnp.maximum(mask.sum((1, 2)), 1)[:, None].astype(values.dtype)
        mean = self._of_groups(values.sum((1, 2)) / count)
        var = self._of_groups(masked(jnp.square(values - mean), mask).sum((1, 2)) / count)
        gain = jax.lax.rsqrt(var + self.epsilon) * self.scale[...]
        return ((values - mean) * gain + self.bias[...]).astype(x.dtype)

    def _of_groups(self, each: Float[Array, "b c"]) -> Float[Array, "b 1 1 c"]:
        """The mean over each group's channels, at each of them."""
        b, c = each.shape
        group = each.reshape(b, self.groups, -1).mean(-1)
        return jnp.repeat(group, c // self.groups, axis=1)[:, None, None]
