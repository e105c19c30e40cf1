"""Losses of censored survival times: Cox's partial likelihood and the discrete-time likelihood.

Targets are [b, 2]: time (any unit, positive) and event (1 = seen, 0 = censored).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cox(
    logits: Float[Array, "b 1"], target: Float[Array, "b 2"], weight: Float[Array, "b"] | None = None
) -> Float[Array, "b"]:
    """Negative log partial likelihood over the risk sets of this batch; Breslow's way with ties.

    A bag with an event gives log(sum over its risk set of exp(risk)) - risk, a censored one 0; the risk set
    is everyone whose time is at least as long. The sum over bags divided by their number is the usual
    definition. The value of a bag depends on the others, so a batch cannot be split; with one bag the loss is
    0.

    Args:
        logits: log risk.
        target: time, event.
        weight: bags of weight 0 (fillers) are in no risk set and give 0. A weight of 2 is a bag that stands
            twice, once the caller has multiplied by it. None: all 1.

    References:
        Cox (1972); Breslow (1974); Katzman et al. (2018), DeepSurv, section 2.
    """
    risk, time, event = logits[:, 0], target[:, 0], target[:, 1]
    weight = jnp.ones_like(risk) if weight is None else weight
    real = weight > 0
    # A filler stands in its own risk set: the set is never empty and its gradient, which counts for nothing,
    # is finite.
    member = ((time[None, :] >= time[:, None]) & real[None, :]) | jnp.eye(len(risk), dtype=bool)
    log_sum = jax.nn.logsumexp(
        jnp.broadcast_to(risk, member.shape), axis=1, b=jnp.where(real, weight, 1.0), where=member
    )
    return jnp.where(real, event * (log_sum - risk), 0.0)


def time_bin(time: Float[Array, "b"], cuts: Float[Array, "k"]) -> Int[Array, "b"]:
    """Index of the bin that holds each time; a time equal to a cut opens the later bin.

    Args:
        time: times, in the unit of the cuts.
        cuts: inner bounds in ascending order, one fewer than bins; bin i is [cuts[i-1], cuts[i]).
    """
    return (time[:, None] >= cuts).sum(-1)


def discrete_time_nll(
    logits: Float[Array, "b k"],
    target: Float[Array, "b 2"],
    cuts: Float[Array, "j"],
    alpha: float | Float[Array, ""] = 0.0,
    eps: float = 1e-7,  # the authors' clamp (Zadeh & Schmid; MCAT)
) -> Float[Array, "b"]:
    """Negative log likelihood of the hazards of time bins.

    With hazards h = sigmoid(logits) and S[k] = prod over bins up to k of (1 - h), an event in bin y gives
    -log S[y-1] - log h[y], and a bag censored in bin y gives -(1 - alpha) log S[y].

    Args:
        logits: one a bin.
        target: time, event.
        cuts: inner bounds of the bins, one fewer than logits.
        alpha: share taken off the censored term, 0 to 1.
        eps: S and h are not taken below it. Where the clamp holds the gradient is 0, as in the authors' code;
            0 switches it off, and the loss stays finite all the same, being computed from log-sigmoids.

    References:
        Zadeh & Schmid (2021), Bias in cross-entropy-based training of deep survival networks; Chen et al.
        (2021), MCAT.
    """
    time, event = target[:, 0], target[:, 1]
    y = time_bin(time, cuts)[:, None]
    bins = jnp.arange(logits.shape[-1])
    log_h, log_not_h = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    floor = math.log(eps) if eps > 0 else -jnp.inf

    def clamped(terms: Array) -> Array:
        total = terms.sum(-1)
        # `where` rather than `maximum`, which halves the gradient where both sides are equal
        return jnp.where(total < floor, floor, total)

    before = clamped(jnp.where(bins < y, log_not_h, 0.0))
    through = clamped(jnp.where(bins <= y, log_not_h, 0.0))
    hazard = clamped(jnp.where(bins == y, log_h, 0.0))
    return -event * (before + hazard) - (1 - event) * (1 - alpha) * through
