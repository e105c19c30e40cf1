"""Making pixels larger: exact means of blocks, and Lanczos for any factor."""

import numpy as np
from jaxtyping import UInt8


def block_means(image: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """The mean of every block of `factor` x `factor` pixels; the sides are multiples of `factor`.

    Rounded to the nearest, where the two sums nearest to a half may go either way (Pillow's integers).
    """
    from PIL import Image

    return np.asarray(Image.fromarray(image).reduce(factor))


def lanczos(
    image: UInt8[np.ndarray, "h w 3"], corner: tuple[float, float], size: tuple[int, int], factor: float
) -> UInt8[np.ndarray, "height width 3"]:
    """`size` (width, height) pixels, each `factor` pixels of `image` wide, from `corner` on (in pixels of `image`).

    The filter is widened by the factor where pixels become larger, so that nothing is aliased. It looks three output
    pixels around (input pixels where they become smaller), which `image` should hold on all sides.
    """
    from PIL import Image

    box = (corner[0], corner[1], corner[0] + size[0] * factor, corner[1] + size[1] * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, box=box))
