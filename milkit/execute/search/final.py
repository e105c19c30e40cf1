"""The chosen trials as the runs of the study: their kept parameters predict every part once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from milkit.errors import RunFolderError
from milkit.execute.folder import write_text
from milkit.execute.prepare import Prepared, Run
from milkit.execute.program import ORDER, epochs_trained, predict_parts, program_folder, write_part, write_weights
from milkit.execute.search.family import Family, compiled
from milkit.execute.search.tables import cell
from milkit.execute.search.trials import Place
from milkit.train.checkpoint import names
from milkit.train.state import initial_arrays


@dataclass(frozen=True)
class Kept:
    """Where the weights of one run lie.

    Attributes:
        family: that trained it.
        run: as a trial.
        done: its row of `done.json`.
        epoch: the one that is kept, from 1; None for the last one trained.
    """

    family: Family
    run: Run
    done: dict[str, Any]
    epoch: int | None


@dataclass(frozen=True, eq=False)
class Final(Prepared):
    """Chosen runs whose trials are of one family (and, optimistic ones, of one other)."""

    kept: Mapping[str, Mapping[str, Kept]] | None = None
    """Selection -> name of the run -> its weights."""

    def predict(self, program: int, out: Path) -> bool:
        """Predict with the kept parameters, and write what any program leaves."""
        assert self.kept is not None
        folder, runs = program_folder(out, program), self.members(program)
        own = self.kept["validation"]
        write_text(folder / "history.jsonl", "".join(_history(out, own[r.name], r) for r in runs))
        last = epochs_trained(folder, runs)
        seen, fits = {}, {}
        for selection in [s for s in ORDER if s in self.kept]:
            kept = [self.kept[selection][r.name] for r in runs]
            epochs = np.array([e if k.epoch is None else k.epoch for k, e in zip(kept, last, strict=True)])
            tree = _weights(out, selection, kept, self.width)
            # an optimistic choice may be of another model
            part = self if selection != "optimistic" else _like(self, kept[0].family)
            fits[selection] = (tree["params"], tree["buffers"], epochs)
            seen[selection] = predict_parts(part, part.group(program), fits[selection], runs)
        write_weights(out, program, runs, fits)
        write_part(self, folder, runs, list(seen), seen)
        rows = [_row(own[r.name], r) for r in runs]
        write_text(folder / "done.json", json.dumps(rows, indent=1) + "\n")
        return True


def finals(
    base: Prepared, families: Sequence[Family], chosen: Mapping[str, Mapping[Place, int]],
    rows: Sequence[dict[str, Any]], epochs: Mapping[str, int], first: int,
) -> list[Final]:  # fmt: skip
    """The study's own runs, each with the weights of its fold's choice; runs of one model share programs.

    Args:
        base: the study; its runs give names and order.
        families: that were trained.
        chosen: selection ("validation", "optimistic") -> fold -> trial.
        rows: `done.json` of all trials.
        epochs: optimistic epochs (from 1) by the trial's run, where they are asked for.
        first: number of the first program.
    """
    where = {(r.split, r.seed, r.trial): (f, r) for f in families for r in f.runs}
    done = {row["run"]: row for row in rows}
    kept: dict[str, dict[str, Kept]] = {}
    for run in base.runs:
        for selection, trials in chosen.items():
            family, trained = where[run.split, run.seed, trials[run.repeat, run.fold]]
            row = done[trained.name]
            epoch = int(row["selected_epoch"]) if selection == "validation" else epochs[trained.name]
            kept.setdefault(selection, {})[run.name] = Kept(family, trained, row, epoch)
    kept["last"] = {name: replace(k, epoch=None) for name, k in kept["validation"].items()}
    groups: dict[Any, list[Run]] = {}
    for run in base.runs:
        key = tuple(compiled(kept[s][run.name].family.experiment) for s in chosen)
        groups.setdefault(key, []).append(run)
    made = []
    for members in groups.values():
        runs = tuple(
            replace(r, program=first + i // base.width, slot=i % base.width, trial=-1) for i, r in enumerate(members)
        )
        first = runs[-1].program + 1
        made.append(_like(base, kept["validation"][runs[0].name].family, runs, kept))
    return made


def _like(base: Prepared, family: Family, runs: Any = None, kept: Any = None) -> Final:
    """Runs of the study on a family's engine."""
    return Final(
        family.experiment, base.study, base.plan, base.runs if runs is None else runs, base.width, family.engine,
        family.optimistic, family.hyper, family.loss, base.measured, kept=kept,
    )  # fmt: skip


def _row(kept: Kept, run: Run) -> dict[str, Any]:
    """A row of `runs.csv`: the trial's, under the run's own name, with the values that were chosen."""
    candidate = kept.family.candidate(kept.run)
    values = {n: cell(v) for n, v in candidate.trial.values.items()}
    return {**kept.done, "run": run.name, "program": run.program, "slot": run.slot, **values}


def _history(out: Path, kept: Kept, run: Run) -> str:
    """The lines of a trial under the name of the run that it became."""
    file = program_folder(out, kept.run.program) / "history.jsonl"
    rows = (json.loads(line) for line in file.read_text().splitlines())
    mine = (row | {"run": run.name, "program": run.program} for row in rows if row["run"] == kept.run.name)
    return "".join(json.dumps(row) + "\n" for row in mine)


def _weights(out: Path, selection: str, kept: Sequence[Kept], width: int) -> dict[str, Any]:
    """Kept parameters and buffers, stacked; filled up to the width with the first run's."""
    like = jax.eval_shape(lambda: _arrays(kept[0].family))
    wanted, (leaves, tree) = names(like), jax.tree.flatten(like)
    parts: list[list[np.ndarray]] = []
    for one in kept:
        file = out / "weights" / f"{one.run.program:04d}.safetensors"
        try:
            with safe_open(file, framework="numpy") as tensors:
                parts.append(
                    [tensors.get_slice(f"{selection}/{name}")[one.run.slot : one.run.slot + 1] for name in wanted]
                )
        except (SafetensorError, OSError) as error:
            raise RunFolderError(
                f"{file} cannot be read ({error}); it holds trials that were trained. Remove the folder programs/"
                f"{one.run.program:04d} to train them anew with --resume."
            ) from error
    parts += [parts[0]] * (width - len(parts))
    stacked = [
        jnp.asarray(np.concatenate(a), leaf.dtype) for a, leaf in zip(zip(*parts, strict=True), leaves, strict=True)
    ]
    arrays: dict[str, Any] = jax.tree.unflatten(tree, stacked)
    return arrays


def _arrays(family: Family) -> dict[str, Any]:
    model, inside, outside = family.experiment.model, family.study.features, family.out_features
    params, buffers = initial_arrays(model, inside, outside, jax.random.key(0), family.study.covariate_count)
    return {"params": params, "buffers": buffers}
