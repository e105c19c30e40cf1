"""How often do the tests of `milkit compare` call two equally good models different? Simulated studies.

    python -m benchmarks.comparison_null --out benchmarks/results/comparison_null.json     # 15 minutes, one core

Each study draws patients with two blocks of features that carry the same information. Model A is a ridge discriminant
on the first block, model B on the second; both are trained anew in every fold on the same patients (each leaves out
another random tenth of them, which stands for the seed), so that folds are correlated as in real cross-validation: the
same patients in every repeat, models that share most of their training patients. By symmetry both are equally good on
average, so a test at .05 should call them different in 5 of 100 studies.

Two other settings bound what a test on one held-out set can claim:

    locked    both models are the best there are for their block: equally good for sure, nothing is trained
    trained   both were trained once on 92 patients: equally good on average only, each pair differs a little

`power` gives block A more information, so that there is something to find.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import scipy.stats

from milkit.metrics import metrics_of
from milkit.metrics.comparison import bootstrap_test, corrected_t_test
from milkit.metrics.intervals import SEED
from milkit.predictions import Predictions, concat
from milkit.report.comparison import BOOTSTRAP, CORRECTED_T, DELONG, MCNEMAR, Estimator, compare_field
from milkit.report.contestants import Contestant
from milkit.report.same_patients import field
from milkit.task import Binary

METRICS = ("auroc", "accuracy")
TABLE = {m.name: m for m in metrics_of("Binary", ("no", "yes"))}
FEATURES = 5  # a block
SHIFT = 0.8  # distance of the classes' means within a block, in standard deviations along the best direction, halved
FRESH = 4000
NAIVE = "paired t over folds, uncorrected"
RESAMPLED = "paired bootstrap over patients"
HOLM = "verdict different, after Holm over both metrics"


def patients(rng, n, gain=1.0):
    """Features [2, n, FEATURES] of `n` patients and their classes; block A's shift is `gain` times block B's."""
    y = rng.permutation(np.arange(n) % 2)
    sign = (2 * y - 1)[:, None] * SHIFT / np.sqrt(FEATURES)
    return np.stack([rng.normal(size=(n, FEATURES)) + sign * g for g in (gain, 1.0)]), y


def train(x, y):
    """Weights and bias of a ridge discriminant."""
    means = np.stack([x[y == c].mean(0) for c in (0, 1)])
    within = np.cov((x - means[y]).T) + 0.1 * np.eye(FEATURES)
    weight = np.linalg.solve(within, means[1] - means[0])
    return weight, -weight @ means.mean(0)


def splits(rng, y, repeats, folds):
    """(repeat, fold, test patients), stratified."""
    for repeat in range(repeats):
        fold_of = np.empty(len(y), int)
        for c in (0, 1):
            fold_of[y == c] = rng.permutation((y == c).sum()) % folds
        for fold in range(folds):
            yield repeat, fold, np.flatnonzero(fold_of == fold)


def rows(scores, y, test, repeat, fold):
    """Predictions of one run."""
    ids = [f"p{i}" for i in test]
    return Predictions.of(
        Binary(), ("no", "yes"), scores[:, None], y[test], experiment="simulated", run=f"r{repeat}f{fold}",
        repeat=repeat, fold=fold, seed=0, selection="last", role="test", bag=ids, patient=ids,
    )  # fmt: skip


def both(tables, n_train):
    """The two models as runs that can be compared."""
    named = zip("AB", tables, strict=True)
    return field([Contestant(name, Path(name), concat(table), {}, n_train) for name, table in named])


def cross_validated(rng, n, repeats, folds, gain=1.0):
    """A study, and the mean AUROC and accuracy of its models on fresh patients."""
    x, y = patients(rng, n, gain)
    fresh_x, fresh_y = patients(rng, FRESH, gain)
    tables, n_train, truth = ([], []), {}, ([], [])
    for repeat, fold, test in splits(rng, y, repeats, folds):
        rest = np.setdiff1d(np.arange(n), test)
        for block in (0, 1):
            used = rng.permutation(rest)[: len(rest) * 9 // 10]
            n_train[repeat, fold] = float(len(used))
            weight, bias = train(x[block, used], y[used])
            tables[block].append(rows(x[block, test] @ weight + bias, y, test, repeat, fold))
            if gain != 1:
                truth[block].append(on_fresh(fresh_x[block] @ weight + bias, fresh_y))
    return both(tables, n_train), np.mean(truth[0], 0) - np.mean(truth[1], 0) if gain != 1 else np.zeros(2)


def on_fresh(score, y):
    """AUROC and accuracy."""
    rank = scipy.stats.rankdata(score)
    m = y.sum()
    area = (rank[y == 1].sum() - m * (m + 1) / 2) / (m * (len(y) - m))
    return np.array([area, ((score >= 0) == y).mean()])


def held_out(rng, n, trained_on=0):
    """A study with one test set; the best direction, or one trained on `trained_on` patients."""
    x, y = patients(rng, n)
    best = np.full(FEATURES, SHIFT), 0.0
    known = None if not trained_on else patients(rng, trained_on)
    tables = []
    for block in (0, 1):
        weight, bias = best if known is None else train(known[0][block], known[1])
        tables.append([rows(x[block] @ weight + bias, y, np.arange(n), 0, 0)])
    return both(tables, {})


def p_values(study, draws):
    """P of each test and metric, and whether any metric is `different` after Holm's correction."""
    found = compare_field(study, METRICS, draws=draws)
    some = any(row.verdict == "different" for row in found.rows)
    out = {HOLM: {"either": 0.0 if some else 1.0}}
    estimator = Estimator(draws, SEED)
    for row, metric in zip(found.rows, METRICS, strict=True):
        out.setdefault(row.test, {})[metric] = row.found.p
        a, b = (estimator(e.study, TABLE[metric], frozenset(e.study.splits)) for e in study.entrants)
        if row.test == CORRECTED_T:
            naive = corrected_t_test(a.splits - b.splits, 0, 1)  # its correction is n_test / n_train
            out.setdefault(NAIVE, {})[metric] = naive.p
        if row.test != BOOTSTRAP:
            out.setdefault(RESAMPLED, {})[metric] = bootstrap_test(
                a.value - b.value, a.draws - b.draws, len(study.entrants[0].study.unit)
            ).p
    return out, {row.metric: row.found.detectable for row in found.rows}


def simulate(make, studies, draws, seed):
    """Share of studies with p < .05 of each test and metric, with its Monte Carlo standard error."""
    rng = np.random.default_rng(seed)
    found, truths, least = [], [], []
    for _ in range(studies):
        study, truth = make(rng)
        p, detectable = p_values(study, draws)
        found.append(p)
        truths.append(truth)
        least.append([detectable[m] for m in METRICS])
    out = {}
    for test in found[0]:
        out[test] = {}
        for metric in found[0][test]:
            share = float(np.mean([p[test][metric] < 0.05 for p in found]))
            error = float(np.sqrt(share * (1 - share) / studies))
            out[test][metric] = {"share": round(share, 4), "se": round(error, 4)}
    return {
        "studies": studies,
        "rejected_at_.05": out,
        "true_difference": dict(zip(METRICS, np.mean(truths, 0).round(4).tolist(), strict=True)),
        "mean_detectable": dict(zip(METRICS, np.nanmean(least, 0).round(4).tolist(), strict=True)),
    }


NULL = {
    "92 patients, 5 x 10 folds": lambda rng: cross_validated(rng, 92, 5, 10),
    "200 patients, 1 x 5 folds": lambda rng: cross_validated(rng, 200, 1, 5),
    "200 patients, 5 x 5 folds": lambda rng: cross_validated(rng, 200, 5, 5),
    "92 patients, held out, locked models": lambda rng: (held_out(rng, 92), np.zeros(2)),
    "300 patients, held out, locked models": lambda rng: (held_out(rng, 300), np.zeros(2)),
    "300 patients, held out, models trained on 92": lambda rng: (held_out(rng, 300, 92), np.zeros(2)),
}
POWER = {
    "92 patients, 5 x 10 folds": lambda rng: cross_validated(rng, 92, 5, 10, 1.6),
    "200 patients, 5 x 5 folds": lambda rng: cross_validated(rng, 200, 5, 5, 1.6),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    few = max(1, arguments.studies // 4)
    result = {
        "command": f"python -m benchmarks.comparison_null --studies {arguments.studies} --draws {arguments.draws}",
        "machine": f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, one core",
        "nominal": 0.05,
        "used_by_milkit": [CORRECTED_T, DELONG, MCNEMAR],
        "for_contrast": [NAIVE, RESAMPLED],
        "null": {name: simulate(make, arguments.studies, arguments.draws, 0) for name, make in NULL.items()},
        "power": {name: simulate(make, few, arguments.draws, 1) for name, make in POWER.items()},
    }
    result["seconds"] = round(time.perf_counter() - started)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
