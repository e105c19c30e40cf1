"""Long short-term memory over the instances of a bag in their order, from both ends at once.

    i, f, o = sigmoid, g = tanh of the four parts of W x_t + U h_(t-1) + bias
    c_t = f c_(t-1) + i g,    h_t = o tanh(c_t)

The second direction starts at each bag's own last instance. Both directions take their steps together. The gradient is
written out: what JAX derives adds to U's gradient at every step, which is one product over all steps here.

References:
    Hochreiter & Schmidhuber (1997, Neural Computation 9:1735); Gers et al. (2000) for the forget gate.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from milkit.nn.order import backwards


class BidirectionalLSTM(nnx.Module):
    """One layer in both directions, their states side by side.

    One bias where torch has two, which are added; weights start as torch's, uniform(+-1/sqrt(states)).

    Args:
        in_features: of an instance.
        states: numbers of each direction's state.
    """

    def __init__(self, in_features: int, states: int, *, rngs: nnx.Rngs):
        bound = states**-0.5

        def start(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))

        # the first axis is the direction; the last one the gates i, f, g, o, in torch's order
        self.into = start(2, in_features, 4 * states)
        self.again = start(2, states, 4 * states)
        self.bias = start(2, 4 * states)

    def __call__(self, x: Float[Array, "b n d"], count: Int[Array, "b"]) -> Float[Array, "b n e"]:
        """Read sequences of `count` instances that stand at the front of their rows; 0 behind their end."""
        n = x.shape[1]
        order = backwards(count, n)
        there = (jnp.arange(n) < count[:, None])[..., None]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        both = jnp.stack([x, order.read(x)])  # [direction, b, n, d]
        entered = jnp.einsum("gbnd,gdz->ngbz", both, self.into[...]) + self.bias[...][:, None]
        found = hidden_states(entered.astype(wide), self.again[...].astype(wide)).astype(entered.dtype)
        forward, backward = (jnp.moveaxis(found[:, g], 0, 1) for g in (0, 1))
        return jnp.concatenate([jnp.where(there, forward, 0), order.undo(backward)], -1)


@jax.custom_vjp
def hidden_states(entered: Float[Array, "n g b z"], again: Float[Array, "g s z"]) -> Float[Array, "n g b s"]:
    """The states h of every step, from zeros; its gradient has no gradient of its own.

    Args:
        entered: W x + bias of every step, of each direction, gates i, f, g, o side by side.
        again: U of each direction.
    """
    return _forward(entered, again)[0]


def _gates(z: Array) -> tuple[Array, Array, Array, Array]:
    i, f, g, o = jnp.split(z, 4, -1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def _forward(entered: Array, again: Array) -> tuple[Array, Any]:
    zero = jnp.zeros((*entered.shape[1:3], again.shape[1]), entered.dtype)

    def step(carry: tuple[Array, Array], entered: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        h, c = carry
        z = entered + jnp.einsum("gbs,gsz->gbz", h, again)
        i, f, g, o = _gates(z)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (h, c), (h, c, z)

    _, (h, c, z) = jax.lax.scan(step, (zero, zero), entered)
    return h, (again, h, c, z)


def _backward(kept: Any, bar: Array) -> tuple[Array, Array]:
    """`of_h` and `of_c` are the gradients of the states that a step leaves to the next one."""
    again, h, c, z = kept
    before = jnp.concatenate([jnp.zeros_like(c[:1]), c[:-1]])

    def step(carry: tuple[Array, Array], now: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        (of_h, of_c), (bar, c, before, z) = carry, now
        (i, f, g, o), t = _gates(z), jnp.tanh(c)
        of_h = of_h + bar
        of_c = of_c + of_h * o * (1 - t * t)
        parts = (of_c * g * i * (1 - i), of_c * before * f * (1 - f), of_c * i * (1 - g * g), of_h * t * o * (1 - o))
        of_z = jnp.concatenate(parts, -1)
        return (jnp.einsum("gbz,gsz->gbs", of_z, again), of_c * f), of_z

    zero = jnp.zeros_like(bar[0])
    of_z = jax.lax.scan(step, (zero, zero), (bar, c, before, z), reverse=True)[1]
    return of_z, jnp.einsum("ngbs,ngbz->gsz", h[:-1], of_z[1:])


hidden_states.defvjp(_forward, _backward)
