"""The model folder: `model.json`, `weights.safetensors`, `README.md`. Written whole or not at all, never with pickle.

`model.json` holds all that is needed to use the weights, and two digests: of the weights, and of itself. A folder
whose files were edited or damaged is refused, because its numbers would no longer be those of the model that was
measured.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from milkit import config
from milkit.data.covariates import Coding
from milkit.errors import ConfigError, RunFolderError
from milkit.experiment import allowed_types
from milkit.task import Task
from milkit.train import checkpoint
from milkit.train.state import initial_arrays

FORMAT = 1
FACTS, WEIGHTS, CARD = "model.json", "weights.safetensors", "README.md"
SCALERS = ("shift", "inverse_scale", "covariate_shift", "covariate_inverse")


@dataclass(frozen=True, eq=False)
class Kept:
    """A model that is kept: one or more members that answer together.

    Attributes:
        facts: what `model.json` holds (docs/using_a_model.md lists it).
        model: its configuration.
        task: what it predicts.
        params, buffers: the members' arrays, stacked: [m, ...].
        shift, inverse_scale: each member's scaling of the features, float32 [m, d], or None.
        covariate_shift, covariate_inverse: each member's scaling of the covariates, float32 [m, v], or None.
    """

    facts: dict[str, Any]
    model: Any
    task: Task
    params: Any
    buffers: Any
    shift: np.ndarray | None
    inverse_scale: np.ndarray | None
    covariate_shift: np.ndarray | None = None
    covariate_inverse: np.ndarray | None = None

    @property
    def kind(self) -> str:
        """Class name of the task."""
        return type(self.task).__name__

    @property
    def names(self) -> tuple[str, ...]:
        """Classes (binary: negative, positive), labels or values; ("risk",) for survival."""
        return tuple(self.facts["names"])

    @property
    def members(self) -> list[dict[str, Any]]:
        """One record a member."""
        return self.facts["members"]

    @property
    def codings(self) -> tuple[Coding, ...]:
        """How the columns that it reads beside the features become numbers; () for a model without covariates."""
        return codings_of(self.facts)

    @property
    def threshold(self) -> np.ndarray:
        """Cut on the probability of each label (binary: of the positive class), [labels]; empty for other tasks."""
        return np.array(self.facts["threshold"]["value"], np.float64)

    @property
    def temperature(self) -> np.ndarray:
        """What logits are divided by: one number, or one a label; empty for tasks without probabilities."""
        return np.array(self.facts["temperature"]["value"], np.float64)

    @property
    def map_threshold(self) -> float:
        """Probability from which on a pixel of an image is foreground."""
        return float((self.facts.get("images") or {}).get("map_threshold", {}).get("value", 0.5))

    def tree(self) -> dict[str, Any]:
        """The arrays of `weights.safetensors`."""
        tree = {"params": self.params, "buffers": self.buffers}
        return tree | {k: v for k in SCALERS if (v := getattr(self, k)) is not None}


def codings_of(facts: Mapping[str, Any]) -> tuple[Coding, ...]:
    """How a model of these facts reads its covariates."""
    return tuple(Coding(**{**c, "levels": tuple(c["levels"])}) for c in facts.get("covariates") or ())


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of the facts, their own digest left out."""
    stated = {k: v for k, v in facts.items() if k != "digest"}
    return hashlib.sha256(json.dumps(stated, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_model(
    kept: Kept, out: Path, card: str, sources: Mapping[str, bytes], *, force: bool = False
) -> dict[str, Any]:
    """Write a model folder; nothing is left of it when something goes wrong.

    Args:
        kept: the model; `weights_sha256` and `digest` are added to its facts.
        out: the folder to make.
        card: text of `README.md`.
        sources: files of a model class of one's own, by name.
        force: replace the model that is there.

    Returns:
        The facts as written.

    Raises:
        RunFolderError: `out` is there already, or is something else than a model; the disk is full.
    """
    weights = checkpoint.to_bytes(kept.tree())
    facts = {**kept.facts, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    facts["digest"] = digest_of(facts)
    text = json.dumps(facts, indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def fill(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(weights)
        (folder / CARD).write_text(card, encoding="utf-8")
        for name, data in sources.items():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes(data)
        (folder / FACTS).write_text(text, encoding="utf-8")

    whole_folder(out, fill, FACTS, "a model", force=force)
    return facts


def refuse_existing(out: Path, sign: str, what: str, *, force: bool) -> None:
    """Refuse to write where something stands, before any work is done.

    Args:
        out: the folder to make.
        sign: the file by which a folder of this kind is known.
        what: name of the kind, such as "a model".
        force: a folder of this kind may be replaced.

    Raises:
        RunFolderError: `out` is there and may not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / sign).is_file():
        raise RunFolderError(f"{out} is there already and is not {what} (it has no {sign}); give another --out.")
    if not force:
        raise RunFolderError(f"{out} already holds {what}; replace it by --force, or give another --out.")


def whole_folder(out: Path, fill: Callable[[Path], None], sign: str, what: str, *, force: bool = False) -> None:
    """Make a folder under a temporary name and rename it when it is whole.

    Args:
        out: the folder to make.
        fill: writes its files into the folder it is given.
        sign, what, force: as in `refuse_existing`.

    Raises:
        RunFolderError: `out` is there and may not be replaced, or the disk is full or refuses.
    """
    refuse_existing(out, sign, what, force=force)
    temporary = old = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
        fill(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        temporary.chmod(0o755)  # mkdtemp makes it private; a model is for sharing
        if out.exists():
            old = temporary.with_suffix(".old")
            os.replace(out, old)
        os.replace(temporary, out)
    except OSError as error:
        if old is not None and not out.exists():
            os.replace(old, out)
        raise RunFolderError(f"{out} could not be written ({error.strerror or error}); nothing was changed.") from error
    finally:
        for left in (temporary, old):
            if left is not None and left.exists() and out.exists():
                shutil.rmtree(left, ignore_errors=True)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _flush(file: Path) -> None:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())


def read_facts(folder: Path) -> dict[str, Any]:
    """`model.json` of a model folder, checked against its own digest.

    Raises:
        RunFolderError: the folder is none, or the file is damaged, edited, or of a newer milkit.
    """
    file = folder / FACTS
    if not folder.is_dir():
        raise RunFolderError(f"There is no model folder at {folder}; `milkit finalize RUN --out MODEL` makes one.")
    if not file.is_file():
        run = (folder / "config.json").is_file()
        hint = (
            f"it is a run folder: make a model of it with `milkit finalize {folder} --out MODEL`"
            if run
            else ("`milkit finalize RUN --out MODEL` makes one")
        )
        raise RunFolderError(f"{folder} is not a model folder, it has no {FACTS}; {hint}.")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{file} is not readable JSON ({error}); make the model anew.") from None
    if not isinstance(facts, dict) or "weights_sha256" not in facts:
        raise RunFolderError(f"{file} was not written by milkit finalize; give the folder that it made.")
    if int(facts.get("format", 0)) > FORMAT:
        raise RunFolderError(
            f"{file} has format {facts['format']}, of milkit {facts.get('milkit')}; this one reads up to {FORMAT}. "
            "Update milkit."
        )
    if facts.get("digest") != digest_of(facts):
        raise RunFolderError(
            f"{file} was edited or damaged (its digest differs), so its numbers are no longer this model's; restore "
            "the file, or make the model anew with `milkit finalize`."
        )
    return facts


def read_model(folder: Path, own: Mapping[str, type] | None = None) -> Kept:
    """Open a model folder.

    Args:
        folder: what `write_model` made.
        own: classes of a model of one's own, by name (the caller has asked whether its source is trusted).

    Raises:
        RunFolderError: not a model folder, or one that was edited or damaged.
        ConfigError: it names a class that is not known.
    """
    facts = read_facts(folder)
    file = folder / WEIGHTS
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
    if found != facts["weights_sha256"]:
        raise RunFolderError(
            f"{file} is {'not there' if found == 'missing' else 'not the file that was written (its digest differs)'}; "
            "restore it, or make the model anew with `milkit finalize`."
        )
    allowed = allowed_types() | dict(own or {})
    model = config.from_json(facts["model"], allowed, f"{folder / FACTS}, model")
    task = config.from_json(facts["task"], allowed, f"{folder / FACTS}, task")
    if not hasattr(model, "build"):
        raise ConfigError(f"{folder / FACTS}: {facts['model']} is not a model's configuration.")
    members, beside = len(facts["members"]), sum(len(c.names) for c in codings_of(facts))
    params, buffers = stacked_like(model, facts["in_features"], facts["out_features"], members, beside)
    like: dict[str, Any] = {"params": params, "buffers": buffers}
    widths = (facts["in_features"] if facts["scaled"] else 0,) * 2 + (beside,) * 2
    like |= {k: jax.ShapeDtypeStruct((members, w), np.float32) for k, w in zip(SCALERS, widths, strict=True) if w}
    tree, _ = checkpoint.load(file, like)
    scalers = [np.asarray(tree[k]) if k in tree else None for k in SCALERS]
    return Kept(facts, model, task, tree["params"], tree["buffers"], *scalers)


def without_weights(model: Any) -> Any:
    """A model that does not ask for the file of weights that its training began with: a kept one has its own."""
    named = getattr(model, "weights", "")
    return dataclasses.replace(model, weights="") if named and isinstance(named, str) else model


def stacked_like(model: Any, in_features: int, out_features: int, members: int, covariates: int = 0) -> tuple[Any, Any]:
    """Shapes of the parameters and buffers of some members, their number as first axis."""
    start = partial(initial_arrays, without_weights(model), in_features, out_features, covariates=covariates)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), members))
    return jax.eval_shape(jax.vmap(start), keys)
