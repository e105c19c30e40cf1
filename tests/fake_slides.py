"""Slides that are made here: of an array, or of none."""

from pathlib import Path

import numpy as np

from milkit.slides import Level

PINK = (200, 120, 170)


class FakeSlide:
    """A slide whose pixels are an array stretched over it: as large as one likes, at no cost."""

    def __init__(self, path: Path, rgb: np.ndarray, size_px: tuple[int, int], mpp: float):
        self.path, self.rgb, self.size_px, self.mpp = path, rgb, size_px, mpp
        self.levels = (Level(*size_px, mpp),)
        self.properties: dict[str, str] = {}
        self.reads = 0

    @property
    def size_um(self):
        return self.size_px[0] * self.mpp, self.size_px[1] * self.mpp

    def thumbnail(self, longest):
        return self.rgb

    def read(self, corner_um, size_px, mpp):
        self.reads += 1
        height, width = self.rgb.shape[:2]
        x, y = (
            np.floor((c + (np.arange(n) + 0.5) * mpp) / whole * pixels).astype(int)
            for c, n, whole, pixels in zip(corner_um, size_px, self.size_um, (width, height), strict=True)
        )
        out = self.rgb[np.clip(y, 0, height - 1)[:, None], np.clip(x, 0, width - 1)]
        out[(y < 0) | (y >= height)] = 255
        out[:, (x < 0) | (x >= width)] = 255
        return out

    def read_level(self, level, corner_px, size_px):
        return self.read((corner_px[0] * self.mpp, corner_px[1] * self.mpp), size_px, self.mpp)

    def unchanged(self):
        return True

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass


def glass(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Glass as JPEG leaves it: 236 to 244 in each channel."""
    return np.random.default_rng(seed).integers(236, 245, (height, width, 3)).astype(np.uint8)
