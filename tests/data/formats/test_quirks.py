"""HDF5 as writers leave it: order of bytes, texts as bytes, values as arrays; and files without features."""

import h5py
import numpy as np
import pytest
from foreign_files import TILING, clam, grid, trident
from foreign_hdf5 import clam_images, mussel, stamp

from milkit.data.features import open_features
from milkit.data.formats.header import opened
from milkit.data.formats.not_features import not_features
from milkit.errors import DataError

FOLDER = f"job/{TILING}/features_uni_v2"


def rewrite(path, values):
    """The features of a file in another dtype, with the attributes they had."""
    with h5py.File(path, "a") as file:
        said = dict(file["features"].attrs)
        del file["features"]
        file["features"] = values
        file["features"].attrs.update(said)


@pytest.mark.parametrize("dtype", [">f4", ">f2", ">f8", "<f8", "<f4", "<f2"])
def test_floats_of_any_order_of_bytes_are_read(folder, features, dtype):
    path = trident(folder / "job", "a", features(1), grid(3))
    rewrite(path, features(1).astype(dtype))
    x = open_features(FOLDER).read("a").x
    assert x.tolist() == features(1).tolist()
    assert x.dtype.isnative
    assert x.dtype.itemsize == np.dtype(dtype).itemsize


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int16, bool, "S4", np.complex64])
def test_what_is_no_float_is_refused(folder, features, dtype):
    path = trident(folder / "job", "a", features(1), grid(3))
    rewrite(path, np.ones((3, 4)).astype(dtype))
    with pytest.raises(DataError, match=r"a\.h5: features are .*expected float16, bfloat16 or float32"):
        open_features(FOLDER)


@pytest.mark.parametrize(
    "value",
    [np.bytes_(b"uni_v2"), np.array(["uni_v2"], object), np.array([b"uni_v2"]), np.array("uni_v2", object), "uni_v2"],
)
def test_texts_as_bytes_and_as_arrays_of_one(folder, features, value):
    path = trident(folder / "job", "a", features(1), grid(3))
    with h5py.File(path, "a") as file:
        file["features"].attrs["encoder"] = value
    assert open_features(FOLDER).provenance["encoder"] == "uni_v2"


@pytest.mark.parametrize("value", [np.array([512]), np.float32(512), np.array([[512.0]]), ">i8", "512"])
def test_numbers_as_arrays_of_one(folder, features, value):
    value = np.array(512, value) if value == ">i8" else value
    trident(folder / "job", "a", features(1), grid(3), patch_size_level0=value)
    source = open_features(FOLDER, mpp=0.25)
    assert source.provenance["tile_um"] == 128.0
    assert source.read("a").tile_um == 128.0


def test_texts_of_json_do_no_harm(folder, features):
    trident(folder / "job", "a", features(1), grid(3), note={"a": [1, 2]})
    assert open_features(FOLDER).ids == ("a",)


@pytest.mark.parametrize("name", ["features", "coords"])
def test_a_group_where_a_dataset_should_be_is_refused(folder, features, name):
    path = trident(folder / "job", "a", features(1), grid(3))
    with h5py.File(path, "a") as file:
        del file[name]
        file[f"{name}/inside"] = features(1)
    with pytest.raises(DataError, match=r"features_uni_v2/a\.h5"):
        open_features(FOLDER).read("a")


@pytest.mark.parametrize("attribute", ["tile_size_um", "extractor", "unit"])
def test_an_empty_attribute_is_no_fact(folder, features, attribute):
    """What h5py writes for `h5py.Empty`: there, and without a value."""
    stamp(folder / "f", "a", features(1), grid(3), **{attribute: h5py.Empty("f4")})
    facts = open_features("f").provenance
    assert facts["encoder" if attribute == "extractor" else "tile_um"] in (None, 256.0)


def test_files_that_hold_no_features_say_what_to_give(folder, features):
    trident(folder / "job", "a", features(1), grid(3))
    clam(folder / "results", "a", features(1), grid(3))
    clam_images(folder / "old", "a", grid(3))
    mussel(folder / "m", "a", features(1), grid(3), rename="a.patch")
    with h5py.File(folder / "m" / "a.patch.h5", "a") as file:
        del file["features"]
    expected = {
        f"job/{TILING}/patches/a_patches.h5": r"tile positions but no features \(a \*patches\* file\) of "
        r"TRIDENT, 3 tiles; give the folder features_<encoder> beside",
        "results/patches/a.h5": r"tile positions but no features .* of CLAM, 3 tiles; give .*\(h5_files\)",
        "old/a.h5": r"images of tiles, not features of CLAM, 3 tiles; have its extract_features\.py",
        "m/a.patch.h5": r"tile positions but no features .* of mussel, 3 tiles; give the folder of the features",
    }
    for path, message in expected.items():
        with pytest.raises(DataError, match=rf"{path}: it holds {message}"):
            open_features(path)
        with opened(folder / path) as file:
            found = not_features(file)
        assert (found.kind, found.count) == ("images" if path.startswith("old") else "patches", 3)


def test_features_are_not_taken_for_something_else(folder, features):
    path = trident(folder / "job", "a", features(1), grid(3))
    with opened(path) as file:
        assert not_features(file) is None
