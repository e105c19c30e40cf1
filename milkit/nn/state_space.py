"""Diagonal state-space layer (S4D): a long causal convolution whose kernel is that of a linear system.

Each channel has a system of its own, x' = A x + B u, y = 2 Re(C x) + D u, with a diagonal complex A and B of ones,
sampled with a step dt (zero-order hold). Its answer to an impulse, K_l = 2 Re sum_n C_n (exp(dt A_n) - 1) / A_n
exp(l dt A_n), is convolved with the sequence by a fast Fourier transform. The powers of exp(dt A) are products of two
tables, of the multiples of about the root of the length and of what is below it, so that nothing holds states times
length.

References:
    Gu, Gupta, Goel & Re (2022, arXiv:2206.11893), On the parameterization and initialization of diagonal state space
    models.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from scipy.fft import next_fast_len

from milkit.nn.gelu import gelu
from milkit.nn.initialisers import linear

AT_ONCE = 1 << 23
"""Numbers that a transform takes at a time, channels times places: bounds its memory, changes no result."""
SHORTEST_STEP, LONGEST_STEP = 0.001, 0.1
"""Between which dt starts, as the layer's authors have it."""


class DiagonalStateSpace(nnx.Module):
    """The layer, then GELU, a linear layer to twice the channels, and one half gated by the sigmoid of the other.

    Args:
        channels: of the sequence and of the result.
        states: real dimensions of a channel's state; half as many complex ones.
    """

    def __init__(self, channels: int, states: int, *, rngs: nnx.Rngs, at_once: int = AT_ONCE):
        pairs, self.at_once = states // 2, at_once
        key = rngs.params
        start = jax.random.uniform(key(), (channels,))
        first, last = math.log(SHORTEST_STEP), math.log(LONGEST_STEP)
        self.log_step = nnx.Param(first + (last - first) * start)
        self.log_decay = nnx.Param(jnp.full((channels, pairs), math.log(0.5)))
        self.frequency = nnx.Param(jnp.broadcast_to(math.pi * jnp.arange(pairs, dtype=jnp.float32), (channels, pairs)))
        # real and imaginary parts, of a complex normal number of variance 1
        self.read_out = nnx.Param(jax.random.normal(key(), (channels, pairs, 2)) / math.sqrt(2))
        self.skip = nnx.Param(jax.random.normal(key(), (channels,)))
        self.out = linear(channels, 2 * channels, rngs=rngs)

    def __call__(self, u: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        """Read sequences that stand at the front of their rows; what is behind their end changes nothing before it."""
        wide = jnp.promote_types(u.dtype, jnp.float32)
        parameters = [p[...].astype(wide) for p in (self.log_step, self.log_decay, self.frequency, self.read_out)]
        y = _by_channel(u.astype(wide), parameters, self.at_once) + u * self.skip[...]
        value, gate = jnp.split(self.out(gelu(y.astype(u.dtype))), 2, -1)
        return value * jax.nn.sigmoid(gate)


def _by_channel(u: Float[Array, "b n h"], parameters: Any, at_once: int) -> Float[Array, "b n h"]:
    """The convolution of every channel, so many at a time that `at_once` numbers are held."""
    b, n, channels = u.shape

    def one(channel: Any) -> Float[Array, "b n"]:
        u, *own = channel
        return causal_convolution(u, impulse_response(*own, length=n))

    columns = (jnp.moveaxis(u, 2, 0), *parameters)
    together = max(1, at_once // max(2 * b * n, 1))
    if together >= channels:
        found = jax.vmap(one)(columns)
    else:  # transforms are computed again for the gradient instead of being kept
        found = jax.lax.map(jax.checkpoint(one, prevent_cse=False), columns, batch_size=together)
    return jnp.moveaxis(found, 0, 2)


def impulse_response(
    log_step: Float[Array, ""],
    log_decay: Float[Array, "s"],
    frequency: Float[Array, "s"],
    read_out: Float[Array, "s 2"],
    *,
    length: int,
) -> Float[Array, "{length}"]:
    """The first `length` answers of one channel to an impulse, as the module's docstring has them.

    Args:
        log_step: logarithm of dt.
        log_decay: of each state, the logarithm of minus the real part of A.
        frequency: the imaginary part of A.
        read_out: C, its real and imaginary part.
        length: how many.
    """
    step, decay = jnp.exp(log_step), -jnp.exp(log_decay)
    a, w = step * decay, step * frequency  # dt A
    # e^(a + iw) - 1, which for small steps would lose its digits if it were computed so
    real, imaginary = jnp.expm1(a) * jnp.cos(w) - 2 * jnp.sin(w / 2) ** 2, jnp.exp(a) * jnp.sin(w)
    real, imaginary = _product((real, imaginary), (read_out[:, 0], read_out[:, 1]))
    size = decay**2 + frequency**2
    weight = _product((real, imaginary), (decay / size, -frequency / size))
    fine = math.isqrt(max(length - 1, 0)) + 1
    coarse = -(-length // fine)

    def powers(steps: Float[Array, "q"]) -> tuple[Float[Array, "q s"], Float[Array, "q s"]]:
        grown, turned = jnp.exp(steps[:, None] * a), steps[:, None] * w
        return grown * jnp.cos(turned), grown * jnp.sin(turned)

    low = powers(jnp.arange(fine, dtype=a.dtype))
    high = _product(powers(jnp.arange(coarse, dtype=a.dtype) * fine), weight)
    tables = jnp.concatenate([high[0], -high[1]], 1), jnp.concatenate(low, 1)
    response = 2 * jnp.matmul(tables[0], tables[1].T, precision=jax.lax.Precision.HIGHEST)
    return response.reshape(-1)[:length]


def causal_convolution(u: Float[Array, "b n"], kernel: Float[Array, "n"]) -> Float[Array, "b n"]:
    """y_t = sum over s <= t of kernel_(t - s) u_s, by a transform of more than twice the length: no wrapping round."""
    n = u.shape[-1]
    size = next_fast_len(2 * n, real=True)
    return jnp.fft.irfft(jnp.fft.rfft(u, size) * jnp.fft.rfft(kernel, size), size)[..., :n]


def _product(p: tuple[Array, Array], q: tuple[Array, Array]) -> tuple[Array, Array]:
    """Of complex numbers, real and imaginary part."""
    return p[0] * q[0] - p[1] * q[1], p[0] * q[1] + p[1] * q[0]
