"""Poolings that can be built up chunk by chunk: each gives the value and the gradient of its whole-bag counterpart.

A rule knows two ways to the same result: `whole` pools a bag at once, and `start`, `add`, `finish` pool it in parts.
Sums are kept in float32 at least. Whatever is taken out of an exponential or a power for the sake of range cancels in
the result, so it needs no gradient.

References:
    Milakov & Gimelshein (2018, arXiv:1805.02867) on the softmax with a running maximum.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.nn.masked import masked_gm, masked_lse, masked_max, masked_mean, masked_softmax, masked_topk

Carry = tuple[Array, ...]
Mask = Bool[Array, "b n"]


@runtime_checkable
class Rule(Protocol):
    """A pooling over the instances of a bag."""

    def whole(self, value: Any, mask: Mask) -> Array:
        """Pool all instances at once."""

    def start(self, value: Any) -> Carry:
        """What is carried before the first chunk; `value` has a chunk's shapes and dtypes."""

    def add(self, carry: Carry, value: Any, mask: Mask) -> Carry:
        """Take a chunk in."""

    def finish(self, carry: Carry, mask: Mask) -> Array:
        """The pooled value, with the mask of all instances. A bag that is all padding gives 0."""


def weighted_sum(weight: Float[Array, "b n k"], h: Float[Array, "b n e"]) -> Float[Array, "b k e"]:
    """Sum of instances by weight; half precision is multiplied as it is and summed in float32."""
    return jnp.einsum("bnk,bne->bke", weight.astype(h.dtype), h, preferred_element_type=_sums(h))


def _sums(x: Any) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _count(mask: Mask, dtype: Any) -> Float[Array, "b 1"]:
    return jnp.maximum(mask.sum(1, keepdims=True), 1).astype(dtype)


def _lowest(value: Any, dtype: Any) -> Array:
    return jnp.full((value.shape[0], value.shape[2]), -jnp.inf, dtype)


def _top(value: Array, mask: Mask) -> Array:
    return jax.lax.stop_gradient(jnp.where(mask[..., None], value, -jnp.inf).max(1))


def _or_zero(peak: Array) -> Array:
    """Where nothing real was seen yet, 0. Not `isfinite`: what is not finite in the features must stay so."""
    return jnp.where(peak == -jnp.inf, 0, peak)


@dataclass(frozen=True)
class SoftmaxSum:
    """Sum of instances weighted by a softmax of their scores; pools pairs (scores [b, n, k], h [b, n, e]).

    `steep` is that of `masked_softmax`, and of no effect in chunks.
    """

    steep: bool = False

    def whole(self, value: Any, mask: Mask) -> Float[Array, "b k e"]:
        """Pool all instances at once."""
        scores, h = value
        return weighted_sum(masked_softmax(scores, mask, steep=self.steep), h)

    def start(self, value: Any) -> Carry:
        """Highest score, sum of weights, weighted sum."""
        scores, h = value
        b, _, k = scores.shape
        peak = _lowest(scores, _sums(scores))
        return peak, jnp.zeros((b, k), peak.dtype), jnp.zeros((b, k, h.shape[2]), _sums(h))

    def add(self, carry: Carry, value: Any, mask: Mask) -> Carry:
        """Take a chunk in; what was summed before shrinks when the highest score rises."""
        peak, total, pooled = carry
        scores, h = value[0].astype(peak.dtype), value[1]
        higher = jnp.maximum(peak, _top(scores, mask))
        # the mask stands inside the exponential: an overflow on padding would give 0 * inf in the gradient
        weight = jnp.exp(jnp.where(mask[..., None], scores - _or_zero(higher)[:, None], -jnp.inf))
        shrink = jnp.exp(peak - _or_zero(higher))
        pooled = pooled * shrink[..., None].astype(pooled.dtype) + weighted_sum(weight, h)
        return higher, total * shrink + weight.sum(1), pooled

    def finish(self, carry: Carry, mask: Mask) -> Float[Array, "b k e"]:
        """The weighted mean."""
        _, total, pooled = carry
        return pooled / jnp.where(mask.any(1)[:, None], total, 1)[..., None].astype(pooled.dtype)


@dataclass(frozen=True)
class Mean:
    """Mean of each feature."""

    def whole(self, value: Any, mask: Mask) -> Float[Array, "b e"]:
        """Pool all instances at once."""
        return masked_mean(value, mask)

    def start(self, value: Any) -> Carry:
        """The sum."""
        return (jnp.zeros((value.shape[0], value.shape[2]), _sums(value)),)

    def add(self, carry: Carry, value: Any, mask: Mask) -> Carry:
        """Take a chunk in."""
        return (carry[0] + jnp.where(mask[..., None], value.astype(carry[0].dtype), 0).sum(1),)

    def finish(self, carry: Carry, mask: Mask) -> Float[Array, "b e"]:
        """The mean."""
        return carry[0] / _count(mask, carry[0].dtype)


@dataclass(frozen=True)
class Max:
    """Maximum of each feature; ties share the gradient equally, in whatever chunks they lie."""

    def whole(self, value: Any, mask: Mask) -> Float[Array, "b e"]:
        """Pool all instances at once."""
        return masked_max(value, mask)

    def start(self, value: Any) -> Carry:
        """Highest value, and sum and number of the instances that have it (they carry the gradient)."""
        peak = _lowest(value, value.dtype)
        return peak, jnp.zeros(peak.shape, _sums(value)), jnp.zeros(peak.shape, jnp.int32)

    def add(self, carry: Carry, value: Any, mask: Mask) -> Carry:
        """Take a chunk in."""
        peak, tied, number = carry
        higher = jnp.maximum(peak, _top(value, mask))
        here = mask[..., None] & (value == higher[:, None])
        still = peak == higher
        tied = jnp.where(still, tied, 0) + jnp.where(here, value.astype(tied.dtype), 0).sum(1)
        return higher, tied, jnp.where(still, number, 0) + here.sum(1, dtype=jnp.int32)

    def finish(self, carry: Carry, mask: Mask) -> Float[Array, "b e"]:
        """The highest value, with the gradient of the mean of those that have it."""
        peak, tied, number = carry
        gradient = (tied - jax.lax.stop_gradient(tied)) / jnp.maximum(number, 1).astype(tied.dtype)
        return jnp.where(mask.any(1, keepdims=True), peak + gradient.astype(peak.dtype), 0)


@dataclass(frozen=True)
class LogMeanExp:
    """Log-mean-exp of each feature with sharpness `r`; see `masked_lse`."""

    r: float

    def whole(self, value: Any, mask: Mask) -> Float[Array, "b e"]:
        """Pool all instances at once."""
        return masked_lse(value, mask, self.r)

    def start(self, value: Any) -> Carry:
        """Highest value, sum of exp(r (x - highest)) - 1, and over how many."""
        peak = _lowest(value, _sums(value))
        return peak, jnp.zeros(peak.shape, peak.dtype), jnp.zeros((value.shape[0], 1), jnp.int32)

    def add(self, carry: Carry, value: Any, mask: Mask) -> Carry:
        """Take a chunk in; sums of exp - 1 keep the digits that `masked_lse` keeps."""
        peak, grown, number = carry
        value = value.astype(peak.dtype)
        higher = jnp.maximum(peak, _top(value, mask))
        below = jnp.where(mask[..., None], self.r * (value - _or_zero(higher)[:, None]), 0)
        fall = jnp.where(number > 0, self.r * (peak - _or_zero(higher)), 0)
        grown = grown * jnp.exp(fall) + number * jnp.expm1(fall) + jnp.expm1(below).sum(1)
        return higher, grown, number + mask.sum(1, keepdims=True, dtype=jnp.int32)

    def finish(self, carry: Carry, mask: Mask) -> Float[Array, "b e"]:
        """The logarithm of the mean."""
        peak, grown, _ = carry
        pooled = _or_zero(peak) + jnp.log1p(grown / _count(mask, grown.dtype)) / self.r
        return jnp.where(mask.any(1, keepdims=True), pooled, 0)


@dataclass(frozen=True)
class PowerMean:
    """Generalised mean of each feature, of values >= 0 and with `r` >= 1; see `masked_gm`."""

    r: float

    def whole(self, value: Any, mask: Mask) -> Float[Array, "b e"]:
        """Pool all instances at once."""
        return masked_gm(value, mask, self.r)

    def start(self, value: Any) -> Carry:
        """Highest value, and sum of (x / highest)^r."""
        peak = jnp.zeros((value.shape[0], value.shape[2]), _sums(value))
        return peak, peak

    def add(self, carry: Carry, value: Any, mask: Mask) -> Carry:
        """Take a chunk in."""
        peak, power = carry
        value = jnp.where(mask[..., None], value.astype(peak.dtype), 0)
        higher = jnp.maximum(peak, jax.lax.stop_gradient(value.max(1)))
        unit = jnp.where(higher > 0, higher, 1)
        return higher, power * jnp.power(peak / unit, self.r) + jnp.power(value / unit[:, None], self.r).sum(1)

    def finish(self, carry: Carry, mask: Mask) -> Float[Array, "b e"]:
        """The root of the mean; it is 0, with gradient 0, where all values are 0."""
        peak, power = carry
        power = power / _count(mask, power.dtype)
        positive = power != 0  # not `>`: what is not a number must stay so
        return jnp.where(positive, peak * jnp.power(jnp.where(positive, power, 1), 1 / self.r), 0)


@dataclass(frozen=True)
class TopMean:
    """Mean of the `k` highest values of each feature, or (not in chunks) of a `fraction` of them; see `masked_topk`."""

    k: int
    fraction: float = 0.0

    def whole(self, value: Any, mask: Mask) -> Float[Array, "b e"]:
        """Pool all instances at once."""
        return masked_topk(value, mask, k=self.k, fraction=self.fraction)

    def start(self, value: Any) -> Carry:
        """The highest values, [b, e, k]."""
        if self.fraction:
            raise ConfigError(
                f"The {self.fraction} highest values of every feature are too many to carry from chunk to chunk; "
                "average a number of them (k=10), or train without train.instances_at_once."
            )
        return (jnp.full((value.shape[0], value.shape[2], self.k), -jnp.inf, value.dtype),)

    def add(self, carry: Carry, value: Any, mask: Mask) -> Carry:
        """Take a chunk in."""
        here = jnp.where(mask[..., None], value, -jnp.inf).swapaxes(1, 2)
        return (jax.lax.top_k(jnp.concatenate([carry[0], here], -1), self.k)[0],)

    def finish(self, carry: Carry, mask: Mask) -> Float[Array, "b e"]:
        """Their mean; all of them in a smaller bag."""
        kept = jnp.minimum(mask.sum(1), self.k)[:, None, None]
        total = jnp.where(jnp.arange(self.k) < kept, carry[0].astype(_sums(carry[0])), 0).sum(2)
        return total / jnp.maximum(kept[..., 0], 1).astype(total.dtype)


@dataclass(frozen=True)
class TopRows:
    """The instances with the `k` highest (`lowest`: lowest) scores, best first; pools pairs (scores [b, n, s], h [b, n,
    e]) to rows of h for each score, [b, s, k, e].

    A bag of fewer than k instances gives them all, and 0 after them. Of equal scores the first instance counts. The
    gradient goes to the rows, not to the scores, of which only the order matters.
    """

    k: int
    lowest: bool = False

    def whole(self, value: Any, mask: Mask) -> Float[Array, "b s k e"]:
        """Pool all instances at once."""
        return self.finish(self._best(*self._ranked(value, mask)), mask)

    def start(self, value: Any) -> Carry:
        """The best scores [b, s, k] and their rows."""
        scores, h = value
        b, _, s = scores.shape
        return jnp.full((b, s, self.k), -jnp.inf, scores.dtype), jnp.zeros((b, s, self.k, h.shape[2]), h.dtype)

    def add(self, carry: Carry, value: Any, mask: Mask) -> Carry:
        """Take a chunk in."""
        here = self._best(*self._ranked(value, mask))
        rank, rows = (jnp.concatenate(pair, 2) for pair in zip(carry, here, strict=True))
        rank, index = jax.lax.top_k(rank, self.k)
        return rank, jnp.take_along_axis(rows, index[..., None], 2)

    def finish(self, carry: Carry, mask: Mask) -> Float[Array, "b s k e"]:
        """The rows, 0 where the bag has no more."""
        real = jnp.arange(self.k) < mask.sum(1)[:, None]
        return jnp.where(real[:, None, :, None], carry[1], 0)

    def _ranked(self, value: Any, mask: Mask) -> tuple[Float[Array, "b s n"], Array]:
        scores, h = value
        rank = jax.lax.stop_gradient(-scores if self.lowest else scores)
        return jnp.where(mask[..., None], rank, -jnp.inf).swapaxes(1, 2), h

    def _best(self, rank: Float[Array, "b s n"], h: Float[Array, "b n e"]) -> tuple[Array, Array]:
        """The k best of what is at hand, filled up where it is less."""
        short = max(0, self.k - h.shape[1])
        rank = jnp.pad(rank, ((0, 0), (0, 0), (0, short)), constant_values=-jnp.inf)
        rank, index = jax.lax.top_k(rank, self.k)
        # places beyond the instances are never real, so any row may stand there
        index = jnp.minimum(index, h.shape[1] - 1)
        return rank, jax.vmap(lambda rows, i: rows[i])(h, index)
