"""How a model is trained: optimiser, schedule, batches, selection. Frozen dataclasses only, no JAX."""

from dataclasses import dataclass
from typing import Literal

from milkit.errors import ConfigError
from milkit.fields import check_fields

Select = Literal["loss", "accuracy", "balanced_accuracy", "auroc", "c_index", "last"]
"""What picks the epoch, always on the validation part; `last` picks none and keeps the final epoch."""

Precision = Literal["float32", "bfloat16"]
"""Numbers that a model computes in."""


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent; weight decay is added to the gradient, as in PyTorch."""

    learning_rate: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov), as Keras's and PyTorch's option of that name."""
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "train.optimizer", learning_rate="[0, inf)", momentum="[0, 1)", weight_decay="[0, inf)")


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, 2015) with weight decay added to the gradient (coupled L2), as PyTorch's `Adam`."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_adam(self)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019), scaled by the learning rate."""

    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_adam(self)


Optimizer = Sgd | Adam | AdamW


def _check_adam(optimizer: Adam | AdamW) -> None:
    check_fields(
        optimizer, "train.optimizer",
        learning_rate="[0, inf)", weight_decay="[0, inf)", b1="[0, 1)", b2="[0, 1)", eps="(0, inf)",
    )  # fmt: skip


@dataclass(frozen=True)
class Augment:
    """What may happen at random to an image each time it trains; never to one that is judged or predicted."""

    flips: bool = True
    """Left and right, up and down, each with chance 1/2: tissue has no top."""
    right_angles: bool = True
    """Turned by 90 degrees, where images are shown in a square."""
    colour: float = 0.0
    """Brightness, contrast and saturation, each by a factor within 1 +- this."""
    stain: float = 0.0
    """Amount of haematoxylin and eosin, each by a factor within 1 +- this."""
    scale: tuple[float, float] | None = None
    """Enlarged by a factor between these two, at a random place; below 1 the border is repeated."""

    def __post_init__(self) -> None:
        check_fields(self, "train.augment", colour="[0, 1)", stain="[0, 1)", scale="(0, 10]")
        if self.scale is not None and self.scale[0] > self.scale[1]:
            raise ConfigError(f"train.augment.scale is {self.scale}; write the smaller factor first.")


@dataclass(frozen=True)
class Train:
    """How each run is trained.

    A step sees `batch_bags` bags; `accumulate` steps make one update. Weights are those of a mean over the real bags
    of an update, so fillers and short last batches change nothing.
    """

    optimizer: Optimizer = Adam()
    """`Sgd`, `Adam` or `AdamW`, with its learning rate and weight decay."""
    epochs: int = 50
    """Passes over a run's training part, at most (see `patience`)."""
    batch_bags: int = 1  # the field's habit; bags differ in length
    """Bags a step."""
    accumulate: int = 1
    """Steps whose gradients are averaged into one update; what is left at the end of an epoch is applied."""
    schedule: Literal["constant", "cosine", "exponential"] = "constant"
    """Of the learning rate after the warm-up: as it is; a half cosine down to 0 at the last update; or times
    `epoch_decay` after each epoch."""
    epoch_decay: float = 0.95  # DCGN's
    """Factor on the learning rate after each epoch, of schedule="exponential"."""
    warmup_epochs: float = 0.0
    """Linear rise of the learning rate at the start."""
    clip: float | None = None
    """Largest global norm of a gradient; None does not clip."""
    select: Select = "loss"
    """Validation criterion of the epoch that is kept; ties go to the smaller loss, then to the earliest epoch."""
    patience: int | None = None
    """Stop a run after so many epochs without a better validation criterion; None trains all epochs."""
    standardise: bool = False
    """Scale features to mean 0 and SD 1 over the instances of each run's own training part."""
    max_instances: int | None = None
    """Train on a random subset of at most so many instances of a bag, drawn anew each step; evaluation uses all."""
    instances_at_once: int | None = None
    """Read longer bags in chunks of at most so many instances: exact, in less memory, for a second forward pass. None
    does so only for bags of which a step would otherwise hold too much (docs/long_bags.md)."""
    instance_dropout: float = 0.0
    """Chance that an instance is left out of a training step (one always stays)."""
    buckets: int = 4
    """At most so many padded lengths (each is compiled once)."""
    width: int | None = None
    """Runs of one program; None lets milkit choose. Bits are promised for equal width only."""
    memory: Literal["auto", "resident", "stream"] = "auto"
    """Where features are while a study trains: `resident` packs them on the device, and each run has its own order of
    bags; `stream` reads each bag once an epoch for all runs, in one order, whatever the cohort's size
    (docs/streaming.md). `auto` streams what would take more than half of the memory. Bits are promised within a mode;
    the one taken stands in the run's `config.json`."""
    augment: Augment | None = None
    """Of images only: what may happen to them at random in training; None nothing."""
    precision: Precision = "float32"
    """What models compute in. Parameters, optimiser, losses and sums stay float32; what bfloat16 moves is reported."""

    def __post_init__(self) -> None:
        check_fields(
            self, "train",
            epochs="[1, inf)", batch_bags="[1, inf)", accumulate="[1, inf)", warmup_epochs="[0, inf)", clip="(0, inf)",
            epoch_decay="(0, 1]",
            patience="[1, inf)", max_instances="[1, inf)", instance_dropout="[0, 1)", buckets="[1, inf)",
            width="[1, inf)",
            instances_at_once="[1, inf)",
        )  # fmt: skip
        if self.patience is not None and self.select == "last":
            raise ConfigError(
                "train.patience needs a validation criterion, but train.select is 'last'; "
                "choose select='loss' (or another) or drop patience."
            )
