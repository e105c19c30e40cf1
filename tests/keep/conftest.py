"""One tiny study on disk and its model, for all tests of this folder; another hospital's slides beside it."""

import shutil
from dataclasses import replace
from pathlib import Path

import planted
import pytest

from milkit import api
from milkit.data.cohort import Cohort
from milkit.execute.run import execute
from milkit.report.results import write_results


def measured(study, out):
    """A run folder with its numbers, and without the report, whose drawings take most of a tiny study's time."""
    execute(study, out)
    write_results(out)


@pytest.fixture(scope="session")
def make_run():
    """`measured`, for studies of a test's own."""
    return measured


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Where the study, its data and the other hospital's are."""
    folder = tmp_path_factory.mktemp("keep")
    store, table = planted.stored(folder, planted.binary(), "home")
    base = planted.experiment(width=4)
    train = replace(base.train, standardise=True)
    study = replace(base, data=Cohort(str(table), str(store)), train=train, name="kept")
    measured(study, folder / "run")
    planted.stored(folder, planted.binary(seed=7), "other", prefix="x")
    return folder


@pytest.fixture(scope="session")
def ensemble(home):
    """Its fold ensemble."""
    api.finalize(home / "run", home / "ensemble")
    return home / "ensemble"


@pytest.fixture
def run(home, tmp_path):
    """A copy of the run folder that a test may damage."""
    return Path(shutil.copytree(home / "run", tmp_path / "run"))


@pytest.fixture
def model(ensemble, tmp_path):
    """A copy of the model folder that a test may damage."""
    return Path(shutil.copytree(ensemble, tmp_path / "model"))
