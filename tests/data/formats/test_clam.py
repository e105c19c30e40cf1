"""CLAM's folders, written to the letter: the tile size is in another file, the encoder in none."""

import json
import sys

import h5py
import numpy as np
import pytest
from foreign_files import clam, grid

from milkit.data.features import open_features
from milkit.errors import DataError

FOLDER = "results/features/h5_files"


@pytest.mark.parametrize("given", [FOLDER, "results/features"])
@pytest.mark.parametrize("coords", [np.int32, np.int64])
def test_patches_and_features_are_joined_by_name(folder, features, given, coords):
    """256 px of a level that is 2.0001 times smaller: 512.0256 px of level 0, at 0.25 um each 128.0064 um."""
    clam(folder / "results", "a", features(1), grid(3), level=1, downsample=(2.0001, 2.0001), coords=coords)
    (folder / "results" / "features" / "pt_files").mkdir()
    source = open_features(given, mpp=0.25)
    assert source.ids == ("a",)
    bag = source.read("a")
    x, xy = bag.x, bag.coords_um
    assert x.tolist() == features(1).tolist()
    assert xy.tolist() == [[256, 256], [384, 256], [512, 256]]
    provenance = dict(source.provenance)
    assert provenance.pop("tile_um") == pytest.approx(128.0064)
    assert provenance.pop("mpp") == pytest.approx(128.0064 / 256)
    assert json.loads(json.dumps(provenance)) == {
        "encoder": None, "tile_px": 256, "tool": "CLAM", "layout": "clam", "folders": [given], "patch_size": 256,
        "patch_level": 1, "downsample": 2.0001, "mpp_level0": 0.25,
        "mpp_sha256": provenance["mpp_sha256"],
    }  # fmt: skip
    assert any("the encoder is not known: CLAM's files do not name it" in note for note in source.notes)


def test_the_encoder_can_be_named(folder, features):
    clam(folder / "results", "a", features(1), grid(3))
    assert open_features(FOLDER, encoder="uni_v1").provenance["encoder"] == "uni_v1"


@pytest.mark.parametrize("place", ["tiles/patches", "tiles"])
def test_the_patches_may_lie_elsewhere(folder, features, place):
    clam(folder / "results", "a", features(1), grid(3), size=512)
    (folder / "tiles").mkdir()
    (folder / "results" / "patches").rename(folder / "tiles" / "patches")
    assert open_features(FOLDER, mpp=0.25).provenance["tile_um"] is None
    assert open_features(FOLDER, mpp=0.25, patches=place).provenance["tile_um"] == 128.0
    with pytest.raises(DataError, match="patches='nowhere': no folder with CLAM's patches"):
        open_features(FOLDER, patches="nowhere")


def test_a_slide_without_patches_leaves_the_tile_size_unknown_and_said(folder, features):
    clam(folder / "results", "a", features(1), grid(3))
    clam(folder / "results", "b", features(2), grid(3), patches=False)
    source = open_features(FOLDER, mpp=0.25)
    assert source.provenance["tile_um"] is None
    assert source.provenance["tile_px"] is None
    assert source.provenance["mpp"] is None
    # positions need the mpp of level 0 only
    assert source.read("b").coords_um[1].tolist() == [384, 256]
    note = next(note for note in source.notes if "tile size" in note)
    assert "the tile size of 1 of 2 slides is not known (b)" in note
    assert "attributes patch_size, downsample" in note
    assert "patches='folder'" in note


def test_tiles_of_two_levels_with_one_width_belong_together(folder, features):
    """512 px of a 40x scan and 256 px of a 20x one are 128 um both; pixels differ, micrometres agree."""
    clam(folder / "results", "a", features(1), grid(3), size=512)
    clam(folder / "results", "b", features(2), grid(3, step=256), size=256)
    source = open_features(FOLDER).at({"a": 0.25, "b": 0.5}, "the mpp of column 'mpp'")
    assert source.provenance["tile_um"] == 128.0
    assert source.provenance["tile_px"] is None
    assert source.provenance["mpp"] is None


def test_a_40x_slide_cut_at_the_wrong_level_is_refused(folder, features):
    """256 px of level 0 in both: 64 um of the 40x scan, 128 um of the 20x one."""
    clam(folder / "results", "a", features(1), grid(3))
    clam(folder / "results", "b", features(2), grid(3))
    with pytest.raises(DataError, match=r"64 um wide in .*a\.h5, but not in .*b\.h5 \(128 um\): two magnifications"):
        open_features(FOLDER).at({"a": 0.25, "b": 0.5}, "the mpp of column 'mpp'")


def test_an_interrupted_extraction_is_not_taken_for_a_whole_one(folder, features):
    """CLAM appends: the file of a killed run is sound HDF5 with the first batches only."""
    clam(folder / "results", "a", features(1, 40), grid(40), rows=32)
    with pytest.raises(DataError, match=r"a\.h5: features of 32 tiles, but .*patches/a\.h5 lists 40: .*interrupted"):
        open_features(FOLDER)


@pytest.mark.parametrize("downsample", [(2.0, 4.0), (0.0, 0.0), (1.0, 2.0, 3.0), "twice"])
def test_a_downsample_that_is_none_is_refused(folder, features, downsample):
    clam(folder / "results", "a", features(1), grid(3))
    with h5py.File(folder / "results" / "patches" / "a.h5", "a") as file:
        file["coords"].attrs["downsample"] = downsample
    with pytest.raises(DataError, match=r"patches/a\.h5: attribute 'downsample' of 'coords' is .*one factor"):
        open_features(FOLDER)


def test_one_factor_stands_for_both_directions(folder, features):
    clam(folder / "results", "a", features(1), grid(3), downsample=4.0)
    assert open_features(FOLDER, mpp=0.25).provenance["tile_um"] == 256.0


def test_without_torch_pt_files_are_refused_with_a_way_out(folder, features, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    clam(folder / "results", "a", features(1), grid(3))
    pt = folder / "results" / "features" / "pt_files"
    pt.mkdir()
    (pt / "a.pt").write_bytes(b"PK")
    install = r"a\.pt is a \.pt file.*pip install \"milkit\[formats\]\", or "
    with pytest.raises(DataError, match=install + "give results/features/h5_files, which holds the same"):
        open_features("results/features/pt_files")
    (folder / "results" / "features" / "h5_files").rename(folder / "elsewhere")
    for path in ("results/features", "results/features/pt_files"):
        with pytest.raises(DataError, match=install + r"have the tool write HDF5 \(CLAM: h5_files"):
            open_features(path)


def test_images_and_patches_are_not_features(folder, features):
    clam(folder / "results", "a", features(1), grid(3))
    with pytest.raises(DataError, match=r"a\.h5: it holds tile positions but no features"):
        open_features("results/patches")
    (folder / "old").mkdir()
    with h5py.File(folder / "old" / "a.h5", "w") as file:
        file["imgs"], file["coords"] = np.zeros((2, 8, 8, 3), np.uint8), grid(2)
    with pytest.raises(DataError, match=r"a\.h5: it holds images of tiles, not features"):
        open_features("old")
