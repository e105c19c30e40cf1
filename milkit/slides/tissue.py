"""Where a slide holds tissue, and where ink: of a thumbnail at about 8 micrometres a pixel.

Tissue is colour: saturation above Otsu's threshold, holes and specks judged by their area in um^2. Made for H&E and
immunohistochemistry in transmitted light; another mask can take its place (`milkit.slides.masks`).
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from milkit.errors import ConfigError
from milkit.slides.slide import Slide

MASK_MPP = 8.0
"""Micrometres a pixel at which tissue is looked for: a nucleus is about one pixel, a gland many."""
MOST_PX = 4096
"""Longest side of a mask; slides of more than 33 mm are looked at more coarsely."""
OTSU_WITHIN = (10.0, 60.0)
"""Where Otsu's threshold is held, of saturation in 0..255: compressed glass reaches about 5, so an empty slide is not
split into two kinds of glass, nor one full of tissue into two kinds of tissue."""


@dataclass(frozen=True)
class TissueRule:
    """How tissue is told from glass.

    Attributes:
        saturation: threshold in 0..255; None is Otsu's of the slide, held within `OTSU_WITHIN`.
        close_um: gaps up to about twice this are closed.
        hole_um2: smaller holes are filled.
        smallest_um2: smaller pieces are left out.
        ink: whether blue, green and black pen is taken out. Its colours are those of no H&E stain; for a blue
            counterstain alone (immunohistochemistry), turn it off.
        ink_um2: smaller spots of such a colour are no ink.
    """

    saturation: float | None = None
    close_um: float = 16.0
    hole_um2: float = 20_000.0
    smallest_um2: float = 50_000.0
    ink: bool = True
    ink_um2: float = 10_000.0

    def __post_init__(self) -> None:
        """Refuse a threshold that no saturation can be compared with."""
        if self.saturation is not None and not 0 <= self.saturation <= 255:
            raise ConfigError(f"--saturation is {self.saturation:g}; expected a threshold from 0 to 255.")


@dataclass(frozen=True, eq=False)
class TissueMap:
    """Masks over a whole slide.

    Attributes:
        rgb: the thumbnail that was looked at.
        tissue: where tissue is, without ink.
        ink: where ink is.
        fold: tissue that lies double.
        px_um: width and height of a pixel in micrometres.
        threshold: of the saturation; NaN where tissue came from an external mask.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    tissue: Bool[np.ndarray, "h w"]
    ink: Bool[np.ndarray, "h w"]
    fold: Bool[np.ndarray, "h w"]
    px_um: tuple[float, float]
    threshold: float


def tissue_map(slide: Slide, rule: TissueRule = TissueRule()) -> TissueMap:
    """The masks of a slide."""
    longest = min(MOST_PX, max(1, ceil(max(slide.size_um) / MASK_MPP)))
    rgb = slide.thumbnail(longest)
    return tissue_of(rgb, (slide.size_um[0] / rgb.shape[1], slide.size_um[1] / rgb.shape[0]), rule)


def tissue_of(
    rgb: UInt8[np.ndarray, "h w 3"], px_um: tuple[float, float], rule: TissueRule = TissueRule()
) -> TissueMap:
    """The masks of a thumbnail whose pixels are `px_um` (width, height) micrometres."""
    area = px_um[0] * px_um[1]
    smooth = ndimage.uniform_filter(rgb, (3, 3, 1), mode="nearest")  # the noise of compression is a pixel wide
    value, saturation = value_saturation(smooth)
    ink = (
        without_small(ink_of(smooth, value, saturation), rule.ink_um2 / area)
        if rule.ink
        else np.zeros_like(value, bool)
    )
    if ink.any():  # its rim is paler than it
        ink = ndimage.binary_dilation(ink, _disk(16.0 / min(px_um)))
    level = rule.saturation if rule.saturation is not None else held_otsu(saturation[~ink])
    tissue = (saturation > level) & ~ink
    tissue = _closed(tissue, rule.close_um / min(px_um)) & ~ink
    tissue = filled(tissue, rule.hole_um2 / area) & ~ink
    tissue = without_small(tissue, rule.smallest_um2 / area)
    return TissueMap(rgb, tissue, ink, fold_of(value, saturation, tissue, area), px_um, float(level))


def value_saturation(rgb: UInt8[np.ndarray, "h w 3"]) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """Value and saturation of HSV, both 0..255. Near black, where noise has any saturation, it is 0."""
    value, least = rgb.max(2), rgb.min(2)
    saturation = (value - least) / np.maximum(value, 1).astype(np.float32) * np.float32(255)
    return value, np.where(value < 30, 0, np.rint(saturation)).astype(np.uint8)


def held_otsu(saturation: UInt8[np.ndarray, "n"]) -> float:
    """Otsu's threshold within `OTSU_WITHIN`: values above it are tissue."""
    return float(np.clip(otsu(np.bincount(saturation, minlength=256)), *OTSU_WITHIN))


def otsu(counts: np.ndarray) -> int:
    """The value after which a histogram is cut in two with the largest variance between the parts.

    References:
        Otsu (1979), A threshold selection method from gray-level histograms, IEEE Trans. SMC 9(1).
    """
    counts = counts.astype(np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * np.arange(len(counts)))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return int(np.argmax(np.nan_to_num(between)))


def ink_of(
    rgb: UInt8[np.ndarray, "h w 3"], value: UInt8[np.ndarray, "h w"], saturation: UInt8[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Pixels of the colours of blue, green and black pen.

    H&E lets green through least, so that green, and blue in which green exceeds red by much, are not its colours. Red
    pen is not told from eosin. Black is as dark as no stain is at this scale.
    """
    red, green, blue = (rgb[..., i].astype(np.int16) for i in range(3))
    strong = saturation > 90
    green_pen = strong & (green > red + 20) & (green >= blue)
    blue_pen = strong & (blue > green) & (green > red + 10)
    black_pen = (value < 60) & (np.maximum(np.maximum(abs(red - green), abs(green - blue)), abs(red - blue)) < 40)
    return green_pen | blue_pen | black_pen


def fold_of(
    value: UInt8[np.ndarray, "h w"], saturation: UInt8[np.ndarray, "h w"], tissue: Bool[np.ndarray, "h w"], area: float
) -> Bool[np.ndarray, "h w"]:
    """Tissue much darker and more saturated than the slide's own: saturation minus value, as Bautista & Yagi use it.

    The cut is the slide's median of the difference plus a third of the full range, or plus four robust standard
    deviations where tissue varies more; spots under 2,000 um^2 are cells, no folds.

    References:
        Bautista & Yagi (2010), Improving the visualization and detection of tissue folds in whole slide images through
        color enhancement, Journal of Pathology Informatics 1:25.
    """
    if not tissue.any():
        return np.zeros_like(tissue)
    difference = saturation.astype(np.float32) - value
    inside = difference[tissue]
    middle = np.median(inside)
    spread = 1.4826 * np.median(abs(inside - middle))
    return without_small(tissue & (difference > middle + max(85.0, 4 * spread)), 2_000.0 / area)


def without_small(mask: Bool[np.ndarray, "h w"], pixels: float) -> Bool[np.ndarray, "h w"]:
    """The mask without connected parts of fewer pixels."""
    numbered, count = ndimage.label(mask)
    if not count:
        return mask
    kept = np.bincount(numbered.ravel(), minlength=count + 1) >= pixels
    kept[0] = False
    return kept[numbered]


def filled(mask: Bool[np.ndarray, "h w"], pixels: float) -> Bool[np.ndarray, "h w"]:
    """The mask with holes of fewer pixels filled; what touches the border is no hole."""
    numbered, count = ndimage.label(~mask)
    small = np.bincount(numbered.ravel(), minlength=count + 1) < pixels
    small[0] = False
    for border in (numbered[0], numbered[-1], numbered[:, 0], numbered[:, -1]):
        small[border] = False
    return mask | small[numbered]


def resampled(mask: Bool[np.ndarray, "H W"], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask of the same slide at another size, each pixel taken at its middle."""
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(np.int64) for n, m in zip(shape, mask.shape, strict=True))
    return mask[rows[:, None], columns]


def shares(
    mask: Bool[np.ndarray, "h w"], px_um: tuple[float, float], x_um: Float[np.ndarray, "c"],
    y_um: Float[np.ndarray, "r"], width_um: float,
) -> Float[np.ndarray, "r c"]:  # fmt: skip
    """The share of the mask in every square of a grid, exact for a mask of squares; outside the slide there is none.

    Args:
        mask: over the whole slide.
        px_um: width and height of its pixels.
        x_um, y_um: left edges of the grid's columns, upper edges of its rows.
        width_um: of the squares.
    """
    columns = _across(mask.astype(np.float32), x_um / px_um[0], width_um / px_um[0])
    return np.clip(_across(columns.T, y_um / px_um[1], width_um / px_um[1]).T, 0, 1)


def _across(values: Float[np.ndarray, "h w"], start: np.ndarray, width: float) -> Float[np.ndarray, "h n"]:
    """Mean of each row over [start, start + width), in pixels; 0 outside."""
    total = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, 1, out=total[:, 1:])

    def until(place: np.ndarray) -> np.ndarray:
        place = np.clip(place, 0, values.shape[1])
        low = np.minimum(place.astype(np.int64), values.shape[1] - 1)
        return total[:, low] + (total[:, low + 1] - total[:, low]) * (place - low)

    return (until(start + width) - until(start)) / width


def _disk(radius: float) -> np.ndarray:
    """Of a radius in pixels; one pixel at least."""
    reach = max(1, int(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return x * x + y * y <= max(radius, 1.0) ** 2


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """Closing that does not eat from the border."""
    disk = _disk(radius)
    reach = len(disk) // 2
    padded = ndimage.binary_dilation(np.pad(mask, reach), disk)
    padded = ndimage.binary_erosion(padded, disk, border_value=1)
    return padded[reach:-reach, reach:-reach]
