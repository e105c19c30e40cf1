"""A finished run folder as `finalize` reads it: complete, unmarked as optimistic, with the weights of its runs."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from milkit.errors import ConfigError, RunFolderError
from milkit.execute.folder import read_json
from milkit.predictions import Predictions
from milkit.train.checkpoint import names

ENDED = ("finished", "stopped early")
OPTIMISTIC = "optimistic"


@dataclass(frozen=True, eq=False)
class Finished:
    """What a run folder says, one selection of it.

    Attributes:
        folder: the run folder.
        config, results, cohort: its JSON files.
        runs: rows of `runs.csv`, in order.
        selection: which epoch's weights are kept.
        validation: validation rows of that selection.
        names: classes, labels or values.
    """

    folder: Path
    config: dict[str, Any]
    results: dict[str, Any]
    cohort: dict[str, Any]
    runs: tuple[dict[str, str], ...]
    selection: str
    validation: Predictions
    names: tuple[str, ...]

    @property
    def epochs(self) -> list[int]:
        """The epoch of each run's weights, counted from 1."""
        if self.selection == "validation":
            return [int(row["selected_epoch"]) for row in self.runs]
        last: dict[str, int] = {}
        with (self.folder / "history.jsonl").open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                last[row["run"]] = max(last.get(row["run"], 0), int(row["epoch"]))
        return [last[row["run"]] for row in self.runs]


def read_run(folder: Path, selection: str = "") -> Finished:
    """Read a run folder that is to become a model.

    Args:
        folder: what `milkit run` made.
        selection: "validation" or "last"; "" takes the run's own.

    Raises:
        RunFolderError: no run folder, one that is not finished, or damaged.
        ConfigError: a selection that it does not have, or that was made on the test part.
    """
    settings = read_json(folder / "config.json")
    if not isinstance(settings, dict) or "experiment" not in settings:
        raise RunFolderError(f"{folder / 'config.json'} holds no experiment; give a run folder that milkit made.")
    runs = _runs(folder, settings)
    results = read_json(folder / "results.json")
    selection = selection or str(results["selection"])
    if selection == OPTIMISTIC:
        raise ConfigError(
            "--selection optimistic keeps epochs that were chosen on the test part itself; a model to be used needs "
            "epochs chosen on validation: --selection validation (or last)."
        )
    if selection not in results["selections"]:
        there = ", ".join(name for name in results["selections"] if name != OPTIMISTIC)
        raise ConfigError(f"--selection {selection}: {folder} has {there}.")
    rows = Predictions.read(folder / "predictions.csv")
    kept = rows.take((rows.role == "validation") & (rows.selection == selection))
    return Finished(
        folder, settings, results, read_json(folder / "cohort.json"), runs, selection, kept, tuple(rows.names)
    )


def _runs(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    file, planned = folder / "runs.csv", int(settings.get("runs", 0))
    rows: tuple[dict[str, str], ...] = ()
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as handle:
            rows = tuple(csv.DictReader(handle))
    ended = [row for row in rows if row.get("status") in ENDED]
    if not ended or len(ended) < max(planned, len(rows)):
        raise RunFolderError(
            f"{folder} is not finished: {len(ended)} of {planned} runs have ended. A model of a part of them would not "
            "be the one that was measured; finish the study with `milkit run ... --resume` first."
        )
    return rows


def read_members(run: Finished) -> tuple[dict[str, np.ndarray], int]:
    """The weights of all runs by their names in the files, stacked in the order of `runs.csv`; and how many runs.

    Raises:
        RunFolderError: a file is missing or damaged.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for program in dict.fromkeys(row["program"] for row in run.runs):
        file = run.folder / "weights" / f"{int(program):04d}.safetensors"
        slots = [int(row["slot"]) for row in run.runs if row["program"] == program]
        start = f"{run.selection}/"
        try:
            with safe_open(file, framework="numpy") as tensors:
                found = [key for key in tensors.keys() if key.startswith(start)]  # noqa: SIM118 - not a dict
                for key in found:
                    parts.setdefault(key.removeprefix(start), []).append(tensors.get_tensor(key)[slots])
        except (SafetensorError, OSError) as error:
            raise RunFolderError(
                f"{file} cannot be read ({error}); the run's weights are needed for --ensemble. Restore the file, or "
                "train anew on all bags with --refit."
            ) from None
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}, len(run.runs)


def as_tree(arrays: Mapping[str, np.ndarray], like: Any, folder: Path) -> Any:
    """Named arrays in the shape of `like`, a tree {"params", "buffers"} of shapes.

    Raises:
        RunFolderError: names or shapes differ: the weights are of another model than the configuration says.
    """
    wanted, (leaves, shape) = names(like), jax.tree.flatten(like)
    odd = sorted(set(wanted) ^ set(arrays))
    odd += [n for n, leaf in zip(wanted, leaves, strict=True) if n in arrays and arrays[n].shape != leaf.shape]
    if odd:
        raise RunFolderError(
            f"The weights in {folder} are not those of the model in its config.json ({', '.join(odd[:4])}); restore it."
        )
    return jax.tree.unflatten(shape, [arrays[n].astype(leaf.dtype) for n, leaf in zip(wanted, leaves, strict=True)])
