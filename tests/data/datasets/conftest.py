"""Files as other tools write them, small: MIDatasets.jl's JLD, and digits in MNIST's layout."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

USER_BLOCK = b"Julia data file (HDF5), version 0.1.1"


class JldWriter:
    """Writes a file to the letter of JLD 0.1 as Julia 0.6 wrote MIDatasets.jl's sets.

    Seen in `data/Musk1.jld`: a user block of 512 bytes; `X` compact, one object reference a bag, attribute `julia
    eltype`; matrices in `_refs`, numbered from 1, float32, [d, n] as HDF5 sees column-major [n, d]; bit arrays as
    compounds (chunks_, len_, dims_) of the named type `_types/00000001`; `dims_` of a vector is whatever was in memory.
    """

    def __init__(self, path: Path) -> None:
        self.file = h5py.File(path, "w", userblock_size=512, libver="earliest")
        self.path, self.count = path, 0
        self.refs = self.file.create_group("_refs")
        types = self.file.create_group("_types")
        bits = np.dtype([("chunks_", h5py.ref_dtype), ("len_", "<i8"), ("dims_", h5py.ref_dtype)])
        types["00000001"], types["00000002"] = bits, np.dtype([("1_", "<i8")])
        types["00000001"].attrs["julia type"] = np.bytes_(b"Base.BitArray{1}")
        types["00000002"].attrs["julia type"] = np.bytes_(b"Core.Tuple{Core.Int64}")
        creator = self.file.create_group("_creator")
        for name, value in (("JULIA_MAJOR", 0), ("JULIA_MINOR", 6), ("JULIA_PATCH", 0), ("WORD_SIZE", 64)):
            creator[name] = np.int64(value)
        creator["ENDIAN_BOM"] = np.uint32(0x04030201)

    def dataset(self, group: h5py.Group, name: str, value: np.ndarray, kind: h5t.TypeID | None = None) -> h5py.Dataset:
        """A dataset that is stored in its own header, as JLD stores small ones."""
        layout = h5p.create(h5p.DATASET_CREATE)
        layout.set_layout(h5d.COMPACT)
        space = h5s.create_simple(value.shape) if value.ndim else h5s.create(h5s.SCALAR)
        made = h5py.Dataset(
            h5d.create(group.id, name.encode(), kind or h5t.py_create(value.dtype, logical=True), space, layout)
        )
        made.id.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(value).reshape(value.shape), h5t.py_create(value.dtype))
        return made

    def ref(self, value: np.ndarray, **how) -> h5py.Reference:
        """A reference to a value in `_refs`."""
        self.count += 1
        return self.dataset(self.refs, f"{self.count:08d}", np.asarray(value), **how).ref

    def bits(self, values: Sequence[bool]) -> np.ndarray:
        """A bit array: words of 64 bits, the first bit the lowest, what is beyond `len_` left as it is."""
        padded = np.zeros(-(-len(values) // 64) * 64, np.uint8)
        padded[: len(values)] = values
        words = np.packbits(padded, bitorder="little").view("<u8")
        dims = self.ref(np.array((len(values) * 7 + 3,), [("1_", "<i8")]))
        array = np.zeros((), [("chunks_", h5py.ref_dtype), ("len_", "<i8"), ("dims_", h5py.ref_dtype)])
        array["chunks_"], array["len_"], array["dims_"] = self.ref(words), len(values), dims
        return array

    def references(self, found: Sequence[h5py.Reference]) -> np.ndarray:
        array = np.empty(len(found), h5py.ref_dtype)
        array[:] = found
        return array

    def write(self, bags: Sequence[np.ndarray], y: Sequence[bool], folds: Sequence[Sequence[Sequence[bool]]]) -> Path:
        x = self.dataset(
            self.file, "X", self.references([self.ref(np.asarray(bag, np.float32).T.copy()) for bag in bags])
        )
        x.attrs["julia eltype"] = np.bytes_(b"Core.Array{Core.Float32,2}")
        named = self.file["_types/00000001"].id
        self.dataset(self.file, "y", self.bits(y), kind=named)
        repeats = [
            self.ref(self.references([self.ref(self.bits(fold), kind=named) for fold in repeat])) for repeat in folds
        ]
        self.dataset(self.file, "folds", self.references(repeats)).attrs["julia eltype"] = np.bytes_(b"Core.Array")
        self.file.close()
        with self.path.open("r+b") as file:
            file.write(USER_BLOCK)
        return self.path


@pytest.fixture
def jld():
    """Writes a JLD file: path, bags [n, d], labels, folds -> path."""
    return lambda path, bags, y, folds=(): JldWriter(path).write(bags, y, folds)


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """$MILKIT_DATA with `mnist/mnist.npz`: 300 + 100 images in MNIST's layout; a digit k is a square of k * 20 + 5."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 300), ("test", 100)):
        digits = rng.integers(0, 10, n).astype(np.uint8)
        images = np.zeros((n, 28, 28), np.uint8)
        images[:, 4:24, 4:24] = (digits * 20 + 5)[:, None, None]
        images[np.arange(n), 0, :2] = np.stack(np.divmod(np.arange(n), 256), 1)  # which image it is
        images[:, 0, 2] = part == "test"
        arrays |= {f"x_{part}": images, f"y_{part}": digits}
    (tmp_path / "mnist").mkdir()
    np.savez_compressed(tmp_path / "mnist" / "mnist.npz", **arrays)
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    return arrays
