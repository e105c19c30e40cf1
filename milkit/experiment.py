"""What a researcher writes: one frozen dataclass that states a whole study.

    from milkit import ABMIL, Adam, Classic, Experiment, GivenFolds, Train

    study = Experiment(
        data=Classic("musk1"),
        protocol=GivenFolds(validation=0.1),
        model=ABMIL(encoder=(256, 128, 64), attention=64),
        train=Train(Adam(5e-4), epochs=100),
        seeds=5,
    )

`milkit run FILE.py:study` trains it; `dataclasses.replace(study, seeds=10)` varies it. What does not fit together is
refused here, before anything is read or trained.
"""

import typing
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from milkit import config
from milkit.data.aligned import Aligned, FeatureFiles
from milkit.data.cohort import Cohort
from milkit.data.covariates import Categorical, Numeric
from milkit.data.datasets import DataSet
from milkit.data.images import ImageSet
from milkit.data.images.truth import pixel_labels
from milkit.data.memory import InMemory
from milkit.data.protocol import LabelBudget
from milkit.data.protocol import Protocol as SplitProtocol
from milkit.embed.slide_cohort import SlideCohort
from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.models import Model
from milkit.pixel import EfficientNetLite0, PixelModel, ResNet
from milkit.search import PARTS as SEARCH_PARTS
from milkit.search import Search, check_search
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival, Task
from milkit.train.config import Augment, Optimizer, Select, Train

Data = Cohort | SlideCohort | DataSet | ImageSet | InMemory


@runtime_checkable
class AnyModel(Protocol):
    """A model's configuration: milkit's own, or any frozen dataclass of a researcher's with `build`."""

    def build(self, in_features: int, out_features: int, *, rngs: Any) -> Any:
        """Make the module."""


@dataclass(frozen=True)
class Experiment:
    """One study: data, who trains and tests, model, training, and how often it is repeated."""

    data: Data
    """Where bags and labels come from: `Cohort`, `SlideCohort`, `milkit.data.datasets`, or `in_memory(...)`."""
    protocol: SplitProtocol
    """Who trains, validates and tests."""
    model: AnyModel
    """milkit's own, or any frozen dataclass with `build(in_features, out_features, *, rngs)`."""
    train: Train = Train()
    """How each run is trained, and which epoch is kept."""
    task: Task = Binary()
    """What is predicted, and by which loss."""
    unit: Literal["patient", "slide"] = "patient"
    """What a bag is: a patient with all slides, or a slide. Metrics are at patient level either way."""
    aggregate: Literal["mean", "max"] = "mean"
    """How slide scores become a patient's (unit slide only)."""
    seeds: int = 1
    """Trainings of each fold that differ in initialisation, order and draws. Seeds never add sample size."""
    seed: int = 0
    """Number from which all draws of training follow (folds have their own, in the protocol)."""
    optimistic: Select | None = None
    """Also pick the epoch by this criterion ON THE TEST PART, to measure a published protocol's optimism, on the same
    trajectories. Every number that comes of it is marked `optimistic`. No validation part is needed: a paper without
    one is repeated by `validation=0`, `select="last"` and this."""
    predict_train: bool = False
    """Write predictions of the training part too."""
    labels: LabelBudget | None = None
    """Repeat the study with few labelled patients, for a label-budget curve; its own numbers stay those of all labels.
    Such as `LabelBudget(patients_per_class=(1, 2, 4, 8), draws=5)`."""
    search: Search | None = None
    """Try several configurations: `Grid`, `Random` or `Tpe` over fields of model and training. Each fold's is chosen on
    its own validation part and tested once."""
    name: str = ""
    """Title in reports; the command line fills in the variable's name."""

    def __post_init__(self) -> None:
        check_fields(self, skip=_PARTS, seeds="[1, inf)", seed=f"[0, {2**32})")
        _check_parts(self)
        _check_selection(self)
        _check_loss(self)
        _check_test_crops(self)
        _check_pixel_masks(self)
        _check_model(self.model)
        _check_chunks(self.model, self.train)
        if self.search is not None:
            check_search(self)


_PARTS = ("data", "protocol", "model", "train", "task")
_CRITERIA: dict[type, tuple[str, ...]] = {
    Binary: ("loss", "accuracy", "balanced_accuracy", "auroc", "last"),
    MultiClass: ("loss", "accuracy", "balanced_accuracy", "auroc", "last"),
    MultiLabel: ("loss", "accuracy", "balanced_accuracy", "auroc", "last"),
    Regression: ("loss", "last"),
    Survival: ("loss", "c_index", "last"),
}


def _check_parts(experiment: Experiment) -> None:
    """Refuse a part of the wrong kind, such as a data set's name where the data belong."""
    for name, value, fits, example in (
        ("data", experiment.data, hasattr(experiment.data, "load"), 'Cohort("cohort.csv", "features.h5")'),
        ("protocol", experiment.protocol, hasattr(experiment.protocol, "plan"), "KFold(folds=5)"),
        ("task", experiment.task, isinstance(experiment.task, config.members(Task)), "Binary()"),
        ("train", experiment.train, isinstance(experiment.train, Train), "Train(epochs=50)"),
        ("model", experiment.model, True, "ABMIL()"),
    ):
        if isinstance(value, type):
            raise ConfigError(f"{name} is the class {value.__name__}; write {value.__name__}(...), with brackets.")
        if not fits:
            raise ConfigError(f"{name} is {value!r}; expected a configuration such as {example}.")


def _check_model(model: Any) -> None:
    try:
        hash(model)
    except TypeError:
        raise ConfigError(
            f"{type(model).__name__} cannot be hashed, which compiled programs need; make it a frozen "
            "dataclass (@dataclass(frozen=True)) whose fields are numbers, text or tuples."
        ) from None
    if not callable(getattr(model, "build", None)):
        raise ConfigError(
            f"model is {model!r}, which has no build(in_features, out_features, *, rngs); "
            "give a model's configuration such as ABMIL()."
        )


def _check_chunks(model: Any, train: Train) -> None:
    if train.instances_at_once is not None and not getattr(model, "chunked", False):
        raise ConfigError(
            f"train.instances_at_once={train.instances_at_once}, but {type(model).__name__} as it is set here needs a "
            "bag whole. Leave it None, or train on a part of long bags with train.max_instances."
        )


def _check_selection(experiment: Experiment) -> None:
    known = _CRITERIA[type(experiment.task)]
    for field, value in (("train.select", experiment.train.select), ("optimistic", experiment.optimistic)):
        if value is not None and value not in known:
            raise ConfigError(
                f"{field} is {value!r}, which {type(experiment.task).__name__} does not have; "
                f"choose one of {', '.join(known)}."
            )
    if experiment.optimistic == "last":
        raise ConfigError("optimistic='last' selects nothing; name a criterion such as 'accuracy', or leave it None.")
    share = getattr(experiment.protocol, "validation", None)
    brings_its_own = type(experiment.protocol).__name__ in ("GivenFolds", "SavedFolds", "Nested")
    if experiment.train.select != "last" and share == 0 and not brings_its_own:
        beside = " (optimistic works beside it: it needs no validation part)" if experiment.optimistic else ""
        raise ConfigError(
            f"train.select={experiment.train.select!r} chooses the epoch on a validation part, but the protocol has "
            "validation=0; give it a share such as validation=0.1, or keep the last epoch with "
            f"train.select='last'{beside}."
        )


def _check_loss(experiment: Experiment) -> None:
    task, train = experiment.task, experiment.train
    if isinstance(task, Survival) and task.loss == "cox" and train.batch_bags < 2:
        raise ConfigError(
            "The Cox loss compares the bags of one step with each other, but train.batch_bags is 1, where it is 0 "
            "whatever the model does; set train.batch_bags to 16 or more, or use Survival(loss='nll')."
        )


def _check_test_crops(experiment: Experiment) -> None:
    if getattr(experiment.data, "test_crops", False) and type(experiment.protocol).__name__ != "GivenFolds":
        raise ConfigError(
            "data.test_crops=True puts crops without labels into the test part, so who tests must be as given: take "
            "protocol=GivenFolds(allow_single_class=True), or leave test_crops False."
        )


def _check_pixel_masks(experiment: Experiment) -> None:
    """Masks are handed out for given training and validation images only, and never to judge test images."""
    if not getattr(experiment.data, "pixel_masks", False):
        return
    pixel_labels(experiment.task)
    if type(experiment.protocol).__name__ != "GivenFolds":
        raise ConfigError(
            "data.pixel_masks=True hands out masks of training and validation images, so who tests must be as given: "
            "take protocol=GivenFolds(), or leave pixel_masks False."
        )
    if experiment.optimistic is not None:
        raise ConfigError(
            f"optimistic={experiment.optimistic!r} judges epochs on the test part, but with data.pixel_masks=True the "
            "loss is that of pixels, and masks of test images stay closed. Leave optimistic None."
        )
    if experiment.train.memory == "stream":
        raise ConfigError("data.pixel_masks=True needs images in memory; leave train.memory 'auto' or 'resident'.")


def allowed_types() -> dict[str, type]:
    """Every class that a config file may name: the allow-list of `milkit.config.from_json`."""
    unions = (Data, SplitProtocol, Model, PixelModel, Task, Optimizer)
    classes = [c for union in unions for c in config.members(union)]
    parts = [
        Train,
        Augment,
        ResNet,
        EfficientNetLite0,
        LabelBudget,
        *SEARCH_PARTS,
        Numeric,
        Categorical,
        Aligned,
        FeatureFiles,
        Experiment,
    ]
    return {c.__name__: c for c in [*classes, *parts] if c is not InMemory}


def field_types() -> dict[str, Any]:
    """Types of the fields of `Experiment`, as the command line overrides them."""
    return typing.get_type_hints(Experiment)
