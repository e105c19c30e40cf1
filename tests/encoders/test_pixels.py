"""Resizing against Pillow and by hand; what tiles are refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from milkit.encoders.pixels import Pixels
from milkit.encoders.resampling import antialiased, clamped
from milkit.errors import ConfigError, DataError


def test_halving_two_pixels_bilinearly_by_hand():
    # the triangle over 4 old pixels, seen from 1/2: weights 3/4, 3/4, 1/4 and 0, made to sum to 1
    np.testing.assert_allclose(antialiased(4, 2, "bilinear")[0], [3 / 7, 3 / 7, 1 / 7, 0])


def test_doubling_bilinearly_by_hand():
    np.testing.assert_allclose(antialiased(2, 4, "bilinear"), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])


def test_cubic_without_antialias_by_hand():
    # the point midway between two: -3/32, 19/32 with a = -3/4, and the edge goes on
    row = clamped(4, 2, 2.0)[0]
    np.testing.assert_allclose(row, [-3 / 32 + 19 / 32, 19 / 32, -3 / 32, 0])


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "to"), [(112, 224), (256, 224), (500, 96)])
def test_resized_as_pillow_does(kind, size, to):
    rng = np.random.default_rng(size)
    tile = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    # along lines alone, in float64: equal, but where Pillow's weights of 22 bits may decide a half
    exact = np.einsum("ow,hwc->hoc", antialiased(size, to, kind), tile).clip(0, 255)
    lines = np.asarray(Image.fromarray(tile).resize((to, size), Image.Resampling[kind.upper()]))
    clear = np.abs(exact % 1 - 0.5) > 1e-3
    assert clear.mean() > 0.7  # of twice as many pixels bilinearly, every fourth may be such a half
    np.testing.assert_array_equal(np.floor(exact + 0.5)[clear], lines[clear])
    want = np.asarray(Image.fromarray(tile).resize((to, to), Image.Resampling[kind.upper()]), np.float32)
    got = np.asarray(Pixels(to, kind, mean=(0.0,) * 3, std=(1 / 255,) * 3).prepare(jnp.asarray(tile[None])))[0]
    gap = np.abs(got - want)
    assert gap.max() <= 2 + 1e-3  # a half of the first pass may push a value of the second over its own
    assert (gap > 1.5).mean() < 1e-4


def test_the_centre_of_a_larger_tile():
    tile = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    pixels = Pixels(4, "bicubic", resize_to=8, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    np.testing.assert_allclose(pixels.prepare(jnp.asarray(tile)), tile[:, 2:6, 2:6], atol=1e-4)


def test_standardised_by_hand():
    tile = np.full((1, 2, 2, 3), 255, np.uint8)
    got = np.asarray(Pixels(2, mean=(0.5, 0.25, 1.0), std=(0.5, 0.25, 2.0)).prepare(jnp.asarray(tile)))[0, 0, 0]
    np.testing.assert_allclose(got, [1, 3, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("tiles", "said"),
    [
        (np.zeros((1, 4, 4, 3)), "float64"),
        (np.zeros((4, 4, 3), np.uint8), "uint8"),
        (np.zeros((1, 4, 5, 3), np.uint8), "5 x 4 pixels"),
        (np.zeros((1, 5, 5, 3), np.uint8), "--tile-px 4"),
    ],
)
def test_tiles_that_are_refused(tiles, said):
    with pytest.raises(DataError, match=said):
        Pixels(4, "none").check(tiles)


def test_a_crop_larger_than_the_tile_is_refused():
    with pytest.raises(ConfigError, match="resize_to is 3"):
        Pixels(4, resize_to=3)
