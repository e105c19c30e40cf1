"""Folders of slides in the formats of other tools."""

import numpy as np
import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def features():
    """Makes x[i, j] = 100 * number + 10 * i + j, so that slide and tile can be told."""

    def make(number, n=3, d=4, dtype=np.float32):
        return (100.0 * number + 10 * np.arange(n)[:, None] + np.arange(d)).astype(dtype)

    return make
