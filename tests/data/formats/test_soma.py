"""soma's runs: features in one folder, tiles in another, joined by name and never by a path that a file names."""

import json

import numpy as np
import pytest
from foreign_arrays import soma, soma_tiles
from foreign_files import grid

from milkit.data.features import open_features
from milkit.errors import DataError


@pytest.mark.parametrize("given", ["run", "run/tile_embeddings"])
def test_features_tiles_and_what_is_said_of_them(folder, features, given):
    """Two scanners: 512 px of 0.25 um and 500 px of 0.26 um."""
    soma(folder / "run", "a", features(1), grid(3))
    soma(folder / "run", "b", features(2, dtype=np.float16), grid(3), mpp=0.26, width=500)
    source = open_features(given)
    assert source.ids == ("a", "b")
    a, b = source.read("a"), source.read("b")
    assert a.x.tolist() == features(1).tolist()
    assert b.x.dtype == np.float16
    assert a.coords_px.tolist() == grid(3).tolist() == [[1024, 1024], [1536, 1024], [2048, 1024]]
    assert a.coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]
    assert (a.mpp, b.mpp, a.tile_um, b.tile_um) == (0.25, 0.26, 128.0, 130.0)
    expected = {"encoder": "uni2", "tile_px": 256, "tool": "soma", "layout": "soma", "requested_spacing_um": 0.5}
    assert {name: source.provenance[name] for name in expected} == expected


def test_a_path_that_leads_elsewhere_is_not_followed(folder, features):
    soma(folder / "run", "a", features(1), grid(3), tiles=folder / "elsewhere")
    source = open_features("run")
    assert source.read("a").coords_px is None
    assert source.read("a").x.tolist() == features(1).tolist()
    placed = open_features("run", patches="elsewhere")
    assert placed.read("a").coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]
    with pytest.raises(DataError, match=r"patches='run': no folder with soma's tiles"):
        open_features("run", patches="run")


def test_tiles_whose_file_has_another_name_are_found_by_the_sidecar(folder, features):
    soma(folder / "run", "a", features(1), grid(3), tiles=folder / "gone")
    archive, meta = soma_tiles(folder / "run" / "tiles", "a", grid(3), name="a-5f3c")
    sidecar = folder / "run" / "tile_embeddings" / "a.meta.json"
    held = json.loads(sidecar.read_text())
    held |= {"coordinates_npz_path": f"/cache/x/{archive.name}", "coordinates_meta_path": f"/cache/x/{meta.name}"}
    sidecar.write_text(json.dumps(held))
    assert open_features("run").read("a").coords_px.tolist() == grid(3).tolist()


def test_a_slide_without_tissue_has_a_sidecar_only(folder, features):
    soma(folder / "run", "a", features(1), grid(3))
    soma(folder / "run", "b", np.zeros((0, 4), np.float32), grid(0), feature_dim=None).unlink()
    source = open_features("run")
    assert source.ids == ("a", "b")
    assert source.lengths.tolist() == [3, 0]


def test_without_sidecars_the_arrays_stand_alone(folder, features):
    soma(folder / "run", "a", features(1), grid(3))
    (folder / "run" / "tile_embeddings" / "a.meta.json").unlink()
    source = open_features("run")
    assert source.provenance["encoder"] is None
    assert source.read("a").coords_px.tolist() == grid(3).tolist()


@pytest.mark.parametrize("kind", ["slide_embeddings", "patient_embeddings"])
def test_one_vector_a_sample_is_refused(folder, features, kind):
    soma(folder / "run", "a", features(1, 1)[0], [[0, 0]], kind=kind)
    with pytest.raises(DataError, match=r"needs one a tile: give tile_embeddings"):
        open_features("run")
    with pytest.raises(DataError, match=rf"a\.meta\.json: artifact_type is '{kind}'"):
        open_features(f"run/{kind}")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"num_tiles": 4}, r"a\.npz holds 3 where .*a\.meta\.json says num_tiles 4"),
        ({"feature_dim": 1536}, r"a\.npz holds 4 where .*a\.meta\.json says feature_dim 1536"),
        ({"tile_size_lv0": "wide"}, r"a\.meta\.json: 'tile_size_lv0' is 'wide'; expected a number above 0"),
    ],
)
def test_a_sidecar_that_says_something_else_is_refused(folder, features, said, message):
    soma(folder / "run", "a", features(1), grid(3), **said)
    with pytest.raises(DataError, match=message):
        open_features("run")


def test_tiles_of_another_run_are_refused(folder, features):
    soma(folder / "run", "a", features(1), grid(3))
    soma_tiles(folder / "run" / "tiles", "a", grid(5))
    with pytest.raises(DataError, match=r"'x' is int64 of shape \(5,\), but .*a\.npz holds 3 tiles"):
        open_features("run")


def test_two_tilings_in_one_folder_are_refused(folder, features):
    soma(folder / "run", "a", features(1), grid(3))
    soma(folder / "run", "b", features(1), grid(3))
    soma(folder / "run", "c", features(1), grid(3), requested_spacing_um=1.0)
    with pytest.raises(DataError, match=r"one requested_spacing_um; .*a\.npz: 0\.5, but .*c\.npz: 1\.0"):
        open_features("run")


def test_a_sidecar_cut_short_is_an_error(folder, features):
    soma(folder / "run", "a", features(1), grid(3))
    soma(folder / "run", "b", features(1), grid(3))
    sidecar = folder / "run" / "tile_embeddings" / "b.meta.json"
    sidecar.write_text(sidecar.read_text()[:50])
    with pytest.raises(DataError, match=r"b\.meta\.json is no JSON, or cut short"):
        open_features("run")
