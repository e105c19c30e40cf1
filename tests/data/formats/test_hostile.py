"""Files made to do harm: each is refused in words, nothing outside is read, and nothing is changed."""

import hashlib
import os
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from foreign_files import TILING, grid, trident

from milkit.bag import Bag
from milkit.data.bags import file_name_of
from milkit.data.features import open_features
from milkit.data.formats.guard_dataset import ROOM
from milkit.data.formats.guard_hdf5 import opened
from milkit.data.store import open_store, write_store
from milkit.data.table import read_cohort
from milkit.errors import DataError

FOLDER = f"job/{TILING}/features_uni_v2"
OUTSIDE = 4711.25
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def slide(folder, features):
    """A slide of TRIDENT, beside a folder with features that are none of its business."""
    (folder / "outside").mkdir()
    with h5py.File(folder / "outside" / "other.h5", "w") as file:
        file["features"] = np.full((3, 4), OUTSIDE, np.float32)
    np.full(12, OUTSIDE, np.float32).tofile(folder / "outside" / "other.bin")
    return trident(folder / "job", "a", features(1), grid(3))


def replaced(path, name, make):
    """Another member of the same name, with the attributes that it had."""
    with h5py.File(path, "r+") as file:
        said = dict(file[name].attrs)
        del file[name]
        make(file, name)
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            file[name].attrs.update(said)


def external_link(file, name):
    file[name] = h5py.ExternalLink("../../../outside/other.h5", "features")


def soft_link(file, name):
    file["elsewhere"] = np.ones((3, 4), np.float32)
    file[name] = h5py.SoftLink("/elsewhere")


def external_storage(file, name):
    file.create_dataset(name, (3, 4), "f4", external=[("../../../outside/other.bin", 0, 48)])


def virtual(file, name):
    layout = h5py.VirtualLayout((3, 4), np.float32)
    layout[:] = h5py.VirtualSource("../../../outside/other.h5", "features", (3, 4))
    file.create_virtual_dataset(name, layout)


def claim(file, name):
    file.create_dataset(name, (10_000_000, 1024), "f4")


def claim_compressed(file, name):
    file.create_dataset(name, (10_000_000, 1024), "f4", chunks=(1, 1024), compression="gzip")


def chunks_missing(file, name):
    file.create_dataset(name, (300_000, 4), "f4", chunks=(100_000, 4))
    file["padding"] = np.zeros(5_000_000, np.uint8)


def bomb(file, name):
    data = file.create_dataset(name, (3, 4), "f4", chunks=(3, 4), compression="gzip")
    data.id.write_direct_chunk((0, 0), zlib.compress(bytes(300 << 20), 1))


def large_chunk(file, name):
    file.create_dataset(name, (3, 4), "f4", chunks=(2**28 // 16, 4), maxshape=(None, 4), compression="gzip")


def other_filter(file, name):
    file.create_dataset(name, data=np.ones((3, 4), "f4"), chunks=(3, 4), compression="lzf")


def records(file, name):
    file.create_dataset(name, (3, 4), [("a", h5py.string_dtype()), ("b", "i4")], fill_time="alloc")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (external_link, "'features' is a link to the file '../../../outside/other.h5'; milkit follows none"),
        (soft_link, "'features' is a link to '/elsewhere'"),
        (external_storage, "'/features' keeps its values in another file"),
        (virtual, "'/features' is a virtual dataset"),
        (claim, r"'/features' claims 40,960,000,000 bytes \(shape \(10000000, 1024\)\), but the file has"),
        (claim_compressed, "'/features' claims 40,960,000,000 bytes"),
        (chunks_missing, "but there are 300000 rows of features"),
        (bomb, r"chunk at \(0, 0\) holds 52 bytes; expected 48"),
        (large_chunk, "'/features' claims 48 bytes"),
        (other_filter, "'/features' is compressed by lzf, which milkit does not read; .*h5repack -f NONE"),
        (records, "a.h5: "),
    ],
)
def test_what_is_not_in_the_file_or_too_much_is_refused(slide, make, words):
    replaced(slide, "features", make)
    with pytest.raises(DataError, match=words):
        open_features(FOLDER, mpp=0.25).read("a")


def test_what_was_never_written_is_not_zeros(folder):
    """HDF5 fills in what is missing; here it is an error, found before there is room for it."""
    with h5py.File("a.h5", "w") as file:
        chunks_missing(file, "features")
    with opened(Path("a.h5")) as file, pytest.raises(DataError, match=r"claims 4,800,000 bytes .* but 0 are stored"):
        file["features"][:]


def test_positions_outside_are_refused_like_features(slide):
    replaced(slide, "coords", external_link)
    with pytest.raises(DataError, match="'coords' is a link to the file"):
        open_features(FOLDER, mpp=0.25).read("a")


def test_a_bomb_takes_no_memory(slide):
    """The library would unpack the 300 MB; the peak of a process never falls, so it is one of its own."""
    replaced(slide, "features", bomb)
    ran = child("""
        import resource, sys
        from pathlib import Path
        from milkit.data.formats.guard_hdf5 import opened
        with opened(Path(sys.argv[1])) as file:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                file["features"][:]
            except Exception as error:
                print(type(error).__name__, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """, slide)  # fmt: skip
    name, taken = ran.split()
    assert name == "DataError"
    assert int(taken) < 20_000  # kilobytes


def child(code, *arguments):
    """What a process of its own prints, if it ends within a minute: a damaged heap once meant that it did not."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout


def test_damaged_heaps_do_not_hang(folder):
    """Objects of size 0, and free blocks that follow on themselves: HDF5 2.0 walks both for ever."""
    with h5py.File(folder / "text.h5", "w") as file:
        file.attrs["a"] = "some text"
        file["numbers"] = np.ones(3)
    whole = (folder / "text.h5").read_bytes()
    damaged = bytearray(whole)
    damaged[whole.index(b"GCOL") + 16 : whole.index(b"GCOL") + 32] = bytes(16)  # object 0, of size 0
    (folder / "global.h5").write_bytes(damaged)
    damaged = bytearray(whole)
    heap = whole.index(b"HEAP")
    free, segment = (int.from_bytes(whole[heap + at : heap + at + 8], "little") for at in (16, 24))
    damaged[segment + free : segment + free + 8] = free.to_bytes(8, "little")
    (folder / "local.h5").write_bytes(damaged)
    said = child("""
        import sys
        from pathlib import Path
        from milkit.data.formats.guard_hdf5 import opened
        from milkit.errors import DataError
        for name in sys.argv[1:]:
            try:
                with opened(Path(name)) as file:
                    print(dict(file.attrs), file["numbers"][:])
            except DataError as error:
                print(error)
    """, *(folder / name for name in ("text.h5", "global.h5", "local.h5")))  # fmt: skip
    good, *bad = said.splitlines()
    assert good == "{'a': 'some text'} [1. 1. 1.]"
    assert [line.split(" is damaged: ")[0][-9:] for line in bad] == ["global.h5", "/local.h5"]
    assert all("does not hold together" in line for line in bad)


def test_a_text_that_is_used_over_and_over_is_refused(folder):
    """10,000 ids that are all the same 50,000 letters: 500 MB out of a file of 250 kB."""
    write_store("s.h5", [Bag("a", np.ones((2, 3), np.float32))])
    with h5py.File("s.h5", "r+") as file:
        del file["bag_ids"]
        data = file.create_dataset("bag_ids", (10_000,), h5py.string_dtype())
        data[0] = "x" * 50_000
        file.flush()
        at = data.id.get_offset()
    with open("s.h5", "r+b") as raw:
        raw.seek(at)
        one = raw.read(16)
        raw.seek(at)
        raw.write(one * 10_000)
    with pytest.raises(DataError, match=r"claims 500,000,000 bytes of text in a file of"):
        open_store("s.h5")


def test_ids_that_cannot_be_shown_are_refused(folder, features):
    write_store("s.h5", [Bag("a", np.ones((2, 3), np.float32))])
    with h5py.File("s.h5", "r+") as file:
        file["bag_ids"][0] = "a\x1b[31m"
    with pytest.raises(DataError, match=r"s\.h5 is damaged: A bag .* has the id 'a\\x1b\[31m'"):
        open_store("s.h5")
    trident(folder / "job", "a", features(1), grid(3), rename="a\nb")
    with pytest.raises(DataError, match=r"the slide's name 'a\\nb' has .*characters that cannot be shown"):
        open_features(FOLDER)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\\b", "C:x", "..", ".", "-rf", "x" * 260, "ä" * 130])
def test_an_id_names_no_file_elsewhere(name):
    with pytest.raises(DataError, match="cannot give a file its name"):
        file_name_of(name, ".h5")


def test_what_an_id_may_be_to_name_a_file():
    assert file_name_of("TCGA-A1 ü (2).x", ".h5") == "TCGA-A1 ü (2).x.h5"


def test_pipes_and_devices_are_not_waited_for(folder, slide):
    os.mkfifo(slide.parent / "b.h5")
    (slide.parent / "c.h5").symlink_to("/dev/zero")
    assert open_features(FOLDER).ids == ("a",)
    os.mkfifo("table.csv")
    with pytest.raises(DataError, match=r"table\.csv is no file on a disk but a pipe or a device"):
        read_cohort("table.csv")


def test_what_the_guard_hands_out_is_what_h5py_reads(folder):
    """Every way to store numbers that is read: the values are those of plain h5py."""
    rng = np.random.default_rng(0)
    filters = [
        {"compression": "gzip"}, {"shuffle": True}, {"fletcher32": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
    ]  # fmt: skip
    with h5py.File("many.h5", "w") as file:
        for dtype in ("f2", ">f4", "i8"):
            x = (rng.normal(size=(37, 13)) * 50).clip(0, 99).astype(dtype)
            file[f"{dtype}/plain"] = x
            for chunks in ((8, 5), (37, 13), (1, 13)):
                file.create_dataset(f"{dtype}/{chunks}", data=x, chunks=chunks)
                for i, how in enumerate(filters):
                    file.create_dataset(f"{dtype}/{chunks} {i}", data=x, chunks=chunks, **how)
        file["text"], file["one"], file["none"] = ["a", "bc"], 3.0, np.zeros((0, 4))
        file.create_dataset("none yet", (0, 2048), "f4", chunks=(4096, 2048), maxshape=(None, 2048))
    with opened(Path("many.h5")) as mine, h5py.File("many.h5") as theirs:
        compared = []

        def compare(name, data):
            if isinstance(data, h5py.Dataset):
                parts = [(), 2, slice(5, 21), [0, 3], -1, (slice(1, 30), 4)] if data.ndim == 2 and len(data) else [()]
                for part in parts:
                    assert np.array_equal(mine[name][part], data[part]), (name, part)
                    assert np.asarray(mine[name][part]).dtype == np.asarray(data[part]).dtype
                compared.append(name)

        theirs.visititems(compare)
        assert len(compared) == 3 * 16 + 4


def test_reading_changes_nothing(folder, slide):
    before = {p: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in folder.rglob("*.h5")}
    slide.chmod(0o400)
    open_features(FOLDER, mpp=0.25).read("a")
    assert {
        p: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in folder.rglob("*.h5")
    } == before


@pytest.mark.slow
def test_some_hundred_spoiled_files_of_all_layouts():
    """The first of those of benchmarks/results/fuzz_readers.json; it exits with 1 where one does not end in words."""
    command = [sys.executable, "-m", "benchmarks.fuzz_readers", "--inputs", "260", "--seed", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert '"inputs": 260' in ran.stdout
    assert ROOM == 64 << 20  # what the page promises
