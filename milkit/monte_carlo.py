"""How far a model's answer depends on what should not matter: it answers for a bag, or an image, many times, changed at
random each time, and the mean and the variance of what it says are reported (test-time augmentation).

    predict = jax.jit(lambda bags: jax.nn.sigmoid(module(bags).logits))
    said = monte_carlo_tta(predict, bags, draws=20, key=jax.random.key(0), keep=0.8)

A bag is changed by leaving instances out, and by turning the slide: coordinates by right angles and mirrors, each of
the eight with the same chance. Features stay as they are, as an extractor has read the tiles upright. An image's pixels
are turned likewise. Any model will do; one that knows no places answers the same however a slide lies.

All bags of a batch share the draws, instance by instance, and all images share the turn: what is said of a bag depends
on the bag and the key, not on what it is batched with nor on the padding. Errors of the mean are then alike between
bags, so that their mean over a cohort is no surer than that over one bag.

The variance is that over the changes, of one set of weights. It says nothing of other weights or other patients.

References:
    Wang et al. (2019), Neurocomputing 338:34, section 3: test-time augmentation as Monte Carlo over transformations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from milkit.errors import ConfigError
from milkit.nn.images import image_sizes
from milkit.train.augment import Placed, augment, real
from milkit.train.config import Augment
from milkit.types import Bags, Images


class Spread(NamedTuple):
    """What was said over the draws.

    Attributes:
        mean: over the draws.
        variance: over the draws, divided by their number less one.
    """

    mean: Float[Array, "b c"]
    variance: Float[Array, "b c"]


def monte_carlo_tta(
    predict: Callable[[Any], Float[Array, "b c"]],
    bags: Bags | Images,
    draws: int,
    key: Key[Array, ""],
    *,
    keep: float = 1.0,
    at_least: int = 1,
    turn: bool = True,
) -> Spread:
    """Mean and variance of what a model says of bags, or of images, that are changed at random.

    Args:
        predict: bags (images) to probabilities, or to whatever is to be averaged; without randomness of its own. It is
            traced once, and one draw is held at a time.
        bags: a padded batch.
        draws: how often it is asked, at least 2.
        key: the same key gives the same answer.
        keep: share of each bag's instances that a draw keeps, in (0, 1], rounded up to whole ones; 1 for images.
        at_least: instances that are kept however small the share: the model's `min_instances`.
        turn: whether coordinates (pixels) are turned by right angles and mirrored.

    Raises:
        ConfigError: fewer than two draws, a share that is none, or nothing that would differ between draws.
    """
    _check(bags, draws, keep, at_least, turn)

    def ask(key: Key[Array, ""]) -> Float[Array, "b c"]:
        if isinstance(bags, Images):
            return predict(turned_images(bags, key))
        of_rows, of_places = jax.random.split(key)
        changed = bags if keep == 1.0 else kept(bags, of_rows, keep, at_least)
        return predict(turned(changed, jax.random.randint(of_places, (), 0, 8)) if turn else changed)

    said = jax.lax.map(ask, jax.random.split(key, draws))
    said = said.astype(jnp.promote_types(said.dtype, jnp.float32))
    return Spread(said.mean(0), said.var(0, ddof=1))


def kept(bags: Bags, key: Key[Array, ""], keep: float, at_least: int = 1) -> Bags:
    """A random share of each bag's instances, without replacement, all equally likely; the others become padding.

    An instance that is left out is nobody's neighbour.
    """
    mask = bags.mask
    length = mask.shape[1]
    # each place of a bag has a number of its own, whatever the padding before it and however long the rows are
    numbers = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(jnp.arange(length))
    number = jnp.where(mask, numbers[jnp.maximum(jnp.cumsum(mask, 1) - 1, 0)], jnp.inf)
    rank = jnp.argsort(jnp.argsort(number, axis=1, stable=True), axis=1)
    # how many, by bag size; rounded in float64 first: 0.1 * 30 must round up to 3, not to 4
    sizes = np.arange(length + 1)
    wanted = np.minimum(sizes, np.maximum(np.ceil(np.round(keep * sizes, 6)).astype(int), at_least))
    stays = mask & (rank < jnp.asarray(wanted)[mask.sum(1)][:, None])
    near = bags.neighbours
    if near is not None:
        there = jax.vmap(lambda stays, near: stays[jnp.maximum(near, 0)])(stays, near)
        near = jnp.where((near >= 0) & there & stays[..., None], near, -1)
    xy = None if bags.coords_um is None else jnp.where(stays[..., None], bags.coords_um, 0)
    return Bags(jnp.where(stays[..., None], bags.x, 0), stays, xy, near, bags.covariates)


def turned(bags: Bags, how: Int[Array, ""]) -> Bags:
    """Coordinates turned by right angles and mirrored; each bag's smallest x and y stay what they were.

    Args:
        bags: a padded batch; without coordinates it stays as it is.
        how: 0 to 7. 1 is added where x and y change places, then 2 where x is mirrored, then 4 where y is.
    """
    if bags.coords_um is None:
        return bags
    real = bags.mask[..., None]
    low = jnp.where(real, bags.coords_um, jnp.inf).min(1, keepdims=True)
    xy = jnp.where(real, bags.coords_um - jnp.where(jnp.isfinite(low), low, 0), 0)
    xy = jnp.where(how & 1, xy[..., ::-1], xy)
    # corners are mirrored within the corners' own box: tiles of one size are then mirrored as squares are
    mirrored = jnp.stack([how & 2, how & 4]) > 0
    xy = jnp.where(mirrored, xy.max(1, keepdims=True) - xy, xy)
    placed = jnp.where(real, xy + low, 0)
    return Bags(bags.x, bags.mask, placed, bags.neighbours, bags.covariates)


def turned_images(images: Images, key: Key[Array, ""]) -> Images:
    """Pixels turned by right angles and mirrored, all images alike; the canvas becomes a square."""
    height, width = images.mask.shape[1:]
    side = max(height, width)  # a turned image is as wide as it was high
    edge = ((0, 0), (0, side - height), (0, side - width))
    x = jnp.pad(images.x, (*edge, (0, 0)))

    def one(x: Float[Array, "h w c"], size: Int[Array, "2"]) -> Placed:
        return jax.tree.map(lambda a: a[0], augment(Placed(x[None], size[None]), key, Augment()))

    x, size = jax.vmap(one)(x, image_sizes(images.mask))
    mask: Bool[Array, "b h w"] = real(size, side, side)
    return Images(jnp.where(mask[..., None], x, 0), mask)


def _check(bags: Bags | Images, draws: int, keep: float, at_least: int, turn: bool) -> None:
    if draws < 2:
        raise ConfigError(f"draws is {draws}; a variance needs at least 2, and 20 are a start.")
    if not 0.0 < keep <= 1.0 or at_least < 1:
        raise ConfigError(
            f"keep is {keep} and at_least is {at_least}; keep a share in (0, 1], such as 0.8, and at least 1 instance."
        )
    if isinstance(bags, Images) and keep < 1.0:
        raise ConfigError(f"keep is {keep}, but an image's pixels are not left out; leave it 1.0.")
    turns = turn and (isinstance(bags, Images) or bags.coords_um is not None)
    if keep == 1.0 and not turns:
        raise ConfigError(
            "Every draw would be the same: all instances are kept (keep=1.0) and nothing is turned (turn=False, or no "
            "coords_um). Keep a share, such as keep=0.8, or give bags with coordinates and turn=True."
        )
