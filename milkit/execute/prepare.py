"""From an experiment to what its programs need: the study, its splits, the list of runs, and the engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from milkit.data.batches import ladder, train_layout
from milkit.data.covariates import affine
from milkit.data.neighbours import Nearest, neighbours_of
from milkit.data.protocol import Plan, Split
from milkit.data.protocol.labels import FewLabels, few_label_splits
from milkit.data.study import UNKNOWN, Study
from milkit.errors import ConfigError, DataError
from milkit.execute.chunking import instances_at_once
from milkit.execute.graphs import nearest_wanted
from milkit.execute.inputs import check_inputs
from milkit.execute.memory import Memory, check_fits, memory_of, stream_engine, streamed
from milkit.execute.spreading import GROUP_BYTES, default_width, spread_of
from milkit.experiment import Experiment
from milkit.losses import LossParams, for_task, loss_params
from milkit.nn.stains import IMAGENET_MEAN, IMAGENET_SD, WHITE
from milkit.search import at_once, variants
from milkit.train import optim
from milkit.train.config import Train
from milkit.train.engine import Engine, Group, run_key
from milkit.train.fit import start
from milkit.train.setup import Hyper, Packed, Setup
from milkit.train.state import RunState, graph_of, rate_scales
from milkit.train.streaming import Streamed

LONGEST_SUBSAMPLE = 46_340  # its square still fits 32 bits


@dataclass(frozen=True)
class Run:
    """One training: a split of the plan and a seed.

    Attributes:
        name: unique in the study.
        split: index into `Prepared.splits`.
        repeat, fold, inner, seed: what it is; its keys follow from these and from the experiment's seed alone.
        program, slot: where it is trained.
        labels, draw: its label budget and which subset of it; 0 for the whole training part.
        trial: the configuration of a search that it trains, counted from 0; -1 where the experiment states the one.
    """

    name: str
    split: int
    repeat: int
    fold: int
    inner: int
    seed: int
    program: int
    slot: int
    labels: int = 0
    draw: int = 0
    trial: int = -1

    @property
    def numbers(self) -> tuple[int, ...]:
        """What its keys and orders are drawn from. Budgets of one draw share them, so that they differ by labels."""
        return (self.repeat, self.fold, self.inner, self.seed, *((self.draw,) if self.labels else ()))


@dataclass(frozen=True, eq=False)
class Prepared:
    """An experiment with its data at hand.

    Attributes:
        experiment, study, plan: as stated, loaded and drawn.
        runs: all runs, in the order of programs and slots.
        width: runs of a program.
        engine: trains and selects on validation.
        optimistic: judges epochs by the criterion of `experiment.optimistic`, if that is set; trains nothing.
        hyper: per split, what differs between runs.
        loss: per split, the loss's parameters.
        measured: what a row of every metric is.
        few: the splits of label budgets, if the experiment has some.
    """

    experiment: Experiment
    study: Study
    plan: Plan
    runs: tuple[Run, ...]
    width: int
    engine: Engine
    optimistic: Engine | None
    hyper: tuple[Hyper, ...]
    loss: tuple[LossParams, ...]
    measured: Literal["patient", "slide"] = "patient"
    few: FewLabels | None = None

    tests: ClassVar[bool] = True
    """Whether its runs are predicted; those of a search's trials are trained only, and may fail."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """Those of all runs: the plan's, then those of few labels."""
        return self.plan.splits + (self.few.splits if self.few else ())

    @property
    def out_features(self) -> int:
        """Number of logits."""
        return self.experiment.task.out_features(len(self.study.targets.names))

    @property
    def programs(self) -> int:
        """Number of groups of runs."""
        return self.runs[-1].program + 1

    @property
    def memory(self) -> Memory:
        """Where features are while it trains."""
        return "stream" if isinstance(self.engine.data, Streamed) else "resident"

    @property
    def selects(self) -> bool:
        """Whether epochs are chosen on a validation part."""
        return self.experiment.train.select != "last"

    def members(self, program: int) -> tuple[Run, ...]:
        """The runs of a program, in slot order."""
        return tuple(r for r in self.runs if r.program == program)

    def split(self, run: Run) -> Split:
        """The split of a run."""
        return self.splits[run.split]

    def of(self, program: int) -> "Prepared":
        """The part of the study that a program belongs to: programs of a search may differ in model and settings."""
        return self

    def predict(self, program: int, out: Path) -> bool:
        """Predict and write a program whose runs were trained before, as trials of a search; False if none were."""
        return False

    def hyper_of(self, run: Run) -> Hyper:
        """What a run does not share with the others."""
        return self.hyper[run.split]

    def first_state(self, program: int, group: Group) -> RunState:
        """The states of a program's runs before the first epoch."""
        model, study = self.experiment.model, self.study
        return start(self.engine, model, study.features, self.out_features, group, covariates=study.covariate_count)

    def group(self, program: int) -> Group:
        """The runs of a program as arrays; the last program is filled up with dummies, so that all have one width."""
        runs = list(self.members(program))
        active = np.arange(self.width) < len(runs)
        runs += [runs[0]] * (self.width - len(runs))
        numbers = tuple(r.numbers for r in runs)
        splits = [self.split(r) for r in runs]
        hyper = jax.tree.map(lambda *v: jnp.asarray(np.stack(v)), *[self.hyper_of(r) for r in runs])
        return Group(
            keys=jnp.stack([run_key(self.experiment.seed, *n) for n in numbers]),
            numbers=numbers,
            train=tuple(s.train for s in splits),
            validation=tuple(s.validation for s in splits),
            hyper=hyper,
            active=active,
        )


def prepare(experiment: Experiment) -> Prepared:
    """Load the data, draw the splits, lay out the runs. Nothing is trained or written.

    Raises:
        MilkitError: whatever is wrong with table, features, folds or configuration, before any training.
    """
    study = experiment.data.load(experiment.task, experiment.unit)
    for variant in variants(experiment):
        check_inputs(variant.model, study)
    measured = measured_unit(study, getattr(experiment.data, "slide_labels", False))
    plan = experiment.protocol.plan(study, experiment.task)
    train = experiment.train
    if train.select != "last" and not plan.has_validation:
        empty = [str(s) for s in plan.splits if not len(s.validation)][:3]
        raise ConfigError(
            f"train.select={train.select!r} chooses the epoch on a validation part, but there is none in "
            f"{'; '.join(empty)}. Give the protocol validation=0.1 (or so), or keep the last epoch with select='last'."
        )
    few = few_label_splits(experiment.labels, plan, study, experiment.task) if experiment.labels else None
    splits = plan.splits + (few.splits if few else ())
    count = len(splits) * experiment.seeds * at_once(experiment.search)
    width = train.width or min(default_width(e, study, count) for e in variants(experiment))
    return lay_out(experiment, study, plan, width, measured, few)


def lay_out(
    experiment: Experiment, study: Study, plan: Plan, width: int, measured: Literal["patient", "slide"] = "patient",
    few: FewLabels | None = None, data: Packed | Streamed | None = None,
) -> Prepared:  # fmt: skip
    """The runs and the engine of an experiment whose data are at hand; `data` if they are packed already.

    Raises:
        ConfigError: bags cannot be subsampled to so many instances, or the model breaks its contract.
    """
    train, splits = experiment.train, plan.splits + (few.splits if few else ())
    if train.max_instances is not None and train.max_instances > LONGEST_SUBSAMPLE:
        raise ConfigError(f"train.max_instances is {train.max_instances}; it can be {LONGEST_SUBSAMPLE} at most.")
    runs = _runs(splits, experiment.seeds, width)
    loss = tuple(loss_params(experiment.task, study.targets.values[s.train], len(study.targets.names)) for s in splits)
    scalers = scalers_of(experiment.model, study, splits, train.standardise)
    besides = [(None, None) if study.covariates is None else affine(study.covariates, s.train) for s in splits]
    engine = _engine(experiment, study, plan, width, data)
    hyper = tuple(
        Hyper(_rates(train, engine.layout.updates(split.train, train.accumulate)), shift, inverse, params, *beside)
        for split, (shift, inverse), params, beside in zip(splits, scalers, loss, besides, strict=True)
    )
    judge = None if experiment.optimistic is None else engine.judging(experiment.optimistic)
    return Prepared(experiment, study, plan, runs, width, engine, judge, hyper, loss, measured, few)


def measured_unit(study: Study, slide_labels: bool) -> Literal["patient", "slide"]:
    """What a row of every metric is: the slide where labels belong to slides, else the patient.

    Raises:
        DataError: bags are patients, and one patient stands in two that differ in target.
    """
    truth: dict[str, np.ndarray] = {}
    for patient, value in zip(study.patient.tolist(), study.targets.values, strict=True):
        if not np.array_equal(truth.setdefault(patient, value), value):
            if study.unit == "slide":
                return "slide"
            raise DataError(
                f"Bags of patient {patient!r} differ in their target. Give each patient one label; or, if labels are "
                'those of slides, set unit="slide": metrics are then by slide, and patients are resampled with theirs.'
            )
    return "slide" if study.unit == "slide" and slide_labels else "patient"


def pack(study: Study, nearest: Nearest | None = None) -> Packed:
    """All bags end to end on the device; with the neighbours that are asked for, where all bags have positions.

    Raises:
        DataError: they do not fit the machine's memory, or a bag has another width than the study says.
    """
    bags = [study.read(i) for i in range(len(study))]
    dtypes = {b.x.dtype for b in bags}
    # one dtype is kept as it is stored; steps compute in float32
    dtype = dtypes.pop() if len(dtypes) == 1 and np.dtype(np.float64) not in dtypes else np.dtype(np.float32)
    total = int(study.lengths.sum())
    check_fits(total * study.features * dtype.itemsize, study)
    x = np.empty((total, study.features), dtype)
    with_coords = all(b.coords_um is not None for b in bags)
    xy = np.empty((total, 2), np.float32) if with_coords else None
    near = np.concatenate([neighbours_of(b, nearest) for b in bags]) if with_coords and nearest else None
    offsets = np.concatenate([[0], np.cumsum(study.lengths)[:-1]])
    for bag, at in zip(bags, offsets, strict=True):
        x[at : at + len(bag.x)] = bag.x
        if xy is not None:
            xy[at : at + len(bag.x)] = bag.coords_um
    target = study.targets.values
    return Packed(
        x=jnp.asarray(x),
        coords_um=None if xy is None else jnp.asarray(xy),
        offsets=jnp.asarray(offsets, jnp.int32),
        lengths=jnp.asarray(study.lengths, jnp.int32),
        target=jnp.asarray(target, jnp.int32 if target.ndim == 1 else jnp.float32),
        covariates=None if study.covariates is None else jnp.asarray(study.covariates.values),
        sizes=None if study.sizes is None else jnp.asarray(study.sizes, jnp.int32),
        truth=None if study.pixel_truth is None else jnp.asarray(_packed_truth(study)),
        neighbours=None if near is None else jnp.asarray(near),
    )


def _packed_truth(study: Study) -> np.ndarray:
    """What each pixel of the packed study is, uint8 [N]; `UNKNOWN` where a mask stays closed."""
    assert study.pixel_truth is not None
    each = (study.pixel_truth(i) for i in range(len(study)))
    shut = (np.full(n, UNKNOWN, np.uint8) for n in study.lengths.tolist())
    return np.concatenate([no if code is None else code.ravel() for code, no in zip(each, shut, strict=True)])


def _rates(train: Train, updates: int) -> Any:
    return jax.tree.map(np.float32, optim.rates(train, updates))


def _runs(splits: Sequence[Split], seeds: int, width: int) -> tuple[Run, ...]:
    nested = any(s.inner for s in splits)
    runs: list[Run] = []
    place = 0
    for i, split in enumerate(splits):
        if split.labels and not splits[i - 1].labels:
            place += -place % width  # few labels begin a program: what it leaves goes to tables of their own
        for seed in range(seeds):
            inner = f"i{split.inner}" if nested else ""
            few = f"k{split.labels}d{split.draw}" if split.labels else ""
            name = f"r{split.repeat}f{split.fold}{inner}{few}s{seed}"
            program, slot = divmod(place, width)
            place += 1
            numbers = (split.repeat, split.fold, split.inner, seed, program, slot, split.labels, split.draw)
            runs.append(Run(name, i, *numbers))
    return tuple(runs)


def _engine(
    experiment: Experiment, study: Study, plan: Plan, width: int, data: Packed | Streamed | None = None
) -> Engine:
    model, task = experiment.model, experiment.task
    train = replace(experiment.train, instances_at_once=instances_at_once(experiment, study, GROUP_BYTES))
    loss = for_task(task)
    # A loss that compares the bags of a step must not always meet bags of one length, so it gets a single rung.
    rungs = train.buckets if loss.decomposable and study.sizes is None else 1
    smallest = getattr(model, "min_instances", 1)
    shown = study.lengths if train.max_instances is None else np.minimum(study.lengths, train.max_instances)
    layout = train_layout(
        shown, ladder(shown, rungs, smallest), train.batch_bags, [split.train for split in plan.splits]
    )
    out_features = task.out_features(len(study.targets.names))
    # images all stand in one canvas, as high as the highest and as wide as the widest
    canvas = None if study.sizes is None else (int(study.sizes[:, 0].max()), int(study.sizes[:, 1].max()))
    setup = Setup(
        graph=graph_of(model, study.features, out_features, study.covariate_count, canvas),
        train=train,
        task=task,
        loss=loss.fn,
        objective=getattr(model, "objective", None),
        canvas=canvas,
        rate_scales=rate_scales(model, study.features, out_features, study.covariate_count),
    )
    if data is None and memory_of(train, study) == "stream":
        if study.pixel_truth is not None:
            raise ConfigError(
                f"The pixels of {study.name!r} would be read while they are trained on, but masks of pixels "
                "(pixel_masks=True) need them in memory. Set downsample, or train.memory='resident'."
            )
        data = streamed(study, any(getattr(e.model, "position_aware", True) for e in variants(experiment)))
    if isinstance(data, Streamed):
        return stream_engine(setup, data, ladder(study.lengths, rungs, smallest), study, plan, experiment.seed)
    evaluation = ladder(study.lengths, train.buckets if study.sizes is None else 1, smallest)
    spread = spread_of(experiment, study, width)
    data = data or pack(study, nearest_wanted(variants(experiment)))
    return Engine(setup, data, layout, evaluation, study.lengths, experiment.seed, spread)


def scalers_of(
    model: Any, study: Study, splits: Sequence[Split], standardise: bool
) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
    """Shift and inverse scale of the features (of an image's channels) for each split, or None where they stay.

    Pixels are always scaled: as ImageNet's were, where the model's weights are used to that, else like features.
    """
    if study.sizes is not None and getattr(model, "normalisation", "training") == "imagenet":
        return [(IMAGENET_MEAN * WHITE, 1.0 / (IMAGENET_SD * WHITE))] * len(splits)
    if standardise or study.sizes is not None:
        return [*_scalers(study, splits)]
    return [(None, None)] * len(splits)


def _scalers(study: Study, splits: Sequence[Split]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and inverse SD of the features over the instances of each split's training part; one pass over the data."""
    total = np.empty((len(study), study.features))
    square = np.empty_like(total)
    for i in range(len(study)):
        x = np.asarray(study.read(i).x, np.float64)
        total[i], square[i] = x.sum(0), (x * x).sum(0)
    out = []
    for split in splits:
        n = study.lengths[split.train].sum()
        mean = total[split.train].sum(0) / n
        variance = np.maximum(square[split.train].sum(0) / n - mean * mean, 0.0)
        # a constant feature (up to the rounding of the two sums) is centred but not blown up
        flat = variance <= 1e-10 * (mean * mean + 1e-30)
        out.append((mean.astype(np.float32), (1.0 / np.sqrt(np.where(flat, 1.0, variance))).astype(np.float32)))
    return out
