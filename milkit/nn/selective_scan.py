"""Selective state-space layers (Mamba): a linear system whose step and whose ways in and out depend on the input.

A channel's state h, of a few numbers, follows h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t and is read as y_t = C_t h_t +
D u_t, where dt_t, B_t and C_t are linear in what came in. Sequences are taken in chunks, with one state from chunk to
chunk, and a chunk is computed again for the gradient. So the states of a whole sequence (its length times channels
times state) are never held.

References:
    Gu & Dao (2023, arXiv:2312.00752), Mamba: linear-time sequence modeling with selective state spaces, section 3.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.nn.initialisers import linear
from milkit.nn.linear_system import selective_states
from milkit.nn.order import Order

AT_ONCE = 1 << 22
"""Numbers of the states of a chunk: bounds memory, changes no result."""
SHORTEST_STEP, LONGEST_STEP = 0.001, 0.1
"""Between which dt starts where nothing comes in, as Mamba's authors have it."""


class SelectiveScan(nnx.Module):
    """A causal convolution over a few places with SiLU, the selective scan, and a gate SiLU(z).

    Args:
        channels: of the sequence and of the result.
        states: numbers of each channel's state.
        kernel: places that the convolution sees, an instance's own the last.
        rank: width through which dt is computed.
        step_starts_at_zero: whether the bias of dt, before its softplus, starts at 0 instead of at Mamba's values.
        at_once: numbers of the states of a chunk.
    """

    def __init__(
        self,
        channels: int,
        states: int,
        *,
        kernel: int,
        rank: int,
        rngs: nnx.Rngs,
        step_starts_at_zero: bool = False,
        at_once: int = AT_ONCE,
    ):
        key, bound = rngs.params, kernel**-0.5  # torch's convolution of a channel with itself
        self.states, self.rank, self.at_once = states, rank, at_once
        self.taps = nnx.Param(jax.random.uniform(key(), (kernel, channels), minval=-bound, maxval=bound))
        self.tap_bias = nnx.Param(jax.random.uniform(key(), (channels,), minval=-bound, maxval=bound))
        self.select = linear(channels, rank + 2 * states, rngs=rngs, init="glorot", use_bias=False)
        self.step = linear(rank, channels, rngs=rngs)
        assert self.step.bias is not None
        first, last = math.log(SHORTEST_STEP), math.log(LONGEST_STEP)
        step = jnp.exp(jax.random.uniform(key(), (channels,), minval=first, maxval=last))
        self.step.bias[...] = jnp.zeros(channels) if step_starts_at_zero else jnp.log(jnp.expm1(step))
        self.log_decay = nnx.Param(jnp.log(jnp.broadcast_to(jnp.arange(1.0, states + 1), (channels, states))))
        self.skip = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Float[Array, "b l d"], z: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Read x, gated by z, from the front of the rows; what is behind a sequence's end changes nothing before it."""
        b, length, channels = x.shape
        # so many places that the states kept between chunks need no more than one array of the sequence
        places = max(self.at_once // (b * channels * self.states), self.states)
        chunks = max(-(-length // places), 1)
        start = (
            jnp.zeros((b, channels, self.states), jnp.promote_types(x.dtype, jnp.float32)),
            jnp.zeros((b, self.taps.shape[0] - 1, channels), x.dtype),
        )
        if chunks == 1:
            return self._chunk(start, (x, z))[1]

        def split(a: Float[Array, "b l d"]) -> Float[Array, "q b m d"]:
            m = -(-length // chunks)
            return jnp.moveaxis(jnp.pad(a, ((0, 0), (0, chunks * m - length), (0, 0))).reshape(b, chunks, m, -1), 1, 0)

        step = jax.checkpoint(self._chunk, prevent_cse=False)  # a scan merges nothing with its forward pass
        y = jax.lax.scan(step, start, (split(x), split(z)))[1]
        return jnp.moveaxis(y, 0, 1).reshape(b, -1, channels)[:, :length]

    def _chunk(self, carry: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[Any, Float[Array, "b m d"]]:
        """(the state, the last inputs), (x, z) -> (both after the chunk), y."""
        (state, last), (x, z) = carry, chunk
        m, wide = x.shape[1], state.dtype
        seen = jnp.concatenate([last, x], 1)
        taps = self.taps[...]
        u = jax.nn.silu(sum(taps[j] * seen[:, j : j + m] for j in range(len(taps))) + self.tap_bias[...])
        step, write, read = jnp.split(self.select(u).astype(wide), [self.rank, self.rank + self.states], -1)
        step = jax.nn.softplus(self.step(step.astype(u.dtype)).astype(wide))
        wide_u, rate = u.astype(wide), jnp.exp(self.log_decay[...].astype(wide))
        found, state = selective_states(step, wide_u, write, read, rate, state)
        y = found + self.skip[...] * wide_u
        y = (y * jax.nn.silu(z.astype(wide))).astype(u.dtype)
        return (state, seen[:, m:]), y


class Mamba(nnx.Module):
    """Two projections x and z of the sequence, the sum of selective scans in one or more orders, and a projection back.

    Args:
        width: of the sequence and of the result.
        states, kernel: see `SelectiveScan`.
        expand: channels of the scans, as a multiple of `width`.
        scans: how many, each with weights of its own.
        step_starts_at_zero, at_once: see `SelectiveScan`.
    """

    def __init__(
        self,
        width: int,
        states: int,
        *,
        kernel: int,
        expand: int,
        scans: int,
        rngs: nnx.Rngs,
        step_starts_at_zero: bool = False,
        at_once: int = AT_ONCE,
    ):
        channels = expand * width
        self.into = linear(width, 2 * channels, rngs=rngs, init="glorot", use_bias=False)
        self.scans = nnx.List(
            [
                SelectiveScan(
                    channels,
                    states,
                    kernel=kernel,
                    rank=math.ceil(width / 16),  # Mamba's "auto"
                    rngs=rngs,
                    step_starts_at_zero=step_starts_at_zero,
                    at_once=at_once,
                )
                for _ in range(scans)
            ]
        )
        self.out = linear(channels, width, rngs=rngs, init="glorot", use_bias=False)

    def __call__(self, h: Float[Array, "b n e"], orders: Sequence[Order | None]) -> Float[Array, "b n e"]:
        """Read sequences that stand at the front of their rows.

        Args:
            h: the sequences, 0 behind their end.
            orders: the order in which each scan reads them, None as they stand.
        """
        both, total = self.into(h), jnp.zeros((), h.dtype)
        for scan, order in zip(self.scans, orders, strict=True):
            x, z = jnp.split(both if order is None else order.read(both), 2, -1)
            y = scan(x, z)
            total = total + (y if order is None else order.undo(y))
        return self.out(total)
