"""Columns and rows where pixels of level 0 are meant: noticed, and placed when the user says so."""

import numpy as np
import pytest
from foreign_files import clam, grid
from foreign_hdf5 import acmil

from milkit.data.features import open_features
from milkit.data.formats.spread import look_like_cells
from milkit.errors import DataError

FOLDER = "results/features/h5_files"


@pytest.mark.parametrize(
    ("xy", "cells"),
    [
        (grid(64, step=1), True),
        (grid(64, step=1) * 2, True),  # divided by half the step
        (grid(64, step=256), False),
        (grid(64, step=64), False),
        (grid(64, step=26), False),  # tiles of 256 px that overlap by 90 %
        (grid(15, step=1), False),  # too few to tell
        (np.zeros((0, 2), int), False),
        (np.tile([[5, 5]], (40, 1)), True),  # all at one place: no tiling either
        (np.stack([np.arange(16) * 64, np.zeros(16, int)], 1), False),  # one row of narrow tiles
        (np.stack([np.zeros(40, int), np.arange(40)], 1), True),  # one column of cells
    ],
)
def test_room_a_tile_tells_cells_from_pixels(xy, cells):
    assert look_like_cells(xy) is cells


def test_tissue_in_a_corner_of_the_slide_does_not_hide_cells():
    """A twentieth of 200 x 200 cells hold tissue: 20 cells of room each."""
    rng = np.random.default_rng(0)
    xy = np.stack(np.divmod(rng.choice(40_000, 2_000, replace=False), 200), 1)
    assert look_like_cells(xy)
    assert not look_like_cells(xy * 224)


def test_clams_layout_with_columns_and_rows_is_refused_and_can_be_placed(folder, features):
    """What torchmil's sets hold, without their labels: two datasets and no attribute, as CLAM writes."""
    clam(folder / "results", "a", features(1, 20), grid(20, step=1) - 1024, patches=False)
    with pytest.raises(DataError, match=r"a\.h5: positions of slide 'a' go from \[0, 0\] to \[7, 2\] for 20 tiles"):
        open_features(FOLDER, mpp=0.25).read("a")
    bag = open_features(FOLDER, unit="grid", tile_um=128.0).read("a")
    assert bag.coords_um[[1, 8]].tolist() == [[128, 0], [0, 128]]
    assert bag.coords_px is None


def test_acmil_with_columns_and_rows(folder, features):
    acmil(folder / "c.h5", {"a": (features(1, 20), grid(20, step=1) - 1024)})
    with pytest.raises(DataError, match=r"columns and rows, not pixels of level 0\. Say unit='grid'"):
        open_features("c.h5").read("a")
    assert open_features("c.h5", unit="grid", tile_um=128.0).read("a").coords_um[1].tolist() == [128, 0]


def test_pixels_are_left_as_they_are(folder, features):
    clam(folder / "results", "a", features(1, 20), grid(20), patches=False)
    assert open_features(FOLDER).read("a").coords_px[1].tolist() == [1536, 1024]
    assert open_features(FOLDER, unit="px", mpp=0.25).read("a").coords_um[1].tolist() == [384, 256]
