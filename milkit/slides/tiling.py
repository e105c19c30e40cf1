"""One slide to its tiles: grid, tissue, quality; and which tiles are kept."""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import ConfigError, DataError
from milkit.slides.grid import context_corners, grid_of
from milkit.slides.masks import MaskChoice, find_mask, read_mask
from milkit.slides.quality import QUALITY_MPP, blur_scores
from milkit.slides.slide import Slide
from milkit.slides.tiles import Tiles
from milkit.slides.tissue import TissueMap, TissueRule, shares, tissue_map


@dataclass(frozen=True)
class Tiling:
    """What tiles are wanted.

    Attributes:
        tile_um: width of a tile in micrometres.
        tile_px: its width in pixels as an encoder gets it; so its mpp is tile_um / tile_px.
        overlap_um: of neighbours.
        tissue: least share of tissue, 0..1; at 0 every tile of the slide is kept.
        scales: how many times as wide tiles about the same centres are listed too; 1 is the tile itself.
        blur: whether blur is measured, which reads the tiles once.
        blur_mpp: micrometres a pixel at which.
        least_blur: tiles below this variance of the Laplacian are left out.
        most_fold: tiles with a larger share of folds are left out.
        rule: how tissue is found.
        mask: file or folder of masks that say what is tissue; None finds it.
        choice: which parts of the masks count.
    """

    tile_um: float = 128.0
    tile_px: int = 256
    overlap_um: float = 0.0
    tissue: float = 0.5
    scales: tuple[int, ...] = (1,)
    blur: bool = True
    blur_mpp: float = QUALITY_MPP
    least_blur: float | None = None
    most_fold: float | None = None
    rule: TissueRule = TissueRule()
    mask: Path | None = None
    choice: MaskChoice = field(default_factory=MaskChoice)

    def __post_init__(self) -> None:
        """Refuse what no slide could be tiled with."""
        for name, fine, expected in [
            ("tile_um", 0 < self.tile_um < 1e6, "micrometres above 0"),
            ("tile_px", 1 <= self.tile_px <= 65536, "1..65536 pixels"),
            ("overlap_um", 0 <= self.overlap_um < self.tile_um, f"0 or more, below tile_um ({self.tile_um:g})"),
            ("tissue", 0 <= self.tissue <= 1, "a share from 0 to 1"),
            ("scales", all(s >= 1 for s in self.scales), "whole numbers from 1"),
            ("blur_mpp", 0.05 <= self.blur_mpp <= 20, "0.05..20 micrometres a pixel"),
        ]:
            if not fine:
                value = getattr(self, name)
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected {expected}.")
        for name, value, most in [("least_blur", self.least_blur, inf), ("most_fold", self.most_fold, 1.0)]:
            if value is not None and not 0 <= value <= most:  # of NaN nothing would be kept
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {value:g}; expected a number from 0{' to 1' if most == 1 else ''}."
                )
        if self.least_blur is not None and not self.blur:
            raise ConfigError("--least-blur needs blur to be measured; leave out --no-blur.")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the tiles, for the manifest; two tilings of equal settings give equal tiles."""
        found = asdict(self)
        found["scales"] = sorted({1, *self.scales})
        found["mask"] = str(self.mask.resolve()) if self.mask else None
        found["choice"] = {k: list(v) if isinstance(v, tuple) else v for k, v in found["choice"].items()}
        return found


def slide_digest(path: Path) -> str:
    """Sha256 of a slide's name, size and time of change: to notice that it was replaced."""
    try:
        stat = path.stat()
    except OSError as fault:
        raise DataError(f"The slide {path} cannot be read: {fault.strerror or fault}.") from None
    return hashlib.sha256(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()


def tiles_of(slide: Slide, slide_id: str, tiling: Tiling) -> tuple[Tiles, TissueMap]:
    """The tiles of a slide, and the masks that they were chosen by.

    Raises:
        DataError: the slide or its mask cannot be read.
        ConfigError: tiles of less than a pixel.
    """
    grid = grid_of(slide.size_px, slide.mpp, tiling.tile_um, tiling.overlap_um)
    found = tissue_map(slide, tiling.rule)
    found, notes = _masked(found, slide, slide_id, tiling)
    x_um, y_um = (np.arange(n) * (grid.step_px * slide.mpp) for n in (grid.columns, grid.rows))
    width_um = grid.width_px * slide.mpp
    tissue, pen, fold = (shares(m, found.px_um, x_um, y_um, width_um) for m in (found.tissue, found.ink, found.fold))
    kept = tissue >= max(tiling.tissue - 1e-9, 0.0)  # a share is a sum of roundings
    if tiling.most_fold is not None:
        kept &= fold <= tiling.most_fold
    row, column = np.nonzero(kept)
    xy_px = grid.corners(row, column)
    blur = np.full(len(xy_px), np.nan, np.float32)
    if tiling.blur:
        blur = blur_scores(slide, xy_px, grid.width_px, tiling.blur_mpp)
    if tiling.least_blur is not None:
        sharp = blur >= tiling.least_blur
        xy_px, blur, row, column = xy_px[sharp], blur[sharp], row[sharp], column[sharp]
    shares_of = [m[row, column].astype(np.float32) for m in (tissue, pen, fold)]
    facts = _facts(slide, slide_id, tiling, found, notes) | {"width_px": grid.width_px, "step_px": grid.step_px}
    context = {s: context_corners(xy_px, grid.width_px, s) for s in sorted(set(tiling.scales) - {1})}
    xy_um = (xy_px * slide.mpp).astype(np.float32)
    return Tiles(facts, xy_px, xy_um, shares_of[0], blur, shares_of[1], shares_of[2], context), found


def _masked(
    found: TissueMap, slide: Slide, slide_id: str, tiling: Tiling
) -> tuple[TissueMap, tuple[str, ...]]:  # fmt: skip
    """The masks with tissue as an external mask says, and notes."""
    if tiling.mask is None:
        return found, ()
    path = find_mask(tiling.mask, slide_id)
    height, width = found.tissue.shape
    mask, notes = read_mask(path, slide.size_px, (height, width), tiling.choice)
    if tiling.choice.and_tissue:
        mask = mask & found.tissue
    threshold = found.threshold if tiling.choice.and_tissue else float("nan")
    return replace(found, tissue=mask, fold=found.fold & mask, threshold=threshold), notes


def _facts(
    slide: Slide, slide_id: str, tiling: Tiling, found: TissueMap, notes: tuple[str, ...]
) -> dict[str, Any]:  # fmt: skip
    from milkit import __version__

    return {
        "slide_id": slide_id,
        "slide": str(slide.path),
        "digest": slide_digest(slide.path),
        "milkit": __version__,
        "mpp": slide.mpp,
        "size_px": list(slide.size_px),
        "tile_um": tiling.tile_um,
        "tile_px": tiling.tile_px,
        "overlap_um": tiling.overlap_um,
        "mask_um": list(found.px_um),
        "saturation_threshold": None if np.isnan(found.threshold) else found.threshold,
        "settings": tiling.settings,
        "notes": list(notes),
    }
