"""How often is the log-rank p of risk groups below 0.05 when nothing can be predicted? Simulated studies.

    python -m benchmarks.logrank_null --out benchmarks/results/logrank_null.json       # 1 minute on one core

Features, times and censoring are independent. A linear risk is trained by one step of Cox's score (features times the
martingale residuals of the training part), cut at the median risk of validation patients, and applied to test patients:
once on one held-out third, and over the folds of a cross-validation, whose test parts are pooled. Of a valid test 5 in
100 p values are below 0.05.
"""

import argparse
import json
import platform
import time as clock
from pathlib import Path

import numpy as np

from milkit.metrics import c_index, kaplan_meier, logrank, median_risk, risk_groups

FEATURES = 20
SHAPES = ((60, 5), (100, 5), (100, 10), (300, 5))
"""Patients and folds of each kind of study."""


def residuals(time, event):
    """Martingale residuals of the empty model: event minus the Nelson-Aalen estimate at each patient's time."""
    curve = kaplan_meier(time, event)
    hazard = np.cumsum(curve.events / curve.at_risk)
    return event - hazard[np.searchsorted(curve.time, time)]


def groups(rng, x, time, event, train, test):
    """Risk of the test patients and their group, by a cut-off from a quarter of the training patients."""
    train = rng.permutation(train)
    held, fitted = np.split(train, [len(train) // 4])
    weight = x[fitted].T @ residuals(time[fitted], event[fitted])
    return x[test] @ weight, risk_groups(x[test] @ weight, median_risk(x[held] @ weight))


def study(rng, patients, folds):
    """P values of one study without signal, and its C-index within folds."""
    x = rng.normal(size=(patients, FEATURES))
    time, censor = rng.exponential(1.0, patients), rng.exponential(1.5, patients)
    event, time = (time <= censor).astype(int), np.minimum(time, censor)
    parts = np.array_split(rng.permutation(patients), folds)
    high, fold = np.zeros(patients, bool), np.zeros(patients, int)
    within = []
    for number, test in enumerate(parts):
        train = np.concatenate([p for p in parts if p is not test])
        risk, high[test] = groups(rng, x, time, event, train, test)
        fold[test] = number
        within.append(float(c_index(time[test], event[test], risk)))
    third = np.arange(patients // 3)
    _, alone = groups(rng, x, time, event, np.arange(patients // 3, patients), third)
    return {
        "stratified": float(logrank(time, event, high, fold).p),
        "pooled": float(logrank(time, event, high).p),
        "held_out": float(logrank(time[third], event[third], alone).p),
        "c_index": float(np.nanmean(within)),
    }


def main() -> None:
    """Simulate and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=2000)
    given = parser.parse_args()
    began, rows = clock.monotonic(), []
    for patients, folds in SHAPES:
        rng = np.random.default_rng([patients, folds])
        made = [study(rng, patients, folds) for _ in range(given.studies)]
        column = {name: np.array([one[name] for one in made]) for name in made[0]}
        row = {"patients": patients, "folds": folds, "studies": given.studies}
        for name in ("stratified", "pooled", "held_out"):
            known = column[name][np.isfinite(column[name])]
            share = float((known < 0.05).mean())
            row[name] = {"below_0.05": share, "se": float(np.sqrt(share * (1 - share) / len(known))), "of": len(known)}
        row["c_index"] = float(column["c_index"].mean())
        rows.append(row)
        print(row, flush=True)
    result = {
        "command": f"python -m benchmarks.logrank_null --studies {given.studies}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seconds": round(clock.monotonic() - began, 1),
        "rows": rows,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
