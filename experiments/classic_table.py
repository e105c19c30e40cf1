"""The classic table out of finished cells: ours beside the published numbers, with intervals and verdicts.

    python -m experiments.classic_table runs/ilse2018

writes results/ilse2018_classic.json and, from it alone, results/ilse2018_classic.md and docs/optimism.md.
"""

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ilse2018_classic import PAPER, explanations, table
from experiments.optimism import constant_accuracy, optimism_page
from milkit.metrics.verdict import against_published, t_verdict
from milkit.predictions import Predictions

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ilse2018_classic.json"
TABLE = RESULTS.with_suffix(".md")
OPTIMISM = HERE.parent / "docs" / "optimism.md"
METHODS = {
    "instance_net": "mi-Net",
    "bag_net": "MI-Net",
    "bag_net_ds": "MI-Net DS",
    "bag_net_rc": "MI-Net RC",
    "attention": "Attention",
    "gated": "Gated-Attention",
}
SELECTIONS = ("validation", "last", "optimistic")
TUNED, RECALLED = "inherited tuning", "from memory"


def published_rows(shared: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The paper's Table 1 by (set, method)."""
    with (shared / "published" / "classic_mil.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"].startswith("Ilse")]
    return {
        (row["dataset"], row["method"]): {
            "value": float(row["value"]),
            "se": float(row["se"]),
            "verified": row["verified"],
        }
        for row in rows
    }


def collect(runs: Path, shared: Path) -> dict[str, Any]:
    """Everything that table and page show, from the run folders and the published rows."""
    published = published_rows(shared)
    cells: dict[str, Any] = {}
    tried: dict[str, Any] = {}
    environments: list[dict[str, Any]] = []
    seconds = 0.0
    names = [(name, cell) for name in PAPER for cell in table(name)]
    names += [(cell.split("_")[0], cell) for cell in explanations()]
    for name, cell in names:
        folder = runs / cell
        if not (folder / "results.json").exists():
            continue
        row = cell.removeprefix(f"{name}_").removesuffix("_by_accuracy")
        method = METHODS[row.removesuffix("_tuned")]
        environment = json.loads((folder / "environment.json").read_text())
        environments.append({k: environment[k] for k in ("python", "jax", "flax", "backend", "device", "cpu_cores")})
        seconds += environment["seconds"]
        marks = [TUNED] if row.endswith("_tuned") else []
        into = tried if cell in explanations() else cells
        into[cell] = {
            "set": name,
            "method": method,
            "marks": marks,
            "published": published[name, method],
            "seconds": round(environment["seconds"], 1),
            **_cell(folder, published[name, method], marks),
        }
    return {
        "made_by": "make study-classic",
        "metric": "accuracy, mean over folds of the share of test bags that are right at a probability of 1/2",
        "environment": max(environments, key=environments.count) if environments else None,
        "core_seconds": round(seconds),
        "cells": cells,
        "tried_where_different": tried,
    }


def _cell(folder: Path, published: dict[str, Any], marks: list[str]) -> dict[str, Any]:
    """One cell: each selection with intervals and verdict, the optimism between them, and what chance would show."""
    results = json.loads((folder / "results.json").read_text())
    config = json.loads((folder / "config.json").read_text())["experiment"]
    selections = {}
    for selection in SELECTIONS:
        entry = results["selections"][selection]["metrics"]["accuracy"]
        folds = _by_fold(folder, selection)
        error, dof = corrected_error(np.array(list(folds.values())), _test_to_train(folder))
        verdict = against_published(entry["value"], error, dof, published["value"], published["se"])
        recalled = [RECALLED] if published["verified"] == RECALLED else []
        selections[selection] = {
            "value": _round(entry["value"]),
            "sampling": _round(entry["sampling"]),
            "procedure": _round(entry["procedure"]),
            "verdict": verdict.verdict,
            "difference": _round(verdict.difference),
            "low": _round(verdict.low),
            "high": _round(verdict.high),
            "p": float(f"{verdict.p:.3g}"),
            "detectable": _round(verdict.detectable),
            "marks": [*marks, *recalled, *(["optimistic"] if selection == "optimistic" else [])],
            "auroc": _round(results["selections"][selection]["metrics"]["auroc"]["value"]),
        }
    honest, picked = (np.array(list(_by_fold(folder, s).values())) for s in ("validation", "optimistic"))
    error, dof = corrected_error(picked - honest, _test_to_train(folder))
    gain = t_verdict(float((picked - honest).mean()), error, dof)
    return {
        "learning_rate": config["train"]["optimizer"]["learning_rate"],
        "weight_decay": config["train"]["optimizer"]["weight_decay"],
        "epochs": config["train"]["epochs"],
        "folds": len(honest),
        "bags": results["counts"]["bags"],
        "selections": selections,
        "optimism": {"value": _round(gain.difference), "low": _round(gain.low), "high": _round(gain.high)},
        "null": _null(folder, config["train"]["epochs"]),
    }


def corrected_error(folds: np.ndarray, share: float) -> tuple[float, int]:
    """Standard error of the mean over resampled folds (Nadeau & Bengio 2003) and its degrees of freedom."""
    return float(np.sqrt(folds.var(ddof=1) * (1 / len(folds) + share))), len(folds) - 1


def _test_to_train(folder: Path) -> float:
    with (folder / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return float(np.mean([int(r["n_test"]) / int(r["n_train"]) for r in rows]))


def _right(folder: Path, selection: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(fold, bag, whether right) of every test row of a selection."""
    rows = Predictions.read(folder / "predictions.csv")
    rows = rows.take((rows.role == "test") & (rows.selection == selection))
    right = (rows.score[:, 1] >= 0.5) == (rows.target[:, 0] > 0.5)
    return rows.run, rows.bag, right


def _by_fold(folder: Path, selection: str) -> dict[str, float]:
    """Accuracy of each fold, folds in one order for all selections."""
    run, _, right = _right(folder, selection)
    return {str(r): float(right[run == r].mean()) for r in np.unique(run)}


def _null(folder: Path, epochs: int) -> dict[str, Any]:
    """What picking the best epoch would show if no epoch were better than the last."""
    run, bag, right = _right(folder, "last")
    rate = {b: right[bag == b].mean() for b in np.unique(bag)}
    flat = [np.full((run == r).sum(), right.mean()) for r in np.unique(run)]
    own = [np.array([rate[b] for b in bag[run == r]]) for r in np.unique(run)]
    return {
        "all_bags_alike": round(constant_accuracy(flat, epochs), 4),
        "all_bags_alike_ten_epochs": round(constant_accuracy(flat, 10), 4),
        "each_bag_its_own_rate": round(constant_accuracy(own, epochs), 4),
    }


def _round(value: Any) -> Any:
    return [_round(v) for v in value] if isinstance(value, list | tuple) else None if value is None else round(value, 4)


def table_page(found: dict[str, Any]) -> str:
    """The Markdown table, from the JSON alone."""
    lines = [
        "# Ilse, Tomczak & Welling (2018), Table 1: ours beside the published accuracy",
        "",
        f"Made by `{found['made_by']}`: {found['core_seconds'] / 3600:.1f} hours of wall time summed over the "
        f"cells, six "
        f"side by side on {found['environment']['cpu_cores']} cores that other work shared (jax "
        f"{found['environment']['jax']}, {found['environment']['backend']}). Accuracy: {found['metric']}.",
        "",
        "Each cell: value, [sampling interval] (procedure interval), both 95 %; `docs/statistics.md` says what "
        "they are.",
        "The verdict holds our value against the published one with the printed error as its standard error (the paper "
        "does not say which error it is): *different* if the test rejects equality at .05, *no power* if it "
        "does not but "
        "a difference of .05 could have gone unseen (`detectable` is what would have been seen in four of five such "
        "studies), *indistinguishable* otherwise. Verdicts are not corrected for their number.",
        "",
        "† recalled from memory: the published number has not been read in its source. ‡ optimistic: the epoch is "
        "chosen on the test fold itself; no such number may be compared with an honest one.",
        "",
    ]
    for name in PAPER:
        mine = {c: v for c, v in found["cells"].items() if v["set"] == name}
        if not mine:
            continue
        first = next(iter(mine.values()))
        lines += [
            f"## {name}: {first['bags']} bags, {first['folds']} folds",
            "",
            "| method | published † | validation-selected | verdict | detectable | last epoch | optimistic ‡ |",
            "|---|---|---|---|---|---|---|",
        ]
        for cell in mine.values():
            s, p = cell["selections"], cell["published"]
            shown = [
                cell["method"] + "".join(f" ({mark})" for mark in cell["marks"]),
                f"{_three(p['value'])} ± {_three(p['se'])}",
                _value(s["validation"]),
                s["validation"]["verdict"] + (" †" if RECALLED in s["validation"]["marks"] else ""),
                _three(s["validation"]["detectable"]),
                f"{_value(s['last'])} {s['last']['verdict']} †",
                f"{_three(s['optimistic']['value'])} {_pair(s['optimistic']['procedure'])} ‡",
            ]
            lines.append("| " + " | ".join(shown) + " |")
        lines.append("")
    return "\n".join([*lines, *_where_different(found)])


def _where_different(found: dict[str, Any]) -> list[str]:
    """Cells whose validation-selected value differs from the published one, and what was tried."""
    odd = {n: c for n, c in found["cells"].items() if c["selections"]["validation"]["verdict"] == "different"}
    lines = ["## Where we differ", ""]
    if not odd:
        return [*lines, "Nowhere."]
    for name, cell in odd.items():
        s = cell["selections"]
        lines.append(
            f"- **{name}**: {_three(s['validation']['value'])} with the epoch of lowest validation loss "
            f"(AUROC {_three(s['validation']['auroc'])}), {_three(s['last']['value'])} at the last epoch of the same "
            f"runs (AUROC {_three(s['last']['auroc'])}), where {_three(cell['published']['value'])} was published: the "
            "selection makes most of the difference."
        )
    for name, cell in found["tried_where_different"].items():
        entry = cell["selections"]["validation"]
        lines.append(
            f"- tried, `{name}` (the epoch of best validation *accuracy* instead of loss): {_value(entry)}, AUROC "
            f"{_three(entry['auroc'])}, {entry['verdict']} †. `experiments/ilse2018_classic.py` says why it was tried."
        )
    return lines


def _three(value: float) -> str:
    """.850, as the field prints it."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def _pair(pair: list[float] | None) -> str:
    return "" if pair is None else f"({_three(pair[0])} to {_three(pair[1])})"


def _value(entry: dict[str, Any]) -> str:
    sampling = f"[{_three(entry['sampling'][0])} to {_three(entry['sampling'][1])}]"
    return f"{_three(entry['value'])} {sampling} {_pair(entry['procedure'])}"


def main() -> None:
    """Collect, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the cells")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MILKIT_SHARED", "../shared")))
    options = parser.parse_args()
    found = collect(options.runs, options.shared)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    TABLE.write_text(table_page(found) + "\n")
    OPTIMISM.write_text(optimism_page(found) + "\n")
    print(table_page(found))


if __name__ == "__main__":
    main()
