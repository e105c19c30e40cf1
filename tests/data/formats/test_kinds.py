"""Folders in which several kinds of files lie, kinds that are not read, and folders that hold nothing."""

import numpy as np
import pytest
from foreign_arrays import dsmil, owkin
from foreign_files import TILING, grid, trident

from milkit.data.features import open_features
from milkit.data.formats.kind import kind_of
from milkit.errors import DataError

FOLDER = f"job/{TILING}/features_uni_v2"


def test_of_the_same_features_in_two_kinds_one_is_read_and_the_other_named(folder, features):
    path = trident(folder / "job", "a", features(1), grid(3))
    np.save(path.with_suffix(".npy"), features(2))
    (path.parent / "cohort.csv").write_text("slide_id,label\na,1\n")
    source = open_features(FOLDER)
    assert source.read("a").x.tolist() == features(1).tolist()
    assert source.notes[0] == f"not read in {FOLDER}: a.npy, cohort.csv"


def test_a_table_beside_arrays_is_left_alone(folder, features):
    (folder / "f").mkdir()
    np.save(folder / "f" / "a.npy", features(1))
    (folder / "f" / "labels.csv").write_text("slide,label\na,1\n")
    source = open_features("f")
    assert source.ids == ("a",)
    assert "not read in f: labels.csv" in source.notes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, r"f holds no feature file that milkit reads \(it holds nothing\)"),
        ("notes.md", b"# Notes\n", r"f holds no feature file that milkit reads \(it holds notes\.md\)"),
        (
            "a.mat",
            b"MATLAB 5.0 MAT-file" + b"\0" * 200,
            r"f holds no feature file that milkit reads \(it holds a\.mat\)",
        ),
        ("a.svs", b"II*\0" + b"\0" * 200, r"f holds no feature file that milkit reads \(it holds a\.svs\)"),
    ],
)
def test_folders_without_features_say_what_they_hold(folder, name, content, message):
    (folder / "f").mkdir()
    if content is not None:
        (folder / "f" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_features("f")


@pytest.mark.parametrize("name", ["a.mat", "a.svs", "a.txt"])
def test_a_file_that_is_not_read_is_refused_by_its_kind(folder, name):
    content = {"a.mat": b"MATLAB 5.0 MAT-file" + b"\0" * 200, "a.svs": b"II*\0" * 50, "a.txt": b"a,b\n1,2\n"}[name]
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=r"a\.\w+"):
        open_features(name)


def test_files_of_two_tools_are_refused_together(folder, features):
    dsmil(folder / "set", "class", "a", features(1))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    owkin(folder / "feats", "b", x, [[1, 2], [2, 2], [3, 2]])
    with pytest.raises(DataError, match=r"one layout; .*(dsmil, but .*owkin|owkin, but .*dsmil)"):
        open_features(["set", "feats"])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"1:1:0 1:2\n", "svm"),
        (b"# a comment\n\n1:bag-1:0 1:2\n", "svm"),
        (b"12:30:45 and more\n", "text"),
        (b"\x93NUMPY\x01\x00", "npy"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x00\x01", ""),
    ],
)
def test_a_kind_is_known_without_its_name(folder, content, kind):
    (folder / "file").write_bytes(content)
    assert kind_of(folder / "file") == kind
