"""How often do the two intervals of milkit's results hold the truth? Simulated studies whose truth is known.

    python -m benchmarks.coverage --out benchmarks/results/coverage.json       # 4 minutes on one core

Each study draws patients from two Gaussian classes, trains a ridge discriminant in a repeated cross-validation (a
"seed" leaves out another tenth of the training part), and lets `compute_results` make its intervals. Two truths are
kept apart:

    these models     the mean value of this study's own models on 2,000 fresh patients
    the procedure    the mean of that over all studies: what such training gives on average

An interval that holds its truth in 95 of 100 studies claims neither too much nor too little. The `rows` interval is the
one that papers often print, a bootstrap of all test predictions as if each were a patient of its own.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

from milkit.metrics import TestPart, bootstrap_counts, metrics_of, percentile_interval
from milkit.predictions import Predictions, concat
from milkit.report.results import compute_results
from milkit.task import Binary

METRICS = ("auroc", "auprc", "accuracy", "balanced_accuracy", "mcc", "brier")
NAMES = ("no", "yes")
FEATURES = 5
SHIFT = 0.55  # of each feature's mean between the classes: AUROC about 0.85
FRESH = 2000


def patients(rng, n):
    """Features and classes of `n` new patients, both classes equally often."""
    y = np.arange(n) % 2
    return rng.normal(size=(n, FEATURES)) + SHIFT * (2 * y[:, None] - 1) / np.sqrt(FEATURES) * 1.5, y


def train(x, y):
    """Weights and bias of a ridge discriminant."""
    means = np.stack([x[y == c].mean(0) for c in (0, 1)])
    within = np.cov((x - means[y]).T) + 0.1 * np.eye(FEATURES)
    weight = np.linalg.solve(within, means[1] - means[0])
    return weight, -weight @ means.mean(0)


def study(rng, n, repeats, folds, seeds):
    """Predictions of one study, and the mean value of its models on fresh patients."""
    x, y = patients(rng, n)
    fresh_x, fresh_y = patients(rng, FRESH)
    table = {m.name: m for m in metrics_of("Binary", NAMES)}
    parts, truth, train_size = [], {name: [] for name in METRICS}, {}
    for repeat in range(repeats):
        fold_of = np.empty(n, int)
        for c in (0, 1):  # stratified
            fold_of[y == c] = rng.permutation((y == c).sum()) % folds
        for fold in range(folds):
            test, rest = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
            train_size[repeat, fold] = len(rest)
            for seed in range(seeds):
                used = rng.permutation(rest)[: len(rest) * 9 // 10]
                weight, bias = train(x[used], y[used])
                parts.append(
                    Predictions.of(
                        Binary(), NAMES, (x[test] @ weight + bias)[:, None], y[test], experiment="simulated",
                        run=f"r{repeat}f{fold}s{seed}", repeat=repeat, fold=fold, seed=seed, selection="last",
                        role="test", bag=[f"p{i}" for i in test], patient=[f"p{i}" for i in test],
                    )
                )  # fmt: skip
                p = 1 / (1 + np.exp(-(fresh_x @ weight + bias)))
                part = TestPart(fresh_y[:, None].astype(float), np.stack([1 - p, p], 1), np.full(FRESH, np.nan))
                for name in METRICS:
                    truth[name].append(table[name].compute(part, None))
    return concat(parts), {name: float(np.mean(v)) for name, v in truth.items()}, train_size


def of_rows(table, draws):
    """Interval of the pooled test rows, each taken for a patient."""
    part = TestPart(table.target, table.score, table.threshold[:, 0])
    counts = bootstrap_counts(len(table), draws)
    chosen = [m for m in metrics_of("Binary", NAMES) if m.name in METRICS]
    return {m.name: percentile_interval(m.compute(part, counts))[0] for m in chosen}


def simulate(studies, n, repeats, folds, seeds, draws=400, seed=0):
    """Share of studies whose interval holds each truth, and mean widths."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(studies):
        table, truth, train_size = study(rng, n, repeats, folds, seeds)
        metrics = compute_results(table, n_train=train_size, draws=draws)["metrics"]
        rows = of_rows(table, draws)
        found.append((metrics, rows, truth))
    out = {}
    for name in METRICS:
        own = np.array([truth[name] for *_, truth in found])
        procedure = np.full(studies, own.mean())
        intervals = {kind: np.array([m[name][kind] for m, *_ in found]) for kind in ("sampling", "procedure")} | {
            "rows": np.array([rows[name] for _, rows, _ in found])
        }
        out[name] = {
            "mean": round(float(own.mean()), 4),
            **{
                kind: {
                    "holds_these_models": _share(bounds, own),
                    "holds_the_procedure": _share(bounds, procedure),
                    "mean_width": round(float((bounds[:, 1] - bounds[:, 0]).mean()), 4),
                }
                for kind, bounds in intervals.items()
            },
        }
    return out


def _share(bounds, truth):
    return round(float(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean()), 3)


STUDIES = {
    "92 patients, 5 x 10 folds, 3 seeds": {"n": 92, "repeats": 5, "folds": 10, "seeds": 3},
    "200 patients, 1 x 5 folds, 2 seeds": {"n": 200, "repeats": 1, "folds": 5, "seeds": 2},
    "60 patients, 1 x 5 folds, 1 seed": {"n": 60, "repeats": 1, "folds": 5, "seeds": 1},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    result = {
        "command": f"python -m benchmarks.coverage --studies {arguments.studies}",
        "studies": arguments.studies,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}",
        "standard_error_of_a_share_of_0.95": round(float(np.sqrt(0.95 * 0.05 / arguments.studies)), 3),
        "coverage": {name: simulate(arguments.studies, **sizes) for name, sizes in STUDIES.items()},
    }
    result["seconds"] = round(time.perf_counter() - started)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
