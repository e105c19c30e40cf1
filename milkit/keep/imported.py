"""A model folder of weights that others trained: what `milkit import-weights` makes.

Nothing but the weights is known of such a model, so nothing else is made up: no threshold but one half, no temperature,
no numbers to expect, no patients of its training. Its marks say so beside every number that it gives.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
from flax import nnx

import milkit
from milkit import config
from milkit.errors import ConfigError
from milkit.execute.environment import decides_bits, environment
from milkit.foreign_weights.file import Checkpoint, read_checkpoint
from milkit.foreign_weights.model import Placed, model_of, try_on_noise
from milkit.keep.features import feature_facts
from milkit.keep.folder import FACTS, FORMAT, Kept, refuse_existing, write_model
from milkit.keep.imported_card import imported_card
from milkit.task import Binary, MultiClass, MultiLabel

TaskName = Literal["", "binary", "multiclass", "multilabel"]
MARKS = (
    "weights imported from others: whether patients were in their training is not known and cannot be checked",
    "threshold and temperature are not fitted: the cut is 0.5 or the most probable class",
)


@dataclass(frozen=True)
class Stated:
    """What no file of weights says.

    Attributes:
        settings: fields of the model's configuration that are in no array, such as heads.
        task: how the logits are read; "" is binary for one logit, else multiclass.
        classes: their names, in the order of the logits (binary: negative, positive); () numbers them from 0.
        encoder: that made the features of the training.
        mpp: micrometres a pixel of the training's tiles.
        unit: whose slides are a bag.
        prefix: to be taken off the names of the file's arrays.
        name: of the model.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    task: TaskName = ""
    classes: tuple[str, ...] = ()
    encoder: str = ""
    mpp: float | None = None
    unit: Literal["patient", "slide"] = "slide"
    prefix: str = ""
    name: str = ""


def import_weights(
    model: str, file: str | Path, out: str | Path, stated: Stated | None = None, *, force: bool = False
) -> tuple[Kept, Checkpoint, Placed]:
    """Make a model folder of weights of a model's authors, or of another library.

    Args:
        model: name of the configuration class, such as "CLAMSB" (or "clam-sb").
        file: `.safetensors`, `.npz`, or PyTorch's own (which takes PyTorch to read).
        out: model folder to make.
        stated: what the file does not say.
        force: replace the model in `out`.

    Returns:
        The model as `load_model` reads it, what was read, and where its arrays went.

    Raises:
        MilkitError: a file that cannot be read, arrays that are not the model's, a folder that may not be replaced.
    """
    stated, out, file = stated or Stated(), Path(out), Path(file)
    refuse_existing(out, FACTS, "a model", force=force)
    checkpoint = read_checkpoint(file, stated.prefix)
    placed = model_of(checkpoint, model, dict(stated.settings), str(file))
    try_on_noise(placed, str(file))
    kept = _kept(file, checkpoint, placed, stated)
    write_model(kept, out, imported_card(kept, out.name), {}, force=force)
    return kept, checkpoint, placed


def _kept(file: Path, checkpoint: Checkpoint, placed: Placed, stated: Stated) -> Kept:
    found = placed.found
    task, names = _task(stated, found.out_features)
    cuts = len(names) if isinstance(task, MultiLabel) else int(isinstance(task, Binary))
    temperatures = len(names) if isinstance(task, MultiLabel) else 1
    parts: Any = nnx.split(placed.module, nnx.Param, ...)
    params, buffers = (jax.tree.map(lambda a: a[None], part) for part in parts[1:])
    model = config.to_json(found.config)
    facts = {
        "format": FORMAT,
        "milkit": milkit.__version__,
        "name": stated.name or file.stem,
        "how": "imported",
        "selection": "none",
        "epochs": {"of_runs": [], "median": None},
        "task": config.to_json(task),
        "names": list(names),
        "model": model,
        "in_features": found.in_features,
        "out_features": found.out_features,
        "scaled": False,
        "images": None,
        "features": feature_facts({"encoder": stated.encoder or None, "mpp": stated.mpp}, ""),
        "covariates": [],
        "unit": stated.unit,
        "aggregate": "mean",
        "measured": stated.unit,
        "members": [
            {
                "run": "imported", "seed": 0, "epoch": 0, "target_shift": [], "target_scale": [], "cuts": None,
                "centre": 0.0,
            }
        ],
        "threshold": {"value": [0.5] * cuts, "from": "0.5, for none was fitted"},
        "temperature": {"value": [1.0] * temperatures, "from": "1, for none was fitted"},
        "risk_cut": None,
        "training": {
            "cohort": "",
            "counts": {"patients": 0, "slides": 0, "classes": {}},
            "provenance": {},
            "seen": {"patients": [], "slides": [], "features": []},
        },
        "expected": {"selection": "none", "counts": {}, "metrics": {}},
        "marks": list(MARKS),
        "experiment": {"type": "Imported", "model": model, "task": config.to_json(task)},
        "imported": {
            "file": file.name,
            "sha256": checkpoint.sha256,
            "naming": placed.layout.source,
            "arrays": len(checkpoint.arrays),
        },
        "run_digest": hashlib.sha256(checkpoint.sha256.encode()).hexdigest(),
        "environment": decides_bits(environment()),
    }  # fmt: skip
    return Kept(facts, found.config, task, params, buffers, None, None)


def _task(stated: Stated, logits: int) -> tuple[Binary | MultiClass | MultiLabel, tuple[str, ...]]:
    """The task and the names of what is predicted."""
    task = stated.task or ("binary" if logits == 1 else "multiclass")
    if (task == "binary" and logits != 1) or (task == "multiclass" and logits < 2):
        raise ConfigError(
            f"--task {task}: the file's model gives {logits} logit{'s' * (logits > 1)}; a binary task has one, "
            "multiclass one a class (two for two classes), multilabel one a label."
        )
    count = 2 if task == "binary" else logits
    names = stated.classes or tuple(str(i) for i in range(count))
    _check_names(names, count)
    if task == "binary":
        return Binary(positive=names[1]), names
    return (MultiClass(classes=names) if task == "multiclass" else MultiLabel(labels=names)), names


def _check_names(names: Sequence[str], count: int) -> None:
    if len(names) != count or len(set(names)) < count or not all(names):
        raise ConfigError(
            f"--classes {','.join(names)}: the file's model tells {count} apart; give {count} different names in the "
            "order of its logits (of a single logit: negative,positive)."
        )
