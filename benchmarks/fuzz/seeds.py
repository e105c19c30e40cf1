"""Small valid files of every layout that is read, made by the writers of the tests."""

import importlib.util
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


def _stamp(folder: Path) -> Path:
    files = _writer("foreign_hdf5.py")
    return files.stamp(folder, "s0", _x(0), np.arange(12.0).reshape(6, 2)).parent


def _mussel(folder: Path) -> Path:
    return _writer("foreign_hdf5.py").mussel(folder, "s0", _x(0), _xy()).parent


def _torchmil_h5(folder: Path) -> Path:
    return _writer("foreign_hdf5.py").torchmil(folder, "s0", _x(0), _xy(), label=1, instances=np.arange(6) % 2).parent


def _acmil(folder: Path) -> Path:
    return _writer("foreign_hdf5.py").acmil(folder / "cohort.h5", {f"s{i}": (_x(i), _xy()) for i in range(3)})


def _groups(folder: Path) -> Path:
    slides = {f"s{i}": (_x(i), _xy()) for i in range(3)}
    return _writer("foreign_hdf5.py").groups(folder / "cohort.h5", slides, patch_size=256)


def _jld(folder: Path) -> Path:
    writer = _writer("data/datasets/conftest.py").JldWriter(folder / "Set.jld")
    return writer.write([_x(i) for i in range(3)], [True, False, True], [[[True, False, True], [False, True, True]]])


def _svm(folder: Path) -> Path:
    rows = [
        f"{i}:b{i % 3}:{i % 3 % 2} " + " ".join(f"{j + 1}:{v:.3f}" for j, v in enumerate(_x(i, 1)[0])) for i in range(9)
    ]
    (folder / "set.svm").write_text("\n".join(rows) + "\n")
    return folder / "set.svm"


def _npy(folder: Path) -> Path:
    for i in range(2):
        np.save(folder / f"s{i}.npy", _x(i))
    return folder


def _npz(folder: Path) -> Path:
    for i in range(2):
        np.savez_compressed(folder / f"s{i}.npz", features=_x(i), coords=_xy())
    return folder


def _torchmil(folder: Path) -> Path:
    files = _writer("foreign_arrays.py")
    for i in range(2):
        files.torchmil(folder, f"s{i}", _x(i), label=np.array(i), coords=_xy(), tiles=np.arange(6) % 2)
    return folder


def _owkin(folder: Path) -> Path:
    files = _writer("foreign_arrays.py")
    for i in range(2):
        files.owkin(folder, f"s{i}", _x(i), np.arange(12).reshape(6, 2))
    return folder


def _dsmil(folder: Path) -> Path:
    files = _writer("foreign_arrays.py")
    for i in range(2):
        files.dsmil(folder / "set", f"{i}-class", f"s{i}", _x(i))
    files.dsmil_tables(folder / "set", {"0-class": ["s0"], "1-class": ["s1"]})
    return folder / "set"


def _soma(folder: Path) -> Path:
    files = _writer("foreign_arrays.py")
    return [files.soma(folder, f"s{i}", _x(i), _xy()) for i in range(2)][-1].parent


def _slideflow(folder: Path) -> Path:
    _writer("foreign_arrays.py").slideflow(folder, "s0", _x(0), _xy())
    return folder


def _clam_pt(folder: Path) -> Path:
    path = _clam(folder)
    for i in range(2):
        _writer("foreign_arrays.py").tensor(path.parent / "pt_files" / f"s{i}.pt", _x(i))
    return path.parent / "pt_files"


def _pt_dict(folder: Path) -> Path:
    import torch

    torch.save({"features": torch.as_tensor(_x(0)).half(), "coords": torch.as_tensor(_xy())}, folder / "s0.pt")
    return folder


def _pt_old(folder: Path) -> Path:
    return _writer("foreign_arrays.py").tensor(folder / "s0.pt", _x(0), _use_new_zipfile_serialization=False).parent


def _xy(n: int = 6) -> np.ndarray:
    return np.stack([np.arange(n) % 3, np.arange(n) // 3], 1) * 512


PARTS = ({"train": ["s1", "s2", "s3"], "val": ["s4"], "test": ["s5", "s6"]},
         {"train": ["s4", "s5", "s6"], "val": ["s1"], "test": ["s2", "s3"]})  # fmt: skip
SLIDES = [f"s{i}" for i in range(1, 7)]
LABELS = {slide: i % 2 for i, slide in enumerate(SLIDES)}


def _split(name: str, *arguments: object) -> Seed:
    """A split file by one of the tests' writers; the last thing it writes is opened."""

    def write(folder: Path) -> Path:
        return getattr(_writer("split_files.py"), name)(folder, *arguments)

    return write


def _split_clam(folder: Path) -> Path:
    for i, parts in enumerate(PARTS):
        _writer("split_files.py").clam(folder, i, parts)
    return folder


def _bags_table(folder: Path) -> Path:
    rows = ["bag,instance,a,b,label", *(f"{'pqr'[i % 3]},{i},0.{i},{i},{i % 3 % 2}" for i in range(9))]
    (folder / "bags.csv").write_text("\n".join(rows) + "\n")
    return folder / "bags.csv"


def _bags_mat(folder: Path) -> Path:
    from scipy.io import savemat

    cells = np.empty((1, 3), object)
    cells[0, :] = [_x(i) for i in range(3)]
    savemat(folder / "bags.mat", {"bags": cells, "labels": np.array([[0, 1, 1]])}, do_compression=True)
    return folder / "bags.mat"


def _bags_mat_rows(folder: Path) -> Path:
    from scipy.io import savemat

    ids = np.arange(6)[:, None] // 2
    savemat(folder / "bags.mat", {"s": {"data": _x(0), "bag_ids": ids + 1, "labels": ids % 2}})
    return folder / "bags.mat"


def _bags_mat73(folder: Path) -> Path:
    """As MATLAB 7.3: HDF5 behind a block of 512 bytes, matrices transposed."""
    with h5py.File(folder / "bags.mat", "w", userblock_size=512) as file:
        for name, values in (("data", _x(0)), ("bag_ids", np.arange(6.0)[:, None] // 2), ("labels", np.ones((6, 1)))):
            file[name] = values.T
            file[name].attrs["MATLAB_class"] = np.bytes_(b"double")
        file["labels"][0, :2] = 0
    with (folder / "bags.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return folder / "bags.mat"


def _frames(folder: Path) -> Path:
    np.save(folder / "video.npy", np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8))
    return folder / "video.npy"


def _volume(folder: Path) -> Path:
    return _writer("data/datasets/test_stacks.py").nifti(
        folder / "ct.nii", np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    )


def _sheet(folder: Path) -> Path:
    from openpyxl import Workbook

    book = Workbook()
    for row in (("case_id", "slide_id", "label", "age"), *((f"P{i}", f"{i:03d}", i % 2, 40.5 + i) for i in range(6))):
        book.active.append(row)
    book.save(folder / "cohort.xlsx")
    return folder / "cohort.xlsx"


def _with_openpyxl() -> dict[str, Seed]:
    return {"cohort table, xlsx": _sheet} if importlib.util.find_spec("openpyxl") else {}


def _with_torch() -> dict[str, Seed]:
    """Layouts that only PyTorch writes and reads; none where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    return {"slideflow": _slideflow, "clam, pt": _clam_pt, "pt, dict": _pt_dict, "pt, old": _pt_old}


FEATURES: dict[str, Seed] = {
    "store": _store,
    "trident": _trident,
    "trident, gzip": _gzip,
    "trident, newest HDF5": _latest,
    "clam": _clam,
    "stamp": _stamp,
    "mussel": _mussel,
    "torchmil, HDF5": _torchmil_h5,
    "acmil": _acmil,
    "groups": _groups,
    "midatasets": _jld,
    "svm": _svm,
    "npy": _npy,
    "npz": _npz,
    "torchmil": _torchmil,
    "owkin": _owkin,
    "dsmil": _dsmil,
    "soma": _soma,
    **_with_torch(),
}
TABLES: dict[str, Seed] = {"cohort table": _table, **_with_openpyxl()}
BAGS: dict[str, Seed] = {
    "bags: table": _bags_table,
    "bags: MATLAB 5, cells": _bags_mat,
    "bags: MATLAB 5, struct": _bags_mat_rows,
    "bags: MATLAB 7.3": _bags_mat73,
    "bags: JLD": _jld,
}
STACKS: dict[str, Seed] = {"frames": _frames, "volume": _volume}
SPLITS: dict[str, Seed] = {
    "splits: CLAM": _split_clam,
    "splits: TransMIL": _split("transmil", 0, PARTS[0], LABELS),
    "splits: MIL_BASELINE": _split("mil_baseline", 0, 1, PARTS[0], LABELS),
    "splits: Patho-Bench": _split("patho_bench", dict(zip(SLIDES, SLIDES, strict=True)), LABELS, PARTS),
    "splits: STAMP": _split("stamp", PARTS),
    "splits: ACMIL": _split("acmil", 0, PARTS[0]),
    "splits: torchmil": _split("torchmil", PARTS[0]),
    "splits: soma": _split("soma", PARTS),
}
KINDS: dict[str, dict[str, Seed]] = {
    "features": FEATURES, "table": TABLES, "splits": SPLITS, "bags": BAGS, "stack": STACKS,
}  # fmt: skip
"""Layouts by the function that reads them."""
