"""STAMP's files, written to the letter: positions are micrometres already, and older files do not say so."""

import json

import h5py
import numpy as np
import pytest
from foreign_hdf5 import stamp

from milkit.data.features import open_features
from milkit.errors import DataError

# three tiles of 256 um in a row
ROW_UM = np.array([[512.0, 256.0], [768.0, 256.0], [1024.0, 256.0]])


def test_positions_are_micrometres_as_they_are(folder, features):
    """256 um cut to 224 px are 1.142857 um a pixel; the scan's own pixels are nowhere."""
    stamp(folder / "uni2", "b", features(2, 2), ROW_UM[:2])
    stamp(folder / "uni2", "a", features(1), ROW_UM)
    source = open_features("uni2")
    assert source.ids == ("a", "b")
    assert source.lengths.tolist() == [3, 2]
    bag = source.read("a")
    assert bag.x.tolist() == features(1).tolist()
    assert bag.x.dtype == np.float16
    assert bag.coords_um.tolist() == ROW_UM.tolist()
    assert bag.coords_um.dtype == np.float32
    assert bag.coords_px is None
    assert (bag.tile_um, bag.mpp) == (256.0, None)
    assert not source.needs_mpp
    assert source.notes == ()
    provenance = dict(source.provenance)
    assert provenance.pop("mpp") == pytest.approx(256 / 224)
    assert json.loads(json.dumps(provenance)) == {
        "encoder": "uni2", "tile_um": 256.0, "tile_px": 224, "tool": "STAMP", "layout": "stamp", "folders": ["uni2"],
        "stamp_version": "2.5.0", "tile_size_um": 256, "tile_size_px": 224, "code_hash": "0f3a91bc",
    }  # fmt: skip


def test_an_mpp_of_level_0_gives_its_pixels(folder, features):
    """512 um at 0.25 um a pixel are 2048 px."""
    stamp(folder / "uni2", "a", features(1), ROW_UM)
    bag = open_features("uni2", mpp=0.25).read("a")
    assert bag.coords_px.tolist() == [[2048, 1024], [3072, 1024], [4096, 1024]]
    assert bag.coords_um.tolist() == ROW_UM.tolist()
    assert bag.mpp == 0.25


def test_version_2_0_called_the_tile_size_otherwise(folder, features):
    stamp(folder / "f", "a", features(1), ROW_UM, old="2.0")
    source = open_features("f")
    assert source.provenance["tile_um"] == 256.0
    assert source.provenance["tile_px"] is None
    assert source.provenance["encoder"] == "uni2-0f3a91bc"


def test_files_without_a_unit_ask_for_it(folder, features):
    """Before 2.0: neighbours 224 apart were 256 um apart. Read as micrometres they would be 12 % too close."""
    stamp(folder / "f", "a", features(1), [[448, 224], [672, 224], [896, 224]], old="1")
    source = open_features("f")
    assert source.read("a").coords_um is None
    assert source.provenance["tile_um"] is None
    (unit,) = [note for note in source.notes if "positions" in note]
    assert "STAMP files do not say their unit" in unit
    assert "224 px and mostly 256 um wide" in unit
    assert "unit='tile_px' with tile_um=256" in unit
    assert any("tile size of 1 of 1 slides is not known (a): no attribute tile_size_um" in n for n in source.notes)
    placed = open_features("f", unit="tile_px", tile_um=256.0)
    assert placed.read("a").coords_um.tolist() == ROW_UM.tolist()
    assert placed.provenance["mpp"] == pytest.approx(256 / 224)
    assert open_features("f", unit="um").read("a").coords_um[0].tolist() == [448, 224]
    px = open_features("f", unit="px", mpp=0.5).read("a")
    assert px.coords_um[0].tolist() == [224, 112]
    assert px.coords_px[0].tolist() == [448, 224]


def test_pixels_of_tiles_need_both_widths_of_a_tile(folder, features):
    """Without `augmented` it is not the old layout, so the 224 px are not known either."""
    stamp(folder / "f", "a", features(1), ROW_UM, drop=("unit", "tile_size_um", "tile_size_px"))
    source = open_features("f", unit="tile_px", tile_um=256.0)
    assert source.read("a").coords_um is None
    assert any("hold pixels of tiles" in note for note in source.notes)


def test_a_unit_or_size_that_contradicts_the_file_is_refused(folder, features):
    stamp(folder / "f", "a", features(1), ROW_UM)
    with pytest.raises(DataError, match=r"a\.h5 holds positions in 'um', but unit='px' is given"):
        open_features("f", unit="px")
    with pytest.raises(DataError, match=r"a\.h5 says tiles of 256 um, but tile_um=224 is given"):
        open_features("f", tile_um=224.0)
    stamp(folder / "g", "a", features(1), ROW_UM, unit="pt")
    with pytest.raises(DataError, match=r"g/a\.h5: attribute 'unit' of the file is 'pt'; STAMP writes 'um'"):
        open_features("g")


@pytest.mark.parametrize("value", ["wide", 0.0, -256.0, np.nan])
def test_sizes_that_are_none_are_refused(folder, features, value):
    stamp(folder / "f", "a", features(1), ROW_UM, tile_size_um=value)
    with pytest.raises(DataError, match=r"f/a\.h5: attribute 'tile_size_um' of the file is .*a number above 0"):
        open_features("f")


def test_multiplexed_images_have_another_name_and_no_positions(folder, features):
    stamp(folder / "f", "a", features(1), None, name="patch_embeddings")
    source = open_features("f")
    bag = source.read("a")
    assert bag.x.tolist() == features(1).tolist()
    assert bag.coords_um is None
    assert source.notes == ()


@pytest.mark.parametrize("kind", ["slide", "patient"])
@pytest.mark.parametrize("shape", [(768,), (1, 768)])
def test_one_vector_a_slide_or_patient_is_refused(folder, kind, shape):
    """What `stamp encode_slides` writes: an encoder instead of an extractor, no positions."""
    (folder / "f").mkdir()
    with h5py.File(folder / "f" / "a.h5", "w") as file:
        file["feats"] = np.zeros(shape, np.float32)
        said = {"version": "2.5.0", "encoder": "titan", "precision": "torch.float32", "feat_type": kind}
        file.attrs.update(said)
    with pytest.raises(DataError, match=rf"f/a\.h5: STAMP's features of a whole {kind} .*give the folder that"):
        open_features("f")


def test_the_folders_of_the_scans_are_kept(folder, features):
    """One folder a slide, as TCGA's scans come; thumbnails lie beside the features."""
    for i, name in enumerate("ab"):
        stamp(folder / "uni2" / f"uuid-{9 - i}", name, features(i), ROW_UM)
        (folder / "uni2" / f"uuid-{9 - i}" / f"{name}.jpg").write_bytes(b"\xff\xd8")
    stamp(folder / "uni2" / "site" / "uuid-7", "c", features(2), ROW_UM)
    source = open_features("uni2")
    assert sorted(source.ids) == ["a", "b", "c"]
    assert source.read("c").x.tolist() == features(2).tolist()
    stamp(folder / "uni2" / "uuid-3", "a", features(2), ROW_UM)
    with pytest.raises(DataError, match=r"Slide 'a' is in uni2/uuid-3/a\.h5 and in uni2/uuid-9/a\.h5"):
        open_features("uni2")


def test_two_extractors_or_tile_sizes_in_one_cohort_are_refused(folder, features):
    stamp(folder / "f", "a", features(1), ROW_UM)
    stamp(folder / "f", "b", features(2), ROW_UM, extractor="virchow2")
    with pytest.raises(DataError, match=r"one encoder; .*a\.h5: uni2, but .*b\.h5: virchow2"):
        open_features("f")
    stamp(folder / "g", "a", features(1), ROW_UM)
    stamp(folder / "g", "b", features(2), ROW_UM, tile_size_um=512.0)
    with pytest.raises(DataError, match=r"256 um wide in .*a\.h5, but not in .*b\.h5 \(512 um\)"):
        open_features("g")
