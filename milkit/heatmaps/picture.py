"""The overlay as one PNG: the heat map over the slide, and beneath it what the colours mean."""

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from milkit.heatmaps.painted import blended, painted
from milkit.heatmaps.scores import SlideScores
from milkit.heatmaps.shown import SCALES, Scale, bounds, colour_bar, normalised
from milkit.slides.slide import Slide

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

LONGEST = 2000
"""Longer side of the overlay, in pixels."""
SMALLEST = 900
"""Slides of fewer pixels are enlarged a whole number of times up to this."""
MARGIN, LINE, BAR = 16, 24, 20
"""Around the legend, from line to line, and height of the colour bar, in pixels."""
LOUD, INK = (190, 60, 0), (31, 41, 52)


@dataclass(frozen=True, eq=False)
class Overlay:
    """A slide and the heat map over it.

    Attributes:
        plain: the slide.
        over: the slide under the heat map.
        px: pixels of level 0 that one of theirs is wide; both begin at the slide's top-left corner.
    """

    plain: UInt8[np.ndarray, "h w 3"]
    over: UInt8[np.ndarray, "h w 3"]
    px: float


def overlay(slide: Slide, scores: SlideScores, scale: Scale, opacity: float, longest: int = LONGEST) -> Overlay:
    """Lay a heat map over a small picture of the slide.

    Args:
        slide: that the tiles were cut from.
        scores: of its tiles.
        scale: how scores become colours.
        opacity: of the colours, 0..1.
        longest: longer side, in pixels.
    """
    width, height = slide.size_px
    shrink = max(1.0, max(width, height) / longest)
    plain = slide.read((0.0, 0.0), (math.ceil(width / shrink), math.ceil(height / shrink)), slide.mpp * shrink)
    enlarge = max(1, min(longest, SMALLEST) // max(plain.shape[:2]))
    plain = plain.repeat(enlarge, 0).repeat(enlarge, 1)
    px = shrink / enlarge
    shape = plain.shape[0], plain.shape[1]
    values = painted(scores.xy_px, scores.width_px, normalised(scores, scale), shape, px)
    return Overlay(plain, blended(plain, values, opacity), px)


def png(made: Overlay, scores: SlideScores, scale: Scale, mpp: float) -> "Image":
    """The overlay with its legend beneath; the slide's corner is the picture's.

    Args:
        made: the overlay.
        scores: what it shows.
        scale: how scores became colours.
        mpp: micrometres a pixel of level 0.
    """
    from PIL import Image, ImageDraw

    height, width = made.over.shape[:2]
    wide = max(width, SMALLEST)
    lines = [(line, i < len(scores.marks)) for i, line in enumerate(_lines(scores, scale))]
    letters = max(20, int((wide - 2 * MARGIN) / 8.6))
    wrapped = [(part, loud) for line, loud in lines for part in textwrap.wrap(line, letters) or [""]]
    legend = 3 * MARGIN + BAR + LINE + LINE * len(wrapped)
    image = Image.new("RGB", (wide, height + legend), "white")
    image.paste(Image.fromarray(made.over), (0, 0))
    draw = ImageDraw.Draw(image)
    top = height + MARGIN
    _bar(image, draw, scores, scale, top)
    _scale_bar(draw, wide, top, mpp * made.px, width)
    for i, (text, loud) in enumerate(wrapped):
        at = (MARGIN, top + BAR + LINE + i * LINE)
        draw.text(at, text, fill=LOUD if loud else INK, font=_font(bold=loud))
    return image


def _lines(scores: SlideScores, scale: Scale) -> list[str]:
    head = f"{scores.slide_id}: {SCALES[scale]}"
    marked = len(scores.marks)
    lines = scores.legend().split("\n")
    return [*lines[:marked], head, *lines[marked:]]


def bar_ends(scores: SlideScores, scale: Scale) -> tuple[str, str]:
    """What stands at the lower and the upper end of the colour bar."""
    if scale == "raw":
        low, high = bounds(scores)
        return f"{low:.4g}", f"{high:.4g}"
    return "lowest of the slide", "highest of the slide"


def _bar(image: "Image", draw: "ImageDraw", scores: SlideScores, scale: Scale, top: int) -> None:
    from PIL import Image

    colours = np.repeat(colour_bar()[None, :, :3], BAR, 0)
    low, high = bar_ends(scores, scale)
    left = MARGIN + math.ceil(draw.textlength(low, font=_font(13))) + 8
    draw.text((MARGIN, top + 2), low, fill=INK, font=_font(13))
    image.paste(Image.fromarray(colours), (left, top))
    draw.text((left + colours.shape[1] + 8, top + 2), high, fill=INK, font=_font(13))


def _scale_bar(draw: "ImageDraw", wide: int, top: int, mpp: float, width: int) -> None:
    """A round number of micrometres, at most a fifth of the picture's width, at the right."""
    um = nice(width * mpp / 5)
    long = max(1, round(um / mpp))
    right = wide - MARGIN
    draw.rectangle((right - long, top, right, top + 6), fill=INK)
    text = f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} um"
    draw.text((right, top + 10), text, fill=INK, font=_font(13), anchor="ra")


def nice(most: float) -> float:
    """The largest of 1, 2, 5, 10, 20 ... (or a tenth, a hundredth of them) that is not above `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (5, 2, 1) if step * power <= most * (1 + 1e-9))


def _font(size: int = 15, bold: bool = False) -> Any:
    """DejaVu Sans, which comes with matplotlib and knows most letters that ids are written in."""
    from pathlib import Path

    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
