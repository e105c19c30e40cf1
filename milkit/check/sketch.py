"""Marks by which instances are known again: a hash of the row, and a random projection that survives small changes.

References:
    Indyk and Motwani (1998): hashing by rounded random projections. Broder (1997): the smallest hashes of a set as a
    sample that two overlapping sets have in common.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt64

WIDTH = 64
"""Numbers a projected row; distances are kept within about 1/sqrt(2 x 64) = 9 %."""
CELL_AXES = 4
CELL = 0.5
"""Side of a cell in standard deviations of a projection: a copy that moved by 3 % of one stays in its cell with
probability (1 - 0.8 x 0.03 / 0.5)^4 = 0.82."""
LEAST_SPREAD = 0.02
"""Of a column's mean: the SD counts as at least that."""
STILL = 0.98
"""Share of rows that hold the median, from which a column is left out of the projections (not of the hashes)."""
FEWEST_MOVING = 16
"""Columns that must be left; with fewer none is left out."""
_ROWS = 512


@dataclass(frozen=True, eq=False)
class Sketcher:
    """Projects rows of one cohort.

    Attributes:
        directions: random directions over the SD of each column, 0 for columns left out, float32 [d, WIDTH].
        origin: projection of the columns' means, float32 [WIDTH].
        keys: random odd numbers, uint64, one for two columns.
    """

    directions: Float[np.ndarray, "d w"]
    origin: Float[np.ndarray, " w"]
    keys: UInt64[np.ndarray, " h"]

    @classmethod
    def of(cls, sample: Float[np.ndarray, "r d"], seed: int = 0) -> "Sketcher":
        """Scaled by the columns of some rows; the directions depend on the seed and the width only."""
        rng = np.random.default_rng(seed)
        d = sample.shape[1]
        centre, sd = sample.mean(0, dtype=np.float64), sample.std(0, dtype=np.float64)
        usable = sd > 1e-6 * np.abs(centre) + 1e-12
        # columns that move in a few rows only would make those rows unlike all others, whatever else they hold
        moving = usable & ((sample == np.median(sample, 0)).mean(0) <= STILL)
        usable = moving if moving.sum() >= FEWEST_MOVING else usable
        # a column that is nearly constant must not drown the others where a scanner's gain moves it by a per cent
        sd = np.maximum(sd, LEAST_SPREAD * np.abs(centre))
        axes = rng.standard_normal((d, WIDTH)) / np.sqrt(WIDTH)
        keys = rng.integers(0, 2**64, (d + 1) // 2, np.uint64, endpoint=False) | np.uint64(1)
        directions = (axes * np.where(usable, 1 / np.where(usable, sd, 1), 0)[:, None]).astype(np.float32)
        return cls(directions, (centre @ directions).astype(np.float32), keys)

    def project(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n w"]:
        """Standardised rows in `WIDTH` random directions: distances are about those of the standardised rows."""
        return (x @ self.directions - self.origin).astype(np.float32)

    def hashes(self, x: Float[np.ndarray, "n d"]) -> UInt64[np.ndarray, " n"]:
        """A 64-bit hash of every row's float32 values; float16 and float32 files of one row agree."""
        result = np.empty(len(x), np.uint64)
        for start in range(0, len(x), _ROWS):
            # + 0: minus zero becomes zero
            block = np.ascontiguousarray(x[start : start + _ROWS], np.float32) + np.float32(0)
            if block.shape[1] % 2:
                block = np.concatenate([block, np.zeros((len(block), 1), np.float32)], 1)
            bits = block.view(np.uint64)  # two values a number
            result[start : start + _ROWS] = np.einsum("nd,d->n", bits, self.keys[: bits.shape[1]])
        return mixed(result)


def mixed(h: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finaliser of splitmix64: every bit depends on all."""
    with np.errstate(over="ignore"):
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def common_rows(
    projected: Float[np.ndarray, "n w"], spread: Float[np.ndarray, " w"], most: int
) -> Int64[np.ndarray, " k"]:
    """Which rows of a bag to keep, so that two bags with tiles in common keep the same ones.

    Rows fall into cells by `CELL_AXES` of their projections, cells are drawn by a hash of their number, and of a cell
    one row is kept. Bags that share a part J of their tiles so share about J of what they keep (Broder's argument).

    Args:
        projected: the bag's rows.
        spread: SD of each projection over the cohort.
        most: how many rows to keep; all where the bag has no more.
    """
    if len(projected) <= most:
        return np.arange(len(projected))
    cells = np.floor(projected[:, :CELL_AXES] / (CELL * spread[:CELL_AXES])).astype(np.int64)
    weights = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)
    drawn = mixed((cells.view(np.uint64) * weights).sum(1, dtype=np.uint64))
    # of a cell, the row that lies lowest on a further direction: small changes leave it so
    order = np.lexsort((projected[:, CELL_AXES], drawn))
    first = np.r_[True, drawn[order][1:] != drawn[order][:-1]]
    return np.sort(order[first][:most])
