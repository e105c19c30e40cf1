"""A small TRIDENT job to pack."""

import numpy as np
import pytest
from foreign_files import grid, trident

LENGTHS = {"a": 3, "b": 0, "c": 5, "d": 2, "e": 4}


def values(number, n, d=4):
    """x[i, j] = 100 * number + 10 * i + j, and a third, which float16 cannot hold."""
    return (100.0 * number + 10 * np.arange(n)[:, None] + np.arange(d) + 1 / 3).astype(np.float32)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Five slides of TRIDENT, one without tissue; gives the folder of their features."""
    monkeypatch.chdir(tmp_path)
    for number, (slide, n) in enumerate(LENGTHS.items()):
        path = trident(tmp_path / "job", slide, values(number, n), grid(n))
    return path.parent


def names(folder):
    return sorted(path.name for path in folder.iterdir())
