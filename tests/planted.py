"""Planted cohorts, one a task: what a model must find is known."""

import csv

import numpy as np

from milkit.data.memory import in_memory
from milkit.data.protocol import KFold
from milkit.data.store import write_store
from milkit.experiment import Experiment
from milkit.models import ABMIL
from milkit.train.config import Sgd, Train
from milkit.types import Bag


def bags(n, seed=0, features=6, smallest=2, largest=9):
    """Bags of noise; returns (list of arrays, generator)."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rng.integers(smallest, largest + 1), features)).astype(np.float32) for _ in range(n)], rng


def cohort(xs, rows, name="planted", coords=False, seed=0):
    """In-memory bags with one row each."""
    rng = np.random.default_rng(seed)
    made = [
        Bag(f"b{i:03d}", x, (256.0 * rng.integers(0, 20, (len(x), 2))).astype(np.float32) if coords else None)
        for i, x in enumerate(xs)
    ]
    return in_memory(
        tuple(made), [{"slide_id": f"b{i:03d}", "patient_id": f"p{i:03d}", **r} for i, r in enumerate(rows)], name=name
    )


def binary(n=24, shift=3.0, seed=0, **kw):
    """A positive bag has one instance whose first feature is shifted."""
    xs, _ = bags(n, seed)
    for i in range(1, n, 2):
        xs[i][0, 0] += shift
    return cohort(xs, [{"label": str(i % 2)} for i in range(n)], **kw)


def multi_class(n=36, shift=4.0, seed=0):
    """Class k shifts feature k of one instance."""
    xs, _ = bags(n, seed)
    for i in range(n):
        xs[i][0, i % 3] += shift
    return cohort(xs, [{"label": "abc"[i % 3]} for i in range(n)])


def multi_label(n=32, shift=4.0, seed=0):
    """Labels left and right are independent; each shifts its own feature of one instance."""
    xs, _rng = bags(n, seed)
    labels = np.stack([np.arange(n) % 2, (np.arange(n) // 2) % 2], 1)
    for i in range(n):
        xs[i][0, 0] += shift * labels[i, 0]
        xs[i][-1, 1] += shift * labels[i, 1]
    return cohort(xs, [{"left": str(a), "right": str(b)} for a, b in labels])


def regression(n=40, seed=0):
    """The target is 100 + 10 times a level that every instance carries in its first feature."""
    xs, rng = bags(n, seed)
    level = rng.normal(size=n)
    for x, v in zip(xs, level, strict=True):
        x[:, 0] = 0.3 * x[:, 0] + v
    return cohort(xs, [{"target": f"{100 + 10 * v:.4f}"} for v in level])


def survival(n=48, seed=0):
    """The hazard rises with a level that every instance carries; about a third is censored."""
    xs, rng = bags(n, seed)
    level = rng.normal(size=n)
    time = rng.exponential(np.exp(-1.5 * level)) * 24 + 0.1
    censored = rng.exponential(60.0, n)
    for x, v in zip(xs, level, strict=True):
        x[:, 0] = 0.3 * x[:, 0] + v
    rows = [{"time": f"{min(t, c):.4f}", "event": str(int(t <= c))} for t, c in zip(time, censored, strict=True)]
    return cohort(xs, rows)


def experiment(width):
    """A study of two seeds on three folds that trains in a second, `width` runs a program."""
    return Experiment(
        name="planted",
        data=binary(),
        protocol=KFold(folds=3, validation=0.25),
        model=ABMIL(encoder=(8,), attention=4),
        train=Train(Sgd(0.05, momentum=0.9), epochs=4, width=width, buckets=2),
        seeds=2,
    )


def stored(folder, made, name, prefix="", dtype="float32", **facts):
    """A planted cohort on disk: `NAME.h5` and `NAME.csv`, ids after a prefix, with columns site and sex.

    Returns the paths of the store and of the table.
    """
    facts = {"encoder": "enc-1", "mpp": 0.5} | facts
    bags = [Bag(prefix + b.id, b.x, b.coords_um) for b in made.bags]
    write_store(folder / f"{name}.h5", bags, dtype=dtype, **facts)
    rows = [
        {k: prefix + v if k.endswith("_id") else v for k, v in row.items()}
        | {"site": "AB"[i // 2 % 2], "sex": "fm"[i % 3 > 0]}
        for i, row in enumerate(made.rows)
    ]
    with open(folder / f"{name}.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder / f"{name}.h5", folder / f"{name}.csv"
