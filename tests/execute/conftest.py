"""The planted study for the tests of this folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import planted


@pytest.fixture(scope="session")
def experiment():
    """Three programs of two runs."""
    return planted.experiment(width=2)
