"""Dropout whose rate is data, so that each run of a program can have its own."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError


class Rate(nnx.Variable):
    """A dropout rate in [0, 1]: an array leaf of the module's state that is not a parameter.

    Being a leaf it can be stacked over runs, swept, and replaced without compiling again; not being an
    `nnx.Param` it is never trained. To set it: `state = nnx.state(module, Rate)`, fill its leaves,
    `nnx.update(module, state)`.
    """


class Dropout(nnx.Module):
    """Zeroes each entry with probability `rate` and scales the rest by 1/(1 - rate) (Srivastava et al.,
    2014).

    Unlike `nnx.Dropout` its rate may be traced. A module that is built without dropout should hold None in
    its place: random bits cost more than a small layer does.
    """

    def __init__(self, rate: float):
        if not 0.0 <= rate <= 1.0:
            raise ConfigError(f"A dropout rate is {rate}; expected a probability in [0, 1].")
        self.rate = Rate(jnp.asarray(rate, jnp.float32))

    def __call__(
        self, x: Float[Array, "..."], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "..."]:
        """Drop entries of `x`; the identity when `deterministic`.

        Raises:
            ConfigError: not deterministic, but no `rngs` to draw from.
        """
        if deterministic:
            return x
        if rngs is None:
            raise ConfigError(
                "Dropout with deterministic=False needs random numbers; pass rngs=nnx.Rngs(dropout=key) to "
                "the model, or deterministic=True to predict."
            )
        rate = jax.lax.stop_gradient(self.rate[...])
        keep = jax.random.bernoulli(rngs.dropout(), 1.0 - rate, x.shape)
        # The floor matters at rate 1 only: nothing is kept there, and 0 * inf in the gradient would be NaN.
        scale = 1.0 / jnp.maximum(1.0 - rate, 1e-6)
        return jnp.where(keep, x * scale.astype(x.dtype), 0)


def dropout_or_none(rate: float) -> Dropout | None:
    """A `Dropout`, or None where the rate is 0, so that models without dropout draw no random bits."""
    return None if rate == 0.0 else Dropout(rate)
