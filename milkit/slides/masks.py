"""Masks that somebody else made: outlines from QuPath (GeoJSON), or an image (PNG) of the whole slide."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from milkit.data.formats.guard_bytes import regular
from milkit.data.images.decode import Reading, raw_pixels
from milkit.errors import ConfigError, DataError

OUTLINES = (".geojson", ".json")
IMAGES = (".png",)
MOST_BYTES = 1 << 30
"""Of a GeoJSON file: some millions of outlines of nuclei."""
MOST_MEGAPIXELS = 1000.0
BEYOND = 0.05
"""Share of the slide's size that outlines may reach over its border, as drawing by hand does."""


@dataclass(frozen=True)
class MaskChoice:
    """Which parts of a mask count.

    Attributes:
        include: names of classes (of a PNG, its values), with * for anything; () for all (of a PNG, all but 0).
        exclude: names whose area is taken out again. QuPath's own Ignore* is, unless stated otherwise.
        and_tissue: only what was also found to be tissue counts.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ("Ignore*",)
    and_tissue: bool = False


@dataclass(frozen=True, eq=False)
class Outline:
    """One polygon with its holes: rings of (x, y) in pixels of level 0, and the name of its class ("" for none)."""

    name: str
    rings: tuple[Float[np.ndarray, "_ 2"], ...]


def find_mask(where: Path, slide_id: str) -> Path:
    """The mask of a slide: the file itself, or NAME.geojson, NAME.json or NAME.png in a folder.

    Raises:
        DataError: there is none, or there are two.
    """
    if not where.is_dir():
        return where
    names = [f"{slide_id}{suffix}" for suffix in OUTLINES + IMAGES]
    found = [where / name for name in names if (where / name).is_file()]
    if len(found) != 1:
        there = f"both {found[0].name} and {found[1].name}" if found else f"none of {', '.join(names)}"
        raise DataError(f"The folder of masks {where} holds {there}; one mask is expected for slide {slide_id!r}.")
    return found[0]


def read_mask(
    path: Path, size_px: tuple[int, int], shape: tuple[int, int], choice: MaskChoice = MaskChoice()
) -> tuple[Bool[np.ndarray, "h w"], tuple[str, ...]]:
    """A mask over the whole slide, and notes.

    Args:
        path: GeoJSON or PNG.
        size_px: width and height of level 0.
        shape: height and width of the mask wanted.
        choice: what of it counts.

    Raises:
        DataError: a file that cannot be read, is no such mask, or does not fit the slide.
    """
    if path.suffix.lower() in OUTLINES:
        return _from_outlines(path, size_px, shape, choice)
    if path.suffix.lower() in IMAGES:
        return _from_image(path, size_px, shape, choice)
    raise DataError(f"{path} is no mask that milkit reads; expected one of {', '.join(OUTLINES + IMAGES)}.")


def read_outlines(path: Path) -> tuple[list[Outline], tuple[str, ...]]:
    """The polygons of a GeoJSON file, and notes; points and lines are passed over.

    Raises:
        DataError: it cannot be read, or is no GeoJSON.
    """
    try:
        with open(regular(path), "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as fault:
        raise DataError(f"The mask {path} cannot be read: {fault.strerror or fault}.") from None
    if len(raw) > MOST_BYTES:
        raise DataError(f"The mask {path} has more than {MOST_BYTES} bytes; export the regions only, not every cell.")
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as fault:
        raise DataError(f"The mask {path} is no JSON ({str(fault)[:100]}); export GeoJSON from QuPath.") from None
    outlines: list[Outline] = []
    passed = 0
    for name, geometry in _geometries(value, path):
        polygons = _polygons(geometry, path)
        passed += not polygons
        outlines += [Outline(name, rings) for rings in polygons]
    return outlines, (f"{path.name}: {passed} points or lines passed over",) if passed else ()


def rasterise(
    rings: Sequence[Float[np.ndarray, "_ 2"]], shape: tuple[int, int]
) -> tuple[tuple[slice, slice], Bool[np.ndarray, "_ _"]]:
    """The pixels whose middle lies within an odd number of rings: a polygon and its holes.

    Args:
        rings: (x, y) in pixels of the mask; they need not be closed.
        shape: height and width of the mask.

    Returns:
        Where in the mask, and what is there: only the polygon's surroundings are computed.
    """
    points = np.concatenate(rings)
    x0, y0 = np.clip(np.floor(points.min(0)), 0, shape[::-1]).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(points.max(0)), 0, shape[::-1]).astype(int).tolist()
    turns = np.zeros((max(y1 - y0, 0), max(x1 - x0, 0) + 1), bool)
    for ring in rings:
        row, x = _crossings(ring, y0, y1)
        column = np.clip(np.ceil(x - 0.5) - x0, 0, turns.shape[1] - 1).astype(np.int64)
        np.logical_xor.at(turns, (row - y0, column), True)
    inside = np.logical_xor.accumulate(turns, 1)[:, :-1]
    return (slice(y0, y1), slice(x0, x1)), inside


def _crossings(ring: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a ring's edges cross the middles of rows low..high-1: (row, x)."""
    a, b = ring, np.roll(ring, -1, 0)
    up = a[:, 1] > b[:, 1]
    a, b = np.where(up[:, None], b, a), np.where(up[:, None], a, b)  # downwards
    first = np.clip(np.ceil(a[:, 1] - 0.5), low, high).astype(np.int64)
    last = np.clip(np.ceil(b[:, 1] - 0.5), low, high).astype(np.int64)  # half open, so a corner counts once
    edge = np.repeat(np.arange(len(a)), last - first)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[edge]
    slope = (row + 0.5 - a[edge, 1]) / (b[edge, 1] - a[edge, 1])
    return row, a[edge, 0] + slope * (b[edge, 0] - a[edge, 0])


def _from_outlines(
    path: Path, size_px: tuple[int, int], shape: tuple[int, int], choice: MaskChoice
) -> tuple[np.ndarray, tuple[str, ...]]:
    outlines, notes = read_outlines(path)
    _check_reach(path, outlines, size_px)
    scale = np.array([shape[1] / size_px[0], shape[0] / size_px[1]])
    masks = {wanted: np.zeros(shape, bool) for wanted in (True, False)}
    for outline in outlines:
        out = _named(outline.name, choice.exclude)
        if out or not choice.include or _named(outline.name, choice.include):
            where, inside = rasterise([ring * scale for ring in outline.rings], shape)
            masks[not out][where] |= inside
    names = sorted({outline.name for outline in outlines})
    missing = [name for name in choice.include if not any(fnmatchcase(n, name) for n in names)]
    if missing:
        notes += (f"{path.name}: no class {', '.join(map(repr, missing))} among {names}",)
    return masks[True] & ~masks[False], notes


def _from_image(
    path: Path, size_px: tuple[int, int], shape: tuple[int, int], choice: MaskChoice
) -> tuple[np.ndarray, tuple[str, ...]]:
    pixels, mode, _ = raw_pixels(path, Reading(max_megapixels=MOST_MEGAPIXELS))
    if pixels.ndim == 3 and (pixels[..., :3] == pixels[..., :1]).all() and pixels.shape[2] in (3, 4):
        pixels = pixels[..., 0]
    if pixels.ndim != 2:
        raise DataError(f"The mask {path} is in colour ({mode}); expected one channel, 0 where nothing counts.")
    height, width = pixels.shape
    if abs(width * size_px[1] / size_px[0] - height) > max(2.0, 0.01 * height):
        raise DataError(
            f"The mask {path} is {width} x {height} (width x height), but the slide is {size_px[0]} x {size_px[1]}: "
            "another shape. Give a mask of the whole slide, of any size with the slide's proportions."
        )
    values = [v for v in np.unique(pixels).tolist() if v]
    kept = [v for v in values if not choice.include or _named(str(int(v)), choice.include)]
    kept = [v for v in kept if not _named(str(int(v)), choice.exclude)]
    from milkit.slides.tissue import resampled

    return resampled(np.isin(pixels, kept), shape), ()


def _named(name: str, patterns: Sequence[str]) -> bool:
    """Whether a class is meant; a name that ends in * (as QuPath's do) is also meant by itself."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_reach(path: Path, outlines: list[Outline], size_px: tuple[int, int]) -> None:
    """Refuse coordinates that are not those of this slide's level 0."""
    if not outlines:
        return
    points = np.concatenate([ring for outline in outlines for ring in outline.rings])
    low, high, size = points.min(0), points.max(0), np.array(size_px)
    if (low < -BEYOND * size - 1).any() or (high > (1 + BEYOND) * size + 1).any():
        raise DataError(
            f"The outlines of {path} reach from ({low[0]:.0f}, {low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f}), but "
            f"the slide has {size_px[0]} x {size_px[1]} pixels. Pixel coordinates of level 0 are expected; is it the "
            "mask of another slide?"
        )


def _geometries(value: Any, path: Path) -> Iterator[tuple[str, dict]]:
    """(class, geometry) of everything in a GeoJSON value; QuPath writes collections, lists and single features."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        name, item = stack.pop(0) if len(stack) < 2 else stack.pop()
        if isinstance(item, list):
            stack += [(name, part) for part in reversed(item)]
            continue
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "FeatureCollection" and isinstance(item.get("features"), list):
            stack += [(name, part) for part in reversed(item["features"])]
        elif kind == "GeometryCollection" and isinstance(item.get("geometries"), list):
            stack += [(name, part) for part in reversed(item["geometries"])]
        elif kind == "Feature":
            if item.get("geometry") is not None:
                stack.append((_class_of(item), item["geometry"]))
        elif kind in ("Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString"):
            yield name, item
        else:
            raise DataError(f"The mask {path} holds {str(item)[:60]!r}, which is no GeoJSON; export it from QuPath.")


def _class_of(feature: dict) -> str:
    """QuPath's classification, in the ways its versions have written it."""
    properties = feature.get("properties")
    named = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(named, str):
        return named
    if isinstance(named, dict):
        if isinstance(named.get("names"), list):
            return ": ".join(map(str, named["names"]))
        return str(named.get("name") or "")
    return ""


def _polygons(geometry: dict, path: Path) -> list[tuple[np.ndarray, ...]]:
    """The rings of each polygon; none of points and lines."""
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        return []
    parts = geometry.get("coordinates")
    try:
        if geometry["type"] == "Polygon":
            parts = [parts]
        polygons = [tuple(np.array([p[:2] for p in ring], np.float64) for ring in part) for part in parts]  # type: ignore[union-attr]
    except (TypeError, ValueError, KeyError, OverflowError):
        raise DataError(
            f"The mask {path} holds a {geometry['type']} whose coordinates are no lists of (x, y)."
        ) from None
    for ring in (ring for rings in polygons for ring in rings):
        if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 or not np.isfinite(ring).all():
            raise DataError(
                f"The mask {path} holds a ring of shape {ring.shape}, or one that is not finite; expected three points "
                "(x, y) or more."
            )
    return [rings for rings in polygons if rings]


def mask_choice(include: Sequence[str], exclude: Sequence[str] | None, and_tissue: bool) -> MaskChoice:
    """A choice of what the command line gives.

    Raises:
        ConfigError: a class is both included and excluded.
    """
    both = set(include) & set(exclude or ())
    if both:
        raise ConfigError(f"The class {sorted(both)[0]!r} is both included and excluded; name it once.")
    default = MaskChoice()
    given = tuple(name for name in default.exclude if name not in include) if exclude is None else tuple(exclude)
    return MaskChoice(tuple(include), given, and_tissue)
