"""A finished run, or a kept model, with its bags at hand and its trained models ready to be asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from milkit import api
from milkit.bag import Bag
from milkit.data.cohort import Cohort
from milkit.data.covariates import affine
from milkit.data.features import FeatureSource
from milkit.data.formats.header import Unit
from milkit.data.open_cohort import open_cohort
from milkit.data.protocol import Split
from milkit.data.study import Study
from milkit.data.table import read_cohort
from milkit.embed.slide_cohort import SlideCohort
from milkit.errors import CohortError, ConfigError, DataError, RunFolderError
from milkit.execute.digest import data_digest
from milkit.execute.prepare import scalers_of
from milkit.experiment import Experiment
from milkit.keep.features import Features, open_like
from milkit.keep.folder import FACTS, Kept, stacked_like
from milkit.keep.ids import digest_features, digest_id, slides_of
from milkit.keep.predict import bags_of, slides_alone, untargeted
from milkit.keep.run import Finished, as_tree, read_members, read_run
from milkit.keep.settle import settled
from milkit.predictions import Predictions
from milkit.task import Task
from milkit.train.state import Graph, graph_of

Scaler = tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class Model:
    """One trained model.

    Attributes:
        name: of its run.
        arrays: its "params" and "buffers".
        features, covariates: what is taken from each, and what it is then multiplied by; (None, None) leaves them.
        target_shift, target_scale: of regression, from its outputs to the target's unit.
        centre: of survival, what its risk is counted from.
    """

    name: str
    arrays: Mapping[str, Any]
    features: Scaler = (None, None)
    covariates: Scaler = (None, None)
    target_shift: Any = 0.0
    target_scale: Any = 1.0
    centre: float = 0.0


@dataclass(frozen=True, eq=False)
class Opened:
    """What can be asked about slides.

    Attributes:
        folder: of the run or the kept model.
        task: what is predicted.
        names: classes (binary: negative, positive), labels or values; ("risk",) for survival.
        config: the models' configuration.
        study: the bags.
        graph: the models' static part.
        source: features by slide, where the data are a cohort's; else None.
        selection: whose weights: "validation" or "last"; "" for a kept model.
    """

    folder: Path
    task: Task
    names: tuple[str, ...]
    config: Any
    study: Study
    graph: Graph
    source: FeatureSource | None
    selection: str

    def models_for(self, row: int) -> tuple[tuple[Model, ...], bool]:
        """The models that did not see a bag in training, True; or all that saw it, False where there are none."""
        raise NotImplementedError

    def predicted(self, row: int, models: Sequence[Model]) -> Float[np.ndarray, "m s"] | None:
        """What the models are on record to have said about a bag; None where there is no record."""
        return None

    @cached_property
    def slides(self) -> dict[str, int]:
        """Row of the bag that holds each slide."""
        return {slide: row for row, own in enumerate(self.study.slides) for slide in own}

    @cached_property
    def known(self) -> dict[str, None]:
        """Every slide that can be asked about: those of the study, then others whose features are there."""
        return dict.fromkeys([*self.slides, *(self.source.ids if self.source is not None else ())])

    def holding(self, slide_id: str) -> "Opened":
        """Itself; where the study has no such slide but the features do, the same models beside a bag of it."""
        return self

    def slide_bag(self, slide_id: str) -> Bag:
        """A slide with its positions as on the slide itself.

        Raises:
            DataError: they are not known.
        """
        row = self.slides[slide_id]
        if self.source is not None:
            return self.source.read(slide_id)
        if len(self.study.slides[row]) > 1:
            raise DataError(
                f"Slide {slide_id!r} shares its bag with others, and these data do not tell their positions apart; "
                "write them to a store (docs/formats.md)."
            )
        return self.study.read(row)


@dataclass(frozen=True, eq=False)
class OpenedRun(Opened):
    """A run folder: each bag is asked of the models that had it in their test part.

    Attributes:
        run: the folder as read.
        experiment: what was run.
        splits: of each run of `runs.csv`.
        tree: the weights of all runs, stacked.
        patients: patient of each slide of the table, those without a target too.
    """

    run: Finished = field(kw_only=True)
    experiment: Experiment = field(kw_only=True)
    splits: tuple[Split, ...] = field(kw_only=True)
    tree: Any = field(kw_only=True, repr=False)
    patients: Mapping[str, str] = field(kw_only=True, default_factory=dict)

    def holding(self, slide_id: str) -> Opened:
        """With a slide that has no row, or no target, in a study of its own."""
        if slide_id in self.slides or slide_id not in self.known or self.source is None:
            return self
        if self.study.covariates is not None:
            raise DataError(
                f"Slide {slide_id!r} is not in the study of {self.folder}, so the columns that its models read beside "
                "the features are not known."
            )
        alone = bags_of(self.source, slides_alone([slide_id]), "slide")
        return OpenedBeside(**{f.name: getattr(self, f.name) for f in fields(Opened)} | {"study": alone}, of=self)

    def models_for(self, row: int) -> tuple[tuple[Model, ...], bool]:
        """Models whose training and validation parts lack the bag; else all of them."""
        return self.models_without([row])

    def models_without(self, rows: Sequence[int]) -> tuple[tuple[Model, ...], bool]:
        """Models whose training and validation parts lack some bags; else all of them."""
        out = [i for i, s in enumerate(self.splits) if not np.isin(rows, np.concatenate([s.train, s.validation])).any()]
        chosen = out or list(range(len(self.splits)))
        return tuple(self._model(i) for i in chosen), bool(out)

    def predicted(self, row: int, models: Sequence[Model]) -> Float[np.ndarray, "m s"] | None:
        """The models' rows of `predictions.csv`, test before validation."""
        table, bag = self._predictions, str(self.study.bag[row])
        own = table.take((table.bag == bag) & (table.selection == self.selection))
        by_run: dict[str, np.ndarray] = {}
        for role in ("train", "validation", "test"):
            by_run |= dict(zip(own.run[own.role == role].tolist(), own.score[own.role == role], strict=True))
        found = [by_run[m.name] for m in models if m.name in by_run]
        return np.stack(found) if len(found) == len(models) else None

    @cached_property
    def _predictions(self) -> Predictions:
        return Predictions.read(self.folder / "predictions.csv")

    @cached_property
    def _scalers(self) -> dict[int, Scaler]:
        """Of each distinct split, from one pass over the features: a run does not keep them."""
        own = {id(split): split for split in self.splits}
        made = scalers_of(self.config, self.study, list(own.values()), self.experiment.train.standardise)
        return dict(zip(own, made, strict=True))

    def _model(self, i: int) -> Model:
        split = self.splits[i]
        beside = (None, None) if self.study.covariates is None else affine(self.study.covariates, split.train)
        arrays = jax.tree.map(lambda a: a[i], self.tree)
        return Model(self.run.runs[i]["run"], arrays, self._scalers[id(split)], beside)


@dataclass(frozen=True, eq=False)
class OpenedBeside(Opened):
    """A slide that is not in a run's study, to be asked of the models that did not see its patient.

    Attributes:
        of: the run.
    """

    of: OpenedRun = field(kw_only=True)

    def models_for(self, row: int) -> tuple[tuple[Model, ...], bool]:
        """All models, but for those that were trained or validated on other slides of its patient."""
        (slide,) = self.study.slides[row]
        same = np.flatnonzero(self.of.study.patient == self.of.patients.get(slide, slide))
        return self.of.models_without(same.tolist())


@dataclass(frozen=True, eq=False)
class OpenedModel(Opened):
    """A kept model: all its members answer, and a bag that they were trained on is known by its digest.

    Attributes:
        kept: the model.
        alone: whether it reads patients, but no table said which slides are a patient's.
    """

    kept: Kept = field(kw_only=True)
    alone: bool = field(kw_only=True)

    def models_for(self, row: int) -> tuple[tuple[Model, ...], bool]:
        """All members; False where the slide's id or its features were in training."""
        seen = self.kept.facts["training"]["seen"]
        slides, features = set(seen["slides"]), set(seen["features"])
        known = any(
            digest_id(slide) in slides or digest_features(x) in features
            for slide, x in slides_of(self.study, row, self.study.read(row))
        )
        return tuple(self._member(i) for i in range(len(self.kept.members))), not known

    def _member(self, i: int) -> Model:
        kept, facts = self.kept, self.kept.members[i]
        pick = [None if v is None else v[i] for v in (kept.shift, kept.inverse_scale)]
        beside = [None if v is None else v[i] for v in (kept.covariate_shift, kept.covariate_inverse)]
        arrays = jax.tree.map(lambda a: a[i], {"params": kept.params, "buffers": kept.buffers})
        target = facts.get("target_shift", 0.0), facts.get("target_scale", 1.0)
        return Model(
            str(facts["run"]), arrays, (pick[0], pick[1]), (beside[0], beside[1]),
            np.asarray(target[0]), np.asarray(target[1]), float(facts.get("centre") or 0.0),
        )  # fmt: skip


def open_run(
    folder: Path,
    *,
    store: Path | None = None,
    cohort: Path | None = None,
    selection: str = "",
    trust_source: bool = False,
) -> Opened:
    """Open a run folder of `milkit run`, or a model folder of `milkit finalize`.

    Args:
        folder: of the run or the model.
        store: features of the slides: needed for a model; of a run, where they have moved.
        cohort: table of slides and patients: of a run, where it has moved; of a model, to put a patient's slides
            together (without it each slide is asked about by itself).
        selection: whose weights of a run: "validation" or "last"; "" takes the run's own.
        trust_source: import the saved source of a model that is not milkit's own, which runs its code.

    Raises:
        MilkitError: no such folder; a run that is not finished, of other data, or on bags in memory; data that are not
            where they were.
    """
    if not folder.is_dir():
        raise RunFolderError(f"There is no run folder {folder}; the folder is {Path.cwd()}.")
    if (folder / FACTS).is_file():
        return _open_model(folder, store, cohort, selection, trust_source)
    if not (folder / "config.json").is_file():
        raise RunFolderError(
            f"{folder} is neither a run folder (config.json) nor a kept model ({FACTS}); give what `milkit run` or "
            "`milkit finalize` made."
        )
    stated = api.replay(folder / "config.json", trust_source=trust_source)
    data = stated.experiment.data
    if isinstance(data, SlideCohort):
        data = data.cohort  # what was made of its slides; nothing is made here
    experiment = replace(stated.experiment, data=_moved(data, store, cohort, folder))
    run = read_run(folder, selection)
    experiment = settled(run, experiment, "ensemble", lambda text: None)
    study, source, patients = _data_of(experiment, folder)
    if study.sizes is not None:
        raise ConfigError(f"{folder}: its bags are images; `milkit predict` makes their maps.")
    plan = experiment.protocol.plan(study, experiment.task)
    now = {"data_digest": data_digest(study), "folds_digest": plan.digest()}
    changed = [key for key, digest in now.items() if run.config.get(key, digest) != digest]
    if changed:
        raise RunFolderError(
            f"{folder} was run on other data than those found now (its {' and '.join(changed)} differ): the store or "
            "the table was changed since. Give those that it was run on, by --store and --cohort."
        )
    outputs, beside = experiment.task.out_features(len(study.targets.names)), study.covariate_count
    params, buffers = stacked_like(experiment.model, study.features, outputs, len(run.runs), beside)
    tree = as_tree(read_members(run)[0], {"params": params, "buffers": buffers}, folder)
    splits = {(s.repeat, s.fold, s.inner): s for s in plan.splits}
    return OpenedRun(
        folder, experiment.task, run.names, experiment.model, study,
        graph_of(experiment.model, study.features, outputs, beside), source,
        run.selection, run=run, experiment=experiment, tree=tree, patients=patients,
        splits=tuple(splits[int(r["repeat"]), int(r["fold"]), int(r["inner"])] for r in run.runs),
    )  # fmt: skip


def _open_model(folder: Path, store: Path | None, cohort: Path | None, selection: str, trust_source: bool) -> Opened:
    if store is None:
        raise ConfigError(f"{folder} is a kept model, which holds no slides; give their features: --store STORE.h5.")
    if selection:
        raise ConfigError(
            f"{folder} is a kept model, whose weights were chosen when it was made; leave out --selection."
        )
    kept = api.load_model(folder, trust_source=trust_source)
    if kept.facts.get("images"):
        raise ConfigError(f"{folder} reads images; `milkit predict` makes their maps.")
    table = None if cohort is None else read_cohort(cohort, site="-", cohort="-")
    table, source, _, _ = open_like(kept.facts, Features(store), table)
    study = untargeted(kept, source, table)
    sizes = kept.facts["in_features"], kept.facts["out_features"], study.covariate_count
    graph, alone = graph_of(kept.model, *sizes), cohort is None and kept.facts["unit"] == "patient"
    return OpenedModel(folder, kept.task, kept.names, kept.model, study, graph, source, "", kept=kept, alone=alone)


def _moved(data: Any, store: Path | None, cohort: Path | None, folder: Path) -> Any:
    """The data of a run, with paths as they are now."""
    given = {k: str(v) for k, v in (("features", store), ("table", cohort)) if v is not None}
    if given and not isinstance(data, Cohort):
        raise ConfigError(
            f"{folder} was run on {type(data).__name__}, which has neither store nor table; leave out --store and "
            "--cohort."
        )
    return replace(data, **given) if given else data


def _data_of(experiment: Experiment, folder: Path) -> tuple[Study, FeatureSource | None, dict[str, str]]:
    """The study, the features of its slides one by one, and the patient of each slide of the table."""
    data = experiment.data
    try:
        study = data.load(experiment.task, experiment.unit)
        if not isinstance(data, Cohort):
            return study, None, {}
        table = read_cohort(data.table, slide=data.slide, patient=data.patient, sheet=data.sheet, site="-", cohort="-")
        unit: Unit = data.unit  # type: ignore[assignment]  # it was checked when the study was loaded
        named, source, _ = open_cohort(
            table, data.features, mpp=data.mpp, tile_um=data.tile_um, encoder=data.encoder, unit=unit,
            patches=data.patches, allow=data.allow, task=experiment.task,
        )  # fmt: skip
        return study, source, dict(zip(named.slide.tolist(), named.patient.tolist(), strict=True))
    except (DataError, CohortError) as error:
        raise DataError(
            f"{error} ({folder / 'config.json'} names its data so. If they have moved, say where they are now: "
            "--store STORE.h5, --cohort CSV.)"
        ) from None
