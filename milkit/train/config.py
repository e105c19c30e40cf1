"""How a model is trained: optimiser, schedule, batches, selection. Frozen dataclasses only, no JAX."""

from dataclasses import dataclass
from typing import Literal

from milkit.errors import ConfigError

Select = Literal["loss", "accuracy", "balanced_accuracy", "auroc", "c_index", "last"]
"""What picks the epoch, always on the validation part; `last` picks none and keeps the final epoch."""


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent; weight decay is added to the gradient, as in PyTorch."""

    learning_rate: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, 2015) with weight decay added to the gradient (coupled L2), as PyTorch's `Adam`."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019), scaled by the learning rate."""

    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


Optimizer = Sgd | Adam | AdamW


@dataclass(frozen=True)
class Train:
    """How each run is trained.

    A step sees `batch_bags` bags; `accumulate` steps make one update. Weights are those of a mean over the real bags
    of an update, so fillers and short last batches change nothing.
    """

    optimizer: Optimizer = Adam()
    epochs: int = 50
    batch_bags: int = 1  # the field's habit; bags differ in length
    accumulate: int = 1
    """Steps whose gradients are averaged into one update; what is left at the end of an epoch is applied."""
    schedule: Literal["constant", "cosine"] = "constant"
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
    instance_dropout: float = 0.0
    """Chance that an instance is left out of a training step (one always stays)."""
    buckets: int = 4
    """At most so many padded lengths (each is compiled once)."""
    width: int | None = None
    """Runs trained side by side in one program; None lets milkit choose. Bits are promised for equal width only."""

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch_bags", 1), ("accumulate", 1), ("buckets", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be at least {low}.")
        for name in ("patience", "max_instances", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"train.{name} is {value}; give a whole number from 1, or None for no limit.")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self.optimizer, name, 0.0)
            if not 0.0 <= value < float("inf"):
                raise ConfigError(f"train.optimizer.{name} is {value}; it must be a finite number, 0 or more.")
        if not 0.0 <= self.instance_dropout < 1.0:
            raise ConfigError(f"train.instance_dropout is {self.instance_dropout}; it must lie in [0, 1).")
        if self.clip is not None and self.clip <= 0:
            raise ConfigError(f"train.clip is {self.clip}; give a norm above 0, or None not to clip.")
        if self.warmup_epochs < 0:
            raise ConfigError(f"train.warmup_epochs is {self.warmup_epochs}; it cannot be negative.")
        if self.patience is not None and self.select == "last":
            raise ConfigError(
                "train.patience needs a validation criterion, but train.select is 'last'; "
                "choose select='loss' (or another) or drop patience."
            )
