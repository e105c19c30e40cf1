"""Which tiles lie beside each other, from positions in micrometres, so that 20x and 40x slides give one graph.

Positions in pixels of level 0 are twice as far apart at 40x as at 20x, and tile sizes are kept in other pixels again:
a graph built by dividing one by the other has no edge at all on half of the slides. Micrometres have no such trap.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from milkit.bag import Bag
from milkit.errors import DataError
from milkit.fields import check_fields

NEAR = 0.25
"""A tile within a quarter of a step of where a neighbour should be is that neighbour: tools round to whole pixels."""
STRAY = 4
"""So many tiles of a slide may all lie apart from each other."""
TIES = 12
"""More candidates than are asked for: on a grid up to 12 tiles are equally far, and which is taken must not depend on
the order of the tiles."""


MOST_NEIGHBOURS = 1024
"""That may be asked for."""


@dataclass(frozen=True)
class Nearest:
    """The k nearest tiles."""

    k: int = 8
    radius_um: float | None = None
    """None: however far; else tiles further than this are no neighbours."""

    def __post_init__(self) -> None:
        check_fields(self, "neighbours", k=f"[1, {MOST_NEIGHBOURS}]", radius_um="(0, inf)")


@dataclass(frozen=True)
class OnGrid:
    """The tiles one step to the right, left, below and above, and with `corners` the four at the corners."""

    corners: bool = True
    step_um: float | None = None
    """Distance of neighbouring tiles; None: the width of a tile, which is right for tiles that touch."""

    def __post_init__(self) -> None:
        check_fields(self, "neighbours", step_um="(0, inf)")


@dataclass(frozen=True)
class Within:
    """All tiles within a radius, nearest first, at most `most` of them."""

    radius_um: float
    most: int = 32

    def __post_init__(self) -> None:
        check_fields(self, "neighbours", radius_um="(0, inf)", most=f"[1, {MOST_NEIGHBOURS}]")


Neighbours = Nearest | OnGrid | Within


def neighbours_of(bag: Bag, how: Neighbours) -> Int[np.ndarray, "n j"]:
    """Indices of each instance's neighbours in its bag, -1 where there are fewer; never the instance itself.

    Args:
        bag: with positions in micrometres, and for `OnGrid` with the width of its tiles.
        how: which are neighbours. The columns of `OnGrid` are right, left, below, above, then the corners below
            right, below left, above right, above left; the others' are by distance, ties by row, then column.

    Raises:
        DataError: positions, or the width of a tile, are not known; tiles that do not lie `step_um` apart.
    """
    if bag.coords_um is None:
        raise DataError(
            f"Bag {bag.id!r} has no positions in micrometres, which neighbours are found by; open its features with "
            "an mpp (docs/data.md)."
        )
    xy = np.asarray(bag.coords_um, np.float64)
    if isinstance(how, Nearest):
        return _nearest(xy, how.k, how.radius_um)
    if isinstance(how, Within):
        return _nearest(xy, how.most, how.radius_um)
    step = how.step_um if how.step_um is not None else bag.tile_um
    if step is None:
        raise DataError(
            f"Bag {bag.id!r}: the width of its tiles is not known; give OnGrid(step_um=...), or tile_um= on opening."
        )
    return _on_grid(bag.id, xy, step, how.corners)


def _nearest(xy: Float[np.ndarray, "n 2"], k: int, radius: float | None) -> Int[np.ndarray, "n j"]:
    n = len(xy)
    result = np.full((n, k), -1, np.int32)
    if n == 1:
        return result
    wanted = min(n, k + 1 + TIES)
    # float32 positions carry dust of some nanometres, and a radius is meant to include what lies on it
    bound = np.inf if radius is None else radius * (1 + 1e-6)
    distance, index = cKDTree(xy).query(xy, k=wanted, distance_upper_bound=bound)
    own = index == np.arange(n)[:, None]
    gone = own | ~np.isfinite(distance)
    place = np.where(gone, 0, index)
    keys = (
        np.where(gone, 0, xy[place, 0]),
        np.where(gone, 0, xy[place, 1]),
        # to a tenth of a micrometre: equal distances on a grid are to tie
        np.where(gone, np.inf, np.round(distance, 1)),
    )
    order = np.lexsort(keys, axis=1)
    sorted_ = np.take_along_axis(np.where(gone, -1, index), order, 1)[:, :k]
    result[:, : sorted_.shape[1]] = sorted_
    return result


def _on_grid(name: str, xy: Float[np.ndarray, "n 2"], step: float, corners: bool) -> Int[np.ndarray, "n j"]:
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1)]
    offsets = sides + ([(1, 1), (-1, 1), (1, -1), (-1, -1)] if corners else [])
    tree = cKDTree(xy)
    result = np.full((len(xy), len(offsets)), -1, np.int32)
    for column, offset in enumerate(offsets):
        distance, index = tree.query(xy + np.array(offset) * step, distance_upper_bound=NEAR * step)
        result[:, column] = np.where(np.isfinite(distance), index, -1)
    if len(xy) > 1 and (result < 0).all():
        spacing = float(np.median(tree.query(xy, k=2)[0][:, 1]))
        # a few tiles left over from a grid lie whole steps apart; many without one neighbour are another grid
        if len(xy) > STRAY or spacing < (1 - NEAR) * step or abs(spacing / step - round(spacing / step)) > NEAR:
            raise DataError(
                f"Bag {name!r}: no tile lies {step:.6g} um beside another; the nearest are {spacing:.6g} um apart. The "
                "width of a tile and the positions are of different scales (a patch size in other pixels than those "
                "of level 0?), or tiles overlap: give OnGrid(step_um=...) their distance."
            )
    return result
