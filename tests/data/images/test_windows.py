"""Windows over an image, and their maps blended into one, by hand and by a network that looks around itself."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from milkit.data.images.windows import grid, stitch, windows
from milkit.errors import DataError


def test_places_by_hand():
    assert windows(5, 7, 4, 1).tolist() == [[0, 0], [0, 3], [1, 0], [1, 3]]
    assert windows(4, 8, 4, 1).tolist() == [[0, 0], [0, 3], [0, 4]]
    assert windows(2, 3, 4, 2).tolist() == [[0, 0]]
    assert grid(5, 9, 4, 2).tolist() == [[0, 0], [0, 2], [0, 4]]
    assert grid(3, 9, 4, 2).tolist() == []
    with pytest.raises(DataError, match=r"overlap by 4 px.* 0 to the window's side less 1"):
        windows(5, 5, 4, 4)


def test_blending_by_hand():
    places = np.array([[0, 0], [0, 2]])
    left, right = np.full((1, 4, 1), 0.3), np.full((1, 4, 1), 0.9)
    # two shared pixels: 2/3 and 1/3 of the left, 1/3 and 2/3 of the right
    out = stitch([left, right], places, (1, 6))
    np.testing.assert_allclose(out[0, :, 0], [0.3, 0.3, 0.5, 0.7, 0.9, 0.9], rtol=1e-6)
    # with a margin of 1 the last pixel of the left and the first of the right do not count
    places = np.array([[0, 0], [0, 1]])
    out = stitch([left, right], places, (1, 5), margin=1)
    np.testing.assert_allclose(out[0, :, 0], [0.3, 0.3, 0.6, 0.9, 0.9], rtol=1e-6)


@pytest.mark.parametrize(("size", "overlap"), [(9, 0), (9, 4), (16, 15), (12, 5), (64, 3)])
def test_windows_that_agree_give_the_image_back(size, overlap):
    image = np.random.default_rng(0).uniform(size=(23, 31, 2))
    places = windows(23, 31, size, overlap)
    cut = [image[top : top + size, left : left + size] for top, left in places]
    np.testing.assert_allclose(stitch(cut, places, (23, 31)), image, rtol=1e-6)


@pytest.mark.parametrize(("size", "overlap"), [(16, 7), (20, 12), (27, 9)])
def test_with_a_margin_the_windows_do_not_show(size, overlap):
    """A filter that looks 3 pixels around itself, with another border in each window."""
    image = np.random.default_rng(1).uniform(size=(40, 57))
    whole = uniform_filter(image, 7, mode="constant")
    places = windows(40, 57, size, overlap)
    maps = [uniform_filter(image[t : t + size, n : n + size], 7, mode="constant")[..., None] for t, n in places]
    np.testing.assert_allclose(stitch(maps, places, (40, 57), margin=3)[..., 0], whole, rtol=1e-5)
    assert np.abs(stitch(maps, places, (40, 57))[..., 0] - whole).max() > 0.01  # without it they do


def test_pixels_without_a_map_are_an_error():
    part = np.ones((2, 2, 1))
    with pytest.raises(DataError, match="No window covers the pixel at row 0, column 2"):
        stitch([part], np.array([[0, 0]]), (2, 3))
    with pytest.raises(DataError, match=r"No window covers .*margin=1"):
        stitch([part, part], np.array([[0, 0], [0, 2]]), (2, 4), margin=1)
    with pytest.raises(DataError, match=r"beyond an image of \(2, 3\)"):
        stitch([part], np.array([[0, 2]]), (2, 3))
    with pytest.raises(DataError, match="1 maps of 2 windows"):
        stitch([part], np.array([[0, 0], [0, 1]]), (2, 3))
