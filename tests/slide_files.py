"""Slides made in tests, by tifffile and Pillow."""

from pathlib import Path

import numpy as np
import tifffile


def picture(width: int = 300, height: int = 200, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise, so that JPEG is near and a shift by a pixel is seen."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 17 + k) + np.cos(y / (11 + k)) for k in range(3)], -1)
    return (127 + 50 * waves + rng.integers(-5, 6, (height, width, 3))).clip(0, 255).astype(np.uint8)


def aperio(mpp: str | None = "0.25", **more: str) -> str:
    """A description as Aperio's software writes it."""
    parts = {"AppMag": "40", **({"MPP": mpp} if mpp is not None else {}), **more}
    return "Aperio Image Library v11.0.37\r\n300x200 (64x64) Q=70|" + "|".join(f"{k} = {v}" for k, v in parts.items())


def write(path: Path, pixels: np.ndarray, description: str | None = aperio(), levels: int = 1, **options) -> Path:
    """A tiled TIFF, whose further levels take every second pixel of the one before."""
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, **options}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, description=description, **options)
        for level in range(1, levels):
            tiff.write(pixels[:: 2**level, :: 2**level], subfiletype=1, **options)
    return path


def overwrite(path: Path, page: int, tag: int, value) -> Path:
    """Change one tag of a file."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[page].tags[tag].overwrite(value)
    return path
