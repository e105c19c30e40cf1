"""How fast bags come from disk to a padded batch: the store, np.fromfile of its bytes, TRIDENT's layout and CLAM's.

    python -m benchmarks.read_speed --quick                                   # under 2 minutes on 2 cores
    python -m benchmarks.read_speed --out benchmarks/results/read_speed.json

Bags of 12,000 tiles (6,000 with --quick) are made of real features where the shared data are (EfficientNet-Lite0 of
histology, 1280 numbers in float16, repeated to the size of a slide), else of random numbers. The same bytes are written
as a native store, one file a slide in TRIDENT's layout (chunks of one row) and CLAM's (float32, chunks of 32 rows,
resizable), and are read in turns:

- store: `milkit.data.reading.Reader`, the loader that training uses, which pads each bag into a batch; 1 and 2 threads;
- fromfile: `np.fromfile` of each bag's bytes out of the store's file; 1 and 2 threads;
- trident, clam: h5py as these tools' users call it, `file["features"][:]`;
- random subsets of 2,048 rows of each bag: `milkit.data.rows.read_rows` into a padded batch, against
  `file["features"][rows]` with sorted rows, and against reading all rows and keeping some.

Warm: from the page cache. Cold: the kernel is asked to drop each file's pages before it is read (posix_fadvise; a disk
of a virtual machine may be remembered below). Ratios are of readings that stood side by side, and their median counts;
`fraction_of_fromfile_least` compares the least times instead. The last line is one JSON object.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.machine import machine
from milkit.bag import Bag
from milkit.data.memory import in_memory
from milkit.data.reading import Reader, Wanted
from milkit.data.rows import read_rows
from milkit.data.store import Store, open_store, write_store
from milkit.data.study import Study
from milkit.task import Binary

ROWS = 2048
FAST = ("store_1", "fromfile_1", "store_2", "fromfile_2", "store_rows")
FAST_TIMES = 5
REAL = "features_efflite0"


def real_rows() -> tuple[np.ndarray, str]:
    """Rows of real features and their name; random ones where the shared data are not."""
    folder = Path(os.environ.get("MILKIT_DATA", "../shared/data")) / REAL
    files = sorted(folder.glob("*.h5"))
    if not files:
        return np.random.default_rng(0).standard_normal((4096, 1280), np.float32).astype(np.float16), "random numbers"
    parts = []
    for path in files:
        with h5py.File(path, "r", locking=False) as file:
            parts += [file[slide]["features"][:] for slide in file]
    return np.concatenate(parts), f"{REAL} ({len(parts)} bags of {len(files)} sets, repeated)"


def write_all(folder: Path, bags: int, tiles: int) -> tuple[Store, str]:
    """The same bags as a store and in the layouts of TRIDENT and CLAM."""
    rows, name = real_rows()
    rng = np.random.default_rng(1)
    made = [Bag(f"s{i:02d}", rows[rng.integers(0, len(rows), tiles)]) for i in range(bags)]
    store = write_store(folder / "store.h5", made, dtype="float16")
    for bag in made:
        for tool, chunk, x in (("trident", 1, bag.x), ("clam", 32, bag.x.astype(np.float32))):
            (folder / tool).mkdir(exist_ok=True)
            with h5py.File(folder / tool / f"{bag.id}.h5", "w") as file:
                width = x.shape[1]
                file.create_dataset("features", data=x, chunks=(chunk, width), maxshape=(None, width))
    return open_store(store), name


def study_of(store: Store) -> Study:
    """The store's bags as a study, which a reader takes."""
    tiny = [Bag(name, np.zeros((1, store.features), np.float16)) for name in store.ids]
    study = in_memory(tiny, [{"slide_id": n, "label": i % 2} for i, n in enumerate(store.ids)]).load(Binary())
    names = list(store.ids)
    values = {**vars(study), "lengths": store.lengths, "read": lambda i: store.read(names[i])}
    return Study(**values)


def in_threads(work: Callable[[int], None], count: int, threads: int) -> None:
    """Share `work(0) ... work(count - 1)` out over threads."""
    shares = [range(count * k // threads, count * (k + 1) // threads) for k in range(threads)]
    if threads == 1:
        shares = [range(count)]
    workers = [threading.Thread(target=lambda share=share: [work(i) for i in share]) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


class Ways:
    """The ways of reading that are timed; each reads every bag once."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.longest = int(store.lengths.max())
        study = study_of(store)
        self.readers = {threads: Reader(study, threads=threads) for threads in (1, 2)}
        self.wanted = [Wanted((i,), 1, self.longest) for i in range(len(store))]
        self.place = os.path.getsize(store.path)
        with h5py.File(store.path, "r", locking=False) as file:
            self.place = int(file["features"].id.get_offset())
        rng = np.random.default_rng(2)
        self.chosen = [np.sort(rng.choice(n, min(ROWS, n), replace=False)) for n in store.lengths.tolist()]
        self.padded = np.zeros((1, ROWS, store.features), np.float16)

    def loader(self, threads: int) -> None:
        """Every bag into a padded batch, by the loader of training."""
        with self.readers[threads].batches(self.wanted) as blocks:
            for block in blocks:
                block.release()

    def fromfile(self, threads: int) -> None:
        """The bytes of every bag, bare."""
        row = self.store.features * 2

        def one(i: int) -> None:
            first, n = int(self.store.offsets[i]), int(self.store.lengths[i])
            np.fromfile(self.store.path, np.float16, n * self.store.features, offset=self.place + first * row)

        in_threads(one, len(self.store), threads)

    def hdf5(self, tool: str) -> None:
        """Every file of a tool."""
        for name in self.store.ids:
            with h5py.File(self.folder / tool / f"{name}.h5", "r") as file:
                file["features"][:]

    def rows_of_store(self) -> None:
        """Some rows of every bag into a padded batch."""
        for name, rows in zip(self.store.ids, self.chosen, strict=True):
            self.padded[0, : len(rows)] = read_rows(self.store, name, rows).x

    def rows_of_hdf5(self, tool: str, whole: bool) -> None:
        """Some rows of every file, chosen in the file or after reading all."""
        for name, rows in zip(self.store.ids, self.chosen, strict=True):
            with h5py.File(self.folder / tool / f"{name}.h5", "r") as file:
                data = file["features"]
                data[:][rows] if whole else data[rows]

    def all(self) -> dict[str, Callable[[], None]]:
        """By name."""
        return {
            "store_1": lambda: self.loader(1),
            "fromfile_1": lambda: self.fromfile(1),
            "store_2": lambda: self.loader(2),
            "fromfile_2": lambda: self.fromfile(2),
            "trident": lambda: self.hdf5("trident"),
            "clam": lambda: self.hdf5("clam"),
            "store_rows": self.rows_of_store,
            "trident_rows": lambda: self.rows_of_hdf5("trident", False),
            "trident_rows_of_all": lambda: self.rows_of_hdf5("trident", True),
            "clam_rows": lambda: self.rows_of_hdf5("clam", False),
            "clam_rows_of_all": lambda: self.rows_of_hdf5("clam", True),
        }


def evict(folder: Path) -> None:
    """Ask the kernel to drop the pages of all files."""
    for path in folder.rglob("*.h5"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(ways: dict[str, Callable[[], None]], repeats: int, before: Callable[[], None]) -> dict[str, list[float]]:
    """Seconds of each way, in turns; `before` each reading something is done that does not count.

    The fast ways are gone through `FAST_TIMES` times a turn: of the two orders of magnitude between them and the slow
    ones not all the time need be spent on these.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    fast = [name for name in ways if name in FAST]
    for _ in range(repeats):
        for name in [*fast * FAST_TIMES, *(name for name in ways if name not in FAST)]:
            before()
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How much longer others take than the store. Above 1 the store is faster."""
    t = {name: np.array(values) for name, values in seconds.items()}
    best = np.minimum(t["store_1"], t["store_2"])
    store, rows = (np.median(v.reshape(-1, FAST_TIMES), 1) for v in (best, t["store_rows"]))
    pairs = {
        "fraction_of_fromfile": np.minimum(t["fromfile_1"], t["fromfile_2"]) / best,
        "fraction_of_fromfile_1_thread": t["fromfile_1"] / t["store_1"],
        "fraction_of_fromfile_2_threads": t["fromfile_2"] / t["store_2"],
        "ratio_trident_full": t["trident"] / store,
        "ratio_clam_full": t["clam"] / store,
        "ratio_trident_random": t["trident_rows"] / rows,
        "ratio_trident_random_of_all": t["trident_rows_of_all"] / rows,
        "ratio_clam_random": t["clam_rows"] / rows,
        "ratio_clam_random_of_all": t["clam_rows_of_all"] / rows,
    }
    medians = {name: round(float(np.median(values)), 3) for name, values in pairs.items()}
    least = min(t["fromfile_1"].min(), t["fromfile_2"].min()) / best.min()
    return {**medians, "fraction_of_fromfile_least": round(float(least), 3)}


def summary(seconds: dict[str, list[float]], bags: int, bytes_: int) -> dict[str, Any]:
    """Medians: milliseconds a bag, GiB a second of full reads, and ratios."""
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        **ratios(seconds),
        "ms_a_bag": {name: round(1000 * value / bags, 3) for name, value in medians.items()},
        "gib_per_second": {n: round(bytes_ / v / 2**30, 3) for n, v in medians.items() if "rows" not in n},
        "seconds": {name: [round(v, 5) for v in values] for name, values in seconds.items()},
    }


def main() -> None:
    """Write the files, time all ways warm and cold, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller bags, fewer repeats")
    parser.add_argument("--bags", type=int, help="how many (8 with --quick, else 12)")
    parser.add_argument("--tiles", type=int, help="of a bag (6000 with --quick, else 12000)")
    parser.add_argument("--repeats", type=int, help="warm ones (3 with --quick, else 7); a third as many cold")
    parser.add_argument("--folder", type=Path, help="where the files are written (a temporary folder in it)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bags = options.bags or (8 if options.quick else 12)
    tiles = options.tiles or (6000 if options.quick else 12000)
    repeats = options.repeats or (3 if options.quick else 7)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        store, data = write_all(folder, bags, tiles)
        ways = Ways(store, folder).all()
        timed(ways, 1, lambda: None)  # files into the page cache, buffers into being
        warm = summary(timed(ways, repeats, lambda: None), bags, store.x.nbytes)
        can = hasattr(os, "posix_fadvise")
        cold = summary(timed(ways, max(2, repeats // 3), lambda: evict(folder)), bags, store.x.nbytes) if can else None
        size = store.x.nbytes
    result = {
        "command": " ".join(["python -m benchmarks.read_speed", *sys.argv[1:]]),
        "environment": machine(),
        "data": {"bags": bags, "tiles": tiles, "features": 1280, "dtype": "float16", "bytes": size, "values": data},
        "random_rows": ROWS,
        "cold_by": "posix_fadvise(DONTNEED) of every file before every reading" if can else "not possible here",
        "warm": warm,
        "cold": cold,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    keys = (
        "fraction_of_fromfile",
        "ratio_trident_full",
        "ratio_trident_random",
        "ratio_clam_full",
    )
    keys += ("ratio_trident_random_of_all", "ratio_clam_random", "gib_per_second", "ms_a_bag")
    said = {k: v for k, v in result.items() if k not in ("warm", "cold")}
    brief = {"cold": None if cold is None else {k: cold[k] for k in keys}}
    print(json.dumps({**said, **{k: warm[k] for k in keys}, **brief}))


if __name__ == "__main__":
    main()
