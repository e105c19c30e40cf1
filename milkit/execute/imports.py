"""Importing the file of an experiment, and the model of a run from the sources that were kept."""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

from milkit.errors import ConfigError, MilkitError
from milkit.execute.source import EXPERIMENT_FILE, INSTALLED, digest, neighbours


def own_classes(config: Path, source: Mapping[str, object], trusted: bool) -> dict[str, type]:
    """The dataclasses of a run's kept sources, which are imported for that.

    Args:
        config: the run's `config.json`, for messages and as the place of `source/`.
        source: what `source_json` said.
        trusted: whether the user allows that code to run.

    Raises:
        ConfigError: it is not trusted, has changed, is absent, or cannot be imported.
    """
    folder, files = config.resolve().parent / "source", source["files"]
    assert isinstance(files, Mapping)
    if not files:
        raise ConfigError(
            f"{config} uses the model {source['model']!r}, which was defined where no file could be kept (a notebook); "
            "run the notebook again, or define the model in a file."
        )
    if not trusted:
        raise ConfigError(
            f"{config} uses the model {source['model']!r} of {folder}; replaying it runs the code there. "
            "Read it, then add --trust-source."
        )
    for name, expected in files.items():
        if not (folder / name).is_file() or digest(folder / name) != expected:
            raise ConfigError(f"{folder / name} is not the file that this run used (its digest differs); restore it.")
    start = EXPERIMENT_FILE if EXPERIMENT_FILE in files else next(iter(files))
    defining = folder / str(source.get("file") or start)
    modules = [import_file(folder / start)]
    modules += [m for m in list(sys.modules.values()) if _file_within(m, folder)]
    if all(_file_within(m, defining) is False for m in modules):
        modules.append(import_file(defining))
    modules.sort(key=lambda m: _file_within(m, defining))  # the model's own file has the last word
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and is_dataclass(value) and not value.__module__.startswith("milkit.")
    }


def _file_within(module: object, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).resolve().is_relative_to(path)


def import_file(file: Path) -> ModuleType:
    """Import a Python file by its path; it can import its neighbours, as a script can.

    Raises:
        ConfigError: it is not there, is no Python file, or raises; names the line.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is not there; give the path of a Python file that states experiments.")
    name = f"milkit_experiment_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file; experiments are .py files.")
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    _forget_others(Path(folder), neighbours(file))
    importlib.invalidate_caches()
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, folder)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a run folder holds what was run, nothing else
    try:
        spec.loader.exec_module(module)
    except MilkitError:
        raise  # its message names the mistake
    except SystemExit as error:
        raise ConfigError(
            f"{file} ends the program when it is imported; put what it does beneath `if __name__ == '__main__':`."
        ) from error
    except Exception as error:
        raise ConfigError(
            f"{file} could not be imported{_line_of(error, file)}: {type(error).__name__}: {error}."
        ) from error
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(folder)
    return module


def _forget_others(folder: Path, files: Mapping[str, Path]) -> None:
    """Drop modules of the neighbours' names that came from another folder, which would be taken for them."""
    for relative in files:
        parts = relative.removesuffix(".py").split("/")
        for i in range(1, len(parts) + 1):
            name = ".".join(parts[:i])
            module = sys.modules.get(name)
            places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
            place = next((p for p in places if p), None)
            if place is None or parts[0] in sys.stdlib_module_names or any(part in place for part in INSTALLED):
                continue
            if not Path(place).resolve().is_relative_to(folder):
                del sys.modules[name]


def _line_of(error: Exception, file: Path) -> str:
    """` (line 7)`: the last line of the file that the error passed through; another file's line with its name."""
    if isinstance(error, SyntaxError):
        other = f"{error.filename}, " if error.filename and Path(error.filename).resolve() != file.resolve() else ""
        return f" ({other}line {error.lineno})"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    return f" (line {lines[-1]})" if lines else ""
