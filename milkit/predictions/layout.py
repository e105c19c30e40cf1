"""The columns of `predictions.csv`; the task can be told from the header alone.

In this order, where `<name>` is a class, label or value and its place in the header is its index:

    experiment run repeat fold seed selection role bag slide patient site cohort
    binary        target                 logit_<positive>        prob_<negative> prob_<positive>
    multi-class   target                 logit_<class> ...       prob_<class> ...
    multi-label   target_<label> ...     logit_<label> ...       prob_<label> ...
    regression    target_<value> ...     logit_<value> ...       pred_<value> ...
    survival      time event             logit_0 logit_1 ...     risk
    selected_epoch threshold [map]

Logits are what the model gave (for regression on the scale it was trained on); `pred_` is in the target's
unit. The slides of a bag, and the thresholds of several labels, are joined by `;`. An empty epoch or
threshold means none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from milkit.errors import RunFolderError

Kind = Literal["Binary", "MultiClass", "MultiLabel", "Regression", "Survival"]

NUMBERS = ("repeat", "fold", "seed")
TEXT = ("experiment", "run", "selection", "role", "bag", "slide", "patient", "site", "cohort")
META = ("experiment", "run", *NUMBERS, *TEXT[2:])
TAIL = ("selected_epoch", "threshold")
MAP = "map"
"""Of images only, after all others: the file with the map of a bag's pixels."""
SELECTIONS = ("validation", "last", "optimistic", "locked")
ROLES = ("train", "validation", "test")


def target_names(kind: str, names: Sequence[str]) -> list[str]:
    """Columns that hold the truth."""
    if kind == "Survival":
        return ["time", "event"]
    return ["target"] if kind in ("Binary", "MultiClass") else [f"target_{name}" for name in names]


def logit_names(kind: str, names: Sequence[str], count: int) -> list[str]:
    """Columns that hold the model's own outputs; survival has `count` of them, one a time bin."""
    if kind == "Survival":
        return [f"logit_{i}" for i in range(count)]
    return [f"logit_{name}" for name in (names[1:] if kind == "Binary" else names)]


def score_names(kind: str, names: Sequence[str]) -> list[str]:
    """Columns that hold probabilities, values, or the risk."""
    prefix = {"Survival": "", "Regression": "pred_"}.get(kind, "prob_")
    return [prefix + name for name in names]


def read_header(path: Path, header: Sequence[str]) -> tuple[Kind, tuple[str, ...], list[str]]:
    """Task, names and logit columns, all from the header; columns that milkit does not know are passed over.

    Raises:
        RunFolderError: a column is missing or stands twice.
    """
    if len(set(header)) != len(header):
        twice = sorted({name for name in header if list(header).count(name) > 1})
        raise RunFolderError(f"{path}: the header names {', '.join(twice)} twice; columns must differ.")
    logits = [name for name in header if name.startswith("logit_")]
    classes = tuple(name.removeprefix("prob_") for name in header if name.startswith("prob_"))
    values = tuple(name.removeprefix("pred_") for name in header if name.startswith("pred_"))
    kind: Kind
    names: tuple[str, ...]
    if "risk" in header:
        kind, names = "Survival", ("risk",)
    elif values:
        kind, names = "Regression", values
    elif "target" in header:
        kind, names = ("Binary" if len(logits) == 1 else "MultiClass"), classes
    else:
        kind, names = "MultiLabel", classes
    needed = [*META, *target_names(kind, names), *logit_names(kind, names, max(len(logits), 1)), *TAIL]
    missing = [name for name in needed if name not in header]
    if missing or not names:
        raise RunFolderError(
            f"{path}: the header lacks {', '.join(missing) or 'prob_<name> columns'}; expected "
            f"{','.join(META)}, the targets, logit_..., prob_... (or pred_..., risk), {','.join(TAIL)}."
        )
    return kind, names, logit_names(kind, names, len(logits))
