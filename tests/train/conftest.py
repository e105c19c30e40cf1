"""The planted study for the tests of this folder."""

import planted
import pytest


@pytest.fixture(scope="session")
def experiment():
    """One program of four runs, one of two."""
    return planted.experiment(width=4)
