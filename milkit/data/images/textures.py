"""Textures of image tiles as features: co-occurrence of grey levels, local binary patterns, Gabor filters.

What histology used before networks. They are features, not models: tiles in, a row of numbers a tile out, to be put
into a store or into bags as any embedding is. Nothing is fitted, so no tile learns from another.

    x = textures(tiles)  # uint8 [n, h, w, 3] -> float32 [n, 48]; `texture_names()` says what each is

Grey is the luminance of Rec. 709, 0.2125 R + 0.7154 G + 0.0721 B, in levels of 0 to 255. Definitions are those of
scikit-image where it has them. Not here: Haralick's other features (sums and differences of levels, information
measures), local ternary patterns, wavelets.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.signal import oaconvolve

from milkit.errors import DataError

LEVELS = 32
"""Grey levels of the co-occurrence matrix: with 256 that of a small tile is nearly empty."""
ANGLES = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Steps (rows, columns) to the neighbour whose level is counted beside a pixel's own: along 0, 45, 90, 135 degrees."""
CO_OCCURRENCE = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy", "second_moment")
FREQUENCIES = (0.1, 0.2, 0.4)
"""Of the Gabor filters, in cycles a pixel."""
ORIENTATIONS = 4
PATTERNS = 10
"""Rotation-invariant uniform patterns of eight neighbours: 0 to 8 lighter ones in one run, and all others as one."""


def textures(tiles: np.ndarray) -> Float[np.ndarray, "n d"]:
    """All features of each tile, in the order of `texture_names`.

    Args:
        tiles: RGB, uint8 [n, h, w, 3].

    Raises:
        DataError: the tiles are not uint8 [n, h, w, 3], or below 3 pixels a side.
    """
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3 or min(tiles.shape[1:3]) < 3:
        raise DataError(
            f"textures() got {tiles.dtype} {list(tiles.shape)}; expected RGB tiles as uint8 [n, h, w, 3], at least 3 "
            "pixels a side."
        )
    rows = [_of_one(grey_of(tile)) for tile in tiles]
    return np.asarray(rows, np.float32).reshape(len(tiles), len(texture_names()))


def texture_names() -> tuple[str, ...]:
    """What each feature is: co-occurrence (mean over four angles, and range), patterns, Gabor (mean and SD)."""
    co = [f"glcm_{name}_{what}" for what in ("mean", "range") for name in CO_OCCURRENCE]
    patterns = [f"lbp_{k}" for k in range(PATTERNS)]
    gabor = [
        f"gabor_{frequency}_{180 * i // ORIENTATIONS}_{what}"
        for frequency in FREQUENCIES
        for i in range(ORIENTATIONS)
        for what in ("mean", "sd")
    ]
    return (*co, *patterns, *gabor)


def grey_of(tile: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Luminance, 0 to 255."""
    return tile.astype(np.float64) @ np.array([0.2125, 0.7154, 0.0721])


def _of_one(grey: Float[np.ndarray, "h w"]) -> np.ndarray:
    levels = np.minimum(grey * LEVELS / 256, LEVELS - 1).astype(np.int64)
    each = np.stack([co_occurrence(levels, step) for step in ANGLES])
    return np.concatenate([each.mean(0), np.ptp(each, axis=0), local_patterns(grey), gabor(grey)])


def co_occurrence(levels: Int[np.ndarray, "h w"], step: tuple[int, int]) -> Float[np.ndarray, "7"]:
    """Features of how often two levels stand one step apart, in either order; in the order of `CO_OCCURRENCE`.

    The correlation of a tile of one level is 1, as in scikit-image.

    References:
        Haralick, Shanmugam & Dinstein (1973), Textural features for image classification.
    """
    down, right = step
    h, w = levels.shape
    here = levels[: h - down, max(0, -right) : w - max(0, right)]
    there = levels[down:, max(0, right) : w - max(0, -right)]
    table = np.bincount((here * LEVELS + there).ravel(), minlength=LEVELS**2).reshape(LEVELS, LEVELS).astype(float)
    p = (table + table.T) / (2 * max(here.size, 1))
    i = np.arange(LEVELS)
    gap = np.abs(i[:, None] - i)
    mean = (p.sum(1) * i).sum()
    variance = (p.sum(1) * (i - mean) ** 2).sum()
    covariance = (p * np.outer(i - mean, i - mean)).sum()
    second = (p**2).sum()
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    correlation = 1.0 if variance < 1e-15 else covariance / variance
    return np.array(
        [(p * gap**2).sum(), (p * gap).sum(), (p / (1 + gap**2)).sum(), np.sqrt(second), correlation, entropy, second]
    )


def local_patterns(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "10"]:
    """Share of each uniform pattern of the eight neighbours at distance 1 that are at least as light as the pixel.

    Neighbours on the diagonals lie between pixels and are interpolated. Pixels at the border have no pattern.

    References:
        Ojala, Pietikainen & Maenpaa (2002, PAMI 24:971), riu2 with P = 8, R = 1.
    """
    middle = grey[1:-1, 1:-1]
    near = np.sqrt(0.5)

    def at(down: int, right: int) -> np.ndarray:
        return grey[1 + down : grey.shape[0] - 1 + down, 1 + right : grey.shape[1] - 1 + right]

    def between(down: int, right: int) -> np.ndarray:
        beside = (1 - near) * middle + near * at(0, right)
        return (1 - near) * beside + near * ((1 - near) * at(down, 0) + near * at(down, right))

    upper = [at(0, 1), between(-1, 1), at(-1, 0), between(-1, -1)]
    round_it = [*upper, at(0, -1), between(1, -1), at(1, 0), between(1, 1)]
    # in an even patch the interpolated grey is the pixel's own up to rounding, which is no difference
    lighter = np.stack([n >= middle - 1e-6 for n in round_it])
    turns = (lighter != np.roll(lighter, 1, 0)).sum(0)
    pattern = np.where(turns <= 2, lighter.sum(0), PATTERNS - 1)
    return np.bincount(pattern.ravel(), minlength=PATTERNS) / pattern.size


def gabor(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "24"]:
    """Mean and SD of the magnitude of each filter's response to grey in 0 to 1, the tile mirrored at its borders."""
    found = []
    for frequency in FREQUENCIES:
        for i in range(ORIENTATIONS):
            magnitude = np.abs(_filtered(grey / 255, gabor_kernel(frequency, np.pi * i / ORIENTATIONS)))
            found += [magnitude.mean(), magnitude.std()]
    return np.array(found)


def gabor_kernel(frequency: float, angle: float) -> np.ndarray:
    """Complex wave under a Gaussian that is one octave wide, cut off at three standard deviations.

    Args:
        frequency: in cycles a pixel.
        angle: of the wave, in radians.

    References:
        Daugman (1985); widths by bandwidth as in scikit-image.
    """
    sd = 3 * np.sqrt(np.log(2) / 2) / (np.pi * frequency)
    # the Gaussian is round; the window is as scikit-image's, which turns it with the wave
    reach = int(np.ceil(max(3 * sd * max(abs(np.cos(angle)), abs(np.sin(angle))), 1)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = x * np.cos(angle) + y * np.sin(angle)
    return np.exp(-(x**2 + y**2) / (2 * sd**2)) / (2 * np.pi * sd**2) * np.exp(2j * np.pi * frequency * along)


def _filtered(grey: Float[np.ndarray, "h w"], kernel: np.ndarray) -> np.ndarray:
    reach = kernel.shape[0] // 2
    return oaconvolve(np.pad(grey, reach, mode="symmetric"), kernel, mode="valid")
