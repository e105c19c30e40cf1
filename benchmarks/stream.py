"""How near streaming mode comes to the limit: epochs over a cohort on disk, against a bare read and the arithmetic.

    python -m benchmarks.stream --quick                                       # under 3 minutes on 2 cores
    python -m benchmarks.stream --out benchmarks/results/stream.json

A synthetic cohort like CAMELYON16 (bags of log-normal length, 1024 features in float16) is written to a temporary
folder as a native store. Two models train on it in streaming mode, several runs at a time: gated ABMIL, which is bound
by arithmetic on a CPU, and mean pooling of the features, which is bound by reading. After a warm-up epoch, in turns and
several times over, these are timed:

- an epoch: every bag is read once, all runs train on it, and the epoch before is judged;
- a bare read of the same bytes of the file, in its order, into one buffer, by one thread or by two (the faster counts);
- the arithmetic alone: the very same steps on batches that lie on the device already.

Before each epoch and bare read the kernel is asked to drop the file's pages (posix_fadvise), so both come from the
disk, or from whatever stands below this machine's disk; `--cached` leaves them, so both come from the page cache. The
least time of each counts. The last line is one JSON object.
"""

import argparse
import contextlib
import csv
import ctypes
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.machine import machine
from milkit.data.cohort import Cohort
from milkit.data.protocol import KFold
from milkit.data.reading import Block, Wanted
from milkit.data.store import open_store, write_store
from milkit.execute.prepare import Prepared, prepare
from milkit.experiment import Experiment
from milkit.models import ABMIL, EmbeddingPooling
from milkit.train.config import Adam, Train
from milkit.train.stream_step import Read
from milkit.train.streaming import StreamEngine
from milkit.types import Bag
from milkit.watch.compiles import compiles

READ_BYTES = 8 << 20
MODELS = {"heavy": ABMIL(encoder=(256,), attention=128), "light": EmbeddingPooling(encoder=(), pooling="mean")}
AT_ONCE = {"heavy": None, "light": 512}
"""`Train.instances_at_once`: in chunks of 2 MiB, features are never laid out in float32 as a whole, which would cost
the light model more than the read. The heavy one would pay for it by a second forward pass."""
REPEATS = {"heavy": 1, "light": 4}
"""Times as many; epochs of the light model are over in a moment."""


def cohort(folder: Path, bags: int, median: int, features: int) -> tuple[Path, Path]:
    """Write a cohort; returns store and table. Lengths spread by a factor of 1.8 (one SD), as slides' do."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(16, median * np.exp(math.log(1.8) * rng.standard_normal(bags))).astype(int)

    def made() -> Iterator[Bag]:
        for i, n in enumerate(lengths):
            x = rng.standard_normal((n, features), np.float32)
            x[:, 0] += i % 2
            yield Bag(f"s{i:04d}", x.astype(np.float16))

    write_store(folder / "cohort.h5", made(), dtype="float16")
    with open(folder / "cohort.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["slide_id", "patient_id", "label"])
        table.writerows([f"s{i:04d}", f"p{i:04d}", i % 2] for i in range(bags))
    return folder / "cohort.h5", folder / "cohort.csv"


def evict(file: Path) -> None:
    """Ask the kernel to drop a file's pages."""
    with open(file, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bare_read(file: Path, threads: int) -> float:
    """Seconds to read the features of a store, in the file's order, into one buffer a thread."""
    x = open_store(file).x
    size, start = x.nbytes, os.path.getsize(file) - x.nbytes  # the ends do not matter here, the bytes do
    ends = [start + size * i // threads for i in range(threads + 1)]

    def part(first: int, last: int) -> None:
        buffer = memoryview(bytearray(READ_BYTES))
        with open(file, "rb", buffering=0) as f:
            f.seek(first)
            while first < last:
                first += f.readinto(buffer[: min(READ_BYTES, last - first)])

    began = time.perf_counter()
    workers = [threading.Thread(target=part, args=ends[i : i + 2]) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began


class _Standing:
    """Stands for a reader whose batches lie on the device already: one of each length."""

    def __init__(self, wanted: list[Wanted]) -> None:
        self.wanted = wanted

    def __enter__(self) -> "_Standing":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for number, wanted in enumerate(self.wanted):
            yield _Nothing(number, wanted)


class _Nothing:
    """Stands for a block."""

    def __init__(self, number: int, wanted: Wanted) -> None:
        self.number, self.wanted = number, wanted

    def release(self) -> None:
        pass


class Arithmetic(StreamEngine):
    """The same steps without reading or transfer."""

    def on_device(self, engine: StreamEngine) -> None:
        """Put a batch of each length on the device."""
        rng = np.random.default_rng(1)
        d, dtype = engine.reader.study.features, engine.reader.dtype
        self.held = {
            n: jax.device_put(rng.standard_normal((1, n, d), np.float32).astype(dtype)) for n in self.layout.rungs
        }

    @property
    def reader(self) -> Any:
        """Reads nothing."""
        return self

    def batches(self, wanted: list[Wanted]) -> _Standing:
        """Batches as they are asked for, without features."""
        return _Standing(wanted)

    def _to_device(self, block: Block) -> Read:
        bag = block.wanted.bags[0]
        return Read(
            self.held[block.wanted.length], None, np.array([self.lengths[bag]], np.int32), np.array([bag], np.int32)
        )


class Peak:
    """The most memory above the start, sampled: the device's, and on a CPU the process's own (no mapped files).

    What compiling left behind in the process is in it; what it took for a moment is not.
    """

    def __init__(self) -> None:
        self.start = self.most = self.compiled = self._now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _now(self) -> int:
        with open("/proc/self/status") as file:
            return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, self._now())

    def begin(self) -> None:
        """Compiling is over: from here on the most is looked for."""
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self.most = self.compiled = self._now()

    def end(self) -> int:
        """Bytes above the start."""
        self._over.set()
        self._thread.join()
        stats = jax.devices()[0].memory_stats() or {}
        return max(self.most - self.start, int(stats.get("peak_bytes_in_use", 0)))


def prepared(store: Path, table: Path, name: str, runs: int, epochs: int) -> Prepared:
    """A study of so many runs of one program, which reads its bags as it trains."""
    folds = next(f for f in (5, 4, 3, 2) if runs % f == 0)
    return prepare(
        Experiment(
            name="stream",
            data=Cohort(str(table), str(store)),
            protocol=KFold(folds=folds, validation=0.2),
            model=MODELS[name],
            train=Train(Adam(1e-4), epochs=epochs, width=runs, memory="stream", instances_at_once=AT_ONCE[name]),
            seeds=runs // folds,
        )
    )


def epochs_of(engine: StreamEngine, data: Prepared) -> Callable[[], float]:
    """A function that trains the next epoch and gives its seconds; the first one, which compiles, is over."""
    group = data.group(0)
    part = engine.part(group.validation, [s.validation for s in data.plan.splits])
    state, number = data.first_state(0, group), 0

    def one() -> float:
        nonlocal state, number
        began = time.perf_counter()
        state, log = engine.epoch(group, state, number, part)
        jax.block_until_ready(state)
        assert np.isfinite(log.train_loss).all()
        number += 1
        return time.perf_counter() - began

    one()
    return one


def measure(store: Path, table: Path, name: str, runs: int, repeats: int, cached: bool) -> dict[str, Any]:
    """Epoch, bare read and arithmetic alone, in turns; the least of each."""
    data = prepared(store, table, name, runs, epochs=repeats + 3)
    engine: Any = data.engine
    peak = Peak()
    epoch = epochs_of(engine, data)
    still = Arithmetic(engine.setup, engine.data, engine.layout, engine.lengths, engine.seed)
    still.on_device(engine)
    sums = epochs_of(still, data)
    seconds: dict[str, list[float]] = {"epoch": [], "bare_read": [], "arithmetic": []}
    peak.begin()
    before = compiles().count
    for _ in range(repeats):
        for what, timed in (
            ("bare_read", lambda: bare_read(store, 1)),
            ("bare_read", lambda: bare_read(store, 2)),
            ("epoch", epoch),
            ("arithmetic", sums),
        ):
            if not cached:
                evict(store)
            seconds[what].append(timed())
    recompiles = compiles().count - before
    least = {what: min(times) for what, times in seconds.items()}
    steps = len(engine.layout.bags)
    return {
        "model": repr(MODELS[name]),
        "instances_at_once": AT_ONCE[name],
        "runs": runs,
        "bags": steps,
        "least_seconds": least,
        "seconds": seconds,
        "epoch_over_limit": least["epoch"] / max(least["bare_read"], least["arithmetic"]),
        "fraction_of_read_bandwidth": least["bare_read"] / least["epoch"],
        "read_bytes_per_second": open_store(store).x.nbytes / least["bare_read"],
        "milkit_us_per_run_step": 1e6 * least["epoch"] / (runs * steps),
        "recompiles": recompiles,
        "peak_bytes": peak.end(),
        "of_which_compiling_left": peak.compiled - peak.start,
        "reader_peak_bytes": engine.reader.peak,
        "reader_budget_bytes": engine.reader.budget,
    }


def main() -> None:
    """Write the cohort, measure both models, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small cohort: under 3 minutes on 2 cores")
    parser.add_argument("--bags", type=int, help="how many (16 with --quick, else 128)")
    parser.add_argument("--median", type=int, help="instances of the median bag (1500 with --quick, else 4000)")
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--repeats", type=int, help="(3 with --quick, else 5)")
    parser.add_argument("--cached", action="store_true", help="leave the cohort in the page cache")
    parser.add_argument("--folder", type=Path, help="where the cohort is written (a temporary folder in it)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bags = options.bags or (16 if options.quick else 128)
    median = options.median or (1500 if options.quick else 4000)
    repeats = options.repeats or (3 if options.quick else 5)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store, table = cohort(Path(folder), bags, median, options.features)
        size = open_store(store).x.nbytes
        lengths = open_store(store).lengths
        found = {
            name: measure(store, table, name, options.runs, REPEATS[name] * repeats, options.cached) for name in MODELS
        }
    heavy, light = found["heavy"], found["light"]
    result = {
        "command": " ".join(["python -m benchmarks.stream", *sys.argv[1:]]),
        "environment": machine(),
        "cohort": {
            "bags": bags,
            "instances": {"median": int(np.median(lengths)), "longest": int(lengths.max())},
            "features": options.features,
            "dtype": "float16",
            "bytes": size,
            "read_from": "page cache" if options.cached else "disk (pages dropped before every read)",
        },
        "models": found,
        "epoch_over_limit": heavy["epoch_over_limit"],
        "fraction_of_read_bandwidth": light["fraction_of_read_bandwidth"],
        "peak_bytes": max(heavy["peak_bytes"], light["peak_bytes"]),
        "milkit_us_per_run_step": heavy["milkit_us_per_run_step"],
        "runs": options.runs,
        "recompiles": heavy["recompiles"] + light["recompiles"],
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in ("models", "environment")}))


if __name__ == "__main__":
    main()
