"""Border following (Suzuki & Abe 1985) in the order and with the start points of OpenCV's `findContours`.

Written for `hausdorff(mode="opencv_rank")`, whose value depends on the order of the points. Mode `RETR_LIST` (all outer
borders and borders of holes, the one found last comes first) with `CHAIN_APPROX_SIMPLE` (only the ends of horizontal,
vertical and diagonal runs). Not for drawing: a hole's border runs through the foreground around it, as there.
"""

import numpy as np
from jaxtyping import Bool, Int

# Directions counter-clockwise from the right, as (dy, dx) on an image whose y points down.
STEPS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))

_INSIDE, _RIGHT = 1, 2  # marks of a border pixel; RIGHT: background was seen to its right, so no hole starts there


def _turns() -> list[bytes]:
    """`turns[came][code]`: next direction, plus 8 where the search passed the right neighbour and found it empty.

    came: direction of the pixel that one comes from; code: bit i for a neighbour of foreground in direction i.
    """
    out = []
    for came in range(8):
        row = bytearray(256)
        for code in range(1, 256):
            turn = next(d for d in range(came + 1, came + 9) if code >> (d & 7) & 1)
            row[code] = (turn & 7) + 8 * (1 <= (turn & 7) <= came)
        out.append(bytes(row))
    return out


_TURNS = _turns()


def contours(mask: Bool[np.ndarray, "h w"]) -> list[Int[np.ndarray, "points 2"]]:
    """Borders of a mask, each a list of points (x, y) in pixels.

    References:
        Suzuki & Abe (1985), Topological structural analysis of digitized binary images by border following,
        algorithm 1 (the hierarchy of borders is left out).
    """
    framed = np.pad(mask, 1)  # a frame of background: no border leaves the image
    height, width = framed.shape
    codes = np.zeros((height, width), np.uint8)
    for bit, (dy, dx) in enumerate(STEPS):
        codes[1:-1, 1:-1] |= framed[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx].astype(np.uint8) << bit
    code, offsets = codes.tobytes(), [dy * width + dx for dy, dx in STEPS]
    marks = bytearray(height * width)
    flat = framed.ravel()
    outer = flat[1:] & ~flat[:-1]
    hole = ~flat[1:] & flat[:-1]
    found = []
    for at in (np.flatnonzero(outer | hole) + 1).tolist():  # in the order of reading
        if flat[at]:
            if not marks[at]:
                found.append(_follow(at, 4, code, offsets, marks))
        elif not marks[at - 1] & _RIGHT:
            found.append(_follow(at - 1, 0, code, offsets, marks))
    return [np.stack([points % width - 1, points // width - 1], 1) for points in map(np.asarray, found[::-1])]


def _follow(start: int, towards: int, code: bytes, offsets: list[int], marks: bytearray) -> list[int]:
    """Points where one border changes direction, from `start`, whose neighbour `towards` is background."""
    if not code[start]:
        marks[start] |= _RIGHT
        return [start]
    # the last neighbour, going clockwise from the background pixel
    came = next(d & 7 for d in range(towards - 1, towards - 9, -1) if code[start] >> (d & 7) & 1)
    last = start + offsets[came]
    points, at, before = [], start, came ^ 4
    while True:
        turn = _TURNS[came][code[at]]
        direction = turn & 7
        marks[at] |= _RIGHT if turn & 8 else _INSIDE
        if direction != before:
            points.append(at)
            before = direction
        following = at + offsets[direction]
        if following == start and at == last:
            return points
        at, came = following, direction ^ 4
