"""Plain arrays, and what a header may claim."""

import pickle
import struct
import tracemalloc
import warnings

import ml_dtypes
import numpy as np
import pytest

from milkit.data.features import open_features
from milkit.errors import DataError


@pytest.fixture
def plain(folder):
    (folder / "f").mkdir()
    return folder / "f"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", ml_dtypes.bfloat16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_and_order_of_bytes(plain, features, dtype, order):
    x = features(1).astype(dtype)
    np.save(plain / "a.npy", np.asarray(x, order=order))
    source = open_features("f")
    read = source.read("a").x
    assert read.dtype == np.dtype(dtype).newbyteorder("=")
    assert read.astype(np.float32).tolist() == x.astype(np.float32).tolist()
    assert source.lengths.tolist() == [3]
    assert source.read("a").coords_um is None
    assert not source.needs_mpp


def test_a_slide_without_tissue_is_a_length_of_0(plain, features):
    np.save(plain / "a.npy", features(1))
    np.save(plain / "b.npy", features(1, 0))
    assert open_features("f").lengths.tolist() == [3, 0]


def test_an_archive_with_features_and_places(plain, features):
    np.savez_compressed(plain / "a.npz", features=features(1), coords=np.array([[0, 0], [256, 0], [0, 256]]))
    np.savez(plain / "b.npz", features(2))
    source = open_features("f", unit="px", mpp=0.5)
    assert source.read("a").coords_um.tolist() == [[0, 0], [128, 0], [0, 128]]
    assert source.read("b").x.tolist() == features(2).tolist()
    assert source.read("b").coords_um is None


def test_an_archive_in_which_features_cannot_be_told_is_refused(plain, features):
    np.savez(plain / "a.npz", left=features(1), right=features(2))
    with pytest.raises(DataError, match=r"a\.npz: it holds \['left', 'right'\], in which the features cannot be told"):
        open_features("f")


def claim(shape, descr="<f4", held=b"\0" * 64):
    """A file of version 1 that claims a shape, whatever it holds."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + held


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (claim((10_000_000, 1024)), r"claims 10000000x1024 float32, 40,960,000,000 bytes, but holds 64"),
        (claim((2**62, 2**62)), r"but holds 64: it is half-written or damaged"),
        (claim((4, 4), "|O"), r"holds Python objects, which is a pickle"),
        (claim((4, 4), [("a", "<f4")]), r"expected a plain array"),
        (claim((-4, 4)), r"expected a plain array"),
        (claim((2, 4), "<i8"), r"features are int64; expected float16, bfloat16, float32 or float64"),
        (claim((16,)), r"one vector for the whole slide"),
        (claim((2, 2, 2)), r"shape \(2, 2, 2\); expected \[tiles, features\]"),
        (claim((4, 0)), r"expected \[tiles, features\]"),
        (claim((4, "4")), r"is no \.npy file, or a damaged one"),
        (claim((4, 4))[:40], r"is no \.npy file, or a damaged one"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 100, r"is no \.npy file, or a damaged one"),
    ],
)
def test_what_is_no_matrix_or_claims_too_much_is_refused(plain, raw, message):
    (plain / "a.npy").write_bytes(raw)
    with pytest.raises(DataError, match=r"f/a\.npy.*" + message):
        open_features("f")


def test_a_file_cut_after_it_was_opened_is_an_error(plain, features):
    np.save(plain / "a.npy", features(1, 100))
    source = open_features("f")
    whole = (plain / "a.npy").read_bytes()
    (plain / "a.npy").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"a\.npy claims 100x4 float32, 1,600 bytes, but holds 1,599"):
        source.read("a")


def test_an_archive_that_grows_without_bound_is_refused(plain):
    """80 MB of zeros in 80 kB: features do not shrink like that."""
    np.savez_compressed(plain / "a.npz", features=np.zeros((20_000, 1024), np.float32))
    with pytest.raises(DataError, match=r"'features' claims 81,920,128 bytes in a file of"):
        open_features("f")


@pytest.mark.parametrize("cut", range(1, 8))
def test_an_archive_cut_anywhere_is_refused(plain, features, cut):
    np.savez(plain / "a.npz", features=features(1, 50))
    whole = (plain / "a.npz").read_bytes()
    (plain / "a.npz").write_bytes(whole[: len(whole) * cut // 8])
    with pytest.raises(DataError, match=r"a\.npz"):
        open_features("f").read("a")


@pytest.mark.parametrize("name", ["mDATA_train.pkl", "mDATA_train.npy"])
def test_pickles_are_refused_with_a_way_out(plain, name):
    """As pickle.dumps({'slide': []}, protocol=4) writes it, under any name."""
    (plain / name).write_bytes(b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x05slide\x94]\x94s.")
    for given in ("f", f"f/{name}"):
        with pytest.raises(DataError, match=r"run any code.*DTFD-MIL's mDATA_.*docs/formats\.md, Pickles"):
            open_features(given)


def test_the_recipe_for_pickles_does_what_it_says(folder, features, root):
    """The lines of docs/formats.md, run on a file such as DTFD-MIL's."""
    held = {"s-1": [{"feature": row, "file_name": "1_2.jpg"} for row in features(1)]}
    (folder / "mDATA_train.pkl").write_bytes(pickle.dumps(held))
    page = (root / "docs" / "formats.md").read_text()
    recipe = page.partition("## Pickles")[2].partition("```python\n")[2].partition("```")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        exec(recipe, {})
    assert open_features("features").read("s-1").x.tolist() == features(1).tolist()


@pytest.mark.parametrize(
    ("far", "message"), [(1e300, r"reach 1e\+300, beyond any slide"), (np.inf, "hold NaN or infin")]
)
def test_positions_beyond_any_slide_are_refused(plain, features, far, message):
    np.savez(plain / "a.npz", features=features(1), coords=np.array([[0, 0], [far, 2], [3, 4]]))
    for how in ({"unit": "px", "mpp": 0.5}, {"unit": "um"}, {"unit": "grid", "tile_um": 128.0}):
        with pytest.raises(DataError, match=r"a\.npz: positions of slide 'a' " + message):
            open_features("f", **how).read("a")


@pytest.mark.parametrize("kind", ["npy", "npz", "owkin"])
def test_reading_takes_little_more_room_than_the_array(folder, kind):
    """4 MB of features: the copy that is returned, finiteness, and a megabyte of slack."""
    x = np.random.default_rng(0).normal(size=(1000, 1003)).astype(np.float32)
    (folder / "f" / "a").mkdir(parents=True)
    if kind == "owkin":
        x[:, :3] = np.stack([np.full(1000, 16), np.arange(1000), np.arange(1000)], 1)
        np.save(folder / "f" / "a" / "features.npy", x)
    elif kind == "npz":
        np.savez(folder / "f" / "a.npz", features=x)
    else:
        np.save(folder / "f" / "a.npy", x)
    source = open_features("f")
    tracemalloc.start()
    source.read("a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * x.nbytes + 2**20
