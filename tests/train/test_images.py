"""Images in the engine: pixels out of the packed study, random changes by hand, and a run that learns from pixels."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.train.augment import Placed, augment, real
from milkit.train.config import Augment
from milkit.train.images import gather_images
from milkit.train.setup import Hyper, Packed
from milkit.types import Images, Output


def packed(images):
    sizes = np.array([im.shape[:2] for im in images], np.int32)
    areas = sizes.prod(1)
    return Packed(
        x=jnp.asarray(np.concatenate([im.reshape(-1, im.shape[2]) for im in images])),
        coords_um=None,
        offsets=jnp.asarray(np.concatenate([[0], np.cumsum(areas)[:-1]]).astype(np.int32)),
        lengths=jnp.asarray(areas.astype(np.int32)),
        target=jnp.zeros(len(images), jnp.int32),
        sizes=jnp.asarray(sizes),
    )


def plain(shift=None, inverse=None):
    return Hyper(None, shift, inverse, None)


def test_images_of_two_sizes_stand_at_the_top_left_of_the_canvas():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 255, (2, 3, 3), np.uint8), rng.integers(0, 255, (4, 2, 3), np.uint8)
    shift, inverse = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 1.0, 2.0])
    index, weight = jnp.array([1, 0, 0]), jnp.array([1.0, 1.0, 0.0])
    out = gather_images(packed([one, two]), plain(shift, inverse), index, weight, (4, 3))
    assert out.x.shape == (3, 4, 3, 3)
    np.testing.assert_allclose(out.x[0, :, :2], (two - np.array([1, 2, 3.0])) * [0.5, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(out.x[1, :2], (one - np.array([1, 2, 3.0])) * [0.5, 1, 2], rtol=1e-6)
    assert out.mask.sum((1, 2)).tolist() == [8, 6, 0]
    assert not np.asarray(out.x)[~np.asarray(out.mask)].any()


def test_flips_and_turns_are_the_eight_symmetries_each_as_likely():
    image = np.arange(4 * 4 * 1, dtype=np.float32).reshape(4, 4, 1)
    b = 800
    given = Placed(jnp.broadcast_to(image, (b, 4, 4, 1)), jnp.full((b, 2), 4))
    out = augment(given, jax.random.key(0), Augment())
    square = image[..., 0]
    eight = {
        np.rot90(side, k).astype(int).tobytes(): (k, flipped)
        for flipped, side in enumerate((square, square.T))
        for k in range(4)
    }
    assert len(eight) == 8
    seen = [np.asarray(im[..., 0]).astype(int).tobytes() for im in out.x]
    counts = [seen.count(which) for which in eight]
    assert sum(counts) == b
    assert min(counts) > 60  # 100 expected, SD 9


def test_a_padded_image_is_changed_as_it_would_be_alone():
    rng = np.random.default_rng(1)
    image = rng.uniform(0, 255, (5, 3, 3)).astype(np.float32)
    canvas = np.full((7, 7, 3), 99, np.float32)
    canvas[:5, :3] = image
    how = Augment(right_angles=False, colour=0.3, stain=0.2, scale=(0.8, 1.5))
    size = jnp.array([[5, 3]])
    for seed in range(5):
        key = jax.random.key(seed)
        alone = augment(Placed(jnp.asarray(image[None]), size), key, how)
        within = augment(Placed(jnp.asarray(canvas[None]), size), key, how)
        assert within.size.tolist() == [[5, 3]]
        np.testing.assert_allclose(within.x[0, :5, :3], alone.x[0], rtol=1e-4, atol=1e-3)
        assert np.isfinite(alone.x).all()
        assert (alone.x >= 0).all()
        assert (alone.x <= 255.001).all()


def test_a_turned_image_is_as_wide_as_it_was_high():
    image = np.arange(2 * 4, dtype=np.float32).reshape(2, 4, 1)
    canvas = np.zeros((4, 4, 1), np.float32)
    canvas[:2] = image
    given = Placed(jnp.broadcast_to(canvas, (40, 4, 4, 1)), jnp.broadcast_to(jnp.array([2, 4]), (40, 2)))
    out = augment(given, jax.random.key(3), Augment())
    sizes = {tuple(s) for s in out.size.tolist()}
    assert sizes == {(2, 4), (4, 2)}
    mask = np.asarray(real(out.size, 4, 4))
    for x, m in zip(np.asarray(out.x)[..., 0], mask, strict=True):
        assert sorted(x[m].tolist()) == list(range(8))


def test_zooming_by_hand():
    """Twice as large: a window of half the width; linear interpolation keeps a ramp a ramp, of half the slope."""
    ramp = np.broadcast_to(np.arange(9, dtype=np.float32)[None, :, None], (9, 9, 1))[None]
    out = augment(
        Placed(jnp.asarray(ramp), jnp.array([[9, 9]])), jax.random.key(0), Augment(False, False, scale=(2.0, 2.0))
    )
    np.testing.assert_allclose(np.diff(np.asarray(out.x)[0, 0, :, 0]), 0.5, atol=1e-5)


def test_nothing_that_makes_no_sense_is_taken():
    with pytest.raises(ConfigError, match="smaller factor first"):
        Augment(scale=(2.0, 1.0))
    with pytest.raises(ConfigError, match="colour"):
        Augment(colour=1.5)


@dataclass(frozen=True)
class Brightness:
    """Each pixel's probability from its channels; the image's from their mean."""

    def build(self, in_channels, out_features, *, rngs):
        return _Brightness(in_channels, out_features, rngs)


class _Brightness(nnx.Module):
    def __init__(self, c, out, rngs):
        self.head = nnx.Linear(c, out, rngs=rngs)

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: Any = None) -> Output:
        logits = self.head(images.x)
        mask = images.mask[..., None]
        pooled = jnp.sum(logits * mask, (1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)
        return Output(pooled, extras={"maps": {"fused": jnp.where(mask, jax.nn.sigmoid(logits), 0.0)}})
