"""Scores to colours and colours to pixels, worked out by hand."""

import numpy as np
import pytest

from milkit.heatmaps.page import ends_of
from milkit.heatmaps.painted import blended, painted
from milkit.heatmaps.picture import nice
from milkit.heatmaps.polygons import merged
from milkit.heatmaps.pyramid import pixel_of
from milkit.heatmaps.shown import bounds, colours, normalised, ranks

NAN = float("nan")
LOWEST, HIGHEST = (68, 1, 84, 255), (253, 231, 36, 255)  # the two ends of viridis


def of(made, values, kind="attention"):
    return made.scores(values, np.zeros((len(values), 2)), kind=kind)


@pytest.mark.parametrize(
    ("values", "kind", "rank", "raw"),
    [
        ([3, 1, 2, 2], "attention", [1, 0, 0.5, 0.5], [1, 0, 0.5, 0.5]),
        ([9, 1, 2, NAN], "attention", [1, 0, 0.5, NAN], [1, 0, 0.125, NAN]),
        ([-1, 0, 3], "gradient", [0, 0.5, 1], [1 / 3, 0.5, 1]),  # zero in the middle, one scale on both sides
        ([2, 2, 2], "attention", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ([7], "attention", [0.5], [0.5]),
        ([NAN, NAN], "attention", [NAN, NAN], [NAN, NAN]),
    ],
)
def test_normalisation(made, values, kind, rank, raw):
    scores = of(made, values, kind)
    np.testing.assert_allclose(normalised(scores), rank)
    np.testing.assert_allclose(normalised(scores, "raw"), raw)


def test_places_of_tiles(made):
    assert ranks(of(made, [5, 9, NAN, 5, 1])).tolist() == [2, 1, 0, 2, 4]
    assert bounds(of(made, [-1, 3, NAN], "instance")) == (-3, 3)


def test_colours(made):
    shown = colours(of(made, [0.1, 0.9, NAN]))
    assert [tuple(c) for c in shown.tolist()] == [LOWEST, HIGHEST, (0, 0, 0, 0)]
    assert shown.dtype == np.uint8


def test_a_pixel_has_the_mean_of_its_tiles():
    """Tiles of 4 pixels at 0 and 2 overlap; one pixel of the raster is two of the slide."""
    found = painted(np.array([[0, 0], [2, 0], [6, 2]]), 4, np.array([1.0, 3.0, 5.0]), (2, 4), 2.0)
    np.testing.assert_allclose(found, [[1, 2, 3, NAN], [1, 2, 3, 5]])


def test_edges_are_rounded_to_pixels_and_no_tile_vanishes():
    found = painted(np.array([[10, 0], [13, 0]]), 3, np.array([1.0, 2.0]), (1, 5), 4.0)
    # 10..13 of pixels of 4 is 2.5..3.25: rounded to 3..3, at least one pixel wide; 13..16 is 3.25..4: 3..4
    np.testing.assert_allclose(found, [[NAN, NAN, NAN, 1.5, NAN]])


def test_what_is_not_known_stays_as_it_is():
    pixels = np.full((1, 2, 3), 100, np.uint8)
    assert blended(pixels, np.array([[1.0, NAN]]), 0.5).tolist() == [[[176, 166, 68], [100, 100, 100]]]


def test_outlines_of_squares_put_together():
    """A ring of eight squares of 10 around a hole, and one that touches it at a corner: two parts, corners exact."""
    ring = [(x, y) for y in (7, 17, 27) for x in (3, 13, 23) if (x, y) != (13, 17)]
    parts = merged(np.array([*ring, (33, 37)]), 10)
    assert len(parts) == 2
    outer, hole = parts[0]
    assert {tuple(c) for c in outer.tolist()} == {(3, 7), (33, 7), (33, 37), (3, 37)}
    assert {tuple(c) for c in hole.tolist()} == {(13, 17), (23, 17), (23, 27), (13, 27)}
    assert {tuple(c) for c in parts[1][0].tolist()} == {(33, 37), (43, 37), (43, 47), (33, 47)}


def test_overlapping_squares_are_one():
    (only,) = merged(np.array([[0, 0], [5, 3]]), 10)
    expected = {(0, 0), (10, 0), (10, 3), (15, 3), (15, 13), (5, 13), (5, 10), (0, 10)}
    assert {tuple(c) for c in only[0].tolist()} == expected


@pytest.mark.parametrize(
    ("corners", "width", "size", "px", "exact"),
    [
        ([[0, 0], [512, 1024]], 512, (100_000, 80_000), 32.0, True),  # 16 pixels a tile
        ([[257, 514]], 257, (90_000, 90_000), 257 / 11, True),  # as fine as the most pixels allow
        ([[1, 0], [512, 1024]], 512, (100_000, 80_000), 32.0, False),  # edges share no step
        ([[0, 0]], 100_000, (100_000, 100_000), 6250.0, True),  # a single tile
    ],
)
def test_pixels_of_the_pyramid_are_parts_of_the_grid(corners, width, size, px, exact):
    assert pixel_of(np.array(corners), width, size) == (pytest.approx(px), exact)


def test_round_lengths():
    assert [nice(v) for v in (1.0, 19.9, 20.0, 499.0, 0.7)] == [1, 10, 20, 200, pytest.approx(0.5)]


def test_no_tile_is_at_both_ends(made):
    high, low = ends_of(of(made, [5, 1, 4, NAN, 2]), 12)
    assert (high.tolist(), low.tolist()) == ([0, 2], [1, 4])
    high, low = ends_of(of(made, [5, 1, 4, 3, 2]), 1)
    assert (high.tolist(), low.tolist()) == ([0], [1])
    assert [len(end) for end in ends_of(of(made, [5.0]), 12)] == [1, 0]
