"""Selective state-space layers (Mamba): a linear system whose step and whose ways in and out depend on the input.

A channel's state h, of a few numbers, follows h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t and is read as y_t = C_t h_t +
D u_t, where dt_t, B_t and C_t are linear in what came in. Sequences are taken in chunks, with one state from chunk to
chunk, and a chunk is computed again for the gradient. So the states of a whole sequence (its length times channels
times state) are never held, nor are the projections around the scan.

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


Carry = tuple[Float[Array, "b d s"], Float[Array, "b k d"]]
"""The state, and the last inputs that the convolution still sees."""


class SelectiveScan(nnx.Module):
    """A causal convolution over a few places with SiLU, the selective scan, and a gate SiLU(z).

    Args:
        channels: of the sequence and of the result.
        states: numbers of each channel's state.
        kernel: places that the convolution sees, an instance's own the last.
        rank: width through which dt is computed.
        step_starts_at_zero: whether the bias of dt, before its softplus, starts at 0 instead of at Mamba's values.
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
    ):
        key, bound = rngs.params, kernel**-0.5  # torch's convolution of a channel with itself
        self.states, self.rank = states, rank
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

    def start(self, b: int, dtype: Any) -> Carry:
        """Before the first place: no state, nothing seen."""
        before, channels = self.taps.shape[0] - 1, self.taps.shape[1]
        wide = jnp.promote_types(dtype, jnp.float32)
        return jnp.zeros((b, channels, self.states), wide), jnp.zeros((b, before, channels), dtype)

    def __call__(self, carry: Carry, both: Float[Array, "b m 2*d"]) -> tuple[Carry, Float[Array, "b m d"]]:
        """Read x and its gate z, side by side, from where `carry` left off; also the carry after them.

        What is behind a sequence's end changes nothing before it.
        """
        (state, last), (x, z) = carry, jnp.split(both, 2, -1)
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
        step_starts_at_zero: see `SelectiveScan`.
        at_once: numbers of the states of a chunk.
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
        channels, self.at_once = expand * width, at_once
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
        places, (b, n, _) = self._places(len(h)), h.shape
        if n <= places:  # one projection serves all scans
            both, total = self.into(h), jnp.zeros((), h.dtype)
            for scan, order in zip(self.scans, orders, strict=True):
                _, y = scan(scan.start(b, both.dtype), both if order is None else order.read(both))
                total = total + (y if order is None else order.undo(y))
            return self.out(total)
        found = [
            self._in_chunks(scan, h, places)
            if order is None
            else order.undo(self._in_chunks(scan, order.read(h), places))
            for scan, order in zip(self.scans, orders, strict=True)
        ]
        return sum(found[1:], found[0])

    def _places(self, b: int) -> int:
        """Of a chunk: at least so many that the states between chunks need no more than an array of the sequence."""
        channels, states = self.scans[0].taps.shape[1], self.scans[0].states
        return max(self.at_once // (b * channels * states), states)

    def _in_chunks(self, scan: SelectiveScan, h: Float[Array, "b l e"], places: int) -> Float[Array, "b l e"]:
        """One scan with its projections there and back: nothing wider than the sequence itself is kept of it."""
        b, length, width = h.shape
        chunks = -(-length // places)
        m = -(-length // chunks)

        def chunk(carry: Carry, h: Float[Array, "b m e"]) -> tuple[Carry, Float[Array, "b m e"]]:
            carry, y = scan(carry, self.into(h))
            return carry, self.out(y)

        dtype = jax.eval_shape(self.into, h[:, :1]).dtype
        filled = jnp.pad(h, ((0, 0), (0, chunks * m - length), (0, 0))).reshape(b, chunks, m, width)
        # a scan merges nothing with its forward pass, so no barriers
        step = jax.checkpoint(chunk, prevent_cse=False)
        y = jax.lax.scan(step, scan.start(b, dtype), jnp.moveaxis(filled, 1, 0))[1]
        return jnp.moveaxis(y, 0, 1).reshape(b, -1, width)[:, :length]
