"""The tiles of a slide as a source: its manifest says where they are, the slide's file holds their pixels."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from milkit.errors import DataError
from milkit.slides.open import open_slide
from milkit.slides.slide import Slide
from milkit.slides.tiles import Tiles, manifest_paths, read_facts, read_tiles
from milkit.slides.tiling import slide_digest

KEPT = ("slide", "digest", "size_px", "width_px", "mpp")
"""Facts of a manifest that a store keeps of each slide."""


@dataclass(frozen=True)
class TiledSlide:
    """A slide that was tiled, and where its file is now.

    Attributes:
        tiles: folder of the manifests.
        id: the slide's name there.
        path: its file; None takes the one that the manifest names.
    """

    tiles: Path
    id: str
    path: Path | None = None

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the manifest says; raises a DataError where there is none."""
        found = read_facts(self.tiles, self.id)
        if found is None:
            raise DataError(f"There is no manifest {manifest_paths(self.tiles, self.id)[0]}; `milkit tile` makes it.")
        return found

    @property
    def file(self) -> Path:
        """The slide's file."""
        return self.path or Path(self.manifest["slide"])

    @property
    def facts(self) -> dict[str, Any]:
        """What a store keeps of it, known without opening the slide."""
        return {**{name: self.manifest[name] for name in KEPT}, "tiles_sha256": self.manifest["sha256"]}

    @property
    def count(self) -> int:
        """How many tiles it has."""
        return int(self.manifest["tiles"])

    def check(self) -> None:
        """See that the file is the one that was tiled.

        Raises:
            DataError: it is not there, or another one.
        """
        if not self.file.is_file():
            raise DataError(
                f"Its file {self.file} is not there; if it was moved, name its folder (--slides), or give its place in "
                "a column `slide_path` of the table."
            )
        if slide_digest(self.file) != self.manifest["digest"]:
            raise DataError(
                f"{self.file} is not the file that was tiled: its name, size or time of change differ. If it is a "
                "copy, copy it with its time (cp -p, rsync -t); otherwise tile it again (milkit tile --force)."
            )

    def open(self) -> "SlideTiles":
        """Open the slide at the mpp that it was tiled with.

        Raises:
            DataError: manifest or slide cannot be read, or do not belong together.
        """
        self.check()
        slide = open_slide(self.file, mpp=self.manifest["mpp"])
        try:
            if list(slide.size_px) != list(self.manifest["size_px"]):
                raise DataError(
                    f"{self.file} has {slide.size_px[0]} x {slide.size_px[1]} pixels, and had "
                    f"{self.manifest['size_px']} when it was tiled; tile it again (milkit tile --force)."
                )
            return SlideTiles(slide, read_tiles(self.tiles, self.id), self.facts)
        except BaseException:
            slide.close()
            raise


class SlideTiles:
    """An opened slide and its tiles; a `Source`.

    Args:
        slide: opened.
        tiles: of it.
        facts: what a store keeps of it.
    """

    def __init__(self, slide: Slide, tiles: Tiles, facts: dict[str, Any]) -> None:
        self.slide, self.tiles, self.facts = slide, tiles, facts
        self.mpp, self.tile_um = float(tiles.facts["mpp"]), float(tiles.facts["tile_um"])
        self.side, self.width_px = int(tiles.facts["tile_px"]), int(tiles.facts["width_px"])

    @property
    def coords_px(self) -> Int[np.ndarray, "n 2"]:
        """Top-left corners (x, y) in pixels of level 0."""
        return self.tiles.xy_px

    @property
    def coords_um(self) -> Float[np.ndarray, "n 2"]:
        """The same in micrometres, float32."""
        return self.tiles.xy_um

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.tiles)

    def read_tiles(self, start: int, stop: int) -> UInt8[np.ndarray, "n side side 3"]:
        """Tiles `start` to `stop` (not included), `side` pixels for `tile_um`."""
        out = np.empty((stop - start, self.side, self.side, 3), np.uint8)
        # of whole pixels in float64: float32 micrometres would miss a pixel's corner far from the origin
        corners = (self.tiles.xy_px[start:stop] * self.mpp).tolist()
        for place, (x, y) in enumerate(corners):
            out[place] = self.slide.read((x, y), (self.side, self.side), self.tile_um / self.side)
        return out

    def unchanged(self) -> bool:
        """Whether the slide's file is what it was when opened."""
        return self.slide.unchanged()

    def close(self) -> None:
        """Let go of the file."""
        self.slide.close()
