"""Owkin's arrays: level, column and row stand before the features and never reach a model."""

import numpy as np
import pytest
from foreign_arrays import owkin

from milkit.data.features import open_features
from milkit.errors import DataError

ADDRESS = [[10, 7], [11, 7], [10, 9]]


def deep(number, n=3, d=4):
    return (np.random.default_rng(number).normal(size=(n, d))).astype(np.float32)


def test_level_column_and_row_are_no_features(folder):
    owkin(folder / "feats", "TCGA-A1.uuid.svs", deep(0), ADDRESS)
    owkin(folder / "feats", "tumor_001.tif", deep(1), ADDRESS, level=15)
    source = open_features("feats")
    assert source.ids == ("TCGA-A1.uuid", "tumor_001")
    assert source.features == 4
    assert source.read("tumor_001").x.tolist() == deep(1).tolist()
    assert source.read("tumor_001").coords_um is None
    assert any("hold columns and rows" in note and "tile_um= gives the step" in note for note in source.notes)
    # 224 px at 0.5 um: 112 um a tile
    placed = open_features("feats", tile_um=112.0)
    assert placed.read("tumor_001").coords_um.tolist() == [[1120, 784], [1232, 784], [1120, 1008]]


def test_they_are_known_in_plain_files_too(folder):
    owkin(folder / "feats", "a", deep(0), ADDRESS).rename(folder / "a.npy")
    assert open_features("a.npy").features == 4
    assert open_features("a.npy", layout="npy").features == 7


@pytest.mark.parametrize(
    ("x", "address", "level"),
    [
        (deep(0, 1), [[10, 7]], 16),  # one tile is always of one level
        (np.ones((3, 4)), ADDRESS, 16),  # whole numbers throughout
        (deep(0), [[10, 7], [10, 7], [10, 9]], 16),  # one place twice of three
        (deep(0), [[1, 0], [0, 0], [0, 0]], 0),  # flags
    ],
)
def test_where_the_numbers_do_not_tell_the_user_is_asked(folder, x, address, level):
    path = owkin(folder / "feats", "a", x, address, level=level)
    for given in ("feats", str(path.relative_to(folder))):
        with pytest.raises(DataError, match=r"Say it: open_features\(\.\.\., layout='owkin'\) or layout='npy'"):
            open_features(given)
    assert open_features("feats", layout="owkin").read("a").x.shape == (len(x), 4)
    assert open_features(path, layout="npy").read("features").x.shape == (len(x), 7)


def test_a_single_tile_is_taken_as_the_other_slides_are(folder):
    owkin(folder / "feats", "a", deep(0), ADDRESS)
    owkin(folder / "feats", "b", deep(1, 1), [[3, 4]])
    owkin(folder / "feats", "c", deep(1, 0), [])
    source = open_features("feats")
    assert source.lengths.tolist() == [3, 1, 0]
    assert source.features == 4


@pytest.mark.parametrize(
    "first",
    [
        [0.5, 10, 7],  # no whole level
        [16.5, 10, 7],
        [16, -1, 7],
        [16, 10.25, 7],
        [90, 10, 7],
    ],
)
def test_arrays_without_these_columns_are_plain(folder, first):
    x = np.concatenate([np.array([first] * 3, np.float32) + np.array([[0, 0, 0], [0, 1, 0], [0, 2, 0]]), deep(0)], 1)
    (folder / "f").mkdir()
    np.save(folder / "f" / "a.npy", x.astype(np.float32))
    assert open_features("f").provenance["layout"] == "npy"
    assert open_features("f").features == 7
    (folder / "g" / "a").mkdir(parents=True)
    np.save(folder / "g" / "a" / "features.npy", x.astype(np.float32))
    with pytest.raises(DataError, match=r"no level, column and row.*one folder as <slide>\.npy"):
        open_features("g")


def test_columns_of_zeros_are_features_that_were_cut_at_zero(folder):
    x = np.maximum(deep(0, 9, 8), 0)
    x[:, :3] = 0
    np.save(folder / "a.npy", x)
    assert open_features("a.npy").features == 8


def test_a_place_that_is_there_twice_among_many_changes_nothing(folder):
    address = np.stack([np.arange(50), np.full(50, 3)], 1)
    address[7] = address[8]
    owkin(folder / "feats", "a", deep(0, 50), address, level=0)
    assert open_features("feats").features == 4


def test_a_level_that_changes_further_down_is_an_error(folder):
    """1000 rows, of which every 16th or so is looked at when the folder is opened."""
    n = 1000
    path = owkin(folder / "feats", "a", deep(0, n), np.stack([np.arange(n), np.zeros(n)], 1))
    x = np.load(path)
    x[1, 0] = 15
    np.save(path, x)
    source = open_features("feats")
    with pytest.raises(DataError, match=r"level, column and row in the rows looked at first, but not in all"):
        source.read("a")


def test_an_unknown_layout_is_refused(folder):
    owkin(folder / "feats", "a", deep(0), ADDRESS)
    with pytest.raises(DataError, match=r"layout='owkn' is not known\. Did you mean 'owkin'"):
        open_features("feats", layout="owkn")
    with pytest.raises(DataError, match=r"is no file of layout='svm'"):
        open_features("feats/a/features.npy", layout="svm")
