"""Position embeddings of a grid of patches, made to fit another grid."""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from milkit.encoders.resampling import antialiased, clamped

Positions = Literal["timm", "dinov2", "transformers"]
"""How the library whose features are wanted interpolates: timm with antialias (so does DINOv2 with registers); DINOv2
without, by a factor that is 0.1 patches too large; Transformers without, by the exact factor."""


def to_grid(positions: Float[np.ndarray, "n d"], side: int, how: Positions) -> Float[np.ndarray, "m d"]:
    """Positions of a square grid, row by row, made those of a grid of `side` a side; unchanged where it is that."""
    old = math.isqrt(len(positions))
    if old == side:
        return positions
    if how == "timm":
        matrix = antialiased(old, side, "bicubic")
    else:
        matrix = clamped(old, side, old / (side + 0.1) if how == "dinov2" else old / side)
    grid = positions.reshape(old, old, -1)
    return np.einsum("yh,xw,hwd->yxd", matrix, matrix, grid, optimize=True).reshape(side * side, -1)
