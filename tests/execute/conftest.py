"""The planted study for the tests of this folder."""

import planted
import pytest


@pytest.fixture(scope="session")
def experiment():
    """Three programs of two runs."""
    return planted.experiment(width=2)
