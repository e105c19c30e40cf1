"""What an encoder expects of its input: pixels a side, how tiles get there, and how channels are standardised."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from milkit.encoders.resampling import antialiased
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pixels:
    """The input of an encoder."""

    side: int = 224
    """Pixels a side."""
    resize: Literal["bilinear", "bicubic", "none"] = "bicubic"
    """How tiles of another side are brought to it, as Pillow does: in 8 bits, first along lines, then along columns."""
    resize_to: int = 0
    """Pixels a side that tiles are brought to first, whose centre of `side` is then taken; 0: `side` itself."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of red, green and blue in [0, 1]; subtracted."""
    std: tuple[float, float, float] = IMAGENET_STD
    """What they are divided by afterwards."""

    def __post_init__(self) -> None:
        check_fields(self, "pixels", side="[1, 4096]", resize_to="[0, 4096]", std="(0, inf)")
        if 0 < self.resize_to < self.side:
            raise ConfigError(f"pixels.resize_to is {self.resize_to}, less than the {self.side} pixels taken of it.")

    def check(self, tiles: np.ndarray) -> None:
        """Refuse tiles that cannot be given to the encoder.

        Raises:
            DataError: they are no uint8[n, h, w, 3], not square, or of another side where nothing is resized.
        """
        if tiles.ndim != 4 or tiles.shape[3] != 3 or tiles.dtype != np.uint8:
            raise DataError(f"Tiles are {tiles.dtype} {list(tiles.shape)}; expected uint8 [n, h, w, 3], RGB in 0..255.")
        height, width = tiles.shape[1:3]
        if height != width or height == 0:
            raise DataError(f"Tiles are {width} x {height} pixels; an encoder takes square ones.")
        if self.resize == "none" and height != self.side:
            raise DataError(
                f"Tiles are {height} pixels a side and the encoder takes {self.side}; cut them so (--tile-px "
                f"{self.side}), or let them be resized (pixels.resize)."
            )

    def prepare(self, tiles: UInt8[Array, "b h w 3"]) -> Float[Array, "b s s 3"]:
        """Tiles resized and standardised, in float32."""
        x = tiles.astype(jnp.float32)
        to = self.resize_to or self.side
        if self.resize != "none" and (tiles.shape[1], to) != (self.side, self.side):
            first = round((to - self.side) / 2)
            whole = antialiased(tiles.shape[1], to, self.resize)
            matrix = jnp.asarray(whole[first : first + self.side], jnp.float32)
            x = _eight_bits(jnp.einsum("ow,bhwc->bhoc", matrix, x, precision="highest"))
            x = _eight_bits(jnp.einsum("oh,bhwc->bowc", matrix, x, precision="highest"))
        scale = 1 / (255 * np.asarray(self.std))
        shift = np.asarray(self.mean) / np.asarray(self.std)
        return x * scale.astype(np.float32) - shift.astype(np.float32)


def _eight_bits(x: Array) -> Array:
    return jnp.floor(jnp.clip(x, 0, 255) + 0.5)
