"""One HDF5 file a cohort, one group a slide: ACMIL's, and the same with other names."""

import h5py
import numpy as np
import pytest
from foreign_files import grid
from foreign_hdf5 import acmil, groups

from milkit.data.features import open_features
from milkit.errors import DataError


@pytest.fixture
def slides(features):
    """Three slides; the names are not in order, one is a number with a leading zero, one has no tissue."""
    return {
        "slide_b": (features(1), grid(3)),
        "007": (features(2, 2), grid(2)),
        "empty": (features(3, 0), grid(0)),
    }


def test_acmil_one_file_is_a_cohort(folder, slides, features):
    acmil(folder / "feats.h5", slides, labels={"slide_b": 1, "007": 0, "empty": 0})
    source = open_features("feats.h5", encoder="resnet50", mpp=0.25)
    assert source.ids == ("007", "empty", "slide_b")
    assert source.lengths.tolist() == [2, 0, 3]
    bag = source.read("slide_b")
    assert bag.x.dtype == np.float16
    assert bag.x.tolist() == features(1).tolist()
    assert bag.coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]
    assert source.read("007").x.tolist() == features(2, 2).tolist()
    assert source.labels == {"slide_b": "1", "007": "0", "empty": "0"}
    assert source.provenance["tool"] == "ACMIL"
    assert source.provenance["encoder"] == "resnet50"
    assert any("tile size of 3 of 3 slides is not known" in n and "CLAM's patches files" in n for n in source.notes)
    assert open_features("feats.h5", tile_um=128.0).read("slide_b").tile_um == 128.0


def test_labels_may_be_text(folder, slides):
    labels = {"slide_b": "tumor", "007": b"normal", "empty": np.int64(3)}
    acmil(folder / "feats.h5", slides, labels=labels)
    assert open_features("feats.h5").labels == {"slide_b": "tumor", "007": "normal", "empty": "3"}


def test_several_files_are_one_cohort_that_holds_a_slide_once(folder, slides):
    acmil(folder / "f" / "one.h5", slides)
    acmil(folder / "f" / "two.h5", {"other": slides["007"]})
    assert open_features("f").ids == ("007", "empty", "slide_b", "other")
    acmil(folder / "f" / "two.h5", {"007": slides["007"]})
    with pytest.raises(DataError, match=r"Slide '007' is in f/one\.h5 and in f/two\.h5"):
        open_features("f")


def test_groups_of_another_script_say_the_tile_size(folder, slides, features):
    groups(folder / "f.h5", slides, patch_size=112, patch_level=0)
    source = open_features("f.h5", mpp=0.5)
    assert source.provenance["tool"] == "grouped HDF5"
    assert (source.provenance["tile_um"], source.provenance["tile_px"]) == (56.0, 112)
    assert source.features == 4
    assert source.read("slide_b").x.tolist() == features(1).tolist()
    assert source.read("slide_b").coords_um[1].tolist() == [768, 512]


@pytest.mark.parametrize(
    ("said", "tile_um"),
    [
        ({"patch_size": 256, "patch_level": 1}, None),  # how much smaller level 1 is, nobody says
        ({"patch_size": 256, "patch_level": 1, "downsample": 4.0}, 256.0),
        ({"patch_size": 256}, None),
        ({}, None),
    ],
)
def test_a_size_at_another_level_needs_the_factor(folder, slides, said, tile_um):
    groups(folder / "f.h5", slides, **said)
    assert open_features("f.h5", mpp=0.25).provenance["tile_um"] == tile_um


def test_what_is_no_slide_is_named(folder, slides):
    acmil(folder / "f.h5", slides)
    with h5py.File(folder / "f.h5", "a") as file:
        file["note"] = 1.0
    with pytest.raises(DataError, match=r"f\.h5: 'note' is a dataset; expected a group with 'feat' and 'coords'"):
        open_features("f.h5")
    with h5py.File(folder / "f.h5", "a") as file:
        del file["note"]
        file["other/features"] = np.zeros((2, 4))
    with pytest.raises(DataError, match=r"f\.h5: 'other' holds \['features'\]; expected a group with 'feat'"):
        open_features("f.h5")


def test_a_group_that_does_not_fit_is_named(folder, slides, features):
    slides["z"] = (features(4), grid(2))
    acmil(folder / "f.h5", slides)
    with pytest.raises(DataError, match=r"f\.h5, 'z': coords have shape \(2, 2\), but there are 3 rows of feat"):
        open_features("f.h5")


@pytest.mark.parametrize(
    ("name", "bags", "tiles", "wide"), [("glas", 165, {20, 35}, 112), ("ucsb_breast", 58, {42}, 128)]
)
def test_real_features_with_a_group_an_image(shared, name, bags, tiles, wide):
    """GlaS at about 0.62 um a pixel: tiles of 112 px are 69.44 um wide."""
    source = open_features(shared / "data" / "features_efflite0" / f"{name}.h5", mpp=0.62)
    assert len(source.ids) == bags
    assert set(source.lengths.tolist()) == tiles
    assert (source.features, source.provenance["tile_px"]) == (1280, wide)
    bag = source.read(source.ids[-1])
    assert bag.tile_um == pytest.approx(wide * 0.62)
    with h5py.File(shared / "data" / "features_efflite0" / f"{name}.h5") as file:
        assert (bag.coords_px == file[source.ids[-1]]["coords"][:]).all()
        assert (bag.x == file[source.ids[-1]]["features"][:]).all()
