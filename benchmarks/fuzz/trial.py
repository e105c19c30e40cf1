"""One input: a valid file is copied and spoiled, read as a user would, and what came of it is named."""

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.fuzz import contents, raw, seeds, structure
from milkit.data.datasets import BagFile
from milkit.data.datasets.bagfile import midatasets
from milkit.data.datasets.stacks import frames, slices
from milkit.data.features import open_features
from milkit.data.formats.guard_dataset import EXPANSION, ROOM
from milkit.data.splits import given_splits
from milkit.data.splits_of.read import read_splits
from milkit.data.table import read_cohort
from milkit.errors import MilkitError

OUTCOMES = ("read", "refused", "other exception", "signal", "time", "memory", "changed", "outside")
"""What can come of an input; all but the first two are failures of milkit."""
SLACK = 64 << 20
"""Bytes that Python itself may take beside what is promised (`ROOM` + `EXPANSION` x the input)."""


@dataclass
class Bench:
    """Valid files in memory, and folders to work in.

    Attributes:
        root: folder of all of it; on a file system in memory it is fast.
        files: layout -> name in its folder -> bytes.
        opened: layout -> the path that a user gives, below the folder of the layout.
        library: whether h5py alone reads them.
    """

    root: Path
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    opened: dict[str, str] = field(default_factory=dict)

    library: bool = False

    def make(self, library: bool = False) -> "Bench":
        """Write every valid file once, and see that it is read; `library`: HDF5 only, to be read by h5py alone."""
        self.library = library
        for name, write in [seed for kind in seeds.KINDS.values() for seed in kind.items()]:
            folder = self.root / "valid"
            folder.mkdir(parents=True)
            path = write(folder)
            READ[_kind(name)](path, np.random.default_rng(0))
            self.files[name] = {
                str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
            }
            self.opened[name] = str(path.relative_to(folder))
            if library and not all(b"\x89HDF\r\n\x1a\n" in data[:1024] for data in self.files[name].values()):
                del self.files[name]
            shutil.rmtree(folder)
        (self.root / "outside").mkdir()
        structure.make_canary(self.root / "outside")
        structure._zeros(), contents._zeros()  # made once, before processes fork and memory is watched
        return self

    @property
    def layouts(self) -> list[str]:
        """Names of all."""
        return list(self.files)


def _kind(layout: str) -> str:
    return next(kind for kind, layouts in seeds.KINDS.items() if layout in layouts)


def _features(path: Path, rng: np.random.Generator) -> list[np.ndarray]:
    source = open_features(path)
    found = [source.read(slide) for slide in list(source.ids)[:50]]
    if rng.random() < 0.5 and any(bag.coords_um is None for bag in found):
        source = open_features(path, mpp=0.25)  # with which positions are read as well
        found += [source.read(slide) for slide in list(source.ids)[:50]]
    return [bag.x for bag in found]


def _table(path: Path, rng: np.random.Generator) -> list[np.ndarray]:
    table = read_cohort(path)
    given_splits(table.columns, "", table.where)
    return []


def _splits(path: Path, rng: np.random.Generator) -> list[np.ndarray]:
    read_splits(path)
    return []


def _bags(path: Path, rng: np.random.Generator) -> list[np.ndarray]:
    bags = (midatasets(path) if path.suffix == ".jld" else BagFile(str(path))).read()
    return [bags.bag(i).x for i in range(min(len(bags), 50))]


def _stack(path: Path, rng: np.random.Generator) -> list[np.ndarray]:
    stack = slices(path, axis=0) if path.suffix == ".nii" else frames(path, fps=25.0)
    return [stack.images]


READ: dict[str, Callable[[Path, np.random.Generator], list[np.ndarray]]] = {
    "features": _features, "table": _table, "splits": _splits, "bags": _bags, "stack": _stack,
}  # fmt: skip


def spoil(bench: Bench, layout: str, rng: np.random.Generator, folder: Path) -> tuple[Path, str]:
    """Write a layout's files into a folder, one of them spoiled; returns the path to open, and what was done."""
    for name, data in bench.files[layout].items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    said = []
    for _ in range(1 if rng.random() < 0.9 else 2):
        file = folder / list(bench.files[layout])[rng.integers(len(bench.files[layout]))]
        if not file.is_file() or file.is_symlink():
            continue
        draw = rng.random()
        if draw < 0.5:
            name = list(raw.BYTES)[rng.integers(len(raw.BYTES))]
            file.write_bytes(raw.BYTES[name](file.read_bytes(), rng))
        elif draw < 0.95:
            name = _by_meaning(file, rng, bench.root / "outside")
        else:
            name = raw.entry(file, rng)
        said.append(f"{file.name}: {name}")
    return folder / bench.opened[layout], "; ".join(said)


def _by_meaning(file: Path, rng: np.random.Generator, outside: Path) -> str:
    data = file.read_bytes()
    try:
        if b"\x89HDF\r\n\x1a\n" in data[:1024]:
            return structure.hostile(file, rng, outside / "canary.h5")
        return contents.meaning(file, rng, outside)
    except Exception:  # a file that was spoiled before, or that cannot hold what was to be written into it
        file.write_bytes(raw.words(data, rng))
        return "words"


@dataclass
class Watch:
    """What a process did that it may not, as Python's audit hooks see it; the hook cannot be taken out again."""

    outside: Path
    seen: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Look from now on."""
        sys.addaudithook(self._saw)

    def _saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"):
            self.seen.append(event)
        elif event == "open" and str(self.outside) in str(arguments[0]):
            self.seen.append(f"opened {arguments[0]}")


def one(bench: Bench, base: int, number: int, folder: Path, watch: Watch) -> tuple[str, str, str, int]:
    """Make, read and judge one input.

    Returns:
        Layout, outcome, what was done and came of it, and bytes of memory that reading took.
    """
    layout = bench.layouts[number % len(bench.layouts)]
    rng = np.random.default_rng([base, number])
    folder.mkdir()
    path, said = spoil(bench, layout, rng, folder)
    watch.seen.clear()
    before, size = state(folder)
    taken = _reset_peak()
    outcome, came = _by_h5py(path) if bench.library else _read(layout, path, rng)
    taken = _peak() - taken
    if watch.seen or (watch.outside / "pickled").exists():
        outcome, came = "outside", "; ".join(watch.seen) or "ran a pickle"
        (watch.outside / "pickled").unlink(missing_ok=True)
    elif state(folder)[0] != before:
        outcome = "changed"
    elif taken > EXPANSION * size + ROOM + SLACK:
        outcome, came = "memory", f"{taken:,} bytes for {size:,}; {came}"
    shutil.rmtree(folder)
    return layout, outcome, f"{said} -> {came}", taken


def _by_h5py(path: Path) -> tuple[str, str]:
    """Every attribute and all small values of all files, as a program does that knows nothing of damage."""

    def look(name: str, item: Any) -> None:
        dict(item.attrs)
        if isinstance(item, h5py.Dataset) and (item.size or 0) < 100_000 and not (item.is_virtual or item.external):
            item[()]

    for file in sorted(path.rglob("*.h5")) if path.is_dir() else [path]:
        if file.is_file():
            try:
                with h5py.File(file, "r", locking=False) as content:
                    look("/", content)
                    content.visititems(look)
            except Exception as error:
                return "refused", repr(error)
    return "read", ""


def _read(layout: str, path: Path, rng: np.random.Generator) -> tuple[str, str]:
    try:
        read = READ[_kind(layout)](path, rng)
    except MilkitError as error:
        if _out_of_memory(error):
            return "memory", f"it asked for more than there is: {error}"
        return ("refused", str(error)) if len(str(error)) > 10 else ("other exception", f"no words: {error}")
    except MemoryError as error:
        return "memory", repr(error)
    except Exception as error:
        return "other exception", f"{type(error).__name__}: {error}"[:300]
    if any((x == np.asarray(structure.CANARY, x.dtype)).any() for x in read if x.size and x.dtype.kind not in "iub"):
        return "outside", "it read what lies outside"
    return "read", ""


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether an error came from one of memory; but Python's own parser calls deep brackets so as well."""
    while error is not None:
        if isinstance(error, MemoryError):
            at = error.__traceback__
            while at is not None and at.tb_next is not None:
                at = at.tb_next
            return at is None or not at.tb_frame.f_code.co_filename.endswith("ast.py")
        error = error.__cause__ or error.__context__
    return False


def state(folder: Path) -> tuple[str, int]:
    """Digest of all names, bytes and times below a folder, and the number of bytes."""
    digest, size = hashlib.sha256(), 0
    for here, folders, files in sorted(os.walk(folder)):
        for name in sorted(folders + files):
            path = os.path.join(here, name)
            found = os.lstat(path)
            digest.update(f"{os.fsencode(path)!r} {found.st_mode} {found.st_size} {found.st_mtime_ns}".encode())
            if os.path.isfile(path) and not os.path.islink(path):
                digest.update(Path(path).read_bytes())
                size += found.st_size
    return digest.hexdigest(), size


def _reset_peak() -> int:
    """Forget the most memory that was taken so far; returns what is taken now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) << 10


def batch(bench: Bench, base: int, start: int, stop: int, report: Callable[[int, float], None]) -> dict[str, Any]:
    """Some inputs one after the other in this process.

    Args:
        bench: the valid files.
        base: seed of the whole.
        start, stop: numbers of the inputs.
        report: called with the number and the time before each is read, so that one that never ends is known.
    """
    watch = Watch(bench.root / "outside")
    watch.start()
    counts: Counter[tuple[str, str]] = Counter()
    failures, most, slowest = [], 0, 0.0
    for number in range(start, stop):
        begun = time.monotonic()
        report(number, begun)
        layout, outcome, said, taken = one(bench, base, number, bench.root / f"case{os.getpid()}", watch)
        counts[layout, outcome] += 1
        most, slowest = max(most, taken), max(slowest, time.monotonic() - begun)
        if outcome not in ("read", "refused"):
            failures.append({"number": number, "layout": layout, "outcome": outcome, "what": said[:500]})
    named = [[layout, outcome, count] for (layout, outcome), count in counts.items()]
    return {"counts": named, "failures": failures, "memory": most, "seconds": slowest}
