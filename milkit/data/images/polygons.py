"""A mask as polygons with holes, along the edges of its pixels: what they enclose is the mask, to the pixel.

Foreground that touches at a corner only is two objects, so background that does so is one. Corners of a ring are those
of pixels, (x, y) from the top left of the image; a ring visits none twice, and a hole may touch its object's outer ring
at single corners: polygons are simple in the sense of OGC.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage

STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
"""Of the four directions (right, down, left, up), in (x, y). Foreground lies to the right of the way."""


@dataclass(frozen=True, eq=False)
class Object:
    """A connected part of a mask.

    Attributes:
        outer: its outer ring, int [n, 2], (x, y), not closed.
        holes: rings of what it encloses and does not hold.
        pixels: how many it has.
    """

    outer: Int[np.ndarray, "n 2"]
    holes: tuple[Int[np.ndarray, "_ 2"], ...]
    pixels: int


def objects_of(mask: Bool[np.ndarray, "h w"]) -> list[Object]:
    """The objects of a mask, from the top down."""
    numbered, count = ndimage.label(mask)
    if not count:
        return []
    pixels = np.bincount(numbered.ravel(), minlength=count + 1)
    outer: list[np.ndarray | None] = [None] * (count + 1)
    holes: list[list[np.ndarray]] = [[] for _ in range(count + 1)]
    for number, ring in _rings(mask, numbered):
        if doubled_area(ring) > 0:
            outer[number] = ring
        else:
            holes[number].append(ring)
    return [
        Object(ring, tuple(holes[i]), int(pixels[i])) for i, ring in enumerate(outer) if ring is not None
    ]  # fmt: skip


def drop_specks(mask: Bool[np.ndarray, "h w"], smallest: int) -> Bool[np.ndarray, "h w"]:
    """The mask without objects of fewer than `smallest` pixels."""
    if smallest <= 1:
        return mask
    numbered, _ = ndimage.label(mask)
    kept = np.bincount(numbered.ravel()) >= smallest
    kept[0] = False
    return kept[numbered]


def doubled_area(ring: Int[np.ndarray, "n 2"]) -> int:
    """Twice the area that a ring encloses: above 0 where it goes round clockwise on the screen, as outer rings do."""
    (x, y), (nx, ny) = ring.astype(np.int64).T, np.roll(ring.astype(np.int64), -1, 0).T
    return int((x * ny - nx * y).sum())


def filled(rings: list[Int[np.ndarray, "_ 2"]], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The pixels whose middle lies within an odd number of rings along pixels' edges: `objects_of`, read back."""
    turns = np.zeros((shape[0], shape[1] + 1), bool)
    for ring in rings:
        for (x, y), (_, to) in zip(ring.tolist(), np.roll(ring, -1, 0).tolist(), strict=True):
            turns[min(y, to) : max(y, to), x] ^= True
    return np.logical_xor.accumulate(turns, 1)[:, : shape[1]]


def _rings(mask: Bool[np.ndarray, "h w"], numbered: Int[np.ndarray, "h w"]) -> list[tuple[int, np.ndarray]]:
    """(number of the object, ring) of all rings, each corner once."""
    start, way, number = _edges(mask, numbered)
    after = _followers(start, way, mask.shape[1] + 1)
    corner = (way[after] != way).tolist()  # the edge ends in a corner of the ring
    ends, nexts, numbers = (start + STEPS[way]).tolist(), after.tolist(), number.tolist()
    seen, out = [False] * len(nexts), []
    for first in range(len(nexts)):
        if seen[first]:
            continue
        ring, edge = [], first
        while not seen[edge]:
            seen[edge] = True
            ring.append((ends[edge][0], ends[edge][1], corner[edge]))
            edge = nexts[edge]
        out += [(numbers[first], np.array(part, np.int64)) for part in _simple(ring)]
    return out


def _edges(mask: np.ndarray, numbered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each edge between foreground and background starts (x, y), its direction, and its object's number."""
    padded = np.pad(mask, 1)
    beside = [padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2]]  # above, right, below, left
    from_corner = [(0, 0), (1, 0), (1, 1), (0, 1)]
    starts, ways, numbers = [], [], []
    for way, (other, (right, down)) in enumerate(zip(beside, from_corner, strict=True)):
        row, column = np.nonzero(mask & ~other)
        starts.append(np.stack([column + right, row + down], 1))
        ways.append(np.full(len(row), way))
        numbers.append(numbered[row, column])
    return np.concatenate(starts), np.concatenate(ways), np.concatenate(numbers)


def _followers(start: np.ndarray, way: np.ndarray, wide: int) -> np.ndarray:
    """The edge that comes after each: the one to the right where two leave a corner, so that objects stay apart."""
    key = (start[:, 1] * wide + start[:, 0]) * 4 + way
    order = np.argsort(key)
    ordered = key[order]
    end = start + STEPS[way]
    place = (end[:, 1] * wide + end[:, 0]) * 4
    after = np.full(len(key), -1)
    for turn in (3, 0, 1):  # left, straight on, right: the last that is there counts
        wanted = place + (way + turn) % 4
        at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        there = ordered[at] == wanted
        after[there] = order[at[there]]
    return after


def _simple(ring: list[tuple[int, int, bool]]) -> list[list[tuple[int, int]]]:
    """A ring that meets itself at corners, cut there into rings that do not; corners only."""
    out: list[list[tuple[int, int]]] = []
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for x, y, corner in ring:
        if not corner:
            continue
        point = (x, y)
        if point in place:
            at = place[point]
            out.append(path[at:])
            for gone in path[at + 1 :]:
                del place[gone]
            del path[at + 1 :]
            continue
        place[point] = len(path)
        path.append(point)
    return [*out, path] if len(path) > 2 else out
