"""The trained models of a finished run, each with the bags that it was tested on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from milkit.data.study import Study
from milkit.errors import RunFolderError
from milkit.execute.digest import data_digest
from milkit.execute.prepare import Prepared, prepare
from milkit.experiment import Experiment
from milkit.keep.folder import stacked_like
from milkit.keep.run import as_tree, read_members, read_run
from milkit.train.setup import Hyper, Setup
from milkit.train.state import forward
from milkit.train.step import standardised
from milkit.types import Bags, Output


@dataclass(frozen=True, eq=False)
class Member:
    """One trained model of a run.

    Attributes:
        run: its name in the run's tables.
        study: all bags of the run.
        setup: how it was trained.
        hyper: its scaling of the features.
        arrays: its "params" and "buffers".
        train, validation, test: rows of the study.
    """

    run: str
    study: Study
    setup: Setup
    hyper: Hyper
    arrays: Any
    train: Int[np.ndarray, "_"]
    validation: Int[np.ndarray, "_"]
    test: Int[np.ndarray, "_"]

    @property
    def module(self) -> Callable[[Bags], Output]:
        """The model as in prediction, of features as `bags` gives them."""
        params, buffers = self.arrays["params"], self.arrays["buffers"]
        return lambda bags: forward(self.setup.graph, params, buffers, bags, None)[0]

    def bags(self, rows: Any, length: int = 0) -> Bags:
        """Bags of the study in one padded batch, scaled as this model was trained.

        Args:
            rows: of the study.
            length: instances to pad to; 0: those of the longest.
        """
        found = [self.study.read(int(row)) for row in rows]
        n = max(length, *(len(bag.x) for bag in found))
        x = np.zeros((len(found), n, self.study.features), np.float32)
        mask, xy = np.zeros(x.shape[:2], bool), np.zeros((*x.shape[:2], 2), np.float32)
        for i, bag in enumerate(found):
            x[i, : len(bag.x)], mask[i, : len(bag.x)] = bag.x, True
            if bag.coords_um is not None:
                xy[i, : len(bag.x)] = bag.coords_um
        scaled = jnp.asarray(x)
        if self.hyper.shift is not None:
            scaled = (scaled - self.hyper.shift) * self.hyper.inverse_scale
        places = jnp.asarray(xy) if all(bag.coords_um is not None for bag in found) else None
        beside = None
        if self.study.covariates is not None:
            values = jnp.asarray(self.study.covariates.values[np.asarray(rows)])
            beside = standardised(self.hyper, values, jnp.ones(len(values)))
        return Bags(jnp.where(mask[..., None], scaled, 0), jnp.asarray(mask), places, covariates=beside)


def members_of(experiment: Experiment, folder: Path, selection: str = "") -> Iterator[Member]:
    """Each trained model of a finished run.

    Args:
        experiment: what was run in it.
        folder: the run folder.
        selection: whose weights: "validation" or "last"; "" takes the run's own.

    Raises:
        RunFolderError: the run is not finished, or of other data, folds or another model.
    """
    run = read_run(folder, selection)
    prepared: Prepared = prepare(replace(experiment, labels=None, optimistic=None))
    study, setup = prepared.study, prepared.engine.setup
    now = {"data_digest": data_digest(study), "folds_digest": prepared.plan.digest()}
    changed = [key for key, digest in now.items() if run.config.get(key, digest) != digest]
    if changed:
        raise RunFolderError(
            f"{folder} is not of this experiment (its {' and '.join(changed)} differ); give the experiment that was "
            "run in it."
        )
    sizes = study.features, prepared.out_features
    params, buffers = stacked_like(experiment.model, *sizes, len(run.runs), study.covariate_count)
    tree = as_tree(read_members(run)[0], {"params": params, "buffers": buffers}, folder)
    splits = {(s.repeat, s.fold, s.inner): i for i, s in enumerate(prepared.plan.splits)}
    for i, row in enumerate(run.runs):
        at = splits[int(row["repeat"]), int(row["fold"]), int(row["inner"])]
        split = prepared.plan.splits[at]
        yield Member(
            row["run"], study, setup, prepared.hyper[at], jax.tree.map(lambda a, i=i: a[i], tree),
            *(np.asarray(getattr(split, role)) for role in ("train", "validation", "test")),
        )  # fmt: skip
