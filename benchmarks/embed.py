"""How busy `milkit embed` keeps the encoder, and its memory.

    python -m benchmarks.embed --quick
    python -m benchmarks.embed --out benchmarks/results/embed.json

Tiles of 256 pixels of a real slide, overlapping so that there are many. *lite0*: EfficientNet-Lite0 on this machine's
processor, which also reads the tiles. *device N*: an encoder that takes N tiles a second and leaves the processor free,
as an accelerator does; the share of time that it is busy says whether reading keeps up. *memory*: peak of a process
that embeds a made-up slide of so many tiles. Busy shares and rates are those that the command prints.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from milkit.embed.encode import Clock, embed_slide
from milkit.embed.settings import settings_of
from milkit.embed.slides import TiledSlide
from milkit.encoders import Encoder, load_encoder
from milkit.slides.tile_slides import find_slides, tile_slides
from milkit.slides.tiling import Tiling

SLIDE = Path("wsi") / "cmu-1-small-region.svs"
WEIGHTS = Path("weights") / "efficientnet_lite0_imagenet_f16.npz"
TILE_UM, TILE_PX = 128.0, 256


class Device:
    """An encoder that computes elsewhere: so many tiles a second, in batches of 64, and no work for the processor."""

    name, width, side, batch = "device", 16, 0, 64

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Wait as long as the device would take."""
        time.sleep(len(tiles) / self.rate)
        return np.zeros((len(tiles), self.width), np.float32)

    def facts(self) -> dict[str, Any]:
        """Name and rate."""
        return {"encoder": self.name, "rate": self.rate}


class Simulated:
    """A slide of many tiles of 8 x 8 pixels that no file holds; an opener and its source in one."""

    id, side, mpp, tile_um, width_px = "simulated", 8, 0.25, 2.0, 8

    def __init__(self, tiles: int) -> None:
        self.tiles = tiles
        self.facts: dict[str, Any] = {"slide": "simulated"}
        self.coords_px = np.zeros((tiles, 2), np.int64)
        self.coords_um = np.zeros((tiles, 2), np.float32)

    def open(self) -> "Simulated":
        """Itself."""
        return self

    def __len__(self) -> int:
        return self.tiles

    def read_tiles(self, start: int, stop: int) -> np.ndarray:
        """Black tiles."""
        return np.zeros((stop - start, 8, 8, 3), np.uint8)

    def unchanged(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Nothing is held open."""


def embedded(slide: TiledSlide, encoder: Encoder, workers: int, folder: Path) -> dict[str, float | int | None]:
    """What the command would say of one slide."""
    clock = Clock()
    embed_slide(
        slide, encoder, folder, settings_of(encoder, tile_um=TILE_UM, tile_px=TILE_PX), workers=workers, clock=clock
    )
    busy, waiting = clock.busy, clock.waiting / max(clock.seconds, 1e-9)
    return {
        "tiles": clock.tiles, "tiles_per_s": round(clock.rate, 1), "busy": busy and round(busy, 4),
        "waiting": round(waiting, 4),
    }  # fmt: skip


def reading(slide: TiledSlide, most: int) -> float:
    """Tiles a second that one thread reads."""
    source = slide.open()
    try:
        source.read_tiles(0, 4)
        began = time.monotonic()
        source.read_tiles(4, 4 + most)
        return most / (time.monotonic() - began)
    finally:
        source.close()


def peak_mib(tiles: int) -> float:
    """Peak memory of a process that embeds so many tiles, with all that it imports."""
    text = subprocess.run(
        [sys.executable, "-m", "benchmarks.embed", "--simulate", str(tiles)], check=True, capture_output=True, text=True
    ).stdout
    return float(text.split()[-1])


def simulate(tiles: int) -> None:
    """Embed a slide that no file holds, and print the most MiB that the process had."""
    encoder, slide = Device(1e9), Simulated(tiles)
    encoder.width = 1024
    with tempfile.TemporaryDirectory() as folder:
        embed_slide(slide, encoder, Path(folder), settings_of(encoder), workers=2)
    # not getrusage's figure, which begins with what the process had that started this one
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(round(int(lines["VmHWM"].split()[0]) / 1024, 1))


def measure(data: Path, quick: bool) -> dict[str, Any]:
    """All figures."""
    overlap = 96.0 if quick else 104.0
    tiling = Tiling(TILE_UM, TILE_PX, overlap_um=overlap, blur=False)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = find_slides([data / SLIDE])
        (outcome,) = tile_slides(slides, folder / "tiles", tiling, page=False)
        slide = TiledSlide(folder / "tiles", outcome.slide_id)
        found: dict[str, Any] = {"workers": workers, "read_tiles_per_s_one_thread": round(reading(slide, 200), 1)}
        for rate in (100, 200) if quick else (100, 200, 400):
            found[f"device {rate}"] = embedded(slide, Device(rate), workers, folder / str(rate))
        encoder = load_encoder("efficientnet_lite0", data / WEIGHTS)
        found["lite0"] = embedded(slide, encoder, workers, folder / "lite0")
    sizes = (20_000, 100_000) if quick else (100_000, 1_000_000)
    return {**found, "memory_mib": {str(n): peak_mib(n) for n in sizes}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tiles")
    parser.add_argument("--out", type=Path, help="also write a JSON with the machine")
    parser.add_argument("--simulate", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.simulate:
        return simulate(arguments.simulate)
    data = Path(os.environ.get("MILKIT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (data / SLIDE).is_file():
        sys.exit(f"{data} has no {SLIDE}; set MILKIT_DATA to the folder that holds wsi/.")
    on = machine()
    result = measure(data, arguments.quick)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**result, "machine": on}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
