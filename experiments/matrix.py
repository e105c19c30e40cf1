"""Every model by every test: contracts, Raff & Holt, ShiftedMean, classic sets, digits, cost. One command, resumable.

    python -m experiments.matrix --out RUNS                    # everything that is not in RUNS yet, then the JSON
    python -m experiments.matrix --out RUNS --rows TransMIL    # some rows
    python -m experiments.matrix --out RUNS --columns classic  # some columns
    python -m experiments.matrix --out RUNS --collect          # only results/matrix.json and docs/matrix.md

`make matrix` is the first. A cell is a file of RUNS, written when it is done; a second call goes on. Rows are at one
width, without dropout (`matrix_rows.py`), and one recipe trains all of them, so a cell says what a model does *there*;
nobody tuned it for the model, or for the set.

Columns:
    contracts: `milkit.testing.model_battery`.
    cost: as published (the config's own defaults), a bag of 1,000 x 512 with places: parameters, operations of forward
        and backward, memory beside parameters and bag, and processor time.
    raff_holt: the three algorithmic tests (docs/algorithmic.md, whose own table has five draws; here three, of half
        the bags, one learning rate and a second, slower try where the first did not learn).
    shifted_mean: test AUROC beside the posterior's on the same bags, paired (Harvey et al. 2025; shift of 3 SD).
    classic: five sets, 10 folds dealt once, a tenth of each training part for the epoch; AUROC a fold.
    digits: MNIST bags (200 to train, 50 to choose the epoch, 1,000 to test), flattened pixels without convolution;
        AUROC of bags, and how well attention finds the digit (average precision over all instances of positive bags).
    colon: nuclei from pixels, end to end: the convolutions of Ilse et al. before each model, and places for those that
        read them. Far shorter than the study with published numbers beside it (experiments/ilse2018_pixels.py has
        5 x 10 folds): 5 folds, 8 epochs, 32 nuclei of a bag a step, half of the filters.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.matrix_rows import SETS, WIDE, rows
from milkit.predictions import whole_file

RESULTS = Path(__file__).parent / "results" / "matrix.json"
PAGE = Path(__file__).parents[1] / "docs" / "matrix.md"
LONGEST = 200
"""Instances of a bag that a step of training sees at most (MUSK2's longest has 1,044)."""
DELTA, SHIFTED_SEEDS = 3.0, 2
SEEDS = 3


def contracts(name: str, config: Any, out: Path) -> dict[str, Any]:
    """Whether the battery passes, or what it says."""
    from milkit.testing import model_battery

    try:
        model_battery(config, 12, 1)
    except AssertionError as error:
        return {"passes": False, "says": str(error)[:2000]}
    return {"passes": True}


def cost(name: str, config: Any, out: Path) -> dict[str, Any]:
    """Of the published configuration: see the module's docstring."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from milkit.testing.subject import bag_losses, batch_of
    from milkit.types import Bags

    whole = type(config)() if "(" not in name else config
    rng = np.random.default_rng(0)
    places = np.stack(np.divmod(np.arange(1000), 40), 1).astype(np.float32) * 256
    bags = Bags.of(rng.normal(size=(1000, 512)).astype(np.float32), places)
    parts: Any = nnx.split(whole.build(512, 1, rngs=nnx.Rngs(0)), nnx.Param, ...)
    graph, parameters, rest = parts

    def loss(parameters: Any, rest: Any, bags: Any) -> Any:
        module = nnx.merge(graph, parameters, rest, copy=True)
        output = module(bags, deterministic=False, rngs=nnx.Rngs(0))
        return bag_losses(whole, output, batch_of(bags, 1)).sum()

    step = jax.jit(jax.value_and_grad(loss)).lower(parameters, rest, bags).compile()
    operations, memory = step.cost_analysis(), step.memory_analysis()
    jax.block_until_ready(step(parameters, rest, bags))
    taken = []
    for _ in range(5):
        began = time.process_time()
        jax.block_until_ready(step(parameters, rest, bags))
        taken.append(time.process_time() - began)
    return {
        "config": repr(whole),
        "parameters": int(sum(np.prod(p.shape) for p in jax.tree.leaves(parameters))),
        "gflop": round(float((operations or {}).get("flops", float("nan"))) / 1e9, 3),
        "mib_of_memory": round(memory.temp_size_in_bytes / 2**20, 1) if memory else None,
        "processor_microseconds_a_bag": round(float(np.median(taken)) * 1e6),
        "instances": 1000,
        "float": str(jnp.float32.dtype),
    }


def raff_holt(name: str, config: Any, out: Path) -> dict[str, Any]:
    """Three verdicts."""
    from milkit.testing.algorithmic import TESTS, examine
    from milkit.testing.draws import Sizes
    from milkit.testing.trial import Recipe

    found = {}
    for test in TESTS:
        sizes = Sizes(1000, 200, 400)
        (result,) = examine(config, [test], seeds=SEEDS, sizes=sizes, recipe=Recipe((3e-3,), epochs=20))
        if result.verdict == "did not learn":
            (again,) = examine(config, [test], seeds=SEEDS, sizes=sizes, recipe=Recipe((1e-3,), epochs=40))
            result = max(result, again, key=lambda r: r.validation)
        found[test] = {k: v for k, v in asdict(result).items() if k != "test"}
    return {"tests": found, "seeds": SEEDS}


def shifted_mean(name: str, config: Any, out: Path) -> dict[str, Any]:
    """AUROC minus the posterior's on the same test bags, with the paired interval of the bags."""
    from milkit.metrics.intervals import percentile_interval
    from milkit.testing.algorithmic import auroc_of, bootstrap_auroc
    from milkit.testing.draws import Sizes
    from milkit.testing.shifted_mean import ShiftedMean, log_odds
    from milkit.testing.trial import Recipe, fit_draws

    task = ShiftedMean(DELTA)
    draws = [task.draw(seed, Sizes(1000, 200, 1000)) for seed in range(SHIFTED_SEEDS)]
    fitted = fit_draws(config, draws, Recipe((1e-3,), epochs=20))
    own, best, gap = [], [], []
    for seed, (one, fit) in enumerate(zip(draws, fitted, strict=True)):
        truth, odds = one.test.labels, np.array([log_odds(x, DELTA, task.run) for x in one.test.x])
        own.append(auroc_of(truth, fit.scores["test"]))
        best.append(auroc_of(truth, odds))
        gap.append(bootstrap_auroc(truth, fit.scores["test"], seed) - bootstrap_auroc(truth, odds, seed))
    value = float(np.mean(own) - np.mean(best))
    interval, _ = percentile_interval(np.mean(gap, axis=0), value)
    return {
        "auroc": float(np.mean(own)), "posterior": float(np.mean(best)), "minus_posterior": value,
        "sampling": interval, "seeds": own,
    }  # fmt: skip


def recipe() -> Any:
    """What trains every model on classic sets and digits."""
    from milkit import AdamW, Train

    return Train(
        AdamW(1e-3, weight_decay=1e-2), epochs=40, batch_bags=8, standardise=True, max_instances=LONGEST, buckets=1
    )


def classic(set_name: str) -> Callable[[str, Any, Path], dict[str, Any]]:
    """The column of one classic set."""

    def column(name: str, config: Any, out: Path) -> dict[str, Any]:
        from milkit import Classic, Experiment, KFold

        study = Experiment(Classic(set_name), KFold(folds=10, validation=0.1), config, recipe())
        return study_cell(study, out / "runs" / f"{name}_{set_name}")

    return column


def study_cell(study: Any, folder: Path) -> dict[str, Any]:
    """Run an experiment; its metrics, and AUROC and accuracy of each fold."""
    import csv

    from sklearn.metrics import roc_auc_score

    from milkit.execute.run import execute
    from milkit.predictions import Predictions
    from milkit.report.results import write_results

    execute(study, folder, force=folder.exists())
    results = write_results(folder)  # a report for each of hundreds of cells would take as long as training
    predictions = Predictions.read(folder / "predictions.csv")
    test = predictions.take((predictions.role == "test") & (predictions.selection == "validation"))
    with (folder / "runs.csv").open(newline="") as file:
        parts = {row["run"]: row for row in csv.DictReader(file)}
    folds = []
    for run in np.unique(test.run):
        mine = test.run == run
        y, p = test.target[mine, 0] > 0.5, test.score[mine, 1]
        row = parts[str(run)]
        folds.append(
            {"auroc": float(roc_auc_score(y, p)) if 0 < y.sum() < len(y) else None,
             "accuracy": float(((p >= 0.5) == y).mean()), "n_test": int(row["n_test"]), "n_train": int(row["n_train"])}
        )  # fmt: skip
    metrics = results["selections"]["validation"]["metrics"]
    kept = ("value", "sampling", "procedure")
    return {"metrics": {m: {k: metrics[m][k] for k in kept} for m in ("auroc", "accuracy")}, "folds": folds}


def colon(name: str, config: Any, out: Path) -> dict[str, Any]:
    """Nuclei of the colon: all of a bag's for the numbers, 32 drawn at random for a step."""
    from milkit import Adam, ColonNuclei, Experiment, KFold, Train
    from milkit.models import PatchCNN

    model = PatchCNN.nuclei(config, filters=(18, 24), hidden=(2 * WIDE,), dropout=0.0, restain=0.0)
    train = Train(Adam(1e-3, weight_decay=5e-4), epochs=8, max_instances=32, buckets=2, width=5)
    study = Experiment(ColonNuclei(), KFold(folds=5, validation=0.125), model, train)
    return study_cell(study, out / "runs" / f"{name}_colon") | {"mark": "patient-leaky"}


def digits(name: str, config: Any, out: Path) -> dict[str, Any]:
    """MNIST bags from flattened pixels, three initialisations."""
    from milkit import Experiment, GivenFolds, MnistBags

    data = MnistBags(train_bags=200, validation_bags=50)
    study = Experiment(data, GivenFolds(), config, replace(recipe(), standardise=False), seeds=SEEDS)
    return study_cell(study, out / "runs" / f"{name}_digits")


COLUMNS: dict[str, Callable[[str, Any, Path], dict[str, Any]]] = {
    "cost": cost,
    "contracts": contracts,
    **{f"classic_{s}": classic(s) for s in SETS[:1]},
    "raff_holt": raff_holt,
    "shifted_mean": shifted_mean,
    "digits": digits,
    **{f"classic_{s}": classic(s) for s in SETS[1:]},
    "colon": colon,
}


def work(name: str, columns: list[str], out: Path) -> None:
    """All cells of a row that are not there yet; an error is a cell too."""
    config = rows()[name]
    for column in columns:
        file = cell_file(out, name, column)
        if file.exists():
            continue
        began, processor = time.monotonic(), time.process_time()
        try:
            cell = COLUMNS[column](name, config, out)
        except Exception as error:  # what a model says of a set that it cannot read belongs into the table
            cell = {"error": f"{type(error).__name__}: {error}"[:1000]}
            print(traceback.format_exc(limit=4), file=sys.stderr)
        cell |= {"seconds": round(time.monotonic() - began, 1), "processor": round(time.process_time() - processor, 1)}
        cell |= {"config": cell.get("config", repr(config))}
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as written:
            json.dump(cell, written, indent=1, default=float)
        print(f"{name} {column}: {cell['seconds']} s {cell.get('error', '')}", flush=True)


def cell_file(out: Path, name: str, column: str) -> Path:
    """Where a cell is kept."""
    return out / "cells" / column / f"{name}.json"


def main() -> None:
    """Run what is missing, one process a row, column by column, then collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="cells and run folders, kept; a second call goes on")
    parser.add_argument("--rows", nargs="+", default=None)
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), help="names, or how they begin")
    parser.add_argument("--collect", action="store_true", help="run nothing")
    parser.add_argument("--here", action="store_true", help="run in this process (what the command itself uses)")
    options = parser.parse_args()
    columns = [c for c in COLUMNS if any(c.startswith(wanted) for wanted in options.columns)]
    names = [n for n in rows() if options.rows is None or n in options.rows]
    if options.here:
        for name in names:
            work(name, columns, options.out)
        return
    if not options.collect:
        for part in (columns[:3], columns[3:4], columns[4:6], columns[6:]):
            for name in names:
                left = [c for c in part if not cell_file(options.out, name, c).exists()]
                if left:  # a process of its own: what a model leaves in memory goes with it
                    command = [sys.executable, "-m", "experiments.matrix", "--here", "--out", str(options.out)]
                    subprocess.run([*command, "--rows", name, "--columns", *left], check=False)
    from experiments.matrix_page import collect, page

    found = collect(options.out, list(rows()), list(COLUMNS))
    with whole_file(RESULTS) as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    with whole_file(PAGE) as file:
        file.write(page(found))


if __name__ == "__main__":
    main()
