"""Opening a cohort of 10,000 slides in the files of other tools: how long it takes, and which bytes are read.

    python -m benchmarks.open_cohort --out benchmarks/results/open_cohort.json      # two minutes, 0.5 GB of disk
    python -m benchmarks.open_cohort --quick                                        # 200 slides

Files are written by the tests' writers, one a tool, and copied under 10,000 names; ACMIL's is one file of as many
groups. A slide has 16 tiles of 512 halves: what is read of a header does not depend on how many there are. Caches are
warm. Bytes are counted where they pass on their way to the HDF5 library, in a pass of its own, against where the
features lie: the library reads a header together with what follows it, to 512 bytes, and those may be features.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from benchmarks.machine import machine
from milkit.data.features import open_features
from milkit.data.formats.guard_bytes import Bytes

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from foreign_files import clam, grid, trident
from foreign_hdf5 import acmil, mussel, stamp

TILES, WIDTH = 16, 512


def copies(path, count):
    """A file under `count` names in a folder of their own."""
    folder = path.parent / "many"
    folder.mkdir()
    whole = path.read_bytes()
    for i in range(count):
        (folder / f"slide{i:05d}.h5").write_bytes(whole)
    return folder


def make(root, count):
    """A folder or file of `count` slides of each tool, the options to open it, and the name of its features."""
    x, xy = np.random.default_rng(0).normal(size=(TILES, WIDTH)).astype(np.float16), grid(TILES)
    yield "TRIDENT", copies(trident(root, "a", x, xy), count), {"mpp": 0.25}, "features"
    path = clam(root / "clam", "a", x, xy)
    folder = copies(path, count)
    patches = copies(root / "clam" / "patches" / "a.h5", count)
    yield "CLAM with patches", folder, {"mpp": 0.25, "patches": str(patches)}, "features"
    yield "STAMP", copies(stamp(root / "stamp", "a", x, xy * 0.25), count), {}, "feats"
    yield "mussel", copies(mussel(root / "mussel", "a", x, xy, rename="a", drop=("name",)), count), {}, "features"
    slides = {f"slide{i:05d}": (x, xy) for i in range(count)}
    yield "ACMIL, one file", acmil(root / "acmil.h5", slides), {"mpp": 0.25}, "feat"


def extents(path, name):
    """Where the features of a file lie, as (first byte, one past the last)."""
    with h5py.File(path) as file:
        found = [file[name]] if name in file else [group[name] for group in file.values()]
        for data in found:
            if data.chunks is None:
                start = data.id.get_offset()
                yield start, start + data.id.get_storage_size()
            for i in range(data.id.get_num_chunks() if data.chunks else 0):
                chunk = data.id.get_chunk_info(i)
                yield chunk.byte_offset, chunk.byte_offset + chunk.size


def bytes_read(path, options, name):
    """Bytes that pass when a cohort is opened, and how many of them are of features."""
    passed = {"all": 0, "features": 0}
    # files of a folder are copies of one another
    lying = list(extents(next(path.iterdir()) if path.is_dir() else path, name))
    starts, stops = (np.array(side) for side in zip(*lying, strict=True))
    plain = Bytes.readinto

    def counted(self, buffer):
        at = self.tell()
        got = plain(self, buffer)
        passed["all"] += got
        if self._path.parent == path or self._path == path:
            passed["features"] += int(np.clip(np.minimum(stops, at + got) - np.maximum(starts, at), 0, None).sum())
        return got

    Bytes.readinto = counted
    try:
        source = open_features(path, **options)
    finally:
        Bytes.readinto = plain
    passed["stored"] = int((stops - starts).sum()) // (1 if path.is_dir() else len(source.ids))
    return passed, source


def measure(path, options, name, repeats):
    """Seconds to open a cohort, least of `repeats`, and what was read."""
    seconds, cpu = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        source = open_features(path, **options)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    passed, source = bytes_read(path, options, name)
    start = time.perf_counter()
    _ = source.sample(source.ids)
    return {
        "slides": len(source.ids),
        "seconds": round(min(seconds), 2),
        "cpu_seconds": round(min(cpu), 2),
        "milliseconds_a_slide": round(1000 * min(seconds) / len(source.ids), 3),
        "bytes_read_a_slide": round(passed["all"] / len(source.ids)),
        "bytes_of_features_read_a_slide": round(passed["features"] / len(source.ids)),
        "bytes_of_features_a_slide": passed["stored"],
        "seconds_to_sample_for_a_study": round(time.perf_counter() - start, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="200 slides, once")
    options = parser.parse_args()
    count, repeats = (200, 1) if options.quick else (10_000, 3)
    found = {"machine": machine(), "tiles": TILES, "features": WIDTH, "repeats": repeats, "tools": {}}
    with tempfile.TemporaryDirectory() as name:
        for tool, path, given, features in make(Path(name), count):
            found["tools"][tool] = measure(path, given, features, repeats)
            print(tool, found["tools"][tool], flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
