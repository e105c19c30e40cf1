"""Where the tiles of a slide lie: squares in pixels of level 0, as its features say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from milkit.bag import Bag
from milkit.data.features import FeatureSource, Joined
from milkit.data.slide_facts import slide_facts
from milkit.data.store import Store
from milkit.errors import DataError

WHOLE = 0.05
"""How far from whole pixels a size in micrometres may lie that stands for them: what is rounded more is said."""

KINDS = {"frames": "the frames of a folder", "volume": "the slices of a volume"}
"""What a store's instances may be besides tiles of a slide."""


@dataclass(frozen=True, eq=False)
class Places:
    """The squares of a slide's tiles.

    Attributes:
        xy_px: top-left corners in pixels of level 0, row by row of the features.
        width_px: of a tile, in pixels of level 0.
        mpp: micrometres a pixel of level 0.
        notes: what was worked out rather than read.
        slide: what the store knows of the slide's file (`slide`, `digest`, `size_px` ...); {} where nothing.
    """

    xy_px: Int[np.ndarray, "n 2"]
    width_px: int
    mpp: float
    notes: tuple[str, ...] = ()
    slide: Mapping[str, Any] = field(default_factory=dict)


def places_of(bag: Bag, source: FeatureSource | None, mpp: float | None = None) -> Places:
    """The squares of a slide's tiles.

    Args:
        bag: of the slide alone, its id the slide's.
        source: what it was read from.
        mpp: micrometres a pixel of level 0, where the features do not say it.

    Raises:
        DataError: it is no slide; positions, the width of a tile or the mpp are not known, or contradict each other.
    """
    store = _store_of(source, bag.id)
    facts = {} if store is None else slide_facts(store.path, store.index[bag.id]).get(bag.id, {})
    if facts.get("kind"):  # `milkit embed --stacks`
        raise DataError(
            f"{bag.id!r} is no slide: its features are of {KINDS.get(facts['kind'], facts['kind'])} "
            f"({facts.get('slide')}), and heat maps are of slides only. predictions.csv and top_instances.csv of the "
            "run say what the models made of it."
        )
    if bag.coords_px is None and bag.coords_um is None:
        raise DataError(
            f"The features of slide {bag.id!r} hold no positions of tiles (coords_px, coords_um), so no heat map can "
            "be laid over it. `milkit pack` or `milkit embed` make stores that hold them."
        )
    mpp = _mpp(bag, mpp)
    width, notes = _width(bag, store, mpp)
    if bag.coords_px is not None:
        return Places(np.asarray(bag.coords_px, np.int64), width, mpp, notes, facts)
    exact = np.asarray(bag.coords_um, np.float64) / mpp
    xy = np.rint(exact)
    off = float(np.abs(exact - xy).max())
    by = f" and rounded by up to {off:.2f} pixels" if off > WHOLE else ""
    notes = (f"corners were worked out from micrometres{by}", *notes)
    return Places(xy.astype(np.int64), width, mpp, notes, facts)


def _mpp(bag: Bag, given: float | None) -> float:
    if bag.mpp is None and given is None:
        raise DataError(
            f"The features of slide {bag.id!r} do not say how many micrometres a pixel of level 0 is wide (slide_mpp); "
            "give it by --mpp."
        )
    if bag.mpp is not None and given is not None and abs(given - bag.mpp) > 0.01 * bag.mpp:
        raise DataError(
            f"The features of slide {bag.id!r} say mpp {bag.mpp:g}, but --mpp {given:g} is given; leave it out."
        )
    return float(given if bag.mpp is None else bag.mpp)  # type: ignore[arg-type]


def _width(bag: Bag, store: Store | None, mpp: float) -> tuple[int, tuple[str, ...]]:
    """Width of a tile in pixels of level 0, rounded as `milkit tile` does."""
    known = None if store is None or store.tile_level0_px is None else store.tile_level0_px[store.index[bag.id]]
    if known is not None and np.isfinite(known):
        return max(1, round(float(known))), ()
    tile_um = bag.tile_um if store is None else bag.tile_um or store.provenance["tile_um"]
    if tile_um is None:
        raise DataError(
            f"The features of slide {bag.id!r} do not say how wide a tile is (slide_tile_px, slide_tile_um); write the "
            "store anew with it, or say Cohort(tile_um=...) in the experiment."
        )
    width = max(1, round(tile_um / mpp))
    rounded = abs(tile_um / mpp - width) > WHOLE
    return width, (f"a tile of {tile_um:g} um was taken for {width} whole pixels of {mpp:g} um",) if rounded else ()


def _store_of(source: FeatureSource | None, slide_id: str) -> Store | None:
    """The store that holds a slide, if it is one."""
    if isinstance(source, Joined):
        source = source.where[slide_id]
    return source if isinstance(source, Store) else None
