"""Cohorts of a few slides, made the way that a table and features are."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from milkit.bag import Bag
from milkit.data.memory import in_memory
from milkit.data.study import Study
from milkit.task import Binary, MultiClass


@pytest.fixture(scope="session")
def cohort() -> Callable[..., Study]:
    """Builds a study: `labels` by slide, `patients` by slide (none: no such column), `no_features`: rows without."""

    def build(
        labels: Mapping[str, object],
        patients: Mapping[str, str] | None = None,
        *,
        unit: str = "slide",
        no_features: tuple[str, ...] = (),
        no_row: tuple[str, ...] = (),
    ) -> Study:
        bags = [Bag(s, np.ones((1, 2), np.float32)) for s in (*labels, *no_row) if s not in no_features]
        rows = [
            {"slide_id": s, "label": label} | ({"patient_id": patients[s]} if patients else {})
            for s, label in labels.items()
        ]
        task = Binary() if len(set(labels.values())) == 2 else MultiClass()
        return in_memory(bags, rows, name="toy").load(task, unit)

    return build


@pytest.fixture(scope="session")
def eight(cohort) -> Study:
    """Slides s0 to s7, each of its own patient, labels 0 1 0 1 ..."""
    return cohort({f"s{i}": i % 2 for i in range(8)})
