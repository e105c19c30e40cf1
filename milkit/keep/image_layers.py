"""From a model's map of an image to what is found in it: a mask in the image's own pixels, and its objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from milkit.data.images.polygons import Object, drop_specks, objects_of
from milkit.errors import ConfigError
from milkit.keep.folder import Kept

PLAIN = ("1", "true", "yes", "positive", "present")
"""Names of a positive class that say nothing of what is there."""
FOREGROUND = "foreground"


@dataclass(frozen=True, eq=False)
class Layer:
    """One kind of thing in one image.

    Attributes:
        name: what it is.
        map: probability at each pixel of the image as the model saw it.
        mask: True from the threshold on, without specks; as large as `map`.
        objects: of `mask`.
        shape: height and width of the image itself, px.
        side: pixels of the image that became one, each way.
    """

    name: str
    map: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    objects: list[Object]
    shape: tuple[int, int]
    side: int

    @property
    def full_mask(self) -> Bool[np.ndarray, "H W"]:
        """The mask in the image's own pixels."""
        return enlarged(self.mask, self.shape, self.side)

    @property
    def full_map(self) -> UInt8[np.ndarray, "H W"]:
        """The map in the image's own pixels, 255 for probability 1."""
        return enlarged(np.rint(self.map * 255.0).astype(np.uint8), self.shape, self.side)

    def full_rings(self, one: Object) -> list[np.ndarray]:
        """Rings of an object in the image's own pixels, outer ring first; blocks at the border may be smaller."""
        last = np.array([self.shape[1], self.shape[0]])
        return [np.minimum(ring * self.side, last) for ring in (one.outer, *one.holes)]


def layer(
    name: str, seen: Float[np.ndarray, "h w"], shape: tuple[int, int], side: int, threshold: float, smallest: int
) -> Layer:
    """What is found in a map.

    Args:
        name: of what it is a map.
        seen: probability at each pixel.
        shape, side: as in `Layer`.
        threshold: what counts, from here on.
        smallest: fewest pixels of the image that an object may have.
    """
    mask = drop_specks(seen >= threshold, -(-smallest // (side * side)))
    return Layer(name, seen, mask, objects_of(mask), shape, side)


def kinds(kept: Kept, name: str = "") -> tuple[str, ...]:
    """What a model has a map of each, in the order of `split_maps`.

    Args:
        kept: the model.
        name: what to call the only one; "" takes the model's word, if it says something.

    Raises:
        ConfigError: its maps are no probabilities of something being there; or a name for several.
    """
    if kept.kind == "Binary":
        own = kept.names[-1]
        return (name or (FOREGROUND if own.lower() in PLAIN else own),)
    if kept.kind != "MultiLabel":
        raise ConfigError(
            f"This model answers a {kept.kind} task; masks are made of models for Binary and MultiLabel tasks, whose "
            "maps say where something is."
        )
    own_names = (FOREGROUND,) if _has_background(kept) else kept.names
    if name and len(own_names) > 1:
        raise ConfigError(f"--class {name}: this model finds {', '.join(own_names)}; leave --class out.")
    return (name,) if name else own_names


def split_maps(kept: Kept, maps: Float[np.ndarray, "h w c"]) -> list[Float[np.ndarray, "h w"]]:
    """One map a kind; of foreground where background has a map of its own, its share (as in reports)."""
    if not _has_background(kept):
        return [maps[..., i] for i in range(maps.shape[2])]
    fore, back = (maps[..., kept.names.index(n)] for n in (FOREGROUND, "background"))
    total = fore + back
    return [np.divide(fore, total, out=np.zeros_like(fore), where=total > 0)]


def enlarged(pixels: np.ndarray, shape: Sequence[int], side: int) -> np.ndarray:
    """Each pixel as a block of side x side, cut off at the image's border."""
    if side == 1:
        return pixels
    return np.repeat(np.repeat(pixels, side, 0), side, 1)[: shape[0], : shape[1]]


def _has_background(kept: Kept) -> bool:
    return kept.kind == "MultiLabel" and set(kept.names) == {FOREGROUND, "background"}
