"""Scores to colours: by rank within the slide, or by value; viridis, which colour-blind people read too."""

from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.stats import rankdata

from milkit.heatmaps.kinds import SIGNED
from milkit.heatmaps.scores import SlideScores

Scale = Literal["rank", "raw"]
SCALES = {
    "rank": "coloured by rank within the slide, from lowest to highest",
    "raw": "coloured by raw score",
}
COLOURS = 256
MAP = "viridis"
"""Perceptually uniform, rising in lightness (van der Walt & Smith, 2015)."""


def normalised(scores: SlideScores, scale: Scale = "rank") -> Float[np.ndarray, "n"]:
    """Scores from 0 to 1, NaN where they are.

    rank: (rank - 1) / (tiles - 1) among the slide's known scores, equal ones sharing the mean of their ranks; a single
    tile, or all equal, is 0.5. raw: linear from the least to the greatest; of kinds with a sign 0.5 is zero, and both
    sides have one scale.
    """
    values = np.asarray(scores.scores, np.float64)
    known = np.isfinite(values)
    out = np.full(len(values), np.nan)
    if not known.any():
        return out
    own = values[known]
    if scale == "rank":
        out[known] = (rankdata(own) - 1) / max(1, len(own) - 1) if len(own) > 1 else 0.5
        return out
    low, high = bounds(scores)
    out[known] = (own - low) / (high - low) if high > low else 0.5
    return out


def ranks(scores: SlideScores) -> Int[np.ndarray, "n"]:
    """Place of each tile among the known scores, 1 for the highest; equal scores share the better place; 0 unknown."""
    values = np.asarray(scores.scores, np.float64)
    known = np.isfinite(values)
    out = np.zeros(len(values), np.int64)
    if known.any():
        out[known] = rankdata(-values[known], method="min").astype(np.int64)
    return out


def bounds(scores: SlideScores) -> tuple[float, float]:
    """Raw scores at both ends of the colour bar of `raw`; of kinds with a sign as far below zero as above."""
    known = np.asarray(scores.scores, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0, 0.0
    if scores.kind in SIGNED:
        most = float(np.abs(known).max())
        return 0.0 - most, most  # never -0
    return float(known.min()), float(known.max())


def colours(scores: SlideScores, scale: Scale = "rank") -> UInt8[np.ndarray, "n 4"]:
    """Red, green, blue and opacity of each tile: opaque, and (0, 0, 0, 0) where the score is not known.

    Args:
        scores: of a slide.
        scale: "rank" or "raw", see `normalised`; `SCALES` has it in words for a legend.
    """
    return coloured(normalised(scores, scale))


def coloured(values: Float[np.ndarray, "n"]) -> UInt8[np.ndarray, "n 4"]:
    """Colours of values from 0 to 1; NaN is transparent."""
    known = np.isfinite(values)
    out = np.zeros((len(values), 4), np.uint8)
    place = np.rint(np.clip(values[known], 0, 1) * (COLOURS - 1)).astype(np.int64)
    out[known] = colour_bar()[place]
    return out


@cache
def colour_bar() -> UInt8[np.ndarray, "256 4"]:
    """All colours, lowest first."""
    import matplotlib

    return matplotlib.colormaps[MAP](np.arange(COLOURS), bytes=True)
