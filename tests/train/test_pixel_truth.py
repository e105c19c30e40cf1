"""Masks beside images in the engine: out of the packed study, moved as the images are, and never part of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.train.augment import Placed, augment, follow
from milkit.train.config import Augment
from milkit.train.images import gather_images, with_truth
from milkit.train.setup import Hyper, Packed
from milkit.types import Batch

SIZES = np.array([[2, 3], [3, 2]], np.int32)
CODES = np.array([0, 1, 2, 3, 255, 1] + [255] * 6, np.uint8)
"""Of the first image each pixel but one is known; of the second none."""


def packed(target, truth=CODES):
    return Packed(
        x=jnp.asarray(np.arange(36).reshape(12, 3), jnp.uint8),
        coords_um=None,
        offsets=jnp.array([0, 6]),
        lengths=jnp.array([6, 6]),
        target=jnp.asarray(target),
        sizes=jnp.asarray(SIZES),
        truth=None if truth is None else jnp.asarray(truth),
    )


def batch_of(data, **more):
    index, weight = jnp.array([1, 0, 0]), jnp.array([1.0, 1.0, 0.0])
    images = gather_images(data, Hyper(None, None, None, None), index, weight, (3, 3))
    return with_truth(Batch(images, data.target[index], weight, index), data, (3, 3), **more)


def test_truth_stands_where_the_pixels_stand():
    batch = batch_of(packed(np.zeros((2, 2), np.float32)))
    assert batch.truth.shape == (3, 3, 3, 2)
    np.testing.assert_array_equal(batch.truth[1, :2, :, 0], [[0, 1, 0], [1, 0, 1]])  # bit 0 of each code
    np.testing.assert_array_equal(batch.truth[1, :2, :, 1], [[0, 0, 1], [1, 0, 0]])  # bit 1
    np.testing.assert_array_equal(batch.known[1], [[1, 1, 1], [1, 0, 1], [0, 0, 0]])
    assert not np.asarray(batch.known)[[0, 2]].any()  # an image whose mask is shut, and a filler
    assert not np.asarray(batch.truth)[[0, 2]].any()
    assert batch_of(packed(np.zeros(2, np.int32))).truth.shape == (3, 3, 3, 1)


def test_without_masks_a_batch_stays_as_it_is():
    batch = batch_of(packed(np.zeros(2, np.int32), None))
    assert batch.truth is None
    assert batch.known is None
    assert len(jax.tree.leaves(batch)) == 5  # pixels, mask, target, weight, index: nothing new for a program


@pytest.mark.parametrize("how", [Augment(), Augment(scale=(0.6, 1.8)), Augment(flips=False, right_angles=False)])
def test_codes_follow_their_pixels(how):
    """An image whose channels are the row and the column of each pixel: its codes are those of the nearest one."""
    b, n = 12, 8
    size = jnp.asarray(np.tile([[5, 7], [8, 8]], (b // 2, 1)).astype(np.int32))
    rows, columns = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    x = np.broadcast_to(np.stack([rows, columns], -1)[None], (b, n, n, 2)).astype(np.float32)
    codes = np.broadcast_to((rows * n + columns)[None, ..., None], (b, n, n, 1)).astype(np.uint8)
    key = jax.random.key(4)
    moved = augment(Placed(jnp.asarray(x), size), key, how)
    got = follow(Placed(jnp.asarray(codes), size), key, how)
    np.testing.assert_array_equal(got.size, moved.size)
    at, code = np.asarray(moved.x, np.float64), np.asarray(got.x[..., 0], np.int64)
    seen = np.arange(n)[:, None] < np.asarray(moved.size)[:, 0, None, None]
    seen = seen & (np.arange(n) < np.asarray(moved.size)[:, 1, None, None])
    off = np.abs(np.stack([code // n, code % n], -1) - at)[seen]
    assert off.max() <= (0.5 + 1e-4 if how.scale else 0)
    assert got.x.dtype == jnp.uint8
    if how.scale:
        assert off.max() > 0.3  # there was something to choose
