"""torchmil's HDF5 files: no attributes, labels beside the features, positions whose unit nobody wrote down."""

import h5py
import numpy as np
import pytest
from foreign_files import TILING, grid, trident
from foreign_hdf5 import torchmil

from milkit.data.features import open_features
from milkit.errors import DataError

CELLS = np.array([[0, 0], [1, 0], [0, 1]])
"""Columns and rows of three tiles."""


@pytest.mark.parametrize("names", [("labels", "inst_labels"), ("labels", "patch_labels")])
def test_labels_stay_out_of_the_features(folder, features, names):
    torchmil(folder / "f", "a", features(1), CELLS, label=1, instances=[0, 1, 0], names=names)
    torchmil(folder / "f", "b", features(2), CELLS, label=0.0, instances=[0, 0, 0], names=names)
    source = open_features("f")
    assert source.features == 4
    assert source.read("a").x.tolist() == features(1).tolist()
    assert source.labels == {"a": "1", "b": "0"}
    assert source.provenance["tool"] == "torchmil"
    assert source.provenance["encoder"] is None


def test_the_unit_of_positions_is_asked_for(folder, features):
    torchmil(folder / "f", "a", features(1), CELLS, label=1)
    source = open_features("f")
    bag = source.read("a")
    assert bag.coords_um is None
    assert bag.coords_px is None
    (note,) = [note for note in source.notes if "positions" in note]
    assert "torchmil files do not say their unit" in note
    assert "unit='grid' with tile_um=" in note
    # one column is one tile of 128 um
    assert open_features("f", unit="grid", tile_um=128.0).read("a").coords_um.tolist() == [[0, 0], [128, 0], [0, 128]]
    assert open_features("f", unit="um").read("a").coords_um.tolist() == CELLS.tolist()
    px = open_features("f", unit="px", mpp=0.5).read("a")
    assert (px.coords_um.tolist(), px.coords_px.tolist()) == ([[0, 0], [0.5, 0], [0, 0.5]], CELLS.tolist())
    step = open_features("f", unit="grid")
    assert step.read("a").coords_um is None
    assert any("columns and rows" in note and "tile_um= gives the step" in note for note in step.notes)


def test_features_may_stand_alone(folder, features):
    """Its other way: features, labels and positions in a folder each."""
    torchmil(folder / "features", "a", features(1))
    source = open_features("features")
    assert source.read("a").coords_um is None
    assert not any("positions" in note for note in source.notes)
    assert source.labels == {}


def test_one_instance_each_is_said(folder, features):
    """What encoders of whole slides leave, [1, d], looks like a bag of one."""
    for i, bag in enumerate("ab"):
        torchmil(folder / "f", bag, features(i, 1))
    assert any("every slide of 2 has one instance" in note for note in open_features("f").notes)


@pytest.mark.parametrize("xy", [np.zeros((3, 3)), np.zeros((3, 1)), np.arange(3)])
def test_places_in_a_volume_or_a_video_are_no_positions_on_a_slide(folder, features, xy):
    torchmil(folder / "f", "a", features(1), xy, label=1)
    assert open_features("f", unit="grid", tile_um=128.0).read("a").coords_um is None


def test_a_label_that_is_several_is_left_alone(folder, features):
    path = torchmil(folder / "f", "a", features(1), CELLS)
    with h5py.File(path, "a") as file:
        file["labels"] = np.array([1, 0, 1])
    assert open_features("f").labels == {}


def test_positions_that_do_not_fit_are_refused(folder, features):
    torchmil(folder / "f", "a", features(1), CELLS[:2], label=1)
    with pytest.raises(DataError, match=r"a\.h5: coords have shape \(2, 2\), but there are 3 rows of features"):
        open_features("f")


def test_pixels_divided_by_the_patch_size_leave_no_neighbours(folder, features):
    """A 40x slide cut at 20x: tiles are 512 px of level 0 apart. Divided by patch_size 256, columns are 2 apart.

    A graph of cells within 1.5 has no edge then; divided by patch_size_level0, or in micrometres, it has them all.
    """
    trident(folder / "job", "a", features(1, 16), grid(16, step=512))
    source = open_features(f"job/{TILING}/features_uni_v2", mpp=0.25)

    def edges(places, near):
        distance = np.hypot(*np.moveaxis(places[:, None] - places[None], -1, 0))
        return int(((distance > 0) & (distance <= near)).sum())

    bag = source.read("a")
    assert edges(bag.coords_px // 256, 1.5) == 0
    # two rows of eight: 14 + 8 neighbours side by side, 14 across corners, both ways
    assert edges(bag.coords_px // 512, 1.5) == 72
    assert edges(bag.coords_um, 1.5 * bag.tile_um) == 72


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_torchmil_reads_the_same_values(folder, features):
    """Its dataset, given these very files, holds what ours reads of them."""
    datasets = pytest.importorskip("torchmil.datasets")
    for i, bag in enumerate("ab"):
        torchmil(folder / "f", bag, features(i), CELLS + i, label=i, instances=[0, i, 0])
    at = str(folder / "f")
    theirs = datasets.ProcessedMILDataset(
        features_path=at, labels_path=at, inst_labels_path=at, coords_path=at, file_ext=".h5", verbose=False
    )
    ours = open_features("f", unit="grid", tile_um=1.0)
    assert theirs.get_bag_names() == list(ours.ids)
    for i, bag in enumerate(ours.ids):
        item, read = theirs[i], ours.read(bag)
        assert item["X"].numpy().tolist() == read.x.tolist()
        assert item["coords"].numpy().tolist() == read.coords_um.tolist()
        assert ours.labels[bag] == str(int(item["Y"].item()))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_torchmil_loses_every_neighbour_of_a_40x_slide_that_we_keep(folder, features):
    """Its TRIDENT dataset divides by the patch size that it is told; the folder's name says 256."""
    datasets = pytest.importorskip("torchmil.datasets")
    trident(folder / "job", "a", features(1, 16), grid(16, step=512))
    (folder / "labels.csv").write_text("slide,label\na.svs,1\n")
    named = {"wsi_name_col": "slide", "wsi_label_col": "label", "bag_keys": ["X", "Y", "adj", "coords"]}
    base = f"{folder / 'job' / TILING}/"

    def theirs(size):
        data = datasets.TridentWSIDataset(base, str(folder / "labels.csv"), "uni_v2", patch_size=size, **named)
        return data[0]

    ours = open_features(f"job/{TILING}/features_uni_v2", mpp=0.25).read("a")
    wrong, right = theirs(256), theirs(512)
    assert wrong["X"].numpy().tolist() == ours.x.tolist()
    assert wrong["adj"].indices().shape[1] == 0
    cells = np.rint(ours.coords_um / ours.tile_um).astype(int)
    assert right["coords"].numpy().tolist() == cells.tolist()
    assert right["adj"].indices().shape[1] == 72
