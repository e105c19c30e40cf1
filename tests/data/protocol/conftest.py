"""A small cohort of any shape, for the protocols."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from milkit.data.study import Flow, GivenSplit, Study
from milkit.data.targets import Targets


def _unread(_: int) -> None:
    raise AssertionError("protocols read no features")


def _study(
    values: Sequence[float] | np.ndarray,
    names: Sequence[str] = ("0", "1"),
    *,
    patient: Sequence[str] | None = None,
    site: Sequence[str] | None = None,
    bag: Sequence[str] | None = None,
    slides: Sequence[Sequence[str]] | None = None,
    given: Sequence[GivenSplit] = (),
) -> Study:
    y = np.asarray(values)
    n = len(y)
    ids = np.array([f"b{i:03d}" for i in range(n)] if bag is None else list(bag))
    return Study(
        name="toy",
        unit="slide",
        bag=ids,
        slides=tuple((str(b),) for b in ids) if slides is None else tuple(map(tuple, slides)),
        patient=ids if patient is None else np.array(patient),
        site=np.array([""] * n if site is None else site),
        cohort=np.array([""] * n),
        lengths=np.ones(n, np.int64),
        features=2,
        targets=Targets(y.astype(np.int32 if y.ndim == 1 else np.float32), tuple(names)),
        given=tuple(given),
        flow=Flow(n, n, n, n),
        read=_unread,
    )


@pytest.fixture(scope="session")
def study() -> Callable[..., Study]:
    """Builds a Study: one row a bag, each its own patient unless `patient` says otherwise."""
    return _study


@pytest.fixture(scope="session")
def random_study() -> Callable[..., Study]:
    """Builds a cohort from a seed: patients with one to three slides each, at sites of unequal size."""

    def build(seed: int, patients: int = 60, kind: str = "binary", sites: int = 12) -> Study:
        rng = np.random.default_rng(seed)
        slides = rng.integers(1, 4, patients)
        person = rng.permutation(np.repeat(np.arange(patients), slides))  # a patient's rows lie apart
        place = rng.choice(sites, patients, p=rng.dirichlet(np.full(sites, 3.0)))
        names: tuple[str, ...] = ("no", "yes")
        if kind == "binary":
            values = (rng.random(patients) < 0.35).astype(int)
        elif kind == "multiclass":
            values, names = rng.choice(3, patients, p=[0.5, 0.3, 0.2]), ("a", "b", "c")
        elif kind == "multilabel":
            values, names = (rng.random((patients, 3)) < [0.5, 0.3, 0.2]).astype(float), ("x", "y", "z")
        elif kind == "survival":
            values = np.stack([rng.exponential(24, patients), rng.random(patients) < 0.4], axis=1)
            names = ("time", "event")
        else:
            values, names = rng.normal(size=(patients, 1)), ("value",)
        return _study(
            values[person],
            names,
            patient=[f"p{p:03d}" for p in person],
            site=[f"s{place[p]:02d}" for p in person],
        )

    return build
