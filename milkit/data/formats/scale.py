"""From pixels of level 0 to micrometres: a given mpp against what the files say, and one scale for a cohort."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from milkit.data.formats.header import Header
from milkit.data.where import and_more
from milkit.errors import DataError

SMALLEST_MPP, LARGEST_MPP = 0.02, 20.0
"""Micrometres a pixel that a slide scanner could have; beyond them the unit is another one."""
UM_AT_1X = 10.0
"""mpp x magnification of a nominal scan: 0.25 um a pixel at 40x, 0.5 at 20x."""
OFF_BY = 1.8
"""A given mpp may be off the nominal one by less than this: "40x" stands for 0.2 to 0.3, a mix-up is a factor 2."""
ONE_SCALE = 1.6
"""Tiles of one cohort may differ in width by less than this: scanners called 40x have 0.22 to 0.26, some 20x 0.33."""
OFFENDERS = 5
"""Files that a message names."""
SAME = 1.01
"""Below this, tiles are as wide as each other for every purpose."""


@dataclass(frozen=True)
class Scale:
    """Tile sizes of a cohort in micrometres; None where unknown.

    Attributes:
        mpp: micrometres a pixel of the tiles as the tool handed them to the encoder; the median over slides.
        tile_um: width of a tile, the median over slides.
        range_um: narrowest and widest tile.
    """

    mpp: float | None
    tile_um: float | None
    range_um: tuple[float, float] | None = None

    @property
    def note(self) -> str:
        """What a reader should know where slides differ, or ""."""
        if self.range_um is None or self.range_um[1] <= SAME * self.range_um[0]:
            return ""
        return (
            f"tiles are {self.range_um[0]:.4g} to {self.range_um[1]:.4g} um wide, by slide (several scanners?); "
            f"the cohort's tile_um is the median, {self.tile_um:.4g}"
        )


def check_mpp(value: float, where: str) -> None:
    """Raise a DataError unless a value can be micrometres per pixel."""
    if not (np.isfinite(value) and SMALLEST_MPP <= value <= LARGEST_MPP):
        raise DataError(
            f"{where}: mpp {value!r}; expected micrometres per pixel at level 0 (the scan's full resolution), such "
            f"as 0.25, between {SMALLEST_MPP} and {LARGEST_MPP:g}."
        )


def check_magnification(slides: Sequence[Header], mpp: Mapping[str, float]) -> None:
    """Raise where a given mpp cannot be that of level 0, by the magnification that the tool noted.

    Raises:
        DataError: names two of the files with what they say.
    """
    wrong = []
    for slide in slides:
        if slide.level0_magnification is not None and slide.id in mpp:
            said = f"level0_magnification {slide.level0_magnification:g}"
            nominal = UM_AT_1X / slide.level0_magnification
            if not 1 / OFF_BY < mpp[slide.id] / nominal < OFF_BY:
                wrong.append(
                    f"{slide.path}: {said}, about {nominal:.3g} um a pixel, but mpp {mpp[slide.id]:g} is given"
                )
    if wrong:
        raise DataError(
            f"{and_more(wrong[:2], len(wrong))}. mpp is that of level 0, the scan's full resolution, not that of the "
            "tiles; correct it (or the column), or set mpp='-' to do without positions."
        )


def check_given(slides: Sequence[Header], mpp: Mapping[str, float]) -> None:
    """Raise where a given mpp is not the one that the file itself says.

    Raises:
        DataError: names two of the files with what they say.
    """
    wrong = [
        f"{slide.path} says mpp {slide.mpp_level0:g}, but {mpp[slide.id]:g} is given"
        for slide in slides
        if slide.mpp_level0 is not None and slide.id in mpp and not 1 / SAME < mpp[slide.id] / slide.mpp_level0 < SAME
    ]
    if wrong:
        raise DataError(f"{and_more(wrong[:2], len(wrong))}. Leave the mpp out, or correct it (it is that of level 0).")


def scale_of(slides: Sequence[Header], mpp: Mapping[str, float], allow: Sequence[str] = ()) -> Scale:
    """Tile sizes over the slides whose tiles have a known width; None where any of those in use has none.

    Raises:
        DataError: tiles of two scales, unless "tile" or "mpp" are allowed to differ; lists the files that do.
    """
    sizes = [(slide, um) for slide in slides if slide.length and (um := _um(slide, mpp)) is not None]
    reachable = [s for s in slides if s.length and (s.id in mpp or s.tile_um is not None or not mpp)]
    if not sizes or len(sizes) < len(reachable):
        return Scale(None, None)
    widths = np.array([size for _, size in sizes])
    middle = float(np.median(widths))
    if widths.max() > ONE_SCALE * widths.min() and not {"tile", "mpp"} & set(allow):
        usual = max(sizes, key=lambda pair: int(((widths / pair[1] < SAME) & (widths / pair[1] > 1 / SAME)).sum()))
        others = [
            f"{slide.path} ({size:.4g} um)"
            for slide, size in sizes
            if not 1 / ONE_SCALE**0.5 < size / usual[1] < ONE_SCALE**0.5
        ]
        raise DataError(
            f"Tiles are {usual[1]:.4g} um wide in {usual[0].path}, but not in "
            f"{and_more(others[:OFFENDERS], len(others))}: two magnifications in one cohort, whose features cannot be "
            "pooled. Cut the tiles at one scale (by mpp, not by level), correct the mpp of these slides, or say that "
            "you mean it: allow='mpp'."
        )
    tile_px = {slide.tile_px for slide, _ in sizes}
    px = tile_px.pop() if len(tile_px) == 1 else None
    return Scale(_short(middle / px) if px else None, _short(middle), (_short(widths.min()), _short(widths.max())))


def _um(slide: Header, mpp: Mapping[str, float]) -> float | None:
    """Width of a slide's tiles in micrometres, None where unknown."""
    if slide.tile_um is not None:
        return slide.tile_um
    return mpp[slide.id] * slide.tile_level0_px if slide.id in mpp and slide.tile_level0_px is not None else None


def _short(value: float) -> float:
    """A size without the dust of binary fractions."""
    return float(f"{value:.10g}")
