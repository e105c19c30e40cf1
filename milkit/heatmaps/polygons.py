"""Tiles and contours as GeoJSON that QuPath opens: pixels of level 0, (x, y) from the slide's top-left corner.

A tile is an object of QuPath's kind `tile`, with its score, rank and percentile as measurements and its colour on the
heat map; a contour is an annotation, the outline of the tiles at or above a quantile of the scores. Corners are whole
pixels, the tiles' own. GeoJSON's longitudes and latitudes are not meant, as nowhere in QuPath.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from milkit.data.images.polygons import doubled_area, objects_of
from milkit.errors import ConfigError, DataError
from milkit.heatmaps.scores import SlideScores
from milkit.heatmaps.shown import Scale, colour_bar, coloured, colours, normalised, ranks

MOST_CELLS = 1 << 27
"""Of the grid that all edges of tiles make; tiles that lie on a grid have about one cell each."""


def geojson(
    scores: SlideScores, scale: Scale, contours: Sequence[float], facts: Mapping[str, Any]
) -> Iterator[str]:  # fmt: skip
    """The text of a feature collection, piece by piece: contours first, then tiles in the order of the features.

    Args:
        scores: of a slide.
        scale: how scores become colours.
        contours: quantiles of the scores, between 0 and 1.
        facts: kept as the collection's member `milkit`, which QuPath passes over.

    Raises:
        ConfigError: a quantile that is none.
    """
    yield f'{{"type": "FeatureCollection", "milkit": {_as_json(facts)}, "features": [\n'
    between = ""
    for feature in chain(map(_as_json, _contours(scores, contours)), _tiles(scores, scale)):
        yield between + feature
        between = ",\n"
    yield "\n]}\n"


def class_name(scores: SlideScores) -> str:
    """What QuPath lists the objects under."""
    name = f"{scores.kind} for {scores.label}" if scores.of_class else scores.kind
    return ", ".join([name, *scores.marks])


def _tiles(scores: SlideScores, scale: Scale) -> Iterator[str]:
    """Each tile as JSON, written out: a slide may have a million of them."""
    shown, place, colour = normalised(scores, "rank"), ranks(scores), colours(scores, scale)
    kind = _as_json({"name": class_name(scores), "color": colour_bar()[len(colour_bar()) // 2, :3].tolist()})
    low, high = scores.xy_px.tolist(), (scores.xy_px + scores.width_px).tolist()
    columns = zip(
        low, high, scores.scores.tolist(), shown.tolist(), place.tolist(), colour[:, :3].tolist(), strict=True
    )
    for number, ((x, y), (right, bottom), score, share, rank, rgb) in enumerate(columns):
        # JSON has no NaN: a tile that nothing is known of has no measurements
        measured = f'"score": {score!r}, "rank": {rank}, "percentile": {100 * share!r}' if rank else ""
        yield (
            '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": '
            f"[[[{x}, {y}], [{right}, {y}], [{right}, {bottom}], [{x}, {bottom}], [{x}, {y}]]]}}, "
            f'"properties": {{"objectType": "tile", "name": "tile {number}", "color": {rgb}, '
            f'"classification": {kind}, "measurements": {{{measured}}}}}}}'
        )


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), ensure_ascii=False)


def _contours(scores: SlideScores, quantiles: Sequence[float]) -> Iterator[dict[str, Any]]:
    values = np.asarray(scores.scores, np.float64)
    known = np.isfinite(values)
    for q in quantiles:
        if not 0 < q < 1:
            raise ConfigError(f"--contours {q:g} is no quantile; expected numbers between 0 and 1, such as 0.9 0.95.")
        if not known.any():
            continue
        least = float(np.quantile(values[known], q))
        chosen = known & (values >= least)
        rgb = coloured(np.array([q]))[0, :3].tolist()
        for rings in merged(scores.xy_px[chosen], scores.width_px):
            area = sum(doubled_area(ring) for ring in rings) / 2
            yield {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()] for ring in rings]},
                "properties": {
                    "objectType": "annotation",
                    "name": f"score >= {least:.4g}",
                    "classification": {"name": f"{class_name(scores)}, quantile {q:g}", "color": rgb},
                    "measurements": {
                        "quantile": q,
                        "least score": least,
                        "area um^2": area * scores.mpp**2,
                    },
                },
            }


def merged(xy_px: Int[np.ndarray, "n 2"], width_px: int) -> list[list[Int[np.ndarray, "_ 2"]]]:
    """The outlines of squares put together: for each connected part its outer ring and its holes, corners exact.

    Raises:
        DataError: squares that lie on no grid, too many to be put together.
    """
    x, y = (np.unique(np.concatenate([axis, axis + width_px])) for axis in xy_px.T)
    if (len(x) - 1) * (len(y) - 1) > MOST_CELLS:
        raise DataError(
            f"The tiles have {len(x)} x {len(y)} different edges, too many for outlines of them; leave out --contours."
        )
    mask = _covered(xy_px, width_px, x, y)
    return [
        [np.stack([x[ring[:, 0]], y[ring[:, 1]]], 1) for ring in (one.outer, *one.holes)] for one in objects_of(mask)
    ]


def _covered(xy_px: np.ndarray, width_px: int, x: np.ndarray, y: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """Which cells between the edges are covered by a square."""
    left, right = np.searchsorted(x, xy_px[:, 0]), np.searchsorted(x, xy_px[:, 0] + width_px)
    top, bottom = np.searchsorted(y, xy_px[:, 1]), np.searchsorted(y, xy_px[:, 1] + width_px)
    steps = np.zeros((len(y), len(x)), np.int32)
    for row, column, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(steps, (row, column), sign)
    return steps.cumsum(0).cumsum(1)[:-1, :-1] > 0
