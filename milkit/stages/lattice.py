"""Cells of images outside of networks: which ones a criterion names, which are dropped, and how they are painted.

The lattice is that of `milkit.pixel.camel`: row i of n holds the pixels floor(i h / n) to floor((i + 1) h / n) - 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

FOREGROUND = 255
"""What foreground is in a mask that is painted."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Cells that were selected, one entry each, ordered by bag and cell.

    Attributes:
        bag: row of the image in the study, [n].
        cell: number of the cell in its image, row by row, [n].
        label: of the image, and so the cell's, 0 or 1, [n].
        by: the criteria that named it, joined by `+`, [n].
        dropped: how many each criterion named whose prediction contradicts the image's label.
    """

    bag: Int[np.ndarray, "n"]
    cell: Int[np.ndarray, "n"]
    label: Int[np.ndarray, "n"]
    by: tuple[str, ...]
    dropped: dict[str, int]


def named(
    logits: Float[np.ndarray, "b n n"], label: Int[np.ndarray, "b"], criterion: str
) -> tuple[Int[np.ndarray, "b"], Bool[np.ndarray, "b"]]:
    """The cell of each image that a criterion names, and whether its prediction agrees with the image's label.

    Max-Max names the highest logit; Max-Min the lowest where the label is 0. Of equal cells it is the first, row by
    row. A logit of 0 and more (a probability of 1/2 and more) predicts 1.
    """
    flat = logits.reshape(len(logits), -1)
    lowest = (label == 0) & (criterion == "max_min")
    cell = np.where(lowest, flat.argmin(1), flat.argmax(1))
    return cell, (flat[np.arange(len(flat)), cell] >= 0) == (label == 1)


def collected(logits: Mapping[str, Float[np.ndarray, "b n n"]], label: Int[np.ndarray, "b"]) -> Chosen:
    """The cells that the criteria name, those that contradict their image's label dropped; a cell named twice is one.

    Args:
        logits: of every cell, by criterion.
        label: of each image, 0 or 1.
    """
    by: dict[tuple[int, int], list[str]] = {}
    dropped = {}
    for criterion, values in logits.items():
        cells, agree = named(values, label, criterion)
        dropped[criterion] = int((~agree).sum())
        for bag in np.flatnonzero(agree).tolist():
            by.setdefault((bag, int(cells[bag])), []).append(criterion)
    keys = sorted(by)
    pairs = np.array(keys, np.int64).reshape(-1, 2)
    return Chosen(pairs[:, 0], pairs[:, 1], label[pairs[:, 0]], tuple("+".join(by[k]) for k in keys), dropped)


def edges(size: int, n: int) -> Int[np.ndarray, "n_plus_1"]:
    """Where each of n cells of a line of `size` pixels begins, and where the last ends."""
    return size * np.arange(n + 1, dtype=np.int64) // n


def cut(image: UInt8[np.ndarray, "h w c"], cell: int, n: int) -> UInt8[np.ndarray, "i j c"]:
    """The pixels of one cell of an image."""
    (row, column), (tops, lefts) = divmod(cell, n), (edges(side, n) for side in image.shape[:2])
    return image[tops[row] : tops[row + 1], lefts[column] : lefts[column + 1]]


def painted(cells: Bool[np.ndarray, "n n"], height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    """A mask of an image: 255 on the pixels of the cells that are positive, 0 elsewhere."""
    rows, columns = (np.diff(edges(side, len(cells))) for side in (height, width))
    return np.repeat(np.repeat(cells, rows, 0), columns, 1).astype(np.uint8) * np.uint8(FOREGROUND)
