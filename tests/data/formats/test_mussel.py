"""mussel's files, written to the letter: they say the scan's mpp, and whether it was only assumed."""

import ml_dtypes
import numpy as np
import pytest
from foreign_files import grid
from foreign_hdf5 import mussel

from milkit.data.features import open_features
from milkit.errors import DataError


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_positions_need_no_option(folder, features, dtype, compressed):
    """448 px of level 0 at 0.25 um are 112 um, which 224 px at 0.5 um are too."""
    x = features(1, 10)
    mussel(folder / "f", "TCGA-01.scan", x, grid(10, step=448), dtype=dtype, compressed=compressed)
    source = open_features("f")
    assert source.ids == ("TCGA-01.scan",)
    bag = source.read("TCGA-01.scan")
    assert bag.x.dtype == dtype
    assert bag.x.astype(float).tolist() == x.astype(dtype).astype(float).tolist()
    # the first tile is at 1024 px = 256 um, the ninth begins the second row
    assert bag.coords_um[[0, 1, 8]].tolist() == [[256, 256], [368, 256], [256, 368]]
    assert bag.coords_px[1].tolist() == [1472, 1024]
    assert (bag.tile_um, bag.mpp) == (112.0, 0.25)
    facts = {k: source.provenance[k] for k in ("encoder", "mpp", "tile_um", "tile_px", "mpp_level0", "tool")}
    assert facts == {
        "encoder": None,
        "mpp": 0.5,
        "tile_um": 112.0,
        "tile_px": 224,
        "mpp_level0": 0.25,
        "tool": "mussel",
    }
    assert "positions: pixels of level 0 x the mpp that mussel stored" in source.notes


@pytest.mark.parametrize(
    ("rename", "expected"), [(None, "a"), ("a", "a"), ("a.patch", "a"), ("ab", "ab"), ("b.x", "b.x")]
)
def test_the_id_is_the_slides_name_where_the_file_adds_to_it(folder, features, rename, expected):
    mussel(folder / "f", "a", features(1), grid(3), rename=rename)
    assert open_features("f").ids == (expected,)


def test_an_mpp_that_was_assumed_is_asked_for(folder, features):
    mussel(folder / "f", "a", features(1), grid(3, step=448), mpp_is_fallback=True)
    source = open_features("f")
    assert source.needs_mpp
    assert source.read("a").coords_um is None
    assert source.read("a").coords_px[1].tolist() == [1472, 1024]
    (note,) = [note for note in source.notes if "positions" in note]
    assert "but no mpp (native_mpp is absent, or mussel assumed it (mpp_is_fallback)" in note
    assert "mpp=0.25 gives one for all slides" in note
    assert open_features("f", mpp=0.26).read("a").mpp == 0.26


def test_an_mpp_that_is_not_the_files_is_refused(folder, features):
    mussel(folder / "f", "a", features(1), grid(3))
    with pytest.raises(DataError, match=r"a\.features\.h5 says mpp 0\.25, but 0\.5 is given"):
        open_features("f", mpp=0.5)


def test_two_scanners_have_their_own_mpp(folder, features):
    """112 um are 448 px at 0.25 um a pixel, and 224 px at 0.5."""
    mussel(folder / "f", "a", features(1), grid(3, step=448))
    mussel(folder / "f", "b", features(2), grid(3, step=224), patch_size=224, step_size=224, native_mpp=0.5)
    source = open_features("f")
    assert source.provenance["mpp_level0"] == [0.25, 0.5]
    assert source.provenance["tile_um"] == 112.0
    assert np.diff(source.read("a").coords_um[:2, 0]).tolist() == [112]
    assert np.diff(source.read("b").coords_um[:2, 0]).tolist() == [112]


def test_sizes_that_contradict_each_other_are_refused(folder, features):
    """Whoever cut 224 px of level 0 of a 40x scan and says that they are 0.5 um: 56 um against 112."""
    mussel(folder / "f", "a", features(1), grid(3), patch_size=224)
    with pytest.raises(DataError, match=r"native_mpp 0\.25 = 56 um wide at level 0, but 224 px x mpp 0\.5 = 112 um"):
        open_features("f")


def test_a_size_at_another_level_is_not_taken_for_one_at_level_0(folder, features):
    mussel(folder / "f", "a", features(1), grid(3), patch_level=1)
    source = open_features("f")
    assert source.provenance["tile_um"] is None
    assert any("the tile size of 1 of 1 slides is not known" in note for note in source.notes)


def test_missing_attributes_leave_facts_unknown(folder, features):
    mussel(folder / "f", "a", features(1), grid(3), drop=("native_mpp", "patch_size", "name"))
    source = open_features("f")
    assert source.ids == ("a.features",)
    assert source.provenance["tile_um"] is None
    assert source.needs_mpp


def test_an_empty_slide_has_no_instance(folder, features):
    mussel(folder / "f", "a", features(1), grid(3))
    mussel(folder / "f", "b", features(2, 0), grid(0))
    assert open_features("f").lengths.tolist() == [3, 0]


def test_two_tilings_in_one_cohort_are_refused(folder, features):
    for name in "ab":
        mussel(folder / "f", name, features(1), grid(3))
    mussel(folder / "f", "c", features(2), grid(3), mpp=1.0, patch_size=896)
    with pytest.raises(DataError, match=r"one mpp; .*a\.features\.h5: 0\.5, but .*c\.features\.h5: 1"):
        open_features("f")
