"""MATLAB's files: values against SciPy's writer, the layouts of MIL sets, and files that are damaged or hostile."""

import struct
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from milkit.data.datasets import BagFile, assemble
from milkit.data.datasets.mat5 import Fields, Unread, read_mat5
from milkit.errors import DataError

X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.5], [7.0, 8.0], [0.0, 1.5]])
BAGS = np.array([[2], [2], [1], [1], [3]])
LABELS = np.array([[1], [1], [-1], [-1], [1]])


def cells(*arrays):
    found = np.empty((len(arrays), 1), object)
    for i, array in enumerate(arrays):
        found[i, 0] = array
    return found


@pytest.mark.parametrize("compressed", [False, True])
def test_values_are_those_that_scipy_wrote(tmp_path, compressed):
    rng = np.random.default_rng(0)
    written = {
        "f8": rng.normal(size=(3, 4)),
        "f4": rng.normal(size=(2, 5)).astype(np.float32),
        "cube": rng.normal(size=(2, 3, 4)),
        **{
            kind: rng.integers(0, 100, (4, 3)).astype(kind) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
        },
        "yes": np.array([[True, False, True]]),
        "empty": np.zeros((0, 0)),
    }
    sparse = scipy.sparse.random(20, 30, 0.1, format="csc", rng=rng)
    nested = {"a": 1.5, "b": "hello", "c": {"d": np.eye(2)}, "e": cells(np.ones((2, 2)), "x")}
    more = {"sparse": sparse, "nested": nested, "text": np.array(["ab", "cde"])}
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {**written, **more}, do_compression=compressed)
    found = read_mat5(path)
    for name, array in written.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found["sparse"], sparse.toarray())
    assert found["text"] == ["ab", "cde"]
    assert isinstance(found["nested"], Fields)
    assert found["nested"].values["a"].tolist() == [[1.5]]
    assert found["nested"].values["b"] == ["hello"]
    assert found["nested"].values["c"].values["d"].tolist() == [[1, 0], [0, 1]]
    assert found["nested"].values["e"][0].tolist() == [[1, 1], [1, 1]]
    assert found["nested"].values["e"][1] == ["x"]


def check(path):
    """Bags 2, 1 and 3, in the order of their first instances."""
    bags = BagFile(str(path)).read()
    assert bags.source.ids == ("2", "1", "3")
    assert bags.labels.tolist() == [1, 0, 1]
    assert bags.bag(0).x.tolist() == [[1, 2], [3, 4]]
    assert bags.bag(1).x.tolist() == [[5, 6.5], [7, 8]]
    assert bags.bag(2).x.tolist() == [[0, 1.5]]
    return bags


@pytest.mark.parametrize(
    "variables",
    [
        {"data": X, "bag_ids": BAGS, "labels": LABELS},
        {"Data": X, "bags": BAGS.T, "labels": LABELS.T},
        {"features": scipy.sparse.csc_matrix(X), "bag_ids": BAGS, "labels": scipy.sparse.csc_matrix(LABELS)},
        {"data": X, "bag_ids": BAGS, "labels": np.array([[-1, 1, 1]])},  # one a bag: bags 1, 2, 3
        {"D": {"X": X, "XtB": BAGS, "Y": LABELS, "B": np.array([[1], [2], [3]])}},
        {"data": X.T[:, :], "bag_ids": BAGS, "labels": LABELS},
    ],
    ids=["usual", "other names", "sparse", "labels of bags", "struct", "columns"],
)
def test_the_usual_layouts(tmp_path, variables):
    scipy.io.savemat(tmp_path / "x.mat", variables)
    bags = check(tmp_path / "x.mat")
    assert ("transposed" in str(bags.notes)) == (
        variables.get("data") is not None and variables["data"].shape == (2, 5)
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_one_cell_a_bag(tmp_path, transposed):
    parts = [X[2:4], X[:2], X[4:]]
    parts = [part.T for part in parts] if transposed else parts
    scipy.io.savemat(tmp_path / "x.mat", {"bags": cells(*parts), "labels": np.array([[0, 1, 1]])})
    bags = BagFile(str(tmp_path / "x.mat")).read()
    assert bags.labels.tolist() == [0, 1, 1]
    assert bags.bag(0).x.tolist() == X[2:4].tolist()
    assert bags.bag(2).x.tolist() == X[4:].tolist()
    assert ("transposed" in str(bags.notes)) == transposed


def test_a_dataset_of_prtools(tmp_path):
    """MIL toolbox: nlab counts from 1 into lablist, bags are in ident.milbag; here as a struct of the same fields."""
    nlab = np.where(LABELS > 0, 2, 1)
    ident = {"ident": np.arange(5)[:, None], "milbag": BAGS}
    lablist = cells(np.array(["negative", "positive"]))
    scipy.io.savemat(tmp_path / "x.mat", {"x": {"data": X, "nlab": nlab, "lablist": lablist, "ident": ident}})
    assert check(tmp_path / "x.mat").classes == ("negative", "positive")


def test_an_object_of_an_old_class_is_a_struct_with_a_name(tmp_path):
    inner = scipy.io.matlab.MatlabObject(
        np.array([[(X, LABELS + 2, BAGS)]], [(n, "O") for n in ("data", "y", "milbag")])
    )
    inner.classname = "prdataset"
    scipy.io.savemat(tmp_path / "x.mat", {"a": inner})
    assert read_mat5(tmp_path / "x.mat")["a"].of_class == "prdataset"
    check(tmp_path / "x.mat")


def test_matlab_73_is_hdf5_and_transposed(tmp_path):
    path = tmp_path / "x.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in (("data", X), ("bag_ids", BAGS.astype(float)), ("labels", LABELS.astype(float))):
            file[name] = array.T
            file[name].attrs["MATLAB_class"] = np.bytes_(b"double")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    check(path)
    with h5py.File(path, "r+") as file:
        del file["data"], file["bag_ids"]
        refs = file.create_group("#refs#")
        parts = [X[2:4], X[:2], X[4:]]
        found = np.empty((1, 3), h5py.ref_dtype)
        for i, part in enumerate(parts):
            refs[f"c{i}"] = part.T
            found[0, i] = refs[f"c{i}"].ref
        file["bags"] = found
        file["bags"].attrs["MATLAB_class"] = np.bytes_(b"cell")
        del file["labels"]
        file["labels"] = np.array([[0.0], [1.0], [1.0]])
    bags = BagFile(str(path)).read()
    assert bags.labels.tolist() == [0, 1, 1]
    assert bags.bag(1).x.tolist() == X[:2].tolist()


def test_an_object_of_matlabs_newer_classes_is_refused_with_the_way_to_save_it(tmp_path):
    flags = struct.pack("<IIII", 6, 8, 17, 0)
    names = b"".join(struct.pack("<HH4s", 1, 1, letter + b"\0\0\0") for letter in (b"D", b"x"))
    body = flags + names
    head = b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + b"\x00\x01IM"
    (tmp_path / "x.mat").write_bytes(head + struct.pack("<II", 14, len(body)) + body)
    assert isinstance(read_mat5(tmp_path / "x.mat")["D"], Unread)
    with pytest.raises(DataError, match=r"'D' is an object of MATLAB.*save\('bags.mat'"):
        BagFile(str(tmp_path / "x.mat")).read()


def test_what_fits_nothing_is_refused(tmp_path):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"data": X, "bag_ids": BAGS})
    with pytest.raises(DataError, match=r"holds \['bag_ids', 'data'\], but no bags that milkit finds"):
        BagFile(str(path)).read()
    scipy.io.savemat(path, {"data": X, "bag_ids": BAGS, "labels": np.ones((1, 4))})
    with pytest.raises(DataError, match="4 labels for 5 instances of 3 bags"):
        BagFile(str(path)).read()
    scipy.io.savemat(path, {"data": np.c_[X, LABELS], "bag_ids": BAGS, "labels": LABELS})
    with pytest.raises(DataError, match="feature 3 of 3 is the label"):
        BagFile(str(path)).read()


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_damage_never_ends_in_a_crash(tmp_path, compressed):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"data": X, "bags": cells(X, X), "s": {"a": X}, "labels": LABELS}, do_compression=compressed)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            BagFile(str(path)).read()
    refused = 0
    for _ in range(400):
        broken = bytearray(whole)
        for place in rng.integers(128, len(whole), 3):
            broken[place] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        try:
            read_mat5(path)
        except DataError:
            refused += 1
    assert refused > 100


def test_claims_and_bombs_are_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "ROOM", 1 << 20)
    head = b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + b"\x00\x01IM"
    path = tmp_path / "x.mat"
    path.write_bytes(head + struct.pack("<II", 14, 0xFFFFFFF0) + bytes(64))
    with pytest.raises(DataError, match="claims 4294967280 bytes, 64 are left"):
        read_mat5(path)
    bomb = zlib.compress(bytes(16 << 20), 9)  # 16 MiB in 16 KB
    path.write_bytes(head + struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(DataError, match="grows beyond"):
        read_mat5(path)
    shape = struct.pack("<IIii", 5, 8, 1 << 30, 1 << 30)
    body = (
        struct.pack("<IIII", 6, 8, 6, 0)
        + shape
        + struct.pack("<HH4s", 1, 1, b"x\0\0\0")
        + struct.pack("<IId", 9, 8, 1.0)
    )
    path.write_bytes(head + struct.pack("<II", 14, len(body)) + body)
    with pytest.raises(DataError, match="with 1 values"):
        read_mat5(path)
