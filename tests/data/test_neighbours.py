"""Neighbours are found in micrometres: one graph at 20x and 40x, worked by hand."""

import numpy as np
import pytest
from foreign_files import TILING, trident
from scipy.spatial.distance import cdist

from milkit.bag import Bag
from milkit.data.features import open_features
from milkit.data.neighbours import Nearest, OnGrid, Within, neighbours_of
from milkit.errors import ConfigError, DataError


def bag(xy, tile_um=None):
    xy = np.asarray(xy, np.float32)
    return Bag("s", np.zeros((len(xy), 1), np.float32), xy, tile_um=tile_um)


# 0 1 2
# 3 . 4
SHAPE = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [2, 1]])


def test_sides_and_corners_worked_by_hand():
    found = neighbours_of(bag(SHAPE * 128.0, 128.0), OnGrid())
    #                right left below above  br  bl  ar  al
    assert found.tolist() == [
        [1, -1, 3, -1, -1, -1, -1, -1],
        [2, 0, -1, -1, 4, 3, -1, -1],
        [-1, 1, 4, -1, -1, -1, -1, -1],
        [-1, -1, -1, 0, -1, -1, 1, -1],
        [-1, -1, -1, 2, -1, -1, -1, 1],
    ]
    assert neighbours_of(bag(SHAPE * 128.0, 128.0), OnGrid(corners=False)).tolist() == found[:, :4].tolist()


def test_nearest_worked_by_hand():
    # from 0: 1 and 3 at 100, the one above (smaller y) first; then 2 at 200
    found = neighbours_of(bag(SHAPE * 100.0), Nearest(3))
    assert found[0].tolist() == [1, 3, 2]
    assert neighbours_of(bag(SHAPE * 100.0), Nearest(3, radius_um=100.0))[0].tolist() == [1, 3, -1]
    # 142 um reaches the corners
    assert neighbours_of(bag(SHAPE * 100.0), Within(142.0, most=4)).tolist() == [
        [1, 3, -1, -1], [0, 2, 3, 4], [1, 4, -1, -1], [0, 1, -1, -1], [2, 1, -1, -1]
    ]  # fmt: skip
    assert neighbours_of(bag([[5, 5]]), Nearest(2)).tolist() == [[-1, -1]]


@pytest.mark.parametrize("how", [Nearest(5), Within(250.0, most=20), OnGrid()])
def test_the_order_of_tiles_does_not_matter(how):
    rng = np.random.default_rng(0)
    cells = rng.permutation(400)[:150]
    xy = np.stack([cells % 20, cells // 20], 1) * 112.0
    order = rng.permutation(len(xy))
    one, two = neighbours_of(bag(xy, 112.0), how), neighbours_of(bag(xy[order], 112.0), how)
    named = np.where(two < 0, -1, order[two])  # in the first order's numbers
    assert named.tolist() == one[order].tolist()


def test_nearest_against_all_distances():
    xy = np.random.default_rng(1).uniform(0, 5000, (200, 2)).astype(np.float32)
    distance = cdist(xy.astype(float), xy.astype(float))
    np.fill_diagonal(distance, np.inf)
    assert (np.sort(neighbours_of(bag(xy), Nearest(6))) == np.sort(np.argsort(distance, 1)[:, :6])).all()
    found = neighbours_of(bag(xy), Within(400.0, most=100))
    assert ((found >= 0).sum(1) == (distance <= 400).sum(1)).all()


def test_one_graph_at_20x_and_at_40x(tmp_path):
    """The same tissue scanned at 20x and at 40x, tiled at 20x: 256 and 512 pixels of level 0, 128 um both."""
    x = np.zeros((5, 2), np.float32)
    for name, level0 in (("at20", 20), ("at40", 40)):
        trident(tmp_path / "job", name, x, SHAPE * 256 * level0 // 20, level0=level0)
    source = open_features(tmp_path / "job" / TILING / "features_uni_v2")
    source = source.at({"at20": 0.5, "at40": 0.25})
    for how in (OnGrid(), Nearest(3), Within(200.0)):
        graphs = [neighbours_of(source.read(name), how).tolist() for name in ("at20", "at40")]
        assert graphs[0] == graphs[1]
        assert max(map(max, graphs[0])) > 0
    assert (neighbours_of(source.read("at40"), OnGrid()) >= 0).sum() == 12
    # what goes wrong elsewhere: the tile's 256 px at the target taken for pixels of level 0
    wrong = Bag("at40", x, source.read("at40").coords_um, tile_um=256 * 0.25)
    with pytest.raises(DataError, match="no tile lies 64 um beside another; the nearest are 128 um apart"):
        neighbours_of(wrong, OnGrid())


def test_a_lonely_tile_is_no_error_but_missing_facts_are():
    far = bag([[0, 0], [1280, 0]], 128.0)
    assert (neighbours_of(far, OnGrid()) == -1).all()
    with pytest.raises(DataError, match="has no positions in micrometres"):
        neighbours_of(Bag("s", np.zeros((2, 1))), Nearest())
    with pytest.raises(DataError, match="width of its tiles is not known"):
        neighbours_of(bag(SHAPE), OnGrid())
    with pytest.raises(ConfigError, match="k"):
        Nearest(0)


def test_a_hundred_thousand_tiles_take_a_moment():
    cells = np.arange(100_000)
    xy = np.stack([cells % 400, cells // 400], 1) * 112.0
    assert (neighbours_of(bag(xy, 112.0), OnGrid())[401] >= 0).all()
