"""Collect the numbers of finished runs into one JSON, so that a page can quote them.

python -m experiments.summarise runs/ilse2018/* --out experiments/results/ilse2018_musk1.json
"""

import argparse
import json
from pathlib import Path

KEPT = ("value", "sampling", "procedure", "fold_sd", "seed_sd")


def summary(run: Path) -> dict:
    """Metrics of each selection of a run, with what made them."""
    results = json.loads((run / "results.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    selections = {
        name: {m: {k: _round(entry[k]) for k in KEPT} for m, entry in part["metrics"].items()}
        for name, part in results["selections"].items()
    }
    return {
        "experiment": json.loads((run / "config.json").read_text())["experiment"],
        "counts": results["counts"],
        "seconds": environment["seconds"],
        "environment": {k: environment[k] for k in ("python", "jax", "flax", "backend", "device", "cpu_cores")},
        "selections": selections,
    }


def _round(value: float | list | None) -> float | list | None:
    if isinstance(value, list):
        return [_round(v) for v in value]
    return value if value is None else round(value, 4)


def main() -> None:
    """Write the JSON and print accuracy and AUROC of each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = {run.name: summary(run) for run in options.runs if (run / "results.json").exists()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    for name, entry in found.items():
        for selection, metrics in entry["selections"].items():
            shown = "; ".join(f"{m} {metrics[m]['value']} {metrics[m]['procedure']}" for m in ("accuracy", "auroc"))
            print(f"{name:18} {selection:10} {shown} (procedure 95 %), {entry['seconds']:.0f} s")


if __name__ == "__main__":
    main()
