"""What a TIFF says of itself: Aperio's description, OME-XML, resolution tags."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from milkit.slides.mpp import LARGEST, SMALLEST, number

MICROMETRES = {"": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4}
"""Of OME's units of length; none is micrometres by OME's schema. The two first have different letters mu."""
UNITS = {2: ("inch", 25_400.0), 3: ("centimetre", 10_000.0)}
"""Of TIFF's ResolutionUnit, in micrometres."""


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What tifffile logs of odd files is no one's concern: it either reads or raises."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def facts_of(page: Any) -> dict[str, str]:
    """Properties of a file, from its first page (of tifffile)."""
    description = str(page.description or "")
    facts = {"tiff.ImageDescription": description[:4000]}
    for name in ("Make", "Model", "Software", "DateTime"):
        if name in page.tags:
            facts[f"tiff.{name}"] = str(page.tags[name].value)[:500]
    if description.startswith("Aperio"):
        for part in description.split("|")[1:]:
            key, equals, value = part.partition("=")
            if equals:
                facts[f"aperio.{key.strip()}"] = value.strip()
    return facts


def mpp_of(page: Any, facts: dict[str, str]) -> tuple[tuple[float, float] | None, str, str]:
    """Micrometres a pixel along x and y, or None; where they are stated; and what else is said, for a message."""
    hint = f" (it states a magnification of {facts['aperio.AppMag']})" if "aperio.AppMag" in facts else ""
    if "aperio.MPP" in facts:
        value = number(facts["aperio.MPP"])
        if value is not None:
            return (value, value), "Aperio's description (MPP)", hint
        hint = f" (its description has MPP = {facts['aperio.MPP']!r})"
    found = ome_mpp(str(page.description or ""))
    if found is not None:
        return found, "OME-XML (PhysicalSizeX, PhysicalSizeY)", hint
    return _resolution(page, hint)


def ome_mpp(description: str) -> tuple[float, float] | None:
    """Sizes of the first image's pixels, where OME-XML states them."""
    if "<OME" not in description[:5000] and "<ome:OME" not in description[:5000]:
        return None
    try:
        root = ElementTree.fromstring(description.encode())
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    pixels = next((e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    sides = []
    for axis in "XY":
        value = number(pixels.get(f"PhysicalSize{axis}", ""))
        unit = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", ""))
        if value is None or unit is None:
            return None
        sides.append(value * unit)
    return sides[0], sides[1]


def _resolution(page: Any, hint: str) -> tuple[tuple[float, float] | None, str, str]:
    """By the tags XResolution and YResolution, where their unit is stated and they are a slide's, not of print."""
    across, down, unit = (page.tags[tag].value if tag in page.tags else None for tag in (282, 283, 296))
    if unit not in UNITS or across is None or down is None:
        return None, "", hint
    name, micrometres = UNITS[unit]
    try:
        x, y = (micrometres * v[1] / v[0] for v in (across, down))
    except (ZeroDivisionError, TypeError, IndexError):
        return None, "", hint
    if not (SMALLEST <= x <= LARGEST and SMALLEST <= y <= LARGEST):
        return None, "", f"{hint} (its resolution tags say {x:g} um a pixel, which is no slide's)"
    return (x, y), f"its resolution tags (pixels a {name})", hint
