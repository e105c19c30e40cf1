"""Other tools' layouts: to the letter, read back to the same values, never outside the folder."""

import h5py
import numpy as np
import pytest
from foreign_files import grid
from foreign_hdf5 import acmil

from milkit.bag import Bag
from milkit.data.features import open_features
from milkit.data.pack import Asked, pack
from milkit.data.pack.back import write_back
from milkit.data.pack.back.write import Tiling
from milkit.data.store import write_store
from milkit.errors import DataError
from tests.data.pack.conftest import LENGTHS, names, values


@pytest.fixture
def store(job):
    pack(job, "s.h5", mpp=0.25)
    return "s.h5"


def same(source, um=True, px=True):
    """Whether a source holds what the job held, in float16."""
    assert source.ids == ("a", "c", "d", "e")
    for number, (slide, n) in enumerate(LENGTHS.items()):
        if n:
            bag = source.read(slide)
            np.testing.assert_array_equal(bag.x, values(number, n).astype(np.float16))
            if um:
                np.testing.assert_array_equal(bag.coords_um, grid(n) * 0.25)
            if px:
                np.testing.assert_array_equal(bag.coords_px, grid(n))
    return source


def test_trident(store):
    report = write_back(Asked((store,)), "trident", "t")
    assert (str(report.features), report.slides) == ("t/20x_256px_0px_overlap/features_uni_v2", 4)
    source = same(open_features(report.features, mpp=0.25))
    assert (source.read("a").tile_um, source.provenance["encoder"]) == (128.0, "uni_v2")
    with h5py.File("t/20x_256px_0px_overlap/features_uni_v2/c.h5") as file:
        assert (file["features"].chunks, file["features"].maxshape, file["features"].dtype) == ((1, 4), (None, 4), "f2")
        assert dict(file["features"].attrs) == {"encoder": "uni_v2", "name": "c", "savetodir": "features_uni_v2"}
        assert (file["coords"].dtype, file["coords"].chunks) == (np.int64, (1, 2))
        on_coords = dict(file["coords"].attrs)
    assert on_coords == {
        "patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20,
        "overlap": 0, "name": "c", "savetodir": "20x_256px_0px_overlap", "level0_width": "None",
        "level0_height": "None",
    }  # fmt: skip
    with h5py.File("t/20x_256px_0px_overlap/patches/c_patches.h5") as file:
        assert dict(file["coords"].attrs) == on_coords
        np.testing.assert_array_equal(file["coords"], grid(5))


def test_clam(store):
    report = write_back(Asked((store,)), "clam", "c")
    source = same(open_features(report.features, mpp=0.25, encoder="uni_v2"))
    assert source.read("a").tile_um == 128.0
    with h5py.File("c/h5_files/c.h5") as file:
        assert sorted(file) == ["coords", "features"]
        assert (file["features"].chunks, file["features"].maxshape, file["features"].dtype) == (
            (32, 4),
            (None, 4),
            "f4",
        )
        assert not len(file["features"].attrs)
    with h5py.File("c/patches/c.h5") as file:
        said = dict(file["coords"].attrs)
    assert (said["patch_size"], said["patch_level"], said["downsample"].tolist()) == (512, 0, [1.0, 1.0])


def test_stamp(store):
    report = write_back(Asked((store,)), "stamp", "st")
    source = same(open_features(report.features), px=False)
    facts = source.provenance
    assert (facts["encoder"], facts["mpp"], facts["tile_um"], facts["tile_px"]) == ("uni_v2", 0.5, 128.0, 256)
    with h5py.File("st/c.h5") as file:
        assert (file["feats"].dtype, file["coords"].dtype) == (np.float16, np.float32)
        assert (file.attrs["unit"], file.attrs["feat_type"], file.attrs["tile_size_um"]) == ("um", "tile", 128.0)


def test_torchmil(store):
    report = write_back(Asked((store,)), "torchmil", "tm")
    assert any("--unit px" in note for note in report.notes)
    same(open_features("tm", unit="px", mpp=0.25))
    x = np.load("tm/features/c.npy", allow_pickle=False)
    assert (x.dtype, x.shape) == (np.float32, (5, 4))
    np.testing.assert_array_equal(np.load("tm/coords/c.npy", allow_pickle=False), grid(5))


def test_labels_that_came_in_the_files_go_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    acmil(tmp_path / "acmil.h5", {f"s{i}": (values(i, 2), grid(2)) for i in range(2)}, labels={"s0": 1, "s1": 0})
    pack("acmil.h5", "s.h5")
    write_back(Asked(("s.h5",)), "torchmil", "tm")
    assert [np.load(f"tm/labels/s{i}.npy", allow_pickle=False).tolist() for i in (0, 1)] == [[1], [0]]


@pytest.mark.parity
def test_the_tools_themselves_read_it(store):
    """Torchmil's own dataset, and torch as CLAM's training calls it."""
    torch = pytest.importorskip("torch")
    datasets = pytest.importorskip("torchmil.datasets")
    write_back(Asked((store,)), "torchmil", "tm")
    write_back(Asked((store,)), "clam", "c")
    theirs = datasets.ProcessedMILDataset(
        "tm/features", None, coords_path="tm/coords", bag_keys=["X", "coords"], verbose=False
    )
    assert sorted(theirs.get_bag_names()) == ["a", "c", "d", "e"]
    for name, bag in zip(theirs.get_bag_names(), theirs, strict=True):
        number, n = list(LENGTHS).index(name), LENGTHS[name]
        x = values(number, n).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(bag["X"].numpy(), x)
        np.testing.assert_array_equal(np.asarray(bag["coords"]), grid(n))
        np.testing.assert_array_equal(torch.load(f"c/pt_files/{name}.pt", weights_only=True).numpy(), x)


def test_what_the_layout_holds_and_the_features_do_not_is_asked_for(tmp_path, monkeypatch):
    """A store in micrometres that names no encoder; every fact is supplied by the option that the message names."""
    monkeypatch.chdir(tmp_path)
    bag = Bag("a", values(0, 3).astype(np.float16), (grid(3) * 0.25).astype(np.float32))
    write_store("s.h5", [bag], tile_um=128.0)
    asked, full = Asked(("s.h5",)), Asked(("s.h5",), encoder="uni")
    for one, to, tiling, option in (
        (asked, "stamp", Tiling(tile_px=256), "--encoder"),
        (full, "stamp", Tiling(), "--tile-px"),
        (full, "trident", Tiling(tile_px=256), "--magnification"),
        (full, "trident", Tiling(tile_px=256, magnification=20.0), "--overlap"),
        (full, "trident", Tiling(tile_px=256, magnification=20.0, overlap=0), "--mpp"),
        (full, "clam", Tiling(), "--mpp"),
    ):
        with pytest.raises(DataError, match=option):
            write_back(one, to, "out", tiling)
    assert names(tmp_path) == ["s.h5"]
    write_back(full, "stamp", "out", Tiling(tile_px=256))
    np.testing.assert_array_equal(open_features("out").read("a").coords_um, bag.coords_um)


@pytest.mark.parametrize("name", ["../x", "a/b", "/abs", "..", ".hidden", "a\\b", "x" * 250])
@pytest.mark.parametrize("to", ["trident", "torchmil"])
def test_no_id_leads_out_of_the_folder(tmp_path, monkeypatch, name, to):
    monkeypatch.chdir(tmp_path)
    write_store("s.h5", [Bag("good", values(0, 1)), Bag(name, values(0, 1))])
    with pytest.raises(DataError, match=r"[Rr]ename"):
        write_back(Asked(("s.h5",)), to, "out")
    assert names(tmp_path) == ["s.h5"]


def test_an_encoder_with_slashes_names_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bag = Bag("a", values(0, 2), None, grid(2).astype(np.int64), 128.0, 0.25)
    write_store("s.h5", [bag], encoder="hf-hub:lab/UNI2", tile_px=256)
    report = write_back(Asked(("s.h5",)), "trident", "t", Tiling(20.0, 0))
    assert report.features.name == "features_hf-hub_lab_UNI2"
    assert open_features(report.features).provenance["encoder"] == "hf-hub:lab/UNI2"


def test_a_folder_that_holds_something_is_left_alone(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="not an empty folder"):
        write_back(Asked((store,)), "stamp", "out")
    assert names(tmp_path / "out") == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    write_back(Asked((store,)), "stamp", "empty")
    assert names(tmp_path / "empty") == ["a.h5", "c.h5", "d.h5", "e.h5"]
    with pytest.raises(DataError, match="Did you mean"):
        write_back(Asked((store,)), "tridnet", "x")
