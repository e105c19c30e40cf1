"""NumPy arrays in the place of tensors, as TRIDENT saves them: read word by word, never run."""

import pickle
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from foreign_arrays import pickled
from foreign_files import TILING, grid, trident

from milkit.data.features import open_features
from milkit.errors import DataError

FOLDER = f"job/{TILING}/features_uni_v2"


def test_tridents_arrays_are_joined_with_its_patches_without_torch(folder, features, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    for name, n in (("a", 3), ("b", 0)):
        trident(folder / "job", name, features(1, n), grid(n)).unlink()
        pickled(folder / FOLDER / f"{name}.pt", features(1, n, dtype=np.float16))
    source = open_features(FOLDER, mpp=0.25)
    bag = source.read("a")
    assert bag.x.dtype == np.float16
    assert bag.x.tolist() == features(1).tolist()
    assert bag.coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]
    assert source.lengths.tolist() == [3, 0]
    assert (source.provenance["tool"], source.provenance["tile_px"], bag.tile_um) == ("TRIDENT", 256, 128.0)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (300, 700)])
def test_every_float_order_and_size(folder, dtype, order, shape):
    x = np.asarray(np.random.default_rng(0).normal(size=shape).astype(dtype), order=order)
    pickled(folder / "f" / "a.pt", x)
    source = open_features("f")
    read = source.read("a").x
    assert read.dtype == np.dtype(dtype).newbyteorder("=")
    assert (read == x).all()
    before = source.sample(["a"])
    x[0, 0] = 9
    pickled(folder / "f" / "a.pt", x)
    assert open_features("f").sample(["a"]) != before


@pytest.mark.parity
def test_torch_writes_the_same_bytes(folder, features):
    import torch

    for x in (features(1), features(2, 0), np.asarray(features(3), order="F")):
        pickled(folder / "ours" / "a.pt", x)
        torch.save(x, folder / "a.pt")
        with zipfile.ZipFile(folder / "ours" / "a.pt") as ours, zipfile.ZipFile(folder / "a.pt") as theirs:
            assert ours.read("a/data.pkl") == theirs.read("a/data.pkl")
        assert open_features("a.pt").lengths.tolist() == [len(x)]


def test_numpy_1_called_its_module_otherwise(folder, features):
    raw = pickle.dumps(features(1), protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (folder / "f").mkdir()
    with zipfile.ZipFile(folder / "f" / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", raw)
    assert open_features("f").read("a").x.tolist() == features(1).tolist()


class Evil:
    """Would write a file, if it were unpickled."""

    def __reduce__(self):
        return open, ("evil.txt", "w")


@pytest.mark.parametrize("kind", ["objects", "subclass", "record", "text", "int64", "one vector", "another end"])
def test_arrays_of_anything_else_are_refused_and_nothing_is_run(folder, features, kind):
    x = {
        "objects": np.array([[Evil(), 1.0]], object),
        "subclass": np.ma.masked_array(features(1)),
        "record": np.zeros((3, 4), [("a", "f4")]),
        "text": np.full((3, 4), "a"),
        "int64": np.ones((3, 4), np.int64),
        "one vector": features(1)[0],
        "another end": features(1),
    }[kind]
    path = pickled(folder / "f" / "a.pt", x)
    if kind == "another end":  # the array is built, and thrown away for another object
        raw = pickle.dumps(x, protocol=2)[:-1] + b"0" + pickle.dumps(Evil(), protocol=2)[2:]
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", raw)
    with pytest.raises(DataError, match=r"a\.pt"):
        open_features("f")
    assert not (folder / "evil.txt").exists()


def test_more_or_fewer_numbers_than_the_shape_says_are_an_error(folder, features):
    path = pickled(folder / "f" / "a.pt", features(1))
    whole = path.read_bytes()
    shape = b"K\x03K\x04\x86"
    assert whole.count(shape) == 1
    for said in (b"K\x02K\x04\x86", b"K\x03K\x05\x86", b"K\xffK\xff\x86"):
        path.write_bytes(whole.replace(shape, said))
        with pytest.raises(DataError, match=r"a\.pt is damaged or half-written \((more|fewer) numbers"):
            open_features("f").read("a")


@pytest.mark.parametrize("cut", range(1, 10))
def test_an_array_cut_anywhere_is_refused(folder, features, cut, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = pickled(folder / "f" / "a.pt", features(1, 50))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * cut // 10])
    with pytest.raises(DataError, match=r"a\.pt"):
        open_features("f").read("a")


def test_reading_takes_little_more_room_than_the_array(folder):
    x = np.random.default_rng(0).normal(size=(1000, 1003)).astype(np.float32)
    pickled(folder / "f" / "a.pt", x)
    tracemalloc.start()
    open_features("f").read("a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * x.nbytes + 2**21
