"""Is a relevance faithful? Instances leave (or enter) a bag in its order, and the model is asked again each time.

A faithful relevance names what the answer rests on: without the most relevant instances the probability falls early
(deletion), and with them alone it is there early (insertion). The area under either curve is between 0 and 1; what
"early" means depends on the model and the bags, so it stands beside the area of random orders, on the same bags.

A bag is never emptied: the last instance stays. Shares are of each bag's own instances.

References:
    Petsiuk, Das & Saenko (2018), RISE: randomized input sampling for explanation of black-box models, section 4.
    Samek et al. (2017), Evaluating the visualization of what a deep neural network has learned.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from milkit.errors import DataError
from milkit.types import Bags

Predict = Callable[[Bags], Float[Array, "b"]]
SHARES = tuple(i / 20 for i in range(21))


@dataclass(frozen=True, eq=False)
class Curve:
    """What a model says as instances leave or enter.

    Attributes:
        shares: share of the instances that have left (deletion) or entered (insertion), [s], rising from 0 to 1.
        value: what `predict` said, [b, s].
        random: the same for random orders, their mean, [b, s].
    """

    shares: Float[np.ndarray, "s"]
    value: Float[np.ndarray, "b s"]
    random: Float[np.ndarray, "b s"]

    @property
    def area(self) -> Float[np.ndarray, "b"]:
        """Area under each bag's curve, by the trapezoidal rule."""
        return np.trapezoid(self.value, self.shares, axis=1)

    @property
    def random_area(self) -> Float[np.ndarray, "b"]:
        """Area under the mean of the random orders' curves."""
        return np.trapezoid(self.random, self.shares, axis=1)


def deletion(
    predict: Predict,
    bags: Bags,
    relevance: Float[Any, "b n"],
    *,
    shares: tuple[float, ...] = SHARES,
    orders: int = 10,
    key: Key[Array, ""] | None = None,
) -> Curve:
    """What the model says as the most relevant instances leave first. Faithful: an area below that of random orders.

    Args:
        predict: what the curve follows, such as the probability of a class, of each bag.
        bags: padded bags.
        relevance: higher leaves earlier; equal values leave in the bag's order.
        shares: from 0 to 1, rising.
        orders: random orders to average.
        key: of the random orders; key 0 if None.

    Raises:
        DataError: a relevance that is not finite, shares that do not rise from 0 to 1.
    """
    return _curve(predict, bags, relevance, shares, orders, key, leaving=True)


def insertion(
    predict: Predict,
    bags: Bags,
    relevance: Float[Any, "b n"],
    *,
    shares: tuple[float, ...] = SHARES,
    orders: int = 10,
    key: Key[Array, ""] | None = None,
) -> Curve:
    """What the model says of the most relevant instances alone, more and more of them; at share 0 of the first one.

    Faithful: an area above that of random orders. Arguments and errors as in `deletion`.
    """
    return _curve(predict, bags, relevance, shares, orders, key, leaving=False)


def _curve(
    predict: Predict, bags: Bags, relevance: Any, shares: tuple[float, ...], orders: int, key: Any, *, leaving: bool
) -> Curve:
    found = np.asarray(relevance)
    if found.shape != bags.mask.shape:
        raise DataError(f"relevance has shape {found.shape}; expected that of the mask, {bags.mask.shape}.")
    if not np.isfinite(found[np.asarray(bags.mask)]).all():
        raise DataError("A relevance of a real instance is not finite; look at the model's logits of these bags.")
    if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or any(np.diff(shares) <= 0):
        raise DataError(f"shares are {shares}; expected numbers that rise from 0 to 1.")
    key = jax.random.key(0) if key is None else key

    def along(rank: Int[Array, "b n"]) -> Float[np.ndarray, "b s"]:
        return np.stack(
            [np.asarray(predict(replace(bags, mask=part(bags.mask, rank, s, leaving=leaving)))) for s in shares], 1
        )

    value = along(ranks(jnp.asarray(found), bags.mask))
    drawn = [ranks(jax.random.uniform(k, found.shape), bags.mask) for k in jax.random.split(key, orders)]
    random = np.mean([along(rank) for rank in drawn], axis=0) if drawn else np.full(value.shape, np.nan)
    return Curve(np.array(shares, np.float64), value.astype(np.float64), np.asarray(random, np.float64))


def ranks(relevance: Float[Array, "b n"], mask: Bool[Array, "b n"]) -> Int[Array, "b n"]:
    """Place of each instance when the most relevant comes first, from 0; padding comes last."""
    order = jnp.argsort(jnp.where(mask, -relevance, jnp.inf), axis=1, stable=True)
    return jnp.argsort(order, axis=1, stable=True)


def part(mask: Bool[Array, "b n"], rank: Int[Array, "b n"], share: float, *, leaving: bool) -> Bool[Array, "b n"]:
    """The mask with a share of each bag's instances gone, or with that share alone; one instance always stays."""
    n = mask.sum(1, keepdims=True)
    # a hair below, so that .15 of 20 is 3 and not 4
    count = jnp.ceil(share * n - 1e-4).astype(jnp.int32)
    if leaving:
        return mask & (rank >= jnp.minimum(count, n - 1))
    return mask & (rank < jnp.maximum(count, 1))
