"""TRIDENT's folders, written to the letter, become features and positions in micrometres."""

import json

import h5py
import ml_dtypes
import numpy as np
import pytest
from foreign_files import TILING, grid, trident

from milkit.data.features import FeatureSource, open_features
from milkit.errors import DataError

FOLDER = f"job/{TILING}/features_uni_v2"


def test_a_folder_is_a_source_of_features(folder, features):
    trident(folder / "job", "b", features(2, 2, dtype=np.float16), grid(2))
    trident(folder / "job", "007", features(1, 3), grid(3))
    source = open_features(FOLDER)
    assert isinstance(source, FeatureSource)
    assert tuple(source.ids) == ("007", "b")
    assert source.lengths.tolist() == [3, 2]
    assert source.features == 4
    x, coords = source.read("007").x, source.read("007").coords_um
    assert x.tolist() == features(1, 3).tolist()
    assert x.dtype == np.float32
    assert coords is None
    assert source.read("b").x.dtype == np.float16


def test_micrometres_follow_from_level_0_not_from_the_patch_size(folder, features):
    """A 40x slide cut at 20x: 256 px are 512 px of level 0, at 0.25 um 128 um. 256 x 0.25 = 64 is the trap."""
    trident(folder / "job", "a", features(1, 10), grid(10, step=512))
    source = open_features(FOLDER, mpp=0.25)
    xy = source.read("a").coords_um
    assert xy.dtype == np.float32
    # the first tile is at 1024 px = 256 um, the ninth begins the second row
    assert xy[[0, 1, 8]].tolist() == [[256, 256], [384, 256], [256, 384]]
    assert {k: source.provenance[k] for k in ("mpp", "tile_um", "tile_px", "mpp_level0")} == {
        "mpp": 0.5, "tile_um": 128.0, "tile_px": 256, "mpp_level0": 0.25
    }  # fmt: skip
    # tiles that touch are one tile width apart: the graph of neighbours has its edges
    distance = np.abs(xy[:, None] - xy[None]).max(-1)
    assert (distance == source.provenance["tile_um"]).sum() > 0
    assert distance[distance > 0].min() == source.provenance["tile_um"]


def test_provenance_keeps_what_the_files_say_under_their_names(folder, features):
    trident(folder / "job", "a", features(1), grid(3))
    trident(folder / "job", "b", features(2), grid(3), level0=20)
    provenance = open_features(FOLDER).provenance
    assert json.loads(json.dumps(provenance)) == {
        "encoder": "uni_v2", "mpp": None, "tile_um": None, "tile_px": 256, "tool": "TRIDENT", "layout": "trident",
        "folders": [FOLDER], "target_magnification": 20, "level0_magnification": [20, 40], "patch_size": 256,
        "patch_size_level0": [256, 512], "overlap": 0,
    }  # fmt: skip


def test_slides_of_two_scanners_have_their_own_mpp(folder, features):
    trident(folder / "job", "a", features(1), grid(3))
    trident(folder / "job", "b", features(2), grid(3, step=256), level0=20)
    trident(folder / "job", "c", features(3), grid(3))
    source = open_features(FOLDER).at({"a": 0.25, "b": 0.5, "c": 0.2265}, "the mpp of column 'mpp'")
    # 512 px x 0.25 = 256 px x 0.5 = 128 um; 512 px x 0.2265 = 115.968 um
    assert source.read("a").coords_um[1].tolist() == [384, 256]
    assert source.read("b").coords_um[1].tolist() == [640, 512]
    assert source.provenance["tile_um"] == 128.0
    assert source.provenance["mpp"] == 0.5
    assert source.provenance["mpp_level0"] == [0.2265, 0.5]
    assert source.provenance["tile_um_range"] == [115.968, 128.0]
    assert any("tiles are 116 to 128 um wide, by slide" in note for note in source.notes)


@pytest.mark.parametrize(
    ("mpp", "level0"),
    [(0.5, 40), (0.25, 20), (1.0, 20)],  # the tile's mpp for the scan's; a 40x scan's for a 20x one
)
def test_an_mpp_that_cannot_be_that_of_level_0_is_refused(folder, features, mpp, level0):
    path = trident(folder / "job", "a", features(1), grid(3), level0=level0)
    with pytest.raises(DataError, match=f"level0_magnification {level0}, about .* but mpp {mpp:g} is given") as caught:
        open_features(FOLDER, mpp=mpp)
    assert path.name in str(caught.value)
    assert "not that of the tiles" in str(caught.value)


@pytest.mark.parametrize("mpp", [0.0, -0.25, float("nan"), 250.0, 0.00025])
def test_an_mpp_in_another_unit_is_refused(folder, features, mpp):
    trident(folder / "job", "a", features(1), grid(3), level0_magnification=None)
    with pytest.raises(DataError, match="expected micrometres per pixel at level 0"):
        open_features(FOLDER, mpp=mpp)


def test_none_is_stored_as_text(folder, features):
    """The encoder of a custom model and the magnification of a scan without metadata are the word None."""
    trident(folder / "job", "a", features(1), grid(3), encoder=None, level0_magnification=None)
    source = open_features(f"job/{TILING}/features_old", mpp=0.5)
    assert source.provenance["encoder"] is None
    assert "level0_magnification" not in source.provenance
    assert source.provenance["tile_um"] == 256.0
    assert "the encoder is not known: TRIDENT's files do not name it; encoder='...' does" in source.notes
    assert open_features(f"job/{TILING}/features_old", encoder="mine").provenance["encoder"] == "mine"


def test_files_of_older_versions_do_not_name_the_encoder(folder, features):
    trident(folder / "job", "a", features(1), grid(3), encoder="")
    assert open_features(f"job/{TILING}/features_old").provenance["encoder"] is None


def test_a_file_without_the_size_at_level_0_has_positions_but_no_tile_size(folder, features):
    """TRIDENT run on another tool's positions: the attributes are that tool's."""
    path = trident(folder / "job", "a", features(1), grid(3))
    with h5py.File(path, "a") as file:
        for name in ("patch_size_level0", "target_magnification", "level0_magnification"):
            del file["coords"].attrs[name]
    source = open_features(FOLDER, mpp=0.25)
    assert source.provenance["tile_um"] is None
    assert source.read("a").coords_um[0].tolist() == [256, 256]
    assert any("tile size of 1 of 1 slides is not known (a): no attribute patch_size_level0" in n for n in source.notes)


def test_an_empty_slide_has_no_instance(folder, features):
    trident(folder / "job", "a", features(1), grid(3))
    trident(folder / "job", "b", features(2, 0), grid(0))
    source = open_features(FOLDER, mpp=0.25)
    assert source.lengths.tolist() == [3, 0]


def bfloat16_as_hdf5_knows_it(path, values):
    """16 bits with 8 of exponent, as HDF5 describes such floats."""
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    with h5py.File(path, "a") as file:
        said = dict(file["features"].attrs)
        del file["features"]
        h5py.h5d.create(file.id, b"features", kind, h5py.h5s.create_simple(values.shape))
        file["features"][...] = values
        file["features"].attrs.update(said)


@pytest.mark.parametrize("how", ["opaque", "float"])
def test_bfloat16_is_read_as_such(folder, how):
    values = np.array([[1.0, -2.5, 3e38], [0.0078125, 0.0, -1.0]], np.float32).astype(ml_dtypes.bfloat16)
    path = trident(folder / "job", "a", values if how == "opaque" else values.astype(np.float32), grid(2))
    if how == "float":
        bfloat16_as_hdf5_knows_it(path, values.astype(np.float32))
    x = open_features(FOLDER).read("a").x
    assert x.dtype == ml_dtypes.bfloat16
    assert x.astype(np.float32).tolist() == values.astype(np.float32).tolist()


def test_slide_features_are_refused_with_the_reason(folder, features):
    trident(folder / "job", "a", features(1, 1)[0], grid(3), encoder="titan")
    with pytest.raises(DataError, match=r"a\.h5: features have shape \(4,\), one vector for the whole slide"):
        open_features(f"job/{TILING}/slide_features_titan")


def test_the_folders_above_name_the_ones_to_give(folder, features):
    trident(folder / "job", "a", features(1), grid(3))
    trident(folder / "job", "a", features(1), grid(3), encoder="conch_v15")
    for path in ("job", f"job/{TILING}"):
        with pytest.raises(DataError, match=r"give one of them: .*features_conch_v15, .*features_uni_v2"):
            open_features(path)


def test_the_patches_folder_holds_no_features(folder, features):
    trident(folder / "job", "a", features(1), grid(3))
    with pytest.raises(DataError, match=r"a_patches\.h5: it holds tile positions but no features"):
        open_features(f"job/{TILING}/patches")


def test_two_encoders_in_one_folder_are_refused(folder, features):
    trident(folder / "job", "a", features(1), grid(3))
    trident(folder / "job", "b", features(1), grid(3))
    trident(folder / "job", "c", features(2), grid(3), encoder="conch_v15")
    (folder / "job" / TILING / "features_conch_v15" / "c.h5").rename(folder / FOLDER / "c.h5")
    with pytest.raises(DataError, match=r"one encoder; .*a\.h5: uni_v2, but .*c\.h5: conch_v15"):
        open_features(FOLDER)
    with pytest.raises(DataError, match=r"c\.h5 says encoder 'conch_v15', but encoder='uni_v2' is given"):
        open_features(FOLDER, encoder="uni_v2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 10}, r"one target_magnification; .*a\.h5: 20, but .*c\.h5: 10"),
        ({"size": 224}, r"one patch_size; .*a\.h5: 256, but .*c\.h5: 224"),
    ],
)
def test_two_tilings_in_one_folder_are_refused(folder, features, change, message):
    trident(folder / "job", "a", features(1), grid(3))
    trident(folder / "job", "b", features(1), grid(3))
    trident(folder / "job", "c", features(2), grid(3), **change)
    with pytest.raises(DataError, match=message):
        open_features(FOLDER)


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        (np.zeros((2, 2), np.int64), r"coords have shape \(2, 2\), but there are 3 rows of features"),
        (np.zeros((3, 2), np.float32), "coords are float32; expected whole pixels of level 0"),
    ],
)
def test_positions_that_do_not_fit_are_refused(folder, features, coords, message):
    path = trident(folder / "job", "a", features(1), grid(3))
    with h5py.File(path, "a") as file:
        said = dict(file["coords"].attrs)
        del file["coords"]
        file["coords"] = coords
        file["coords"].attrs.update(said)
    with pytest.raises(DataError, match=r"a\.h5: " + message):
        open_features(FOLDER)


@pytest.mark.parametrize("value", ["wide", 0, -256])
def test_attributes_that_are_no_sizes_are_refused(folder, features, value):
    trident(folder / "job", "a", features(1), grid(3), patch_size_level0=value)
    with pytest.raises(DataError, match=rf"a\.h5: attribute 'patch_size_level0' of 'coords' is {value!r}"):
        open_features(FOLDER)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_name_the_file(folder, features, bad):
    x = features(1)
    x[2, 1] = bad
    trident(folder / "job", "a", x, grid(3))
    with pytest.raises(DataError, match=rf"features_uni_v2/a\.h5: .*holds {bad} at instance 2, feature 1"):
        open_features(FOLDER).read("a")
