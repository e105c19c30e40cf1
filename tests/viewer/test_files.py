"""Which file a slide is, and which files it may not be."""

import json

import h5py
import numpy as np
import pytest

from milkit.data.store import write_store
from milkit.errors import DataError
from milkit.types import Bag
from milkit.viewer.files import find_files, stores_of


def store(path, slides):
    """A store of bags whose dataset `slides` is what is given."""
    write_store(path, [Bag(name, np.ones((2, 3), np.float32)) for name in slides])
    with h5py.File(path, "r+") as file:
        file.create_dataset("slides", data=list(slides.values()), dtype=h5py.string_dtype("utf-8"))
    return path


def test_a_store_names_its_files(tmp_path):
    here = tmp_path / "a b ü.svs"
    here.write_bytes(b"x")
    facts = {"slide": str(here), "size_px": [30, 20], "mpp": 0.25}
    path = store(tmp_path / "s.h5", {"a": json.dumps(facts), "b": json.dumps({"slide": str(tmp_path / "gone.svs")})})
    found = find_files(["a", "b", "c"], [path], None, None)
    assert (found["a"].path, found["a"].mpp, found["a"].size_px) == (here.resolve(), 0.25, (30, 20))
    assert found["b"].path is None
    assert "gone.svs; give" in found["b"].reason
    assert "does not say of which file" in found["c"].reason
    assert "no store that names slide files" in find_files(["a"], [], None, None)["a"].reason
    assert find_files(["a"], [path], None, 0.5)["a"].mpp == 0.5


def test_a_folder_is_searched_by_name(tmp_path):
    folder = tmp_path / "slides"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.svs", "deep/b.ome.tif", "c.png", "deep/c.svs", "d.txt"):
        (folder / name).write_bytes(b"x")
    found = find_files(["a", "b", "c", "d", "a.svs", "../slides/a", "/etc/passwd"], [], folder, None)
    assert found["a"].path == found["a.svs"].path == (folder / "a.svs").resolve()
    assert found["b"].path == (folder / "deep" / "b.ome.tif").resolve()
    assert "2 files are named 'c'" in found["c"].reason
    for name in ("d", "../slides/a", "/etc/passwd"):
        assert found[name].path is None
    with pytest.raises(DataError, match="is no folder"):
        find_files(["a"], [], tmp_path / "none", None)


def test_links_out_of_the_folder_are_refused(tmp_path):
    folder, outside = tmp_path / "slides", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.svs").write_bytes(b"x")
    (folder / "real.svs").write_bytes(b"x")
    (folder / "out.svs").symlink_to(outside / "secret.svs")
    (folder / "in.svs").symlink_to("real.svs")
    (folder / "linked").symlink_to(outside)
    (folder / "broken.svs").symlink_to(folder / "nothing.svs")
    names = ["out", "in", "secret", "broken"]
    found = find_files(names, [], folder, None)
    assert "link out of" in found["out"].reason
    assert found["in"].path == (folder / "real.svs").resolve()
    assert found["secret"].path is None
    assert found["broken"].path is None
    # the same by a store
    facts = {name: json.dumps({"slide": str(folder / f"{name}.svs")}) for name in ("out", "in")}
    found = find_files(names[:2], [store(tmp_path / "s.h5", facts)], None, None)
    assert "link into another folder" in found["out"].reason
    assert found["in"].path == (folder / "real.svs").resolve()
    # a folder that is itself reached by a link is as good as any
    (tmp_path / "also").symlink_to(folder)
    assert find_files(["real"], [], tmp_path / "also", None)["real"].path == (folder / "real.svs").resolve()


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", "{}", '{"slide": 3}', '{"slide": "a", "mpp": "x"}', '{"slide": "a", "size_px": [1]}']
)
def test_a_store_that_is_damaged_is_said(tmp_path, line):
    with pytest.raises(DataError, match=r"s\.h5"):
        find_files(["a"], [store(tmp_path / "s.h5", {"a": line})], None, None)


def test_stores_of_a_run(tmp_path):
    one = store(tmp_path / "one.h5", {"a": "{}"})
    assert stores_of((str(one), str(tmp_path / "gone.h5")), None) == (one,)
    assert stores_of((str(tmp_path),), None) == (one,)
    assert stores_of((), one) == (one,)
    with pytest.raises(DataError, match="--store"):
        stores_of((), tmp_path / "gone.h5")
