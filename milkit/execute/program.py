"""One program of a study: a group of runs trained side by side, then predicted once, then written down whole."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from milkit.errors import NonFiniteError
from milkit.execute.environment import seconds_from
from milkit.execute.folder import write_bytes, write_text
from milkit.execute.maps import ROLES, write_maps
from milkit.execute.optimism import Onlooker
from milkit.execute.precision import moved_by_precision
from milkit.execute.prepare import Prepared, Run
from milkit.execute.rows import RunPrediction, program_predictions
from milkit.execute.survival import cuts_on_training
from milkit.track import Tracker, history_lines
from milkit.train import checkpoint
from milkit.train.engine import EpochLog, Group
from milkit.train.fit import fit
from milkit.train.state import RunState
from milkit.watch.program import ProgramProgress

CHECKPOINT_SECONDS = seconds_from("MILKIT_CHECKPOINT_SECONDS", 60.0)
TOP_INSTANCES = 10
CHECKPOINT = "checkpoint.safetensors"
OPTIMISTIC = "optimistic.json"
ORDER = ("validation", "last", "optimistic")
"""Selections, the study's own first."""
Fit = tuple[Any, Any, np.ndarray]
"""Parameters, buffers and epoch (from 1) of each run of a program."""


def program_folder(out: Path, program: int) -> Path:
    """Where a program leaves its part."""
    return out / "programs" / f"{program:04d}"


def is_done(out: Path, program: int) -> bool:
    """Whether a program's part is whole: `done.json` is written last."""
    return (program_folder(out, program) / "done.json").exists()


def run_program(
    prepared: Prepared, program: int, out: Path, trackers: list[Tracker], stop: Callable[[], bool]
) -> None:  # fmt: skip
    """Train, select, predict and write one program.

    Args:
        prepared: the study.
        program: which group.
        out: the run folder.
        trackers: told every epoch.
        stop: asked after every epoch; True writes a checkpoint and ends the program.

    Raises:
        KeyboardInterrupt: `stop` said so; its text says how far the program is.
        NonFiniteError: a loss was not finite; names run, epoch, step and bag; best weights so far are kept.
    """
    prepared = prepared.of(program)
    folder = program_folder(out, program)
    folder.mkdir(parents=True, exist_ok=True)
    if prepared.predict(program, out):
        return
    runs = prepared.members(program)
    group = prepared.group(program)
    progress = _progress(prepared, program, folder, runs)
    state, best_on_test = _fit(prepared, program, group, out, trackers, stop, progress)
    fits = {"last": (state.params, state.buffers, epochs_trained(folder, runs))}
    if prepared.selects:
        fits["validation"] = (state.best_params, state.best_buffers, np.asarray(state.best_epoch) + 1)
    if best_on_test is not None:
        epochs = np.asarray(best_on_test["best_epoch"]) + 1
        fits["optimistic"] = (best_on_test["best_params"], best_on_test["best_buffers"], epochs)
    order: list[str] = [s for s in ORDER if s in fits]
    write_weights(out, program, runs, {s: fits[s] for s in order})
    if prepared.tests:
        progress.predicting()
        seen = {s: predict_parts(prepared, group, fits[s], runs) for s in order}
        write_part(prepared, folder, runs, order, seen)
    elif best_on_test is not None:
        _write_optimistic(folder, runs, best_on_test)
    moved = moved_by_precision(prepared, group, fits[order[0]], runs)
    _write_done(prepared, folder, runs, state, moved)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    progress.done()


def _fit(
    prepared: Prepared, program: int, group: Group, out: Path, trackers: list[Tracker],
    stop: Callable[[], bool], progress: ProgramProgress,
) -> tuple[RunState, dict[str, Any] | None]:  # fmt: skip
    """Fit a group, from its checkpoint if there is one; also what an `Onlooker` saw, if the experiment wants one."""
    folder, runs = program_folder(out, program), prepared.members(program)
    engine = prepared.engine
    parts = [s.validation for s in prepared.plan.splits]
    validation = engine.part(group.validation, parts) if prepared.selects else None
    state = prepared.first_state(program, group)
    onlooker = None if prepared.optimistic is None else Onlooker(prepared, program, group, state)
    file = folder / CHECKPOINT
    history = _History(folder / "history.jsonl")
    first = 0
    if file.exists():
        kept, note = checkpoint.load(file, _kept(state, onlooker))
        state, first = kept["state"], int(note["epochs"])
        if onlooker is not None:
            onlooker.best = kept["onlooker"]
        failed = _ends_it(prepared, runs, state.failed)
        if len(failed):  # it stopped there, and would again
            _stop(prepared, runs, state, int(failed[0]), file)
    history.resume(first)
    progress.start(first, _best_so_far(prepared, runs, state))
    saved = time.monotonic()

    def on_epoch(epoch: int, state: RunState, log: EpochLog) -> None:
        nonlocal saved
        rows = _history_rows(prepared, runs, program, epoch, log)
        history.add(rows)
        for tracker in trackers:
            tracker.epoch(rows)
        if onlooker is not None:
            onlooker.look(epoch, state)
        failed = _ends_it(prepared, runs, log.failed)
        stopping = stop()
        progress.epoch(epoch + 1, rows, now=stopping or len(failed) > 0)
        if len(failed) or stopping or time.monotonic() - saved > CHECKPOINT_SECONDS:
            history.flush()
            write_bytes(file, checkpoint.to_bytes(_kept(state, onlooker), {"epochs": epoch + 1}))
            saved = time.monotonic()
        if len(failed):
            _stop(prepared, runs, state, int(failed[0]), file)
        if stopping:
            raise KeyboardInterrupt(f"after epoch {epoch + 1} of program {program + 1} of {prepared.programs}")

    state = fit(engine, group, state, validation, on_epoch, first)
    history.flush()
    return state, None if onlooker is None else onlooker.best


def _ends_it(prepared: Prepared, runs: tuple[Run, ...], failed: Any) -> np.ndarray:
    """Slots of the runs whose failure ends the study; a trial of a search that fails has only lost."""
    return np.flatnonzero(np.asarray(failed)[: len(runs)]) if prepared.tests else np.zeros(0, int)


def _progress(prepared: Prepared, program: int, folder: Path, runs: tuple[Run, ...]) -> ProgramProgress:
    train, layout = prepared.experiment.train, prepared.engine.layout
    parts = [prepared.split(r).train for r in runs]
    return ProgramProgress(
        folder, program, train.epochs, [r.name for r in runs], [len(part) for part in parts],
        [layout.updates(part) for part in parts], train.select if prepared.selects else None,
    )  # fmt: skip


def _best_so_far(prepared: Prepared, runs: tuple[Run, ...], state: RunState) -> dict[str, float]:
    """Each run's validation figure at its best epoch; runs without one yet are left out."""
    values = state.best_loss if prepared.experiment.train.select == "loss" else state.best_metric
    epochs, values = np.asarray(state.best_epoch), np.asarray(values)
    return {r.name: float(v) for r, v, e in zip(runs, values, epochs, strict=False) if e >= 0 and np.isfinite(v)}


def _kept(state: RunState, onlooker: Onlooker | None) -> dict[str, Any]:
    """What a checkpoint holds."""
    return {"state": state} if onlooker is None else {"state": state, "onlooker": onlooker.best}


class _History:
    """History lines of a program, kept in step with its checkpoint."""

    def __init__(self, file: Path) -> None:
        self._file, self._lines = file, ""

    def resume(self, epochs: int) -> None:
        """Keep what earlier attempts wrote up to the checkpoint, so that no epoch stands twice."""
        if self._file.exists():
            lines = self._file.read_text().splitlines(keepends=True)
            self._lines = "".join(line for line in lines if json.loads(line)["epoch"] <= epochs)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Remember an epoch."""
        self._lines += history_lines(rows)

    def flush(self) -> None:
        """Write the file whole."""
        write_text(self._file, self._lines)


def _history_rows(
    prepared: Prepared, runs: tuple[Run, ...], program: int, epoch: int, log: EpochLog
) -> list[dict[str, Any]]:
    """One row a run that still learned in this epoch; validation figures only, never a test one."""
    select = prepared.experiment.train.select
    rows = []
    for i, run in enumerate(runs):
        if not log.learning[i]:
            continue
        row = {
            "run": run.name,
            "repeat": run.repeat,
            "fold": run.fold,
            "inner": run.inner,
            "seed": run.seed,
            **_few(run),
            **_trial(run),
            "program": program,
            "fit": "validation",
            "epoch": epoch + 1,
            "train_loss": float(log.train_loss[i]),
        }
        if prepared.selects:
            row["validation_loss"] = float(log.validation_loss[i])
            if select != "loss":
                row[f"validation_{select}"] = float(log.validation_metric[i])
        rows.append(row)
    return rows


def _few(run: Run) -> dict[str, int]:
    """What only rows of runs with few labels say."""
    return {"labels": run.labels, "draw": run.draw} if run.labels else {}


def _trial(run: Run) -> dict[str, int]:
    """What only rows of a search's trials say."""
    return {} if run.trial < 0 else {"trial": run.trial}


def _stop(prepared: Prepared, runs: tuple[Run, ...], state: RunState, i: int, file: Path) -> None:
    run = runs[i]
    epoch, step, bag = (int(np.asarray(a)[i]) for a in (state.failed_epoch, state.failed_step, state.failed_bag))
    best = int(np.asarray(state.best_epoch)[i])
    kept = f"the best epoch so far ({best + 1}) and all other runs' states" if best >= 0 else "all runs' states"
    where = f"in epoch {epoch + 1}"
    if step >= 0:
        where += f" at step {step + 1}, bag {str(prepared.study.bag[bag])!r}"
    elif bag >= 0:
        where += f" on validation, bag {str(prepared.study.bag[bag])!r}"
    raise NonFiniteError(
        f"Run {run.name} (repeat {run.repeat}, fold {run.fold}, seed {run.seed}): the loss or its gradient was not "
        f"finite {where}. Its parameters were not moved by that step; {kept} are in {file}. Look at that "
        "bag's features (very large values?), lower the learning rate, or set train.clip, and start anew; finished "
        "programs are kept."
    )


def epochs_trained(folder: Path, runs: tuple[Run, ...]) -> np.ndarray:
    """The last epoch in each run's history (patience may have stopped it before the others)."""
    last = {r.name: 0 for r in runs}
    for line in (folder / "history.jsonl").read_text().splitlines():
        row = json.loads(line)
        last[row["run"]] = max(last[row["run"]], row["epoch"])
    return np.array([last[r.name] for r in runs])


def predict_parts(prepared: Prepared, group: Group, fit: Fit, runs: tuple[Run, ...]) -> list[RunPrediction]:
    """Predict each role of each run once, with the parameters of one selection."""
    params, buffers, epochs = fit
    with_train = prepared.experiment.predict_train or cuts_on_training(prepared)
    roles = ["validation", "test"] + (["train"] if with_train else [])
    out = [RunPrediction(run, int(epochs[i]), {}) for i, run in enumerate(runs)]
    splits = [prepared.split(r) for r in runs]
    padded = splits + [splits[0]] * (prepared.width - len(splits))
    for role in roles:
        everywhere = [getattr(s, role) for s in prepared.plan.splits]
        if not any(len(part) for part in everywhere):
            continue
        part = prepared.engine.part([getattr(s, role) for s in padded], everywhere)
        for i, bags in enumerate(prepared.engine.predict(group, params, buffers, part)[: len(runs)]):
            out[i].roles[role] = bags
    return out


def write_part(
    prepared: Prepared,
    folder: Path,
    runs: tuple[Run, ...],
    order: list[str],
    seen: dict[str, list[RunPrediction]],
) -> None:
    """Predictions and attention of a program."""
    predictions = program_predictions(prepared, seen)
    predictions.write(folder / "predictions.csv")
    if runs[0].labels:
        return  # pictures of attention are those of all labels
    if prepared.study.sizes is not None:
        for selection, predicted in seen.items():
            for p in predicted:
                for role in set(ROLES) & set(p.roles):
                    write_maps(folder, p.run.name, selection, p.roles[role])
        return
    lines, maps = _attention(prepared, seen[order[0]], order[0])
    if lines:
        header = "run,repeat,fold,seed,selection,bag,slide,instance,x_um,y_um,attention,rank\n"
        write_text(folder / "top_instances.csv", header + "".join(lines))
    if maps:
        # every test bag once a seed in the first repeat: enough for pictures, bounded in size
        np.savez(folder / "attention.npz", **maps)  # type: ignore[arg-type]


def _attention(
    prepared: Prepared, predicted: list[RunPrediction], selection: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The most attended instances of every test bag, and whole attention maps of the first repeat."""
    study = prepared.study
    lines: list[str] = []
    maps: dict[str, np.ndarray] = {}
    for p in predicted:
        for row, _, attention in p.roles.get("test", []):
            if attention is None:
                return [], {}
            if p.run.repeat == 0 and p.run.inner == 0:
                maps[f"{p.run.name}/{row}"] = attention.astype(np.float32)
            xy = study.positions(row)
            names = (_quoted(study.bag[row]), *map(_quoted, study.slides[row]))
            ends = np.cumsum(study.slide_lengths[row]) if study.slide_lengths else study.lengths[[row]]
            for rank, i in enumerate(np.argsort(-attention, kind="stable")[:TOP_INSTANCES]):
                place = ("", "") if xy is None else (f"{xy[i, 0]:.1f}", f"{xy[i, 1]:.1f}")
                slide = names[1 + int(np.searchsorted(ends, i, side="right"))]
                lines.append(
                    f"{p.run.name},{p.run.repeat},{p.run.fold},{p.run.seed},{selection},{names[0]},{slide},{i},"
                    f"{place[0]},{place[1]},{float(attention[i])!r},{rank + 1}\n"
                )
    return lines, maps


def _quoted(text: object) -> str:
    """An id as a CSV field, quoted whatever it holds."""
    return '"' + str(text).replace('"', '""') + '"'


def write_weights(out: Path, program: int, runs: tuple[Run, ...], fits: dict[str, Fit]) -> None:
    """One stacked file a program: parameters and buffers of each selection."""
    write_bytes(
        out / "weights" / f"{program:04d}.safetensors",
        checkpoint.to_bytes(
            {s: {"params": fit[0], "buffers": fit[1]} for s, fit in fits.items()},
            {"program": program, "runs": [r.name for r in runs], "axis": "first axis is the run"},
        ),
    )


def _write_optimistic(folder: Path, runs: tuple[Run, ...], best: dict[str, Any]) -> None:
    """Each run's best figures on its test part, by which the optimistic selection chooses a trial; nothing else may."""
    found = {k: np.asarray(best[k]).tolist() for k in ("best_metric", "best_loss", "best_epoch")}
    rows = {run.name: {k.removeprefix("best_"): v[i] for k, v in found.items()} for i, run in enumerate(runs)}
    write_text(folder / OPTIMISTIC, json.dumps(rows, indent=1) + "\n")


def _write_done(
    prepared: Prepared, folder: Path, runs: tuple[Run, ...], state: RunState, more: list[dict[str, Any]]
) -> None:
    """`done.json`, last of all: the rows of `runs.csv`; its presence says that the part is whole."""
    best, loss, metric, updates, finished, failed = (
        np.asarray(a) for a in jax.device_get(
            (state.best_epoch, state.best_loss, state.best_metric, state.updates, state.finished, state.failed)
        )
    )  # fmt: skip
    rate = [prepared.hyper_of(r).rate for r in runs]
    rows = []
    for i, run in enumerate(runs):
        split = prepared.split(run)
        row = {
            "run": run.name, "program": run.program, "slot": run.slot, "repeat": run.repeat, "fold": run.fold,
            "inner": run.inner, "seed": run.seed, **_few(run), **_trial(run), "n_train": len(split.train),
            "n_validation": len(split.validation), "n_test": len(split.test),
            "learning_rate": float(rate[i].learning_rate),
            "weight_decay": float(rate[i].weight_decay),
            "status": "failed" if failed[i] else "stopped early" if finished[i] else "finished",
            "updates": int(updates[i]), "selected_epoch": "", "best_validation_loss": "", "best_validation_metric": "",
        }  # fmt: skip
        if prepared.selects:
            row["selected_epoch"] = int(best[i]) + 1
            row["best_validation_loss"] = float(loss[i])
            row["best_validation_metric"] = float(metric[i])
        rows.append(row | more[i])
    write_text(folder / "done.json", json.dumps(rows, indent=1) + "\n")
