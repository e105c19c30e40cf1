"""The recurrence of a selective state-space layer, read as it goes.

    h_t = exp(-s_t r) h_(t-1) + s_t B_t u_t,    y_t = C_t h_t

On a CPU it goes place by place, and so does its gradient, which is written out: what JAX derives of an associative scan
takes many times longer there (benchmarks/selective_scan.py). Elsewhere places are combined by an associative scan.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EXACT = jax.lax.Precision.HIGHEST


@jax.custom_vjp
def selective_states(
    step: Float[Array, "b m d"],
    u: Float[Array, "b m d"],
    write: Float[Array, "b m s"],
    read: Float[Array, "b m s"],
    rate: Float[Array, "d s"],
    start: Float[Array, "b d s"],
) -> tuple[Float[Array, "b m d"], Float[Array, "b d s"]]:
    """What is read at each place, and the last state, by what is fastest where it runs.

    Its gradient, which has none of its own, keeps the arguments and computes the states again.

    Args:
        step: s, how far the system moves at each place, above 0.
        u: what comes in.
        write: B, how it enters each number of the state.
        read: C, how these are read.
        rate: r, how fast each number decays.
        start: the state before the first place.
    """
    given = (step, u, write, read, rate, start)
    found: tuple[Array, Array] = jax.lax.platform_dependent(*given, cpu=one_by_one, default=by_association)
    return found


def by_association(
    step: Float[Array, "b m d"],
    u: Float[Array, "b m d"],
    write: Float[Array, "b m s"],
    read: Float[Array, "b m s"],
    rate: Float[Array, "d s"],
    start: Float[Array, "b d s"],
) -> tuple[Float[Array, "b m d"], Float[Array, "b d s"]]:
    """In as many rounds as the logarithm of the number of places; holds all states."""

    def then(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * second[0], first[1] * second[0] + second[1]

    decay = jnp.exp(-step[..., None] * rate)
    decays, sums = jax.lax.associative_scan(then, (decay, (step * u)[..., None] * write[:, :, None]), axis=1)
    states = sums + decays * start[:, None]
    return jnp.einsum("bmds,bms->bmd", states, read, precision=EXACT), states[:, -1]


def one_by_one(
    step: Float[Array, "b m d"],
    u: Float[Array, "b m d"],
    write: Float[Array, "b m s"],
    read: Float[Array, "b m s"],
    rate: Float[Array, "d s"],
    start: Float[Array, "b d s"],
) -> tuple[Float[Array, "b m d"], Float[Array, "b d s"]]:
    """Place by place; holds one state."""

    def move(state: Array, place: tuple[Array, ...]) -> tuple[Array, Array]:
        after = _after(state, place, rate)
        return after, jnp.einsum("bds,bs->bd", after, place[3], precision=EXACT)

    last, y = jax.lax.scan(move, start, _places(step, u, write, read))
    return jnp.moveaxis(y, 0, 1), last


def _places(*arrays: Array) -> tuple[Array, ...]:
    return tuple(jnp.moveaxis(a, 1, 0) for a in arrays)


def _after(state: Array, place: tuple[Array, ...], rate: Array) -> Array:
    step, u, write, _ = place
    return jnp.exp(-step[..., None] * rate) * state + (step * u)[..., None] * write[:, None]


def one_by_one_backwards(given: tuple[Array, ...], bars: tuple[Array, Array]) -> tuple[Array, ...]:
    """The gradients to `given` from those to what `one_by_one` gives; holds all states.

    `worth` is the gradient to a state: of what is read of it, and of what it passes on to the next place.
    """
    places, (rate, start) = _places(*given[:4]), given[4:]
    before = jax.lax.scan(lambda state, place: (_after(state, place, rate), state), start, places)[1]

    def move(carry: tuple[Array, Array], now: Any) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        (worth, of_rate), ((step, u, write, read), before, bar) = carry, now
        decay = jnp.exp(-step[..., None] * rate)
        passed, entered = decay * before, step * u
        of_read = jnp.einsum("bds,bd->bs", passed + entered[..., None] * write[:, None], bar, precision=EXACT)
        worth = worth + bar[..., None] * read[:, None]
        of_entered = jnp.einsum("bds,bs->bd", worth, write, precision=EXACT)
        of_write = jnp.einsum("bds,bd->bs", worth, entered, precision=EXACT)
        of_exponent = worth * passed
        of_step = u * of_entered - (of_exponent * rate).sum(2)
        carry = decay * worth, of_rate - of_exponent * step[..., None]
        return carry, (of_step, step * of_entered, of_write, of_read)

    at_end = bars[1], jnp.zeros_like(start)
    (worth, of_rate), found = jax.lax.scan(move, at_end, (places, before, jnp.moveaxis(bars[0], 1, 0)), reverse=True)
    return *(jnp.moveaxis(a, 0, 1) for a in found), of_rate.sum(0), worth


def by_association_backwards(given: tuple[Array, ...], bars: tuple[Array, Array]) -> tuple[Array, ...]:
    """The same of `by_association`."""
    gradients: tuple[Array, ...] = jax.vjp(by_association, *given)[1](bars)
    return gradients


def _forward(*given: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    return selective_states(*given), given


def _backward(given: tuple[Array, ...], bars: tuple[Array, Array]) -> tuple[Array, ...]:
    found: tuple[Array, ...] = jax.lax.platform_dependent(
        given, bars, cpu=one_by_one_backwards, default=by_association_backwards
    )
    return found


selective_states.defvjp(_forward, _backward)
