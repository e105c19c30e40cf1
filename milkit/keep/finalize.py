"""From a finished run folder to a model to keep: the fold ensemble, or one refit on all bags."""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import milkit
from milkit import config
from milkit.data.memory import InMemory
from milkit.data.study import Study
from milkit.errors import ConfigError, RunFolderError
from milkit.execute.digest import data_digest
from milkit.execute.environment import decides_bits, environment
from milkit.execute.prepare import Prepared, prepare
from milkit.experiment import Experiment
from milkit.keep.decide import centres_of, decide
from milkit.keep.features import feature_facts
from milkit.keep.folder import FORMAT, SCALERS, Kept, stacked_like
from milkit.keep.ids import digests, seen_in
from milkit.keep.image_facts import image_facts
from milkit.keep.refit import refit
from milkit.keep.run import Finished, as_tree, read_members
from milkit.keep.settle import settled
from milkit.keep.speak import speak
from milkit.task import Regression, Survival
from milkit.train.checkpoint import names

How = Literal["ensemble", "refit"]


def make_model(run: Finished, experiment: Experiment, how: How, tell: Callable[[str], None]) -> Kept:
    """Make the model of a run.

    Args:
        run: the run folder.
        experiment: what it ran; its data may be in memory only, and then missing (`Absent`).
        how: "ensemble" keeps the weights of all runs; "refit" trains anew on all bags, once a seed.
        tell: progress in words.

    Raises:
        RunFolderError: the data or the folds are not those of the run, or its weights are damaged.
        ConfigError: data that are gone are needed.
    """
    experiment = settled(run, experiment, how, tell)
    if how == "refit":
        return _refitted(run, experiment, tell)
    if isinstance(experiment.data, Absent):
        return _without_data(run, experiment)
    prepared = prepare(replace(experiment, labels=None))
    _check_digests(run, prepared, folds=True)
    study = prepared.study
    arrays, _ = read_members(run)
    out = prepared.out_features
    like = _like(experiment, study.features, out, len(run.runs), study.covariate_count)
    tree = as_tree(arrays, like, run.folder)
    split = {(s.repeat, s.fold, s.inner): i for i, s in enumerate(prepared.plan.splits)}
    of = [split[int(r["repeat"]), int(r["fold"]), int(r["inner"])] for r in run.runs]
    centres = centres_of(run.validation, experiment.task)
    members = [
        {
            "run": row["run"], "seed": int(row["seed"]), "epoch": epoch, **_loss_facts(prepared, i),
            "centre": centres.get(row["run"], 0.0),
        }
        for row, epoch, i in zip(run.runs, run.epochs, of, strict=True)
    ]  # fmt: skip
    fitted = sorted({int(i) for s in prepared.plan.splits for i in (*s.train, *s.validation)})
    tell("reading the features once, for the digests of what was trained on")
    facts = _facts(run, experiment, study, how, members, study.features, out, seen_in(study, fitted))
    scalers = _scalers(prepared, of)
    return Kept(facts, experiment.model, experiment.task, tree["params"], tree["buffers"], **scalers)


def _refitted(run: Finished, experiment: Experiment, tell: Callable[[str], None]) -> Kept:
    if isinstance(experiment.data, Absent):
        raise ConfigError(
            f"{run.folder}: this study ran on bags held in memory, which its folder does not keep, so nothing can be "
            "trained anew. Keep the fold ensemble (--ensemble), or call milkit.api.finalize(..., data=bags) in the "
            "script that has them."
        )
    epochs = max(1, math.floor(float(np.median(run.epochs)) + 0.5))
    prepared, tree = refit(experiment, epochs, tell)
    _check_digests(run, prepared, folds=False)
    study = prepared.study
    members = [
        {"run": f"all-s{r.seed}", "seed": r.seed, "epoch": epochs, **_loss_facts(prepared, 0), "centre": 0.0}
        for r in prepared.runs
    ]
    seen = seen_in(study, range(len(study)))
    facts = _facts(run, experiment, study, "refit", members, study.features, prepared.out_features, seen)
    scalers = _scalers(prepared, [0] * len(members))
    kept = Kept(facts, experiment.model, experiment.task, tree["params"], tree["buffers"], **scalers)
    if isinstance(experiment.task, Survival) and experiment.task.loss == "cox":
        # nobody is held out of a refit: its log risks are counted from their mean over the patients it trained on
        said = speak(kept, study.lengths, study.read, covariates=study.covariates)
        for member, own in zip(members, said.members, strict=True):
            member["centre"] = float(own.mean())
    return kept


@dataclass(frozen=True, eq=False)
class Absent(InMemory):
    """Bags that were held in memory when the study ran, and are gone.

    Attributes:
        said: what the run's configuration says of them.
    """

    said: Mapping[str, Any] = field(default_factory=dict)

    def config_json(self) -> dict[str, Any]:
        """What the run's configuration says of them."""
        return {k: v for k, v in self.said.items() if k != "type"}


def _without_data(run: Finished, experiment: Experiment) -> Kept:
    """The ensemble of a study whose bags are gone: what is needed must stand in the run folder."""
    task = experiment.task
    needs = "the feature scalers (train.standardise)" if experiment.train.standardise else ""
    if getattr(experiment.model, "takes_covariates", False):
        needs = "the scale of the covariates"
    if isinstance(task, Regression) and task.standardise:
        needs = "the scale of the target (Regression.standardise)"
    if needs:
        raise ConfigError(
            f"{run.folder}: the bags were held in memory and are gone, but {needs} came from them. Call "
            "milkit.api.finalize(run, out, data=bags) in the script that has them."
        )
    arrays, count = read_members(run)
    out = task.out_features(len(run.names))
    width = _width_of(experiment, arrays, out, count, run.folder)
    tree = as_tree(arrays, _like(experiment, width, out, count), run.folder)
    centres = centres_of(run.validation, task)
    members: list[dict[str, Any]] = [
        {
            "run": row["run"], "seed": int(row["seed"]), "epoch": epoch, "target_shift": [], "target_scale": [],
            "cuts": None, "centre": centres.get(row["run"], 0.0),
        }
        for row, epoch in zip(run.runs, run.epochs, strict=True)
    ]  # fmt: skip
    if isinstance(task, Regression):
        for member in members:
            member |= {"target_shift": [0.0] * out, "target_scale": [1.0] * out}
    facts = _facts(run, experiment, None, "ensemble", members, width, out, _seen_by_tables(run))
    return Kept(facts, experiment.model, task, tree["params"], tree["buffers"], None, None)


def _seen_by_tables(run: Finished) -> dict[str, list[str]]:
    """Patients by `folds.csv`; slides by the predictions, which name those of every validation bag."""
    with (run.folder / "folds.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["role"] != "test"]
    bags = {row["bag"] for row in rows} if run.config.get("unit") == "slide" else set()
    slides = {slide for cell in run.validation.slide.tolist() for slide in cell.split(";")}
    return {"patients": digests(row["patient"] for row in rows), "slides": digests(slides | bags), "features": []}


def _width_of(experiment: Experiment, arrays: Mapping[str, np.ndarray], out: int, members: int, folder: Path) -> int:
    """The width of the features, told from the weights: the one at which the model's shapes are theirs."""
    wanted = {name: a.shape for name, a in arrays.items()}
    for width in sorted({size for shape in wanted.values() for size in shape[1:]}, reverse=True):
        like = _like(experiment, width, out, members)
        if {n: leaf.shape for n, leaf in zip(names(like), jax.tree.leaves(like), strict=True)} == wanted:
            return width
    raise RunFolderError(f"The weights in {folder} are not those of the model in its config.json; restore it.")


def _like(experiment: Experiment, width: int, out: int, members: int, covariates: int = 0) -> dict[str, Any]:
    params, buffers = stacked_like(experiment.model, width, out, members, covariates)
    return {"params": params, "buffers": buffers}


def _check_digests(run: Finished, prepared: Prepared, *, folds: bool) -> None:
    found = {"data_digest": data_digest(prepared.study)}
    if folds:
        found["folds_digest"] = prepared.plan.digest()
    changed = [name for name, digest in found.items() if run.config.get(name, digest) != digest]
    if changed:
        what = "the table or the features" if "data_digest" in changed else "the folds"
        raise RunFolderError(
            f"No model can be made of {run.folder}: {what} changed since it ran ({', '.join(changed)} differs from its "
            "config.json). Restore the files, or run the study anew."
        )


def _loss_facts(prepared: Prepared, split: int) -> dict[str, Any]:
    """What a member's outputs are read with."""
    loss = prepared.loss[split]
    regression = isinstance(prepared.experiment.task, Regression)
    cuts = np.asarray(loss.cuts)
    return {
        "target_shift": np.asarray(loss.target_shift, np.float64).tolist() if regression else [],
        "target_scale": np.asarray(loss.target_scale, np.float64).tolist() if regression else [],
        "cuts": cuts.astype(np.float64).tolist() if len(cuts) else None,
    }


def _scalers(prepared: Prepared, split: Sequence[int]) -> dict[str, np.ndarray | None]:
    """Each member's scaling of features [m, d] and covariates [m, v]; None for what is not scaled."""
    chosen = [prepared.hyper[i] for i in split]

    def stacked(name: str) -> np.ndarray | None:
        each = [getattr(h, name) for h in chosen]
        return None if each[0] is None else np.stack([np.asarray(a, np.float32) for a in each])

    return {name: stacked(name) for name in SCALERS}


def _facts(
    run: Finished, experiment: Experiment, study: Study | None, how: How, members: list[dict[str, Any]],
    in_features: int, out_features: int, seen: dict[str, list[str]],
) -> dict[str, Any]:  # fmt: skip
    """`model.json`, but for the digests that are added when it is written."""
    part = run.results["selections"][run.selection]
    provenance = run.cohort.get("provenance", {}) if study is None else dict(study.provenance)
    dtype = "" if study is None else str(study.read(0).x.dtype)
    of_images = study is not None and study.sizes is not None  # pixels are always scaled
    data = config.to_json(experiment.data)
    measured = run.config.get("measured", "patient")
    decided = decide(experiment.task, run.names, run.validation, experiment.aggregate, measured)
    return {
        "format": FORMAT,
        "milkit": milkit.__version__,
        "name": experiment.name,
        "how": how,
        "selection": run.selection,
        "epochs": {"of_runs": run.epochs, "median": float(np.median(run.epochs))},
        "task": config.to_json(experiment.task),
        "names": list(run.names),
        "model": config.to_json(experiment.model),
        "in_features": in_features,
        "out_features": out_features,
        "scaled": experiment.train.standardise or of_images,
        "images": image_facts(run, experiment.data, study) if study is not None and of_images else None,
        "features": feature_facts(provenance, dtype),
        "covariates": []
        if study is None or study.covariates is None
        else [asdict(c) for c in study.covariates.codings],
        "unit": experiment.unit,
        "aggregate": experiment.aggregate,
        "measured": measured,
        "members": members,
        **decided,
        "training": {
            "cohort": str(data.get("name") or Path(data.get("table", "")).stem),
            "counts": _counts(run, seen),
            "provenance": {k: v for k, v in provenance.items() if "sha256" in k},
            "seen": seen,
        },
        "expected": {
            "selection": run.selection,
            "counts": part["counts"],
            "metrics": {
                name: {k: m.get(k) for k in ("value", "sampling", "procedure", "note")}
                for name, m in part["metrics"].items()
            },
        },
        "marks": list(part["marks"]),
        "experiment": config.to_json(experiment),
        "run_digest": run.config.get("digest") or _digest(run.config),
        "environment": decides_bits(environment()),
    }


def _counts(run: Finished, seen: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "patients": len(seen["patients"]),
        "slides": len(seen["slides"]),
        "classes": run.results["counts"].get("classes", {}),
    }


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
