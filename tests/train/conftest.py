"""A small planted study that trains in a second."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import planted

from milkit.data.protocol import KFold
from milkit.experiment import Experiment
from milkit.models import ABMIL
from milkit.train.config import Sgd, Train


@pytest.fixture(scope="session")
def experiment():
    return Experiment(
        name="planted",
        data=planted.binary(),
        protocol=KFold(folds=3, validation=0.25),
        model=ABMIL(encoder=(8,), attention=4),
        train=Train(Sgd(0.05, momentum=0.9), epochs=4, width=4, buckets=2),
        seeds=2,
    )
