"""Blur of tiles: by hand, and read in blocks as if each tile was read by itself."""

import numpy as np
from fake_slides import FakeSlide
from scipy import ndimage

from milkit.slides import quality
from milkit.slides.quality import blur_scores, laplacian_variances


def test_variance_of_the_laplacian_by_hand():
    grey = np.zeros((5, 5))
    grey[2, 2] = 10.0
    # the Laplacian is -40 at the point, 10 at its four neighbours, 0 elsewhere: mean 0, squares 1600 + 400
    whole = laplacian_variances(grey, np.array([[0, 0], [0, 0]]), np.array([[5, 5], [1, 5]]))
    np.testing.assert_allclose(whole, [2000 / 25, 0.0])


def test_it_is_that_of_an_independent_filter():
    grey = np.random.default_rng(0).uniform(0, 255, (30, 40))
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    curve = ndimage.convolve(grey, kernel, mode="nearest")
    start, stop = np.array([[3, 4], [0, 0]]), np.array([[17, 29], [40, 30]])
    expected = [curve[4:29, 3:17].var(), curve.var()]
    np.testing.assert_allclose(laplacian_variances(grey, start, stop), expected, rtol=1e-6)


def slide_of(rgb, tmp_path, mpp=1.0):
    return FakeSlide(tmp_path / "a.svs", rgb, (rgb.shape[1], rgb.shape[0]), mpp)


def test_blurred_tiles_score_lower_and_flat_ones_nothing(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (64, 192, 3)).astype(np.uint8)
    rgb[:, 64:128] = ndimage.gaussian_filter(rgb[:, 64:128].astype(float), (2, 2, 0)).astype(np.uint8)
    rgb[:, 128:] = 230
    corners = np.array([[0, 0], [64, 0], [130, 0]])
    sharp, blurred, flat = blur_scores(slide_of(rgb, tmp_path), corners, 60, 1.0)
    assert sharp > 20 * blurred > 0
    assert flat == 0


def test_blocks_change_nothing_within_tiles(tmp_path, monkeypatch):
    rgb = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    slide = slide_of(rgb, tmp_path)
    corners = np.stack(np.meshgrid(np.arange(0, 96, 16), np.arange(0, 96, 16)), -1).reshape(-1, 2)
    whole = blur_scores(slide, corners, 16, 1.0)
    assert slide.reads == 1
    monkeypatch.setattr(quality, "BLOCK_PX", 32)
    parts = blur_scores(slide, corners, 16, 1.0)
    assert slide.reads == 1 + 9
    np.testing.assert_allclose(whole, parts, rtol=0.2)  # only what lies beside a block's border differs
    assert len(blur_scores(slide, np.zeros((0, 2), int), 16)) == 0


def test_what_reaches_over_the_border_does_not_count(tmp_path):
    rgb = np.full((40, 40, 3), 90, np.uint8)
    assert blur_scores(slide_of(rgb, tmp_path), np.array([[30, 30]]), 20, 1.0) == 0
