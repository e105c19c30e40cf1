"""What the command line does, as functions: run an experiment whole, read its report again, load an experiment file."""

import ast
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from milkit import config
from milkit.errors import ConfigError
from milkit.execute.executors import HERE, Where
from milkit.execute.folder import read_json
from milkit.execute.imports import import_file, own_classes
from milkit.execute.run import execute, execute_part
from milkit.execute.source import EXPERIMENT_FILE
from milkit.execute.times import add_time
from milkit.experiment import Experiment, allowed_types
from milkit.keep.actions import evaluate, finalize, load_model, predict, predict_images
from milkit.keep.imported import import_weights
from milkit.report import write_report
from milkit.report.compare_runs import compare
from milkit.report.results import write_results

__all__ = [
    "Stated",
    "Where",
    "compare",
    "evaluate",
    "experiments",
    "finalize",
    "import_weights",
    "load_model",
    "predict",
    "predict_images",
    "replay",
    "report",
    "run",
    "run_part",
]


def run(
    experiment: Experiment,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    track: Sequence[str] = (),
    source: str | Path | None = None,
    expected: Mapping[str, str] | None = None,
    where: Where = HERE,
) -> dict[str, Any]:
    """Train, select, predict, measure and report one experiment.

    Args:
        experiment: what to run.
        out: run folder to make.
        resume: go on with an interrupted study in `out`.
        force: replace the run in `out`.
        track: further trackers, such as ("wandb",).
        source: the file that defines the experiment (a model class of your own needs it for replays).
        expected: digests of data and folds that must be met (`Stated.expected`).
        where: where programs run, such as `Where("processes", workers=4)`.

    Returns:
        What `results.json` holds.
    """
    out = Path(out)
    file = None if source is None else Path(source)
    execute(experiment, out, resume=resume, force=force, track=track, source=file, expected=expected, where=where)
    began = time.monotonic()
    results = write_results(out)
    add_time(out, "measure", time.monotonic() - began)  # before the page, which shows it
    began = time.monotonic()
    write_report(out)
    add_time(out, "report", time.monotonic() - began)
    return results


def run_part(
    experiment: Experiment,
    out: str | Path,
    programs: str,
    *,
    source: str | Path | None = None,
    expected: Mapping[str, str] | None = None,
    where: Where = HERE,
) -> int:
    """Run some programs of an experiment in a folder that other processes run others of, such as a Slurm array's.

    When all are done, `run(..., resume=True)` makes tables and report.

    Args:
        experiment, out, source, expected, where: as for `run`.
        programs: numbers from 0, such as "3", "0-3" or "0,4,7"; or a share, "2/8".

    Returns:
        How many programs of the whole study are left.
    """
    file = None if source is None else Path(source)
    return execute_part(experiment, Path(out), programs, source=file, expected=expected, where=where)


def report(out: str | Path, *, groups: Sequence[str] | None = None, sensitivity: float | None = None) -> dict[str, Any]:
    """Recompute every number of a run folder from its predictions, and write its report again.

    Args:
        out: the run folder.
        groups: columns of the sub-group table; None takes those with 2 to 8 levels.
        sensitivity: choose thresholds anew, for at least this sensitivity on validation patients (binary tasks).

    Returns:
        What `results.json` holds.
    """
    out = Path(out)
    results = write_results(out, groups=groups, sensitivity=sensitivity)
    write_report(out)
    return results


@dataclass(frozen=True)
class Stated:
    """An experiment as it was found.

    Attributes:
        name: of the variable in its file, or of the run it repeats; its run folder is called so by default.
        experiment: what to run.
        source: the file that defines it, if it is needed or known.
        expected: digests that data and folds must have for the same bits.
        folder: the run folder that it was read from, if it was run before.
    """

    name: str
    experiment: Experiment
    source: Path | None = None
    expected: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


def experiments(file: Path) -> dict[str, Experiment]:
    """The experiments of a Python file: `Experiment` values defined at its top level, by name, in order.

    Raises:
        ConfigError: the file is not there, cannot be imported, or holds none.
    """
    module = import_file(file)
    imported = {
        a.asname or a.name for n in ast.parse(file.read_text()).body if isinstance(n, ast.ImportFrom) for a in n.names
    }
    found = {
        n: v for n, v in vars(module).items()
        if isinstance(v, Experiment) and not n.startswith("_") and n not in imported
    }  # fmt: skip
    if not found:
        raise ConfigError(f"{file} holds no experiment; define one at module level: `my_study = Experiment(...)`.")
    return {n: v if v.name else replace(v, name=n) for n, v in found.items()}


def replay(file: Path, *, trust_source: bool = False) -> Stated:
    """The experiment of a run's `config.json`, to be run again.

    Args:
        file: a run folder's `config.json`.
        trust_source: import the saved source of a model that is not milkit's own, which runs its code.

    Returns:
        The experiment with the width it was run at, its source file if it needs one, and what its data were.

    Raises:
        ConfigError: the file names something unknown, or needs a source that was not trusted or has changed.
    """
    settings = read_json(file)
    if not isinstance(settings, dict) or "experiment" not in settings:
        raise ConfigError(f"{file} holds no experiment; give a run folder's config.json or an experiment .py file.")
    stated = settings["experiment"]
    if stated.get("data", {}).get("type") == "InMemory":
        raise ConfigError(
            f"{file}: this study ran on bags held in memory, which its folder does not keep; run its script again, or "
            "write the bags to a store with milkit.data.store.write_store first."
        )
    allowed, source = allowed_types(), file.parent / "source" / EXPERIMENT_FILE
    if "model" in settings.get("source", {}):
        allowed |= own_classes(file, settings["source"], trust_source)
    experiment = config.from_json(stated, allowed, str(file))
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{file} holds a {type(experiment).__name__}, not an Experiment.")
    own = experiment.train
    train = replace(own, width=settings.get("width", own.width), memory=settings.get("memory", own.memory))
    expected = {k: settings[k] for k in ("data_digest", "folds_digest", "weights_digest") if k in settings}
    name = experiment.name or file.parent.name
    kept = source if source.is_file() else None
    return Stated(name, replace(experiment, train=train), kept, expected, file.parent)
