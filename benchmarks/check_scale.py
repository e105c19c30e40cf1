"""`milkit check` on a cohort of 20 GB, made up bag by bag: seconds, peak memory, and whether planted copies are found.

    python -m benchmarks.check_scale --quick                 # 60 slides x 1,000 x 1,024, half a minute
    python -m benchmarks.check_scale                         # 1,000 slides x 5,000 x 1,024: 10 GB of float16

Bags are drawn when they are read, so that no disk takes part. Four copies are planted between training and test slides:
a re-scan, a bag given twice, an exact and a noisy part of a bag.
"""

import argparse
import csv
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from milkit.bag import Bag
from milkit.check import check_cohort

RESULTS = Path(__file__).parent / "results" / "check_scale.json"
COPIES = {3: ("rescan", 0), 5: ("same", 2), 7: ("part", 4), 9: ("noisy part", 6)}
"""Bag -> what of which bag it is a copy of; odd bags are tested, even ones train."""


class Drawn:
    """A `FeatureSource` whose bags are drawn when they are read: tissue types of a bag, noise, a shift of the bag."""

    provenance: dict[str, object]

    def __init__(self, slides: int, tiles: int, width: int) -> None:
        self.ids = [f"S{i:05d}" for i in range(slides)]
        self.lengths = np.full(slides, tiles, np.int64)
        self.features, self.tiles = width, tiles
        self.provenance = {}
        self.kinds = np.random.default_rng(7).standard_normal((40, width), np.float32)
        self.drawing = 0.0

    def read(self, bag_id: str) -> Bag:
        """One slide, in float16."""
        started = time.perf_counter()
        i = int(bag_id[1:])
        x = self._copied(i).astype(np.float16)
        self.drawing += time.perf_counter() - started
        return Bag(bag_id, x)

    def _own(self, i: int) -> np.ndarray:
        rng = np.random.default_rng([1, i])
        x = rng.standard_normal((self.tiles, self.features), np.float32)
        x *= 0.6
        x += self.kinds[rng.integers(0, len(self.kinds), self.tiles)]
        x += 0.2 * rng.standard_normal(self.features, np.float32)
        return x

    def _copied(self, i: int) -> np.ndarray:
        x = self._own(i)
        if i not in COPIES or i >= len(self.ids):
            return x
        what, of = COPIES[i]
        rng, other = np.random.default_rng([2, i]), self._own(of).astype(np.float16).astype(np.float32)
        order = rng.permutation(self.tiles)
        few = order[: max(60, self.tiles // 10)]
        if what == "same":
            return other[order]
        if what == "rescan":
            kept = order[: round(0.85 * self.tiles)]
            return 1.01 * other[kept] + 0.03 * rng.standard_normal((len(kept), self.features), np.float32)
        x[few] = other[few] + (
            0.03 * rng.standard_normal((len(few), self.features), np.float32) if "noisy" in what else 0
        )
        return x


def measure(slides: int, tiles: int, width: int) -> dict[str, object]:
    """Check such a cohort."""
    source = Drawn(slides, tiles, width)
    started, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "cohort.csv"
        rng = np.random.default_rng(3)
        with table.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["slide_id", "patient_id", "label", "split"])
            for i, slide in enumerate(source.ids):
                out.writerow([slide, slide.replace("S", "P"), int(rng.integers(0, 2)), "test" if i % 2 else "train"])
        checked = check_cohort(table, source)
    seconds = time.perf_counter() - started
    items = [f"{f.kind}: {item}" for f in checked.errors for item in f.items]
    found = {
        what: next((i for i in items if f"S{a:05d}" in i and f"S{b:05d}" in i), "") for a, (what, b) in COPIES.items()
    }
    wanted = {f"S{a:05d}" for a in COPIES} | {f"S{b:05d}" for _, b in COPIES.values()}
    return {
        "slides": slides,
        "tiles_a_slide": tiles,
        "width": width,
        "bytes_float16": 2 * slides * tiles * width,
        "seconds": round(seconds, 1),
        "seconds_drawing_bags": round(source.drawing, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "found": found,
        "false_alarms": [i for i in items if not any(w in i for w in wanted)],
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--tiles", type=int, default=5000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    size = (60, 1000, 1024) if options.quick else (options.slides, options.tiles, options.width)
    before = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    row = measure(*size)
    command = f"python -m benchmarks.check_scale --slides {size[0]} --tiles {size[1]} --width {size[2]}"
    options.out.write_text(
        json.dumps({"command": command, "machine": machine(), "mib_before": before, **row}, indent=1) + "\n"
    )
    print(json.dumps(row))


if __name__ == "__main__":
    main()
