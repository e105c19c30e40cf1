"""Spoiling HDF5 files by what they mean: links out of the file, claims, wrong types, bombs; through h5py itself."""

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from benchmarks.fuzz.raw import Rng

CANARY = 4711.25
"""What stands in the file outside; it must never come out of a reader."""
MANY_TEXTS = 10_000
TEXTS = (
    "",
    "None",
    "nan",
    "-1",
    "1e999",
    "0x10",
    "True",
    "{}",
    "[" * 3000,
    "../x",
    "a\nb",
    "\x1b[31m",
    "ünï",
    "9" * 400,
)
VALUES = (
    0,
    -1,
    float("nan"),
    float("inf"),
    1e308,
    2**63 - 1,
    True,
    np.zeros(0),
    np.arange(5),
    np.zeros((300, 20)),
    np.bytes_(b"\xff\xfe"),
    np.array([b"a", b"b"]),
    h5py.Empty("f4"),
    1 + 2j,
    np.array(["a", "b"], object),
    *TEXTS,
)


def make_canary(folder: Path) -> Path:
    """A file outside, of features that can be told."""
    path = folder / "canary.h5"
    with h5py.File(path, "w") as file:
        file["features"] = file["feats"] = file["feat"] = np.full((6, 4), CANARY, np.float32)
        file["coords"] = np.full((6, 2), int(CANARY))
    (folder / "canary.bin").write_bytes(np.full(1000, CANARY, np.float32).tobytes())
    return path


def hostile(path: Path, rng: Rng, canary: Path) -> str:
    """Change one thing in an HDF5 file; returns what."""
    again: list[int] = []
    with h5py.File(path, "r+", libver=("earliest", "latest")) as file:
        said = _changed(file, rng, canary, again)
    for at in again:
        with path.open("r+b") as raw:
            raw.seek(at)
            one = raw.read(16)
            raw.seek(at)
            raw.write(one * MANY_TEXTS)
    return said


def _changed(file: h5py.File, rng: Rng, canary: Path, again: list[int]) -> str:
    datasets, groups = _inside(file)
    name = ["attribute", "dataset", "group"][rng.choice(3, p=[0.3, 0.6, 0.1])]
    if name == "attribute" or not datasets:
        return _attribute(
            ([file, *groups] + [file[d] for d in datasets])[rng.integers(1 + len(groups) + len(datasets))], rng
        )
    if name == "group":
        return _group(file, ([file, *groups])[rng.integers(1 + len(groups))], rng)
    chosen = datasets[rng.integers(len(datasets))]
    how = DATASETS[rng.integers(len(DATASETS))]
    old = file[chosen]
    values, said = old[()], {k: v for k, v in old.attrs.items() if not isinstance(v, h5py.Empty)}
    del file[chosen]
    if how is _same_text:
        again.append(_same_text(file, chosen))
    else:
        how(file, chosen, np.asarray(values), rng, canary)
    if rng.random() < 0.9 and isinstance(file.get(chosen, getlink=True), h5py.HardLink):
        file[chosen].attrs.update(said)
    return how.__name__.strip("_")


def _inside(file: h5py.File) -> tuple[list[str], list[h5py.Group]]:
    datasets: list[str] = []
    groups: list[h5py.Group] = []
    file.visititems(
        lambda name, item: (datasets.append(name) if isinstance(item, h5py.Dataset) else groups.append(item)) and None
    )
    return datasets, [g for g in groups if isinstance(g, h5py.Group)]


def _attribute(item: h5py.HLObject, rng: Rng) -> str:
    names = list(item.attrs)
    name = names[rng.integers(len(names))] if names and rng.random() < 0.9 else f"extra{rng.integers(9)}"
    if rng.random() < 0.1:
        item.attrs.pop(name, None)
        return "attribute removed"
    item.attrs[name] = VALUES[rng.integers(len(VALUES))]
    return "attribute"


def _group(file: h5py.File, group: h5py.Group, rng: Rng) -> str:
    kind = ["cycle", "many", "deep", "names", "type", "moved"][rng.integers(6)]
    if kind == "cycle":
        group["self"] = group
        group["root"] = file["/"]
    elif kind == "many":
        for i in range(300):
            group.create_group(f"g{i}")
    elif kind == "deep":
        group.create_group("/".join("d" * 60))
    elif kind == "names":
        for name in ("a\nb", "\x1b[31m", "ünï", "x" * 500, "..", "a b ", "C:x", "%s"):
            group.create_group(name)
    elif kind == "type":
        group["a type"] = np.dtype("f4")
    elif list(group):
        name = list(group)[rng.integers(len(group))]
        group.move(name, f"inner/{name}")
    return f"group {kind}"


def _link_out(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    file[name] = h5py.ExternalLink(str(canary), Path(name).name)


def _link_soft(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    file["elsewhere"] = values
    file[name] = h5py.SoftLink(["/elsewhere", f"/{name}", "/nowhere", "."][rng.integers(4)])


def _stored_outside(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    where = [(str(canary.with_suffix(".bin")), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(name, values.shape or (1,), "f4", external=where)


def _virtual(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    layout = h5py.VirtualLayout((6, 4), np.float32)
    layout[:] = h5py.VirtualSource(str(canary), "features", (6, 4))
    file.create_virtual_dataset(name, layout)


def _kind(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    kinds = [
        "S5",
        "i1",
        "u8",
        "f2",
        ">f4",
        "f8",
        "c8",
        "?",
        "V3",
        "V2",
        h5py.string_dtype(),
        [("a", "f4"), ("b", "i4")],
        h5py.vlen_dtype("f4"),
        h5py.ref_dtype,
        h5py.regionref_dtype,
        h5py.enum_dtype({"a": 0}),
        np.dtype("(3,)f4"),
    ]
    file.create_dataset(name, values.shape, kinds[rng.integers(len(kinds))], fill_time="alloc")


def _text(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    kind = h5py.string_dtype() if rng.random() < 0.5 else "S20"
    words = np.resize(np.array([b"0.5", b"x", b"", b"nan", b"../x", b"a\nb", b"\xff"], object), values.shape or (1,))
    file.create_dataset(name, data=words.astype(kind) if kind == "S20" else words, dtype=kind)


def _shape(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    rows = values if values.ndim else values.reshape(1)
    shapes = [
        rows[:0],
        rows[:-1],
        rows[:1],
        np.concatenate([rows, rows]),
        rows[None],
        rows[..., None],
        rows.reshape(-1),
        rows.T,
        rows[..., :0],
        rows.reshape(-1)[0],
        rows[..., :1],
        np.zeros((1,) * 32),
    ]
    file[name] = shapes[rng.integers(len(shapes))]


def _values(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    if values.dtype.kind in "fiu" and values.size:
        values = values.copy()
        odd = [np.nan, np.inf, 3e38] if values.dtype.kind == "f" else [-1, 2**31 - 1, 0, 100]
        values.flat[rng.integers(values.size)] = odd[rng.integers(len(odd))]
    elif values.dtype.kind == "O" and values.size:
        values.flat[0] = TEXTS[rng.integers(len(TEXTS))].replace("\0", "").encode()
    file[name] = values


def _claim(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    rows = int(rng.choice([0, 10_000_000, 10**12]))
    width = values.shape[1:] or (1,)
    chunks = [None, (1, *width), (1024, *width)][rng.integers(3)]
    how = {} if chunks is None else {"chunks": chunks, "compression": [None, "gzip"][rng.integers(2)]}
    kind = values.dtype if values.dtype.kind in "fiu" else "f4"
    file.create_dataset(name, (rows, *width), kind, maxshape=None if chunks is None else (None, *width), **how)


@cache
def _zeros() -> bytes:
    return zlib.compress(bytes(200 << 20), 1)


def _bomb(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    """A chunk of 1 kB says it holds 96 bytes, or 200 MB, and holds 200 MB."""
    width = (*values.shape[1:], 1)[0]
    rows = len(values) if values.ndim and rng.random() < 0.5 else (200 << 20) // 4 // max(1, width)
    data = file.create_dataset(name, (rows, width), "f4", chunks=(rows, width), compression="gzip")
    data.id.write_direct_chunk((0, 0), _zeros())


def _same_text(file: h5py.File, name: str, *_: object) -> int:
    """Ten thousand texts of variable length, to be made all the same long one; returns where the first is."""
    data = file.create_dataset(name, (MANY_TEXTS,), h5py.string_dtype())
    data[0] = "x" * 50_000
    file.flush()
    return int(data.id.get_offset())


def _filter(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    rows = np.atleast_2d(values if values.dtype.kind in "fiu" else np.zeros((6, 4)))
    kinds = [
        {"compression": "lzf"},
        {"scaleoffset": 4},
        {"fletcher32": True},
        {"shuffle": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
    ]
    how = kinds[rng.integers(len(kinds))]
    data = file.create_dataset(name, data=rows, chunks=rows.shape, **how)
    if rng.random() < 0.5:
        noise = [b"", b"x", rng.bytes(60), zlib.compress(b"short")][rng.integers(4)]
        data.id.write_direct_chunk((0,) * rows.ndim, noise, filter_mask=int(rng.integers(8)))


def _unknown_filter(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    settings = h5p.create(h5p.DATASET_CREATE)
    settings.set_chunk((6, 4))
    settings.set_filter(int(rng.choice([32001, 32015, 307, 4, 5])), h5py.h5z.FLAG_OPTIONAL, (1, 2))
    h5d.create(file.id, name.split("/")[-1].encode(), h5t.NATIVE_FLOAT, h5s.create_simple((6, 4)), settings)
    if "/" in name:
        file.move(name.split("/")[-1], name)


def _gone(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    if rng.random() < 0.5:
        file.create_group(name)


def _strange_chunks(file: h5py.File, name: str, values: np.ndarray, rng: Rng, canary: Path) -> None:
    """Chunks that are all missing, or larger than all the data."""
    rows = np.atleast_2d(values if values.dtype.kind in "fiu" else np.zeros((6, 4)))
    if rng.random() < 0.5:
        file.create_dataset(name, rows.shape, rows.dtype, chunks=(1, rows.shape[1]))
    else:
        file.create_dataset(
            name, data=rows, chunks=(2**16, rows.shape[1]), maxshape=(None, rows.shape[1]), compression="gzip"
        )


DATASETS: tuple[Callable[..., Any], ...] = (
    _link_out,
    _link_soft,
    _stored_outside,
    _virtual,
    _kind,
    _kind,
    _text,
    _shape,
    _shape,
    _values,
    _claim,
    _claim,
    _bomb,
    _same_text,
    _filter,
    _unknown_filter,
    _gone,
    _strange_chunks,
)
