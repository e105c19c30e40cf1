"""Folders as they are: stray, broken and foreign files, many slides, and processes that fork."""

import multiprocessing
import time
import warnings

import h5py
import numpy as np
import pytest
from foreign_files import TILING, clam, grid, trident

from milkit.data.cohort import Cohort
from milkit.data.features import open_features
from milkit.data.formats.guard_bytes import Bytes
from milkit.data.store import write_store
from milkit.errors import DataError
from milkit.execute.digest import data_digest
from milkit.task import Binary
from milkit.types import Bag

FOLDER = f"job/{TILING}/features_uni_v2"


@pytest.fixture
def job(folder, features):
    """Three slides of TRIDENT."""
    for i, name in enumerate("abc"):
        trident(folder / "job", name, features(i), grid(3))
    return folder / FOLDER


def test_other_files_are_passed_over_and_said(job):
    for name in ("._a.h5", ".DS_Store", "notes.txt", "d.h5.lock"):
        (job / name).write_bytes(b"\0\5")
    source = open_features(FOLDER)
    assert source.ids == ("a", "b", "c")
    assert source.notes[0] == f"not read in {FOLDER}: d.h5.lock, notes.txt"


def test_every_broken_file_is_named(job):
    whole = (job / "a.h5").read_bytes()
    (job / "a.h5").write_bytes(whole[: len(whole) // 2])
    (job / "b.h5").write_bytes(b"")
    (job / "d.h5").write_text("not HDF5")
    with pytest.raises(DataError) as caught:
        open_features(FOLDER)
    lines = str(caught.value).split("\n")
    assert len(lines) == 3
    assert lines[0].startswith(f"{FOLDER}/a.h5 is half-written or cut short")
    assert lines[1].startswith(f"{FOLDER}/b.h5 is an empty file")
    assert lines[2].startswith(f"{FOLDER}/d.h5 is not an HDF5 file, or a half-written one")


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_file_cut_anywhere_is_refused_when_opened_or_read(job, cut):
    whole = (job / "b.h5").read_bytes()
    (job / "b.h5").write_bytes(whole[: len(whole) * cut // 12])
    with pytest.raises(DataError, match=r"b\.h5"):
        open_features(FOLDER).read("b")


def test_damaged_values_are_an_error_that_names_the_file(job, folder, features):
    """A chunk whose bytes cannot be unpacked: found when it is read, not when the folder is opened."""
    path = job / "a.h5"
    with h5py.File(path, "a") as file:
        said, tiling = dict(file["features"].attrs), dict(file["coords"].attrs)
        del file["features"]
        data = file.create_dataset("features", data=np.ones((6, 4), np.float32), chunks=(1, 4), compression="gzip")
        data.attrs.update(said)
        del file["coords"]
        file["coords"] = grid(6)
        file["coords"].attrs.update(tiling)
        where = data.id.get_chunk_info(1)
    raw = bytearray(path.read_bytes())
    raw[where.byte_offset : where.byte_offset + where.size] = b"\xff" * where.size
    path.write_bytes(raw)
    source = open_features(FOLDER)
    with pytest.raises(DataError, match=r"a\.h5.*is damaged"):
        source.read("a")


def test_a_file_that_goes_or_changes_afterwards_is_an_error(job, folder, features):
    source = open_features(FOLDER)
    (job / "a.h5").unlink()
    trident(folder / "job", "b", features(1, 5), grid(5))
    with pytest.raises(DataError, match=r"a\.h5 is gone"):
        source.read("a")
    with pytest.raises(DataError, match=r"b\.h5 changed since it was opened: \(5, 4\) instead of \(3, 4\)"):
        source.read("b")
    with pytest.raises(DataError, match=r"No features of slide 'cc'\. Did you mean 'c'"):
        source.read("cc")


def test_slides_of_two_widths_or_tools_are_refused(job, folder, features):
    trident(folder / "job", "d", features(3, d=5), grid(3))
    with pytest.raises(DataError, match=r"one features an instance; .*a\.h5: 4, but .*d\.h5: 5"):
        open_features(FOLDER)
    clam(folder / "results", "d", features(3), grid(3)).rename(job / "d.h5")
    with pytest.raises(DataError, match=r"one layout; .*a\.h5: trident, but .*d\.h5: clam"):
        open_features(FOLDER)


def test_several_folders_are_one_cohort_that_holds_a_slide_once(job, folder, features):
    trident(folder / "other", "d", features(3), grid(3))
    source = open_features([FOLDER, f"other/{TILING}/features_uni_v2"], mpp=0.25)
    assert source.ids == ("a", "b", "c", "d")
    assert source.provenance["folders"] == [FOLDER, f"other/{TILING}/features_uni_v2"]
    trident(folder / "other", "a", features(0), grid(3))
    with pytest.raises(DataError, match=rf"Slide 'a' is in {FOLDER}/a\.h5 and in other/.*/a\.h5"):
        open_features([FOLDER, f"other/{TILING}/features_uni_v2"])
    write_store("s.h5", [Bag("s", features(9))])
    with pytest.raises(DataError, match=r"one layout; .*but s\.h5: milkit store"):
        open_features([FOLDER, "s.h5"])


def test_single_files_may_be_named(job):
    assert open_features([f"{FOLDER}/b.h5", f"{FOLDER}/a.h5"]).ids == ("b", "a")


def test_one_slide_in_two_spellings_of_the_ending_is_refused(job, folder, features):
    trident(folder / "job", "e", features(3), grid(3)).rename(job / "a.H5")
    with pytest.raises(DataError, match=r"Slide 'a' is in .*a\.H5 and in .*a\.h5"):
        open_features(FOLDER)


def test_a_folder_of_stores_is_a_cohort(folder, features):
    (folder / "stores").mkdir()
    for name in ("one", "two"):
        write_store(f"stores/{name}.h5", [Bag(name, features(1))], encoder="uni")
    source = open_features("stores")
    assert tuple(source.ids) == ("one", "two")
    for option in ({"mpp": 0.5}, {"encoder": "uni"}, {"patches": "p"}, {"unit": "um"}):
        with pytest.raises(DataError, match="is a milkit store.*leave out .*" + next(iter(option))):
            open_features("stores", **option)


@pytest.mark.parametrize(
    ("content", "attributes", "message"),
    [
        # somebody's own: patch_size may be of any level, so it is not to be taken for one that a tool writes
        (
            {"features": np.zeros((2, 3)), "coords": grid(2)},
            {"mpp": 0.5, "patch_size": 512},
            r"with attributes \['mpp', 'patch_size'\], which no tool that milkit knows writes",
        ),
        (
            {"slide1/embedding": np.zeros((2, 3))},
            {},
            r"\['slide1'\], the first of them \['embedding'\], which is no layout",
        ),
        (
            {"data/slide1/features": np.zeros((2, 3))},
            {},
            r"\['data'\], the first of them \['slide1'\], which is no layout",
        ),
        ({"x": np.zeros(3)}, {}, r"it holds \['x'\], which is no layout"),
        ({}, {}, "it is an HDF5 file that holds nothing"),
        ({"feats": np.zeros((2, 3), np.uint8)}, {}, "feats are uint8; expected float16"),
        ({"slide1/feat": np.zeros((2, 3), int), "slide1/coords": grid(2)}, {}, "feat are int64"),
        ({"features": np.zeros((2, 3), np.int64), "coords": grid(2)}, {}, "features are int64"),
        ({"features": np.zeros((2, 3, 1)), "coords": grid(2)}, {}, r"shape \(2, 3, 1\); expected \[tiles, features\]"),
    ],
)
def test_layouts_that_are_not_read_are_told_apart(folder, content, attributes, message):
    (folder / "f").mkdir()
    with h5py.File(folder / "f" / "a.h5", "w") as file:
        for name, values in content.items():
            file[name] = values
        for name, value in attributes.items():
            file["coords"].attrs[name] = value
    with pytest.raises(DataError, match=r"f/a\.h5(, 'slide1')?: .*" + message):
        open_features("f")


def test_folders_without_features_are_refused(folder):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no feature file that milkit reads \(it holds nothing\)"):
        open_features("empty")
    with pytest.raises(DataError, match="nowhere"):
        open_features("nowhere")


def test_opening_hundreds_of_slides_reads_no_features(folder):
    """Files of 4 GB each on paper (nothing of it is on disk): a reader that touched the matrices would not return."""
    (folder / "f").mkdir()
    with h5py.File(folder / "one.h5", "w") as file:
        data = file.create_dataset("features", (1_000_000, 1024), np.float32, fill_time="never")
        data[-1] = 1  # the file has its 4 GB, of which the disk holds one row
        data.attrs.update({"encoder": "uni_v2", "name": "a", "savetodir": "x"})
        xy = file.create_dataset("coords", data=np.zeros((1_000_000, 2), np.int64))
        xy.attrs.update({"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40,
                         "target_magnification": 20, "overlap": 0})  # fmt: skip
    for i in range(200):
        (folder / "f" / f"{i:04d}.h5").hardlink_to(folder / "one.h5")
    start = time.process_time()
    source = open_features("f", mpp=0.25)
    assert time.process_time() - start < 10
    assert int(source.lengths.sum()) == 200_000_000
    assert source.provenance["tile_um"] == 128.0


def test_opening_reads_no_byte_of_features(folder, features, monkeypatch):
    """Rows of 4 kB, each a chunk of its own: what passes to the HDF5 library touches none of them."""
    path = trident(folder / "job", "a", features(1, 64, 1024), grid(64))
    with h5py.File(path) as file:
        data = file["features"].id
        chunks = [data.get_chunk_info(i) for i in range(data.get_num_chunks())]
    rows = [range(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]
    passed, plain = [], Bytes.readinto

    def noted(self, buffer: memoryview) -> int:
        start = self.tell()
        got = plain(self, buffer)
        passed.append(range(start, start + got))
        return got

    monkeypatch.setattr(Bytes, "readinto", noted)
    source = open_features(FOLDER, mpp=0.25)
    assert source.provenance["tile_um"] == 128.0

    def touched():
        return [i for i, row in enumerate(rows) if any(p.start < row.stop and row.start < p.stop for p in passed)]

    assert source.lengths.tolist() == [64]
    assert len(passed) > 2
    assert touched() == []
    _ = source.sample(source.ids)  # first, middle and last row: the data are known by them
    assert touched() == [0, 32, 63]


def test_a_study_is_known_again_by_its_own_slides(job, folder, features):
    """Files that come and go beside them do not change the digest of its data; another extraction does."""
    (folder / "t.csv").write_text("slide_id,label\na,0\nb,1\n")

    def digest():
        return data_digest(Cohort("t.csv", FOLDER).load(Binary()))

    before = digest()
    trident(folder / "job", "z", features(7), grid(3))
    assert digest() == before
    trident(folder / "job", "c", features(9), grid(3))
    assert digest() == before
    trident(folder / "job", "b", features(9), grid(3))
    assert digest() != before


def test_other_features_of_the_same_shape_are_told_apart(job, folder, features):
    def sample(source):
        return source.sample(source.ids)

    before = sample(open_features(FOLDER))
    assert sample(open_features(FOLDER)) == before
    trident(folder / "job", "b", features(5), grid(3))
    assert sample(open_features(FOLDER)) != before


def _first(source, slide, queue):
    queue.put(float(source.read(slide).x[0, 0]))


def test_forked_processes_read_on_their_own(job):
    """No handle stays open, so none is shared across a fork."""
    source = open_features(FOLDER, mpp=0.25)
    source.read("a")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of any fork; the child uses NumPy only
        workers = [context.Process(target=_first, args=(source, slide, queue)) for slide in "abc"]
        for worker in workers:
            worker.start()
    assert sorted(queue.get(timeout=30) for _ in workers) == [0.0, 100.0, 200.0]
    for worker in workers:
        worker.join()


def test_the_root_of_a_tools_output_is_enough_where_there_is_no_choice(folder, features):
    trident(folder / "job", "a", features(1), grid(3))
    assert open_features("job").ids == open_features(f"job/{TILING}").ids == ("a",)
    clam(folder / "results", "b", features(2), grid(3))
    assert open_features("results").ids == ("b",)
    trident(folder / "job", "a", features(1), grid(3), encoder="conch")
    with pytest.raises(DataError, match=r"one tiling and encoder each; give one of them: .*features_conch, "):
        open_features("job")
