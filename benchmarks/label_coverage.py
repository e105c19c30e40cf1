"""Which share n_test / n_train makes the `procedure` interval of a label-budget curve honest? Simulated studies.

    python -m benchmarks.label_coverage --out benchmarks/results/label_coverage.json       # 3 minutes on one core

Each study draws patients from two Gaussian classes and learns a ridge discriminant in a repeated 10-fold
cross-validation from k patients of each class of each training part, drawn several times. Draws are averaged, then the
corrected resampled t is formed over splits with two shares: with the patients that a budget trains on ("budget"), and
with those that its subsets are drawn from ("part"). The truth is what such training gives on average: the mean value
on fresh patients over all studies. An interval is honest that holds it in about 95 of 100 studies.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

from benchmarks.coverage import FRESH, NAMES, patients, train
from milkit.data.protocol.rng import shuffled
from milkit.metrics import TestPart, corrected_resampled_t, metrics_of

BUDGETS = (1, 2, 4, 8, 16)
METRICS = ("auroc", "accuracy")
TABLE = {m.name: m for m in metrics_of("Binary", NAMES)}


def value(x, y, weight, bias):
    """Both metrics on some patients."""
    p = 1 / (1 + np.exp(-(x @ weight + bias)))
    part = TestPart(y[:, None].astype(float), np.stack([1 - p, p], 1), np.full(len(y), np.nan))
    return [float(TABLE[name].compute(part, None)) for name in METRICS]


def subset(rng, y, rest, k):
    """The k first patients of each class in a random order; all of them for 0."""
    if not k:
        return rest
    return np.concatenate([rest[y[rest] == c][shuffled(int((y[rest] == c).sum()), rng)[:k]] for c in (0, 1)])


def study(rng, n, repeats, folds, draws):
    """Values of each budget and split, draws averaged, on the test part and on fresh patients [k, s, metric]."""
    x, y = patients(rng, n)
    fresh = patients(rng, FRESH)
    found, truth = [], []
    for _ in range(repeats):
        fold_of = np.empty(n, int)
        for c in (0, 1):
            fold_of[y == c] = rng.permutation((y == c).sum()) % folds
        for fold in range(folds):
            test, rest = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
            each, true = [], []
            for k in (*BUDGETS, 0):
                models = [train(x[s], y[s]) for s in (subset(rng, y, rest, k) for _ in range(draws if k else 1))]
                each.append(np.mean([value(x[test], y[test], *m) for m in models], 0))
                true.append(np.mean([value(*fresh, *m) for m in models], 0))
            found.append(each)
            truth.append(true)
    return np.swapaxes(found, 0, 1), np.swapaxes(truth, 0, 1)


def coverage(seed, studies, n, repeats, folds, draws):
    """Share of studies whose interval holds the truth, and its mean width, by budget, metric and share."""
    made = [study(np.random.default_rng([seed, i]), n, repeats, folds, draws) for i in range(studies)]
    truth = np.mean([t for _, t in made], (0, 2))
    n_test, out = n / folds, {}
    for b, k in enumerate((*BUDGETS, 0)):
        rows = {}
        for m, name in enumerate(METRICS):
            rows[name] = {"truth": round(float(truth[b, m]), 4)}
            for share, n_train in (("budget", 2 * k or n - n_test), ("part", n - n_test)):
                bounds = [corrected_resampled_t(values[b, :, m], n_test, n_train)[0] for values, _ in made]
                held = np.mean([low <= truth[b, m] <= high for low, high in bounds])
                width = np.mean([min(high, 1) - max(low, 0) for low, high in bounds])
                rows[name][share] = {"holds": round(float(held), 3), "mean_width": round(float(width), 4)}
        out[k or "all"] = rows
    return out


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/label_coverage.json"))
    parser.add_argument("--studies", type=int, default=200)
    options = parser.parse_args()
    began = time.monotonic()
    settings = {"1 x 10 folds, 5 draws": (92, 1, 10, 5), "3 x 10 folds, 5 draws": (92, 3, 10, 5)}
    found = {f"92 patients, {name}": coverage(1, options.studies, *numbers) for name, numbers in settings.items()}
    text = {
        "command": f"python -m benchmarks.label_coverage --studies {options.studies}",
        "studies": options.studies,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}",
        "standard_error_of_a_share_of_0.95": round((0.95 * 0.05 / options.studies) ** 0.5, 3),
        "coverage": found,
        "seconds": round(time.monotonic() - began, 1),
    }
    options.out.write_text(json.dumps(text, indent=1) + "\n")
    print(f"wrote {options.out} ({text['seconds']} s)")


if __name__ == "__main__":
    main()
