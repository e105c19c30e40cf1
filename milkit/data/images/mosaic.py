"""Maps of crops, as `predictions.csv` names them, put together into maps of their images."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from milkit.data.images.windows import stitch
from milkit.errors import DataError

_CROP = re.compile(r"(?P<image>.+) y(?P<top>\d+) x(?P<left>\d+)")


def crop_id(image: str, top: int, left: int) -> str:
    """Id of a crop, from which `mosaic` knows its place."""
    return f"{image} y{top} x{left}"


def mosaic(bags: Sequence[str], maps: Iterable[np.ndarray], margin: int = 0) -> dict[str, np.ndarray]:
    """The map of each image, float32 [h, w, c], from those of its crops.

    Crops of test images (`ImageCrops(test_crops=True)`) reach all borders, so the map is as large as the image; where
    crops overlap they are blended as by `stitch`.

    Args:
        bags: ids of the crops.
        maps: of each, [s, s, c].
        margin: see `stitch`.

    Raises:
        DataError: an id that is no crop's, or crops that leave gaps.
    """
    parts: dict[str, list[tuple[tuple[int, int], np.ndarray]]] = {}
    for bag, part in zip(bags, maps, strict=True):
        found = _CROP.fullmatch(bag)
        if found is None:
            raise DataError(f"Bag {bag!r} is no crop of an image; expected an id such as 'slide.png y56 x112'.")
        parts.setdefault(found["image"], []).append(((int(found["top"]), int(found["left"])), part))
    return {image: _whole(found, margin) for image, found in parts.items()}


def _whole(parts: Sequence[tuple[tuple[int, int], np.ndarray]], margin: int) -> np.ndarray:
    places = np.array([place for place, _ in parts])
    ends = np.array([(top + part.shape[0], left + part.shape[1]) for (top, left), part in parts])
    height, width = ends.max(0).tolist()
    return stitch([part for _, part in parts], places, (height, width), margin)
