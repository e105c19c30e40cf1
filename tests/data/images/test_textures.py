"""Textures by hand, and against scikit-image, which is heavy and so only among the parity tests."""

import numpy as np
import pytest
from scipy import ndimage

from milkit.data.images.textures import (
    ANGLES,
    CO_OCCURRENCE,
    FREQUENCIES,
    LEVELS,
    ORIENTATIONS,
    co_occurrence,
    gabor,
    gabor_kernel,
    grey_of,
    local_patterns,
    texture_names,
    textures,
)
from milkit.errors import DataError


def tiles(n=3, height=24, width=20):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), np.uint8)


def test_co_occurrence_by_hand():
    """Rows 0 0 3 and 0 3 3: to the right 00, 03, 03, 33; in either order two each of 00, 03, 30 and 33."""
    found = dict(zip(CO_OCCURRENCE, co_occurrence(np.array([[0, 0, 3], [0, 3, 3]]), (0, 1)), strict=True))
    want = {
        "contrast": 9 / 2,
        "dissimilarity": 3 / 2,
        "homogeneity": 1 / 2 + 1 / 20,
        "energy": 1 / 2,
        "correlation": 0,
        "entropy": np.log(4),
        "second_moment": 1 / 4,
    }
    assert found == pytest.approx(want, abs=1e-12)
    along = co_occurrence(np.array([[0, 0, 3], [0, 3, 3]]), (1, -1))  # down and left: 0 over 0, 3 over 3
    assert along[:2].tolist() == [0, 0]
    assert along[4] == pytest.approx(1)


def test_patterns_by_hand():
    even = np.full((5, 6), 77.3)
    np.testing.assert_allclose(local_patterns(even), [0] * 8 + [1, 0])  # all eight are as light as the pixel
    peak = np.zeros((3, 3))
    peak[1, 1] = 9.0
    assert local_patterns(peak)[0] == 1  # nothing around is as light
    edge = np.repeat([[0.0, 5.0, 5.0]], 3, 0)
    assert local_patterns(edge)[5] == 1  # five of eight: up, down and to the right


def test_a_filter_answers_to_its_own_wave():
    """A wave of .2 cycles a pixel along the columns: the filter of that frequency and angle answers most."""
    wave = 127 + 100 * np.cos(2 * np.pi * 0.2 * np.arange(60))
    mean = gabor(np.repeat(wave[None], 60, 0)).reshape(len(FREQUENCIES), ORIENTATIONS, 2)[..., 0]
    assert np.unravel_index(mean[1].argmax(), mean[1].shape) == (0,)
    across = gabor(np.repeat(wave[:, None], 60, 1)).reshape(len(FREQUENCIES), ORIENTATIONS, 2)[..., 0]
    assert across[1].argmax() == 2
    np.testing.assert_allclose(mean[1, 0], across[1, 2], rtol=1e-6)


def test_filters_are_plain_convolutions():
    grey = grey_of(tiles(1)[0])
    kernel = gabor_kernel(0.2, np.pi / 4)
    parts = [ndimage.convolve(grey / 255, part, mode="reflect") for part in (kernel.real, kernel.imag)]
    magnitude = np.hypot(*parts)
    place = 2 * (FREQUENCIES.index(0.2) * ORIENTATIONS + 1)
    np.testing.assert_allclose(gabor(grey)[place : place + 2], [magnitude.mean(), magnitude.std()], rtol=1e-9)


def test_a_tile_alone_gives_its_row():
    x = textures(tiles())
    assert x.shape == (3, len(texture_names()))
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert len(set(texture_names())) == len(texture_names()) == 48
    np.testing.assert_array_equal(x[1:2], textures(tiles()[1:2]))
    assert textures(tiles()[:0]).shape == (0, 48)
    assert np.isfinite(textures(np.zeros((1, 3, 3, 3), np.uint8))).all()


@pytest.mark.parametrize("bad", [tiles().astype(np.float32), tiles()[..., :2], tiles()[0], tiles()[:, :2]])
def test_what_is_no_tile_is_refused(bad):
    with pytest.raises(DataError, match="expected RGB tiles"):
        textures(bad)


@pytest.mark.parity
def test_the_definitions_of_scikit_image():
    feature, filters = pytest.importorskip("skimage.feature"), pytest.importorskip("skimage.filters")
    color = pytest.importorskip("skimage.color")
    for tile in tiles(2, 31, 26):
        grey = grey_of(tile)
        np.testing.assert_allclose(grey, 255 * color.rgb2gray(tile), rtol=1e-9)
        levels = np.minimum(grey * LEVELS / 256, LEVELS - 1).astype(np.int64)
        angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
        table = feature.graycomatrix(levels.astype(np.uint8), [1], angles, LEVELS, symmetric=True, normed=True)
        for i, step in enumerate(ANGLES):
            found = dict(zip(CO_OCCURRENCE, co_occurrence(levels, step), strict=True))
            for ours, theirs in [(n, n) for n in CO_OCCURRENCE[:6]] + [("second_moment", "ASM")]:
                assert found[ours] == pytest.approx(feature.graycoprops(table, theirs)[0, i], rel=1e-9)
        whole = np.round(grey).astype(np.uint8)
        patterns = feature.local_binary_pattern(whole, 8, 1, "uniform")[1:-1, 1:-1].astype(int)
        np.testing.assert_allclose(
            local_patterns(whole.astype(float)), np.bincount(patterns.ravel(), minlength=10) / patterns.size
        )
        for frequency in FREQUENCIES:
            for i in range(ORIENTATIONS):
                want = filters.gabor_kernel(frequency, np.pi * i / ORIENTATIONS)
                np.testing.assert_allclose(gabor_kernel(frequency, np.pi * i / ORIENTATIONS), want, atol=1e-12)
