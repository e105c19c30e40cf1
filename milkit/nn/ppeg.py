"""PPEG: positions by depthwise convolutions over a grid of tokens (Shao et al. 2021).

x + conv7(x) + conv5(x) + conv3(x), with zeros around. The three kernels are added to one before they are used, as a sum
of convolutions is the convolution with the sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.nn.depthwise import depthwise
from milkit.nn.squares import from_canvas, to_canvas

SIZES = (7, 5, 3)
_FAR = 32_000
"""Cells a side that a bag's grid may have: the number of a cell is then within int32. What lies further is put here."""


class Cells(NamedTuple):
    """Each bag's tiles on their grid, sorted by cell.

    Attributes:
        number: the number of each instance's cell, row by row; of padding larger than any.
        width: cells a row, with a margin that no tile lies in.
        order: instances sorted by cell.
    """

    number: Int[Array, "b n"]
    width: Int[Array, "b"]
    order: Int[Array, "b n"]


def cells_of(coords_um: Float[Array, "b n 2"], mask: Bool[Array, "b n"], tile_um: float) -> Cells:
    """Put tiles on a grid.

    Args:
        coords_um: corners of tiles, x and y.
        mask: True on real instances.
        tile_um: distance between neighbouring tiles' corners. A tile is in the cell nearest to it, counted from the
            bag's smallest x and y.
    """
    least = jnp.where(mask[..., None], coords_um, jnp.inf).min(1, keepdims=True)
    least = jnp.where(jnp.isfinite(least), least, 0)
    cell = jnp.clip(jnp.round((coords_um - least) / tile_um), 0, _FAR).astype(jnp.int32)
    cell = jnp.where(mask[..., None], cell, 0)
    width = cell[..., 0].max(1) + max(SIZES)
    number = jnp.where(mask, cell[..., 1] * width[:, None] + cell[..., 0], jnp.iinfo(jnp.int32).max)
    return Cells(number, width, jnp.argsort(number, axis=1, stable=True))


class PPEG(nnx.Module):
    """The convolutions, for tokens in squares or for tiles at their own places.

    Args:
        features: width of a token.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        def uniform(size: int, *shape: int) -> nnx.Param[Array]:
            bound = 1 / size  # PyTorch's: a channel sees size * size pixels of one channel
            return nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))

        self.kernels = nnx.List([uniform(s, s, s, 1, features) for s in SIZES])
        self.biases = nnx.List([uniform(s, features) for s in SIZES])

    def _one(self) -> tuple[Float[Array, "7 7 1 d"], Float[Array, "d"]]:
        """The sum of the kernels, the smaller ones with zeros around them, and that of the biases."""
        margins = [(max(SIZES) - s) // 2 for s in SIZES]
        kernels = [
            jnp.pad(k[...], ((m, m), (m, m), (0, 0), (0, 0))) for k, m in zip(self.kernels, margins, strict=True)
        ]
        biases = [b[...] for b in self.biases]
        return sum(kernels[1:], kernels[0]), sum(biases[1:], biases[0])

    def on_squares(self, x: Float[Array, "b l d"], side: Int[Array, "b"]) -> Float[Array, "b l d"]:
        """Of tokens that fill squares of `side`, row by row (see `milkit.nn.squares`); anything on padding."""
        kernel, bias = self._one()
        half = max(SIZES) // 2
        seen = depthwise(to_canvas(x, side), kernel.astype(x.dtype), 1, (half, half))
        return x + from_canvas(seen, side) + bias.astype(x.dtype)

    def on_cells(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], cells: Cells) -> Float[Array, "b n d"]:
        """Of tiles at their own places: cells without a tile hold zeros, as beyond the tissue.

        No picture of the grid is made: each tile looks up which tile lies at each of the 49 places around it, so that
        memory is that of the tiles, however large the slide. Where tiles share a cell the first of them stands for it.
        """
        kernel, bias = self._one()
        sorted_numbers = jnp.take_along_axis(cells.number, cells.order, 1)
        side, half = max(SIZES), max(SIZES) // 2
        x = jnp.where(mask[..., None], x, 0)

        def tap(total: Array, at: Array) -> tuple[Array, None]:
            wanted = cells.number + (at // side - half) * cells.width[:, None] + at % side - half
            wanted = jnp.where(mask, wanted, -1)
            place = jnp.minimum(jax.vmap(jnp.searchsorted)(sorted_numbers, wanted), x.shape[1] - 1)
            found = mask & (jnp.take_along_axis(sorted_numbers, place, 1) == wanted)
            other = jnp.take_along_axis(x, jnp.take_along_axis(cells.order, place, 1)[..., None], 1)
            weight = kernel[at // side, at % side, 0].astype(x.dtype)
            return total + jnp.where(found[..., None], other, 0) * weight, None

        seen, _ = jax.lax.scan(jax.checkpoint(tap, prevent_cse=False), jnp.zeros_like(x), jnp.arange(side**2))
        return x + seen + bias.astype(x.dtype)
