"""Small valid files of every layout that is read, made by the writers of the tests."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from milkit.bag import Bag
from milkit.data.store import write_store

TESTS = Path(__file__).resolve().parents[2] / "tests"
WIDTH = 4
Seed = Callable[[Path], Path]
"""Writes into an empty folder, and returns the path that a user would give."""


def _writer(name: str):  # type: ignore[no-untyped-def]
    """A module of the tests, by its path under `tests`."""
    spec = importlib.util.spec_from_file_location(f"fuzz_{Path(name).stem}", TESTS / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(TESTS))
    spec.loader.exec_module(module)
    return module


def _x(seed: int, n: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)


def _trident(folder: Path) -> Path:
    files = _writer("foreign_files.py")
    files.trident(folder, "s0", _x(0), files.grid(6))
    return files.trident(folder, "s1", _x(1), files.grid(6)).parent


def _clam(folder: Path) -> Path:
    files = _writer("foreign_files.py")
    files.clam(folder, "s0", _x(0), files.grid(6))
    return files.clam(folder, "s1", _x(1), files.grid(6)).parent


def _store(folder: Path) -> Path:
    bags = [
        Bag(f"s{i}", _x(i), np.arange(12.0).reshape(6, 2), np.arange(12).reshape(6, 2), tile_um=128.0, mpp=0.25)
        for i in range(3)
    ]
    return write_store(folder / "store.h5", bags, encoder="uni", mpp=0.5, tile_um=128.0, provenance={"from": "fuzz"})


def _gzip(folder: Path) -> Path:
    """TRIDENT's layout, compressed: as someone repacks it."""
    path = _trident(folder)
    for file in path.glob("*.h5"):
        with h5py.File(file, "r+") as content:
            for name in ("features", "coords"):
                values, said = content[name][:], dict(content[name].attrs)
                del content[name]
                data = content.create_dataset(
                    name, data=values, chunks=(4, values.shape[1]), compression="gzip", shuffle=name == "features"
                )
                data.attrs.update(said)
    return path


def _latest(folder: Path) -> Path:
    """TRIDENT's layout in HDF5's newest file format, whose structures are all others."""
    path = _trident(folder)
    for file in path.glob("*.h5"):
        with h5py.File(file) as old, h5py.File(folder / "new", "w", libver="latest") as new:
            for name in old:
                old.copy(name, new)
        (folder / "new").replace(file)
    return path


def _table(folder: Path) -> Path:
    rows = ["case_id,slide_id,label,age,site,fold"]
    rows += [f"P{i:03d},{i:03d}.svs,{'positive' if i % 2 else 'negative'},{40 + i},north,{i % 3}" for i in range(9)]
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    return folder / "cohort.csv"


def _split_clam(folder: Path) -> Path:
    for i in range(2):
        (folder / f"splits_{i}.csv").write_text(",train,val,test\n0,s1,s4,s6\n1,s2,s5,\n2,s3,,\n")
        (folder / f"splits_{i}_bool.csv").write_text(
            ",train,val,test\ns1,True,False,False\ns2,True,False,False\ns3,True,False,False\n"
            "s4,False,True,False\ns5,False,True,False\ns6,False,False,True\n"
        )
    return folder


def _split_json(folder: Path) -> Path:
    splits = [{"train_patients": ["a", "b"], "test_patients": ["c"]}, {"train_patients": ["c"], "test_patients": ["a"]}]
    (folder / "splits.json").write_text(json.dumps({"splits": splits}))
    return folder / "splits.json"


def _split_table(folder: Path) -> Path:
    (folder / "k=all.tsv").write_text(
        "case_id\tslide_id\tlabel\tfold_0\tfold_1\n"
        + "".join(
            f"p{i}\ts{i}\t{i % 2}\t{'train' if i < 4 else 'test'}\t{'test' if i < 4 else 'train'}\n" for i in range(8)
        )
    )
    return folder / "k=all.tsv"


FEATURES: dict[str, Seed] = {
    "store": _store,
    "trident": _trident,
    "trident, gzip": _gzip,
    "trident, newest HDF5": _latest,
    "clam": _clam,
}
TABLES: dict[str, Seed] = {"cohort table": _table}
SPLITS: dict[str, Seed] = {
    "splits: CLAM": _split_clam,
    "splits: STAMP": _split_json,
    "splits: Patho-Bench": _split_table,
}
