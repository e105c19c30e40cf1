"""What the command line does, as functions: run an experiment whole, read its report again, load an experiment file."""

import ast
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from milkit import config
from milkit.errors import ConfigError, MilkitError
from milkit.execute.folder import read_json
from milkit.execute.run import EXPERIMENT_FILE, execute
from milkit.experiment import Experiment, allowed_types
from milkit.report import write_report
from milkit.report.results import write_results


def run(
    experiment: Experiment,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    track: Sequence[str] = (),
    source: str | Path | None = None,
    expected: Mapping[str, str] | None = None,
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

    Returns:
        What `results.json` holds.
    """
    out = Path(out)
    file = None if source is None else Path(source)
    execute(experiment, out, resume=resume, force=force, track=track, source=file, expected=expected)
    return report(out)


def report(out: str | Path) -> dict[str, Any]:
    """Recompute every number of a run folder from its predictions, and write its report again."""
    out = Path(out)
    results = write_results(out)
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
    """

    name: str
    experiment: Experiment
    source: Path | None = None
    expected: Mapping[str, str] = field(default_factory=dict)


def experiments(file: Path) -> dict[str, Experiment]:
    """The experiments of a Python file: `Experiment` values defined at its top level, by name, in order.

    Raises:
        ConfigError: the file is not there, cannot be imported, or holds none.
    """
    module = _import(file)
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
    allowed, source = allowed_types(), None
    if "source" in settings:
        own = _own_classes(file, settings["source"], trust_source)
        source = file.parent / "source" / EXPERIMENT_FILE
        allowed |= own
    experiment = config.from_json(stated, allowed, str(file))
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{file} holds a {type(experiment).__name__}, not an Experiment.")
    train = replace(experiment.train, width=settings.get("width", experiment.train.width))
    expected = {k: settings[k] for k in ("data_digest", "folds_digest") if k in settings}
    name = experiment.name or file.parent.name
    return Stated(name, replace(experiment, train=train), source if source and source.exists() else None, expected)


def _own_classes(file: Path, source: Mapping[str, Any], trusted: bool) -> dict[str, type]:
    """The dataclasses of a run's saved sources, which are imported for that."""
    folder = file.parent / "source"
    if not source["files"]:
        raise ConfigError(
            f"{file} uses the model {source['model']!r}, which was defined where no file could be kept (a notebook); "
            "run the notebook again, or define the model in a file."
        )
    if not trusted:
        raise ConfigError(
            f"{file} uses the model {source['model']!r} of {folder}; replaying it runs the code there. "
            "Read it, then add --trust-source."
        )
    for name, digest in source["files"].items():
        if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ConfigError(f"{folder / name} is not the file that this run used (its digest differs); restore it.")
    found: dict[str, type] = {}
    for name in source["files"]:
        classes = vars(_import(folder / name)).items()
        found |= {n: v for n, v in classes if isinstance(v, type) and is_dataclass(v)}
    return found


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"{file} is not there; give the path of an experiment file, such as experiments/demo.py.")
    name = f"milkit_experiment_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file; experiments are .py files.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(file.resolve().parent))  # so that it can import its neighbours, as a script can
    try:
        spec.loader.exec_module(module)
    except MilkitError:
        raise  # its message names the mistake
    except Exception as error:
        raise ConfigError(
            f"{file} could not be imported{_line_of(error, file)}: {type(error).__name__}: {error}."
        ) from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    return module


def _line_of(error: Exception, file: Path) -> str:
    """` (line 7)`: the last line of the file that the error passed through."""
    if isinstance(error, SyntaxError):
        return f" (line {error.lineno})"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    return f" (line {lines[-1]})" if lines else ""
