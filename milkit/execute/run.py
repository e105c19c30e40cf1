"""Run a whole experiment into a run folder, or take up an interrupted one."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milkit import config
from milkit.errors import ConfigError, RunFolderError
from milkit.execute import assemble as tables
from milkit.execute.digest import data_digest, weights_digest
from milkit.execute.environment import decides_bits, environment
from milkit.execute.executors import HERE, IN_WORKER, Executor, Where, Work, executor
from milkit.execute.folder import beginning, locked, open_folder, read_json, sweep, write_bytes, write_json, write_text
from milkit.execute.interrupt import Wish, interruptible
from milkit.execute.precision import mark_of
from milkit.execute.prepare import Prepared, prepare
from milkit.execute.program import is_done
from milkit.execute.search import search_through
from milkit.execute.source import kept_files, source_json
from milkit.execute.subset import chosen
from milkit.execute.survival import survival_json
from milkit.execute.threads import same_pool
from milkit.execute.times import times
from milkit.execute.width import device_limit, fitted, remembered
from milkit.experiment import Experiment
from milkit.task import Survival
from milkit.track import Tracker, WandbTracker, tracking
from milkit.watch.device import take_import
from milkit.watch.live import Live

FORMAT = 1


def execute(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = False,
    force: bool = False,
    track: Sequence[str] = (),
    source: Path | None = None,
    expected: Mapping[str, str] | None = None,
    where: Where = HERE,
) -> Prepared:
    """Train and predict every run of an experiment; leaves tables, weights and predictions, no report yet.

    Args:
        experiment: what to run.
        out: the run folder.
        resume: go on with an interrupted study in it.
        force: replace the run that is in it.
        track: more places to follow the study: "wandb".
        source: file that defines the experiment; kept beside the results, and needed for a model of one's own.
        expected: digests that data and folds must have (a replay's), by their names in `config.json`.
        where: where programs run: in this process, in several, or on a Ray cluster.

    Raises:
        MilkitError: anything the user can mend. What had finished stays readable, and `resume` goes on from there.
        Interrupted: Ctrl-C or SIGTERM; likewise.
    """
    began = time.monotonic()
    _not_in_worker()
    with interruptible() as stop, executor(where) as runner:
        _same_pool(out, resume)
        prepared = prepare(remembered(experiment, out) if resume else experiment)
        stop.check()
        prepared = fitted(prepared, device_limit())
        preparing = time.monotonic() - began
        stop.check()
        files = kept_files(experiment.model, source)
        settings = _settings(prepared, files)
        _same_data(settings, expected or {})
        with locked(out):
            env = environment()
            before = _begin(out, prepared, settings, files, env, resume=resume, force=force)
            sweep(out)
            try:
                if experiment.search is not None:

                    def train(study: Prepared, programs: Sequence[int]) -> None:
                        trains = not study.of(programs[0]).tests  # the chosen runs are predicted only
                        _run_programs(study, out, runner, programs, track if trains else (), stop, None)

                    prepared = search_through(prepared, out, train)
                else:
                    _run_programs(prepared, out, runner, range(prepared.programs), track, stop, tables.Readable(out))
            finally:
                # whatever ended the study, what is finished becomes readable
                tables.assemble(out, prepared.programs)
                env["seconds"] = round(before + time.monotonic() - began, 1)
                env["times"] = times(out, take_import(), preparing)
                write_json(out / "environment.json", env)
            tables.attention_json(prepared, out)
        stop.check()
    return prepared


def execute_part(
    experiment: Experiment,
    out: Path,
    programs: str,
    *,
    source: Path | None = None,
    expected: Mapping[str, str] | None = None,
    where: Where = HERE,
) -> int:
    """Run some programs of a study whose folder other processes, also on other machines, may be running others of.

    The folder is made if it is not there. Its tables and report are left to a last `execute(..., resume=True)`.

    Args:
        experiment, out, source, expected, where: as for `execute`.
        programs: which, as `milkit.execute.subset.chosen` reads it.

    Returns:
        How many programs of the whole study are not finished yet.

    Raises:
        MilkitError, Interrupted: as `execute`.
    """
    _not_in_worker()
    with interruptible() as stop, executor(where) as runner, locked(out, shared=True):
        _same_pool(out, resume=True)
        if experiment.search is not None:
            raise ConfigError(
                "A search decides what to run next by what has finished, so its programs cannot be shared out by "
                "number; use --executor processes, or --executor ray for several machines."
            )
        prepared = fitted(prepare(remembered(experiment, out)), device_limit())
        stop.check()
        numbers = chosen(programs, prepared.programs)
        files = kept_files(experiment.model, source)
        settings = _settings(prepared, files)
        _same_data(settings, expected or {})
        with beginning(out):
            _begin(out, prepared, settings, files, environment(), resume=True, force=False)
        _run_programs(prepared, out, runner, numbers, (), stop, None)
        stop.check()
    return sum(not is_done(out, program) for program in range(prepared.programs))


def _not_in_worker() -> None:
    if IN_WORKER in os.environ:
        raise ConfigError(
            "A worker imports the experiment's file, which starts a study; put what it does beneath "
            "`if __name__ == '__main__':`."
        )


def _same_pool(out: Path, resume: bool) -> None:
    """Compute with as many threads as the study began with, which decides the last bits."""
    if resume and (out / "environment.json").exists():
        same_pool(read_json(out / "environment.json"))


def _begin(
    out: Path, prepared: Prepared, settings: dict[str, Any], files: Mapping[str, Path], env: dict[str, Any],
    *, resume: bool, force: bool,
) -> float:  # fmt: skip
    """Make the run folder, or take it up; returns the seconds that were spent on it before."""
    texts = {name: path.read_bytes() for name, path in files.items()}  # they may lie in the folder that is replaced
    if open_folder(out, settings, resume=resume, force=force):
        _same_environment(out, env)
        return float(read_json(out / "environment.json").get("seconds", 0.0))
    write_json(out / "environment.json", env)
    write_json(out / "cohort.json", tables.cohort_json(prepared))
    write_text(out / "columns.csv", tables.columns_csv(prepared.study))
    prepared.plan.save(out / "folds.csv", prepared.study)
    if prepared.few:
        (out / tables.FEW_LABELS).mkdir(exist_ok=True)
        write_text(out / tables.FEW_LABELS / "folds.csv", tables.few_labels_csv(prepared))
    if isinstance(prepared.experiment.task, Survival):
        write_json(out / "survival.json", survival_json(prepared, prepared.experiment.task))
    for name, text in texts.items():
        (out / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out / "source" / name, text)
    write_json(out / "config.json", settings)  # last: it says that the folder can be resumed
    return 0.0


def _run_programs(
    prepared: Prepared, out: Path, runner: Executor, programs: Sequence[int], track: Sequence[str], stop: Wish,
    readable: tables.Readable | None,
) -> None:  # fmt: skip
    experiment = prepared.experiment
    name = experiment.name or "experiment"
    trackers: list[Tracker] = []
    if "wandb" in track:
        trackers.append(WandbTracker(out, name, config.to_json(experiment)))

    def finished(program: int) -> None:
        if readable is not None:
            readable.after(prepared.programs)

    with tracking(trackers), Live(out, name, prepared.programs, len(prepared.runs), experiment.train.epochs):
        runner.run(Work(prepared, out, trackers, finished=finished, stop=stop), programs)


def _settings(prepared: Prepared, files: Mapping[str, Path]) -> dict[str, Any]:
    experiment = prepared.experiment
    settings: dict[str, Any] = {
        "format": FORMAT,
        "experiment": config.to_json(experiment),
        "width": prepared.width,
        "memory": prepared.memory,
        **({"instances_at_once": at_once} if (at_once := prepared.engine.setup.train.instances_at_once) else {}),
        "unit": experiment.unit,
        "aggregate": experiment.aggregate,
        "grouped_by": prepared.plan.grouped_by,
        "marks": [*prepared.plan.marks, *mark_of(prepared.experiment.train.precision)],
        "folds_digest": prepared.plan.digest(),
        "data_digest": data_digest(prepared.study),
        **weights_digest(experiment.model),
        "runs": sum(not run.labels for run in prepared.runs),
        **(_few_label_settings(prepared) if prepared.few else {}),
        **({"measured": "slide"} if prepared.measured == "slide" else {}),
    }
    stated = json.dumps(settings, sort_keys=True).encode()
    settings["digest"] = hashlib.sha256(stated).hexdigest()
    settings["source"] = source_json(experiment.model, files)
    return settings


def _few_label_settings(prepared: Prepared) -> dict[str, Any]:
    text = tables.few_labels_csv(prepared).encode()
    runs = sum(run.labels > 0 for run in prepared.runs)
    return {"few_label_runs": runs, "few_labels_digest": hashlib.sha256(text).hexdigest()}


def _same_data(settings: Mapping[str, Any], expected: Mapping[str, str]) -> None:
    changed = [name for name, digest in expected.items() if settings.get(name) != digest]
    if changed:
        words = {"data_digest": "the table or the features", "weights_digest": "the weights that the model starts from"}
        what = words.get(changed[0], "the folds")
        raise RunFolderError(
            f"This run cannot be repeated: {what} changed since it was made ({', '.join(changed)} differs from its "
            "config.json). Restore the files, or run the experiment file anew."
        )


def _same_environment(out: Path, now: dict[str, Any]) -> None:
    before = decides_bits(read_json(out / "environment.json"))
    if before["threads"] is None:  # a folder of an earlier version
        before["threads"] = now["threads"]
    differing = [f"{k} {before[k]!r} then, {v!r} now" for k, v in decides_bits(now).items() if before[k] != v]
    if differing:
        raise RunFolderError(
            f"{out} was started in another environment ({'; '.join(differing)}), where the same seed gives other bits; "
            "resume it there, or start anew with --force."
        )
