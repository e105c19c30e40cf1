"""Tiles a second on one core: milkit's reader beside tiffslide's and OpenSlide's `read_region`, on the same slides.

    python -m benchmarks.tiles --quick
    python -m benchmarks.tiles --out benchmarks/results/tiles.json

Readers take turns, in an order that goes round, each with a newly opened slide (so that nothing decoded is left over)
and after one turn that does not count. A turn reads a grid of tiles row by row into arrays [h, w, 3]: *aligned*, whole
tiles of the file, and *unaligned*, 256 x 256 pixels that start in the middle of its tiles. Figures are of all ways
together: the geometric mean of the medians. Seconds are of processor time, all threads together, so that what else the
machine does counts little.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from milkit.slides import open_slide

SLIDES = {"cmu-1-small-region.svs": ("JPEG", 240), "tcga-cr-7395-01a-01-ts1.svs": ("JPEG 2000", 256)}
"""Compression, and side of the tiles in the file."""
READERS = ("milkit", "tiffslide", "openslide")
SIDE = 256
"""Pixels of unaligned tiles."""

Read = Callable[[tuple[int, int], int], np.ndarray]


def corners(size: tuple[int, int], side: int, start: int, most: int) -> list[tuple[int, int]]:
    """Top-left corners of a grid of at most `most` x `most`, row by row, all within the slide."""
    width, height = size
    down, across = (range(start, length - side + 1, side)[:most] for length in (height, width))
    return [(x, y) for y in down for x in across]


def opened(reader: str, path: Path) -> Iterator[Read]:
    """A function that reads a square of level 0, with the slide open as long as the iterator is not exhausted."""
    if reader == "milkit":
        with open_slide(path, mpp=0.5) as slide:
            yield lambda corner, side: slide.read_level(0, corner, (side, side))
    elif reader == "tiffslide":
        from tiffslide import TiffSlide

        with TiffSlide(path) as slide:
            yield lambda corner, side: slide.read_region(corner, 0, (side, side), as_array=True)
    else:
        from openslide import OpenSlide

        with OpenSlide(str(path)) as slide:
            yield lambda corner, side: np.asarray(slide.read_region(corner, 0, (side, side)).convert("RGB"))


def turn(reader: str, path: Path, places: list[tuple[int, int]], side: int) -> float:
    """Tiles a second of one pass; opening does not count."""
    for read in opened(reader, path):
        began = time.process_time()
        for corner in places:
            read(corner, side)
        return len(places) / (time.process_time() - began)
    raise AssertionError(reader)


def same_pixels(path: Path, readers: list[str], places: list[tuple[int, int]], side: int) -> bool:
    """Whether all readers give the same pixels at some of the places."""
    few = places[:: max(1, len(places) // 5)]
    all_of = [np.stack([read(corner, side) for corner in few]) for r in readers for read in opened(r, path)]
    return all((one == all_of[0]).all() for one in all_of[1:])


def available() -> tuple[list[str], str | None]:
    """Readers that are installed, and why OpenSlide is not among them."""
    try:
        import openslide  # noqa: F401
    except ImportError as error:
        return ["milkit", "tiffslide"], f"not installed: {error}"
    return list(READERS), None


def measure(folder: Path, turns: int, most: int) -> dict[str, Any]:
    """Every slide and way of reading: medians, ratios of the same turn, all turns."""
    readers, reason = available()
    ways = {}
    for name, (compression, tile) in SLIDES.items():
        with open_slide(folder / name, mpp=0.5) as slide:
            size = slide.size_px
        for way, side, start in (("aligned", tile, 0), ("unaligned", SIDE, SIDE // 2 - 8)):
            places = corners(size, side, start, most)
            rates: dict[str, list[float]] = {reader: [] for reader in readers}
            for k in range(turns + 1):
                for reader in [*readers[k % len(readers) :], *readers[: k % len(readers)]]:
                    rate = turn(reader, folder / name, places, side)
                    if k:  # the first turn warms up
                        rates[reader].append(rate)
            ways[f"{name} {way}"] = {
                "compression": compression,
                "side_px": side,
                "tiles": len(places),
                "same_pixels": same_pixels(folder / name, readers, places, side),
                "tiles_per_s": {reader: round(statistics.median(r), 1) for reader, r in rates.items()},
                "milkit_over": {other: ratio(rates["milkit"], rates[other]) for other in readers[1:]},
                "turns": {reader: [round(v, 1) for v in r] for reader, r in rates.items()},
            }
    return {"ways": ways, "openslide_reason": reason, **overall(ways)}


def ratio(mine: list[float], others: list[float]) -> float:
    """Median over turns of how much faster."""
    return round(statistics.median(a / b for a, b in zip(mine, others, strict=True)), 3)


def overall(ways: dict[str, Any]) -> dict[str, float | None]:
    """Geometric means over the ways of reading; None for a reader that is not there."""
    result: dict[str, float | None] = {}
    for reader in READERS:
        rates = [way["tiles_per_s"].get(reader) for way in ways.values()]
        result[f"{reader}_tiles_per_s"] = None if None in rates else round(statistics.geometric_mean(rates), 1)
    for other in READERS[1:]:
        ratios = [way["milkit_over"].get(other) for way in ways.values()]
        result[f"milkit_over_{other}"] = None if None in ratios else round(statistics.geometric_mean(ratios), 3)
    return result


def on_one_core() -> None:
    """Keep to one core, where the system can do that; tiffslide then decodes in one thread."""
    os.environ["TIFFSLIDE_NUM_DECODE_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 turns of 25 tiles in place of 7 of 64")
    parser.add_argument("--out", type=Path, help="also write a JSON with all turns and the machine")
    arguments = parser.parse_args()
    folder = Path(os.environ.get("MILKIT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "wsi"
    missing = [name for name in SLIDES if not (folder / name).is_file()]
    if missing:
        sys.exit(f"{folder} has no {', '.join(missing)}; set MILKIT_DATA to the folder that holds wsi/.")
    on = machine()
    on_one_core()
    result = measure(folder, *((3, 5) if arguments.quick else (7, 8)))
    for name, way in result["ways"].items():
        print(name, way["tiles_per_s"], "milkit over", way["milkit_over"], file=sys.stderr)
    if arguments.out:
        packages = {name: version_of(name) for name in ("tiffslide", "tifffile", "imagecodecs", "openslide-python")}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**result, "machine": {**on, **packages, "cores_used": 1}}, indent=1)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "ways"}))


def version_of(package: str) -> str | None:
    """A package's version, None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
