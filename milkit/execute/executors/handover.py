"""What another process needs to have the same study: the run folder's settings and sources, and bags held in memory.

Nothing is pickled. The receiver builds the experiment from `config.json` (a model of one's own from the kept sources),
loads and splits the data anew, and insists on the digests that `config.json` states.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from milkit import config
from milkit.data.memory import InMemory
from milkit.errors import ConfigError, DataError, RunFolderError
from milkit.execute.digest import data_digest, weights_digest
from milkit.execute.environment import decides_bits, environment
from milkit.execute.folder import read_json
from milkit.execute.imports import own_classes
from milkit.execute.prepare import Prepared, prepare
from milkit.experiment import Experiment, allowed_types
from milkit.types import Bag

BAGS = "bags.safetensors"
ARRAYS = ("x", "coords_um", "coords_px")
"""Arrays of a bag, those that may be absent too."""


def bags_to_bytes(data: InMemory) -> bytes:
    """Bags and rows of a cohort in memory, to the bit and whatever their dtypes."""
    arrays, heads = {}, []
    for i, bag in enumerate(data.bags):
        head: dict[str, Any] = {"id": bag.id, "tile_um": bag.tile_um, "mpp": bag.mpp}
        for name in ARRAYS:
            array = getattr(bag, name)
            if array is not None:
                array = np.ascontiguousarray(array)
                head[name] = [str(array.dtype), list(array.shape)]
                arrays[f"{i}/{name}"] = array.reshape(-1).view(np.uint8)
        heads.append(head)
    beside = config.to_json(data.covariates)
    said = {"name": data.name, "rows": [dict(row) for row in data.rows], "bags": heads, "covariates": beside}
    return save(arrays, {"milkit": json.dumps(said)})


def bags_from(file: Path) -> InMemory:
    """The reverse of `bags_to_bytes`.

    Raises:
        RunFolderError: the file cannot be read.
    """
    try:
        with safe_open(file, framework="numpy") as f:
            said = json.loads(f.metadata()["milkit"])
            bags = [
                Bag(
                    id=head["id"],
                    **{name: _array(f, f"{i}/{name}", head[name]) for name in ARRAYS if name in head},
                    tile_um=head["tile_um"],
                    mpp=head["mpp"],
                )
                for i, head in enumerate(said["bags"])
            ]
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{file}, which hands the bags to another process, cannot be read ({error}).") from error
    beside = config.from_json(said["covariates"], allowed_types(), f"{file}, covariates")
    return InMemory(tuple(bags), tuple(said["rows"]), said["name"], beside)


def _array(file: Any, key: str, head: list[Any]) -> np.ndarray:
    return file.get_tensor(key).view(np.dtype(head[0])).reshape(head[1])


def can_be_handed_over(out: Path) -> None:
    """Refuse, before any process starts, a study that another process could not build from its run folder.

    Raises:
        ConfigError: its model was defined where no file could be kept.
    """
    source = read_json(out / "config.json").get("source", {})
    if "model" in source and source.get("file") is None:
        raise ConfigError(
            f"The model {source['model']!r} was defined where no file could be kept (a notebook), so no other process "
            'can build it; define it in a file, or use executor "local".'
        )


def rebuild(folder: Path, bags: Path | None, bits: Mapping[str, Any]) -> Prepared:
    """The study of a run folder, as the process that made the folder has it.

    Args:
        folder: holds `config.json` and `source/`.
        bags: what `bags_to_bytes` wrote, for a study in memory.
        bits: `decides_bits` of that process.

    Raises:
        MilkitError: it cannot be built here, is another one here, or would give other bits here.
    """
    settings = read_json(folder / "config.json")
    here = json.loads(json.dumps(decides_bits(environment())))
    differing = [f"{name} {value!r} there, {here[name]!r} here" for name, value in bits.items() if here[name] != value]
    if differing:
        raise RunFolderError(
            f"A worker computes in another environment than the study ({'; '.join(differing)}), where the same seed "
            "gives other bits; give all machines the same versions and kind of device."
        )
    prepared = prepare(experiment_of(folder, settings, bags))
    found = {"data_digest": data_digest(prepared.study), "folds_digest": prepared.plan.digest()}
    found |= weights_digest(prepared.experiment.model)
    changed = [name for name, value in found.items() if settings[name] != value]
    if changed:
        raise DataError(
            f"A worker reads other data than the study began with ({', '.join(changed)} differs from config.json): the "
            "files changed meanwhile, or are others on its machine. Make them the same under the same paths."
        )
    return prepared


def experiment_of(folder: Path, settings: Mapping[str, Any], bags: Path | None) -> Experiment:
    """The experiment of a run folder, with its width; bags in memory are those handed over."""
    file, stated, allowed = folder / "config.json", settings["experiment"], allowed_types()
    if "model" in settings.get("source", {}):  # its file was imported by the user's own process a moment ago
        allowed |= own_classes(file, settings["source"], trusted=True)
    parts = {k: v for k, v in stated.items() if k != "type" and (k != "data" or bags is None)}
    built: dict[str, Any] = {k: config.from_json(v, allowed, f"{file}, {k}") for k, v in parts.items()}
    experiment = Experiment(**built) if bags is None else Experiment(data=bags_from(bags), **built)
    return replace(experiment, train=replace(experiment.train, width=settings["width"], memory=settings["memory"]))
