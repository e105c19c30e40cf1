"""Encoders of a researcher: simple arithmetic, and a note of every tile that they were given."""

import os
import time
from pathlib import Path

import numpy as np


def encode(tiles):
    """Means of the channels, and the first and the middle pixel."""
    if slow := os.environ.get("EMBED_SLEEP"):
        time.sleep(float(slow))
    if log := os.environ.get("EMBED_LOG"):
        with Path(log).open("a") as file:
            file.write("x" * len(tiles))
    middle = tiles.shape[1] // 2
    parts = [tiles.mean((1, 2)), tiles[:, 0, 0], tiles[:, middle, middle]]
    return np.concatenate(parts, 1).astype(np.float32)


def sided(tiles):
    return encode(tiles)


sided.side = 32


def broken(tiles):
    raise ZeroDivisionError("of mine")


def infinite(tiles):
    return encode(tiles) + np.float32(np.inf)


def huge(tiles):
    return encode(tiles) * 1e6
