"""Runs docs/using_a_model.md on two simulated hospitals, and puts what the terminal said back into the page.

    python -m benchmarks.using_a_model --out benchmarks/results/using_a_model.json       # about a minute

A positive slide has a tenth of its tiles shifted in four of 32 features. In the second hospital, `north`, the shift is
weaker, all features are moved a little (another scanner), and fewer patients are positive.
"""

import argparse
import csv
import json
import platform
import tempfile
from pathlib import Path

import numpy as np

import milkit
from benchmarks.quickstart import fill, run
from milkit.data.store import write_store
from milkit.types import Bag

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "using_a_model.md"
METRICS = ("auroc", "sensitivity_at_threshold", "specificity_at_threshold", "brier")


def hospital(folder, name, patients, share, signal, moved, seed):
    """`NAME.h5` and `NAME.csv` of some patients, one or two slides each."""
    rng = np.random.default_rng(seed)
    bags, rows = [], []
    for i in range(patients):
        positive = i < round(share * patients)
        for letter in "AB"[: rng.integers(1, 3)]:
            x = rng.normal(moved, 1.0, (rng.integers(40, 80), 32))
            if positive:
                x[: len(x) // 10, :4] += signal
            slide = f"{name}-{i + 1:03d}-{letter}"
            bags.append(Bag(slide, x.astype(np.float32)))
            label = "positive" if positive else "negative"
            rows.append([f"{name}-{i + 1:03d}", slide, label, "fm"[i % 2], f"{name} {1 + i % 3}"])
    write_store(folder / f"{name}.h5", bags, encoder="simulated-1", mpp=0.5)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["patient_id", "slide_id", "her2", "sex", "site"], *rows])


def make(folder):
    """Both hospitals."""
    hospital(folder, "home", 120, 0.5, 1.6, 0.0, seed=1)
    hospital(folder, "north", 80, 0.35, 1.2, 0.15, seed=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    page = PAGE.read_text()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        outputs = run(folder, page)
        results = json.loads((folder / "runs/north/results.json").read_text())
    kept = {
        "metrics": {m: {k: results["metrics"][m][k] for k in ("value", "sampling")} for m in METRICS},
        "against_study": {m: results["against_study"][m] for m in METRICS},
        "recalibration": {
            part: {m: {k: e[k] for k in ("value", "sampling")} for m, e in found.items()}
            for part, found in results["recalibration"].items()
        },
    }
    made = {
        "command": "python -m benchmarks.using_a_model --out benchmarks/results/using_a_model.json",
        "machine": {"python": platform.python_version(), "milkit": milkit.__version__, "system": platform.system()},
        "outputs": outputs,
        **kept,
    }
    options.out.write_text(json.dumps(made, indent=1) + "\n")
    PAGE.write_text(fill(page, outputs))


if __name__ == "__main__":
    main()
