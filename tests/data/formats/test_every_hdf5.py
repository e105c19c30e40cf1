"""What holds of every HDF5 layout: cut files are noticed, files stay as they are, handles are not shared."""

import multiprocessing
import warnings

import h5py
import numpy as np
import pytest
from foreign_files import clam, grid, trident
from foreign_hdf5 import acmil, groups, mussel, stamp, torchmil

from milkit.data.features import open_features
from milkit.errors import DataError

X, XY = np.arange(60, dtype=np.float32).reshape(15, 4), grid(15)
WRITERS = {
    "TRIDENT": lambda folder: trident(folder, "a", X, XY),
    "CLAM": lambda folder: clam(folder, "a", X, XY),
    "STAMP": lambda folder: stamp(folder, "a", X, XY),
    "STAMP 1": lambda folder: stamp(folder, "a", X, XY, old="1"),
    "mussel": lambda folder: mussel(folder, "a", X, XY, rename="a"),
    "mussel, plain": lambda folder: mussel(folder, "a", X, XY, rename="a", compressed=False),
    "torchmil": lambda folder: torchmil(folder, "a", X, XY, label=1, instances=np.zeros(15, int)),
    "ACMIL": lambda folder: acmil(folder / "c.h5", {"a": (X, XY)}),
    "grouped HDF5": lambda folder: groups(folder / "c.h5", {"a": (X, XY)}),
}


@pytest.fixture(params=list(WRITERS))
def written(request, folder):
    """A file of one tool with a slide `a`, and the tool's name."""
    return WRITERS[request.param](folder / "f"), request.param.partition(" 1")[0].partition(",")[0]


def test_each_is_told_from_the_others_by_what_is_in_it(written, folder):
    """Not by its name, nor by its ending."""
    path, tool = written
    renamed = folder / "anything.bin"
    renamed.write_bytes(path.read_bytes())
    for file in (path, renamed):
        source = open_features(file)
        assert source.provenance["tool"] == tool
        assert source.read(source.ids[0]).x.tolist() == X.tolist()


def test_a_file_cut_anywhere_is_refused_when_opened_or_read(written):
    path, _ = written
    whole = path.read_bytes()
    for cut in range(0, len(whole), len(whole) // 12):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=path.name):
            open_features(path).read("a")


def test_files_stay_as_they_are(written):
    """Also where nobody may write."""
    path, _ = written
    before, when = path.read_bytes(), path.stat().st_mtime_ns
    path.chmod(0o400)
    open_features(path).read("a")
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == when


def test_a_lock_of_another_program_does_no_harm(written):
    """Its writer may still hold the file, and network storage may know no locks."""
    path, _ = written
    with h5py.File(path, "r"):
        assert open_features(path).read("a").x.tolist() == X.tolist()


def test_forked_processes_read_on_their_own(written):
    path, _ = written
    source = open_features(path)
    source.read("a")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of any fork; the child uses NumPy only
        workers = [context.Process(target=_sum, args=(source, queue)) for _ in range(2)]
        for worker in workers:
            worker.start()
    assert [queue.get(timeout=30) for _ in workers] == [float(X.sum())] * 2
    for worker in workers:
        worker.join()


def _sum(source, queue):
    queue.put(float(source.read("a").x.sum()))


def test_a_link_out_of_the_file_is_not_followed(written, folder):
    path, _ = written
    with h5py.File(folder / "other.h5", "w") as file:
        file["secret"] = np.ones((15, 4), np.float32)
    with h5py.File(path, "a") as file:
        group = file.get("a", file)
        name = next(n for n in ("features", "feats", "feat") if n in group)
        del group[name]
        group[name] = h5py.ExternalLink(str(folder / "other.h5"), "secret")
    with pytest.raises(DataError, match="is a link"):
        open_features(path).read("a")


@pytest.mark.parametrize("name", ["Größe 1", "切片_01", "a.b.c", "TCGA-AA-0001-01Z-00-DX1.4c2e", "0012"])
def test_names_of_slides_are_kept_as_they_are(folder, name):
    stamp(folder / "f", name, X, XY)
    acmil(folder / "c.h5", {name: (X, XY)})
    assert open_features("f").ids == (name,)
    assert open_features("c.h5").ids == (name,)
    assert open_features("c.h5").read(name).x.tolist() == X.tolist()
