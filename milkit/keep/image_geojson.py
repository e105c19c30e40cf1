"""Objects of an image as GeoJSON that QuPath opens: one annotation an object, a polygon with holes.

Coordinates are pixels of the full-resolution image, (x, y) from its top left corner, as QuPath counts them; GeoJSON's
own longitudes and latitudes are not meant. Rings run along pixels' edges: the area of a polygon is that of its pixels.
"""

import json
from typing import Any

import numpy as np

from milkit.data.images.polygons import doubled_area
from milkit.keep.image_layers import Layer

COLOURS = ((0, 158, 115), (230, 159, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66), (0, 114, 178), (213, 94, 0))
"""Of kinds, by number: Okabe & Ito's, which colour-blind people tell apart; green first, which tissue is not."""


def colour_of(number: int) -> tuple[int, int, int]:
    """Red, green, blue of the n-th kind."""
    return COLOURS[number % len(COLOURS)]


def feature_collection(layers: list[Layer], mpp: float | None) -> str:
    """All objects of an image as a GeoJSON text.

    Args:
        layers: one a kind.
        mpp: micrometres a pixel of the full image; None leaves areas in micrometres out.
    """
    features = [
        _feature(layer, rings, colour_of(number), mpp)
        for number, layer in enumerate(layers)
        for rings in (layer.full_rings(one) for one in layer.objects)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False) + "\n"


def area_of(rings: list[np.ndarray]) -> int:
    """Pixels that an object's rings enclose."""
    return sum(doubled_area(ring) for ring in rings) // 2


def _feature(layer: Layer, rings: list[np.ndarray], colour: tuple[int, int, int], mpp: float | None) -> dict[str, Any]:
    area = area_of(rings)
    measured: dict[str, float] = {"Area px": area}
    if mpp is not None:
        measured["Area µm^2"] = area * mpp * mpp
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()] for ring in rings]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": layer.name, "color": list(colour)},
            "measurements": measured,
        },
    }
