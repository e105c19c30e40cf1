"""Run folders of every task with a planted answer, written as `milkit run` writes them. No training, no JAX."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Plan:
    """What to plant."""

    task: str = "Binary"
    patients: int = 92
    folds: int = 10
    repeats: int = 1
    seeds: int = 3
    epochs: int = 40
    strength: float = 1.6
    classes: tuple[str, ...] = ()
    selections: tuple[str, ...] = ("validation", "last")
    marks: tuple[str, ...] = ()
    attention: str = "index"  # "index", "coords" or "none"
    name: str = "musk1_gated"
    nasty: str = ""  # put in front of every id
    failed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        if self.classes:
            return self.classes
        return {
            "Binary": ("non-musk", "musk"),
            "MultiClass": ("G1", "G2", "G3", "G4"),
            "MultiLabel": ("EGFR", "KRAS", "TP53"),
            "Regression": ("hrd_score",),
            "Survival": ("time", "event"),
        }[self.task]


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a run folder for a plan given by keywords and returns it."""

    def make(**choices: Any) -> Path:
        return write_folder(tmp_path_factory.mktemp("study") / "run", Plan(**choices))

    return make


def write_folder(folder: Path, plan: Plan) -> Path:
    """The whole run folder, but for weights."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True)
    targets = make_targets(rng, plan)
    runs = [(r, f, s) for r in range(plan.repeats) for f in range(plan.folds) for s in range(plan.seeds)]
    parts = {r: np.array_split(rng.permutation(plan.patients), max(plan.folds, 2)) for r in range(plan.repeats)}
    tests = [parts[r][f] for r, f, _ in runs]
    epochs = rng.integers(5, plan.epochs, len(runs))
    ids = np.array([f"{plan.nasty}P{i:04d}" for i in range(plan.patients)])
    signal = rng.normal(size=(plan.patients, len(plan.names))) * 0.8  # shared by the seeds of a patient
    values = []
    for part in tests:
        noise = signal[part] + 0.5 * rng.normal(size=(len(part), len(plan.names)))
        values.append(make_values(targets[part], noise, plan))
    write_predictions(folder, plan, runs, tests, values, targets, ids, epochs)
    write_json(folder / "results.json", make_results(plan, runs, tests, values, targets))
    write_json(folder / "config.json", make_config(plan))
    write_json(folder / "environment.json", ENVIRONMENT)
    write_json(folder / "cohort.json", make_cohort(plan, runs, tests, targets, ids))
    write_history(folder, plan, runs, epochs, rng)
    write_runs(folder, plan, runs, tests, epochs)
    if plan.attention != "none":
        write_attention(folder, plan, runs, ids, targets, rng)
    return folder


def make_targets(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    n, c = plan.patients, len(plan.names)
    if plan.task == "Binary":
        return (rng.random((n, 1)) < 0.51).astype(float)
    if plan.task == "MultiClass":
        shares = np.arange(c, 0, -1) / np.arange(c, 0, -1).sum()
        return rng.choice(c, (n, 1), p=shares).astype(float)
    if plan.task == "MultiLabel":
        return (rng.random((n, c)) < np.linspace(0.15, 0.6, c)).astype(float)
    if plan.task == "Regression":
        return rng.gamma(3.0, 8.0, (n, c))
    time = rng.exponential(40.0, n) + 0.5
    limit = rng.uniform(5, 80, n)
    return np.stack([np.minimum(time, limit), (time <= limit).astype(float)], 1)


def make_values(target: np.ndarray, noise: np.ndarray, plan: Plan) -> np.ndarray:
    """Probabilities, values or a risk that carry the target."""
    if plan.task == "Binary":
        p = 1 / (1 + np.exp(-(plan.strength * (2 * target[:, 0] - 1) + 1.3 * noise[:, 0])))
        return np.stack([1 - p, p], 1)
    if plan.task == "MultiClass":
        z = plan.strength * np.eye(noise.shape[1])[target[:, 0].astype(int)] + noise
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)
    if plan.task == "MultiLabel":
        return 1 / (1 + np.exp(-(plan.strength * (2 * target - 1) - 0.5 + noise)))
    if plan.task == "Regression":
        return 24 + 0.6 * (target - 24) + 5 * noise
    return (-np.log(target[:, :1]) + 0.9 * noise[:, :1]).astype(float)


def make_metrics(task: str, target: np.ndarray, value: np.ndarray) -> dict[str, float]:
    """A few metrics of one run, plainly."""
    if task == "Binary":
        return {
            "auroc": pairs(target[:, 0] > 0, value[:, 1]),
            "accuracy": float(np.mean((value[:, 1] > 0.5) == (target[:, 0] > 0))),
            "brier": float(np.mean((value[:, 1] - target[:, 0]) ** 2)),
        }
    if task == "MultiClass":
        truth = target[:, 0].astype(int)
        rest = [pairs(truth == c, value[:, c]) for c in range(value.shape[1])]
        return {"macro_auroc": float(np.mean(rest)), "accuracy": float(np.mean(value.argmax(1) == truth))}
    if task == "MultiLabel":
        rest = [pairs(target[:, c] > 0, value[:, c]) for c in range(value.shape[1])]
        return {"macro_auroc": float(np.mean(rest)), "accuracy": float(np.mean((value > 0.5) == (target > 0)))}
    if task == "Regression":
        error = value - target
        return {
            "r2": float(1 - np.sum(error**2) / np.sum((target - target.mean()) ** 2)),
            "mae": float(np.abs(error).mean()),
        }
    time, event, risk = target[:, 0], target[:, 1] > 0, value[:, 0]
    usable = (time[:, None] < time[None]) & event[:, None]
    return {"c_index": float((risk[:, None] > risk[None])[usable].mean()) if usable.any() else float("nan")}


def pairs(positive: np.ndarray, score: np.ndarray) -> float:
    if positive.all() or not positive.any():
        return float("nan")
    a, b = score[positive][:, None], score[~positive][None]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def make_results(plan: Plan, runs: list, tests: list, values: list, targets: np.ndarray) -> dict[str, Any]:
    each = [make_metrics(plan.task, targets[t], v) for t, v in zip(tests, values, strict=True)]
    splits = [(r, f) for r, f, _ in runs]
    metrics = {}
    for name in each[0]:
        table = np.array([m[name] for m in each])
        keys = list(dict.fromkeys(splits))
        rows = [np.array([v for v, k in zip(table, splits, strict=True) if k == key]) for key in keys]
        means = np.array([v.mean() for v in rows if np.isfinite(v).all()])
        value = float(means.mean()) if len(means) else None
        sd = float(means.std(ddof=1)) if len(means) > 1 else None
        half = None if sd is None else 2.26 * sd * (1 / len(means) + 0.11) ** 0.5
        metrics[name] = {
            "value": value,
            "sampling": None if value is None else [value - 0.05, value + 0.04],
            "procedure": None if half is None or value is None else [value - half, value + half],
            "procedure_note": "one fold: the spread between folds cannot be seen" if half is None else "",
            "fold_sd": sd,
            "seed_sd": float(np.mean([v.std(ddof=1) for v in rows])) if plan.seeds > 1 else None,
            "undefined_folds": len(keys) - len(means),
            "note": "" if value is not None else "every test part holds one class",
        }
    selections = {}
    for selection in plan.selections:
        extra = ["optimistic"] if selection == "optimistic" else []
        shifted = {
            k: {**m, "value": None if m["value"] is None else m["value"] + 0.02 * len(extra)}
            for k, m in metrics.items()
        }
        selections[selection] = {"metrics": shifted, "marks": [*plan.marks, *extra]}
    per_run = [
        {"run": f"r{i}", "repeat": r, "fold": f, "seed": s, "metrics": m}
        for i, ((r, f, s), m) in enumerate(zip(runs, each, strict=True))
    ]
    primary = plan.selections[0]
    return {
        "experiment": plan.name,
        "task": plan.task,
        "classes": list(plan.names),
        "unit": "patient",
        "selection": primary,
        "marks": selections[primary]["marks"],
        "counts": {"patients": plan.patients, "runs": len(runs)},
        "metrics": selections[primary]["metrics"],
        "selections": selections,
        "per_run": per_run,
    }


def make_config(plan: Plan) -> dict[str, Any]:
    task: dict[str, Any] = {"type": plan.task, "label": "label", "positive": "", "loss": "bce"}
    if plan.task in ("MultiLabel", "Regression"):
        task = {"type": plan.task, "labels": list(plan.names)}
    if plan.task == "Survival":
        task = {"type": "Survival", "time": "months", "event": "event", "loss": "nll", "bins": 4}
    return {
        "format": 1,
        "experiment": {
            "type": "Experiment",
            "name": plan.name,
            "data": {"type": "Classic", "name": "musk1"},
            "protocol": {"type": "KFold", "folds": plan.folds, "repeats": plan.repeats, "validation": 0.1},
            "model": {"type": "ABMIL", "encoder": [256, 128, 64], "attention": 64, "gated": True, "dropout": 0.0},
            "train": {
                "type": "Train",
                "optimizer": {"type": "Sgd", "learning_rate": 5e-4, "momentum": 0.9, "weight_decay": 5e-3},
                "epochs": plan.epochs,
                "batch_bags": 1,
                "clip": None,
                "select": "loss",
            },
            "task": task,
            "unit": "patient",
            "aggregate": "mean",
            "seeds": plan.seeds,
        },
        "width": 8,
        "unit": "patient",
        "aggregate": "mean",
        "grouped_by": "patient",
        "marks": list(plan.marks),
        "digest": "9f2c51d07a" * 4,
    }


ENVIRONMENT = {
    "python": "3.11.9",
    "milkit": "0.1.0",
    "jax": "0.10.2",
    "numpy": "2.4.6",
    "platform": "Linux x86_64",
    "device": "cpu (2 cores)",
    "precision": "float32, matmul default",
    "command": "milkit run experiments/ilse2018_classic.py:musk1_gated --seeds 3",
    "git": "7a2e1b0",
    "seconds": 74.32,
}


def make_cohort(plan: Plan, runs: list, tests: list, targets: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    def counts(rows: np.ndarray) -> dict[str, int]:
        if plan.task in ("Binary", "MultiClass"):
            return {n: int((targets[rows, 0] == i).sum()) for i, n in enumerate(plan.names)}
        if plan.task == "MultiLabel":
            return {n: int(targets[rows, i].sum()) for i, n in enumerate(plan.names)}
        if plan.task == "Survival":
            events = int(targets[rows, 1].sum())
            return {"events": events, "censored": len(rows) - events}
        return {}

    folds = []
    for (repeat, fold, seed), test in zip(runs, tests, strict=True):
        if seed:
            continue
        rest = np.setdiff1d(np.arange(plan.patients), test)
        cut = max(1, len(rest) // 10)
        roles = {"train": rest[cut:], "validation": rest[:cut], "test": test}
        if "validation" not in plan.selections:
            roles = {"train": rest, "test": test}
        for role, rows in roles.items():
            folds.append(
                {
                    "repeat": repeat,
                    "fold": fold,
                    "inner": 0,
                    "role": role,
                    "bags": len(rows),
                    "patients": len(rows),
                    "counts": counts(rows),
                }
            )
    return {
        "flow": {
            "rows": plan.patients + 6,
            "matched": plan.patients + 2,
            "bags": plan.patients,
            "patients": plan.patients,
            "left_out": [[f"{plan.nasty}L{i}", "no features for this slide"] for i in range(4)]
            + [[f"{plan.nasty}E{i}", "label is empty"] for i in range(2)],
            "notes": ["column 'label' taken as the class"],
        },
        "folds": folds,
        "grouped_by": "patient",
        "marks": [],
        "notes": ["stratified by class"],
        "instances": {"min": 2, "median": 4, "max": 40, "total": 476},
        "provenance": {"source": "UCI Musk (version 1), CC BY 4.0", "sha256": "ab" * 32},
    }


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")


def write_rows(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_predictions(
    folder: Path,
    plan: Plan,
    runs: list,
    tests: list,
    values: list,
    targets: np.ndarray,
    ids: np.ndarray,
    epochs: np.ndarray,
) -> None:
    names = {"Survival": ("time", "event"), "Regression": plan.names, "MultiLabel": plan.names}.get(plan.task)
    target = ["target"] if plan.task in ("Binary", "MultiClass") else [f"target_{n}" for n in names or ()]
    if plan.task == "Survival":
        target, logit, value = ["time", "event"], ["logit_0"], ["risk"]
    elif plan.task == "Regression":
        logit, value = [f"logit_{n}" for n in plan.names], [f"pred_{n}" for n in plan.names]
    else:
        value = [f"prob_{n}" for n in plan.names]
        logit = [f"logit_{n}" for n in (plan.names[1:] if plan.task == "Binary" else plan.names)]
    head = [
        "experiment",
        "run",
        "repeat",
        "fold",
        "seed",
        "selection",
        "role",
        "bag",
        "slide",
        "patient",
        "site",
        "cohort",
    ]
    rows: list[list[Any]] = []
    for i, ((repeat, fold, seed), test, scored) in enumerate(zip(runs, tests, values, strict=True)):
        for selection in plan.selections:
            for p, v in zip(test, scored, strict=True):
                who = [ids[p], ids[p], ids[p], "", ""]
                truth = [int(t) if t == int(t) else repr(float(t)) for t in targets[p]]
                line = [plan.name, f"r{i}", repeat, fold, seed, selection, "test", *who, *truth]
                threshold = 0.5 if plan.task == "Binary" else ""
                rows.append([*line, *[0.0] * len(logit), *map(repr, map(float, v)), epochs[i], threshold])
    write_rows(folder / "predictions.csv", [*head, *target, *logit, *value, "selected_epoch", "threshold"], rows)


def write_history(folder: Path, plan: Plan, runs: list, epochs: np.ndarray, rng: np.random.Generator) -> None:
    lines = []
    fits = ["validation"] + ["optimistic"] * ("optimistic" in plan.selections)
    for i, (repeat, fold, seed) in enumerate(runs):
        speed = rng.uniform(0.05, 0.12)
        for fit in fits:
            for epoch in range(1, min(plan.epochs, int(epochs[i]) + 15) + 1):
                row = {"run": f"r{i}", "repeat": repeat, "fold": fold, "seed": seed, "fit": fit, "epoch": epoch}
                row["train_loss"] = 0.1 + 0.6 * float(np.exp(-speed * epoch)) + 0.02 * float(rng.normal())
                if "validation" in plan.selections:
                    rise = 0.004 * max(0, epoch - int(epochs[i]))
                    row["validation_loss"] = (
                        0.35 + 0.35 * float(np.exp(-speed * epoch)) + rise + 0.05 * float(rng.normal())
                    )
                    row["validation_auroc"] = 0.9 - 0.4 * float(np.exp(-speed * epoch))
                row["lr"] = 5e-4
                lines.append(json.dumps(row))
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_runs(folder: Path, plan: Plan, runs: list, tests: list, epochs: np.ndarray) -> None:
    head = (
        "run program slot repeat fold inner seed n_train n_validation n_test learning_rate weight_decay status epochs"
    )

    def ending(i: int) -> list[Any]:
        return ["failed" if i < plan.failed else "finished", plan.epochs, epochs[i], 0.41]

    rows = [
        [f"r{i}", i // 8, i % 8, r, f, "", s, plan.patients - len(t) - 9, 9, len(t), 5e-4, 5e-3, *ending(i)]
        for i, ((r, f, s), t) in enumerate(zip(runs, tests, strict=True))
    ]
    write_rows(folder / "runs.csv", [*head.split(), "selected_epoch", "best_validation"], rows)


def write_attention(
    folder: Path, plan: Plan, runs: list, ids: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> None:
    bags, top = [], []
    sizes = [3, 14, 40, 7] if plan.attention == "index" else [900, 2400, 1500, 3]
    for k, n in enumerate(sizes):
        bag = ids[k % len(ids)]
        side = int(np.ceil(n**0.5)) + 4
        at = np.stack(np.divmod(np.arange(side * side), side), 1)
        near = np.argsort(((at - side / 2) ** 2).sum(1) + 3 * rng.normal(size=len(at)), kind="stable")[:n]
        xy = at[np.sort(near)][:, ::-1] * 256.0
        heat = np.exp(-((xy - xy[n // 3]) ** 2).sum(1) / (2 * 900.0**2)) * 4 if plan.attention == "coords" else 0
        logits = rng.normal(size=n) * 1.2 + heat
        weights = np.exp(logits) / np.exp(logits).sum()
        truth = [float(t) for t in targets[k]]
        prob = [0.14, 0.86] if plan.task == "Binary" else [1 / len(plan.names)] * len(plan.names)
        bags.append(
            {
                "bag": str(bag),
                "target": truth[0] if len(truth) == 1 else truth,
                "score_of_target": prob,
                "n": n,
                "attention": [float(a) for a in weights],
                "attention_sd": [float(a) * 0.3 for a in weights],
                "coords_um": xy.tolist() if plan.attention == "coords" else None,
            }
        )
        for i in range(min(plan.seeds, 3)):
            order = np.argsort(-weights * np.exp(0.2 * rng.normal(size=n)), kind="stable")[:5]
            for rank, j in enumerate(order, 1):
                where = [f"{xy[j][0]}", f"{xy[j][1]}"] if plan.attention == "coords" else ["", ""]
                top.append([f"r{i}", 0, 0, i, plan.selections[0], bag, bag, int(j), *where, weights[j], rank])
    write_json(folder / "attention.json", {"bags": bags})
    head = [
        "run",
        "repeat",
        "fold",
        "seed",
        "selection",
        "bag",
        "slide",
        "instance",
        "x_um",
        "y_um",
        "attention",
        "rank",
    ]
    write_rows(folder / "top_instances.csv", head, top)
