"""A small planted study that trains in a second."""

import numpy as np
import pytest

from milkit.data.memory import in_memory
from milkit.data.protocol import KFold
from milkit.experiment import Experiment
from milkit.models import ABMIL
from milkit.train.config import Sgd, Train
from milkit.types import Bag


def planted(n=24, seed=0, features=6, shift=3.0):
    """Bags of 2 to 9 instances; a positive bag has one instance shifted in its first feature."""
    rng = np.random.default_rng(seed)
    bags, rows = [], []
    for i in range(n):
        x = rng.normal(size=(rng.integers(2, 10), features)).astype(np.float32)
        if i % 2:
            x[0, 0] += shift
        bags.append(Bag(f"b{i:02d}", x))
        rows.append({"slide_id": f"b{i:02d}", "patient_id": f"p{i:02d}", "label": str(i % 2)})
    return in_memory(tuple(bags), rows, name="planted")


@pytest.fixture(scope="session")
def experiment():
    return Experiment(
        name="planted",
        data=planted(),
        protocol=KFold(folds=3, validation=0.25),
        model=ABMIL(encoder=(8,), attention=4),
        train=Train(Sgd(0.05, momentum=0.9), epochs=4, width=4, buckets=2),
        seeds=2,
    )
