"""The Python files behind an experiment, which are kept beside its results."""

import ast
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType

import milkit
from milkit.errors import ConfigError

EXPERIMENT_FILE = "experiment.py"
INSTALLED = ("site-packages", "dist-packages")


def neighbours(file: Path) -> dict[str, Path]:
    """What a Python file imports, directly or through others, from its own folder and the folders in it.

    Read from the source, so that imports inside functions count too. Installed packages and milkit itself do not.

    Returns:
        Files by their path from that folder, such as `helpers/deep.py`; the file itself only if another imports it.
    """
    folder = file.resolve().parent
    found: dict[str, Path] = {}
    queue = [file.resolve()]
    while queue:
        for path in _imported(queue.pop(), folder):
            if path not in found.values() and _is_own(path, folder):
                found[path.relative_to(folder).as_posix()] = path
                queue.append(path)
    return dict(sorted(found.items()))


def _imported(file: Path, folder: Path) -> Iterator[Path]:
    """Files that the import statements of a file may name; `folder` is where its absolute imports are looked up."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # it could not be imported either
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(folder, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if node.level else folder
            package = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _modules(base, [*package, alias.name])


def _modules(folder: Path, names: list[str]) -> Iterator[Path]:
    """The files that importing `a.b.c` runs: those of a, a.b and a.b.c, as far as there are any."""
    for i in range(1, len(names) + 1):
        path = folder.joinpath(*names[:i])
        yield from (p for p in (path / "__init__.py", path.with_name(path.name + ".py")) if p.is_file())


def _is_own(path: Path, folder: Path) -> bool:
    installed = any(part in INSTALLED for part in path.parts)
    return path.is_relative_to(folder) and not installed and not path.is_relative_to(Path(milkit.__file__).parent)


def kept_files(model: object, source: Path | None) -> dict[str, Path]:
    """The files that a repetition needs, by their names in `source/`.

    The experiment's file and that of a model which is not milkit's own, each with what it imports from its folder.

    Raises:
        ConfigError: two of them would take one name.
    """
    files: dict[str, Path] = {}
    if source is not None:
        files = {EXPERIMENT_FILE: source.resolve()} | neighbours(source)
        if files[EXPERIMENT_FILE] != source.resolve():
            raise ConfigError(
                f"{source} imports its neighbour {EXPERIMENT_FILE}, whose name the run folder needs for {source.name} "
                "itself; rename the neighbour."
            )
    own = file_of(model)
    if own is not None and own not in files.values():
        for name, path in ({own.name: own} | neighbours(own)).items():
            if files.setdefault(name, path) != path:
                raise ConfigError(f"{files[name]} and {path} would both be kept as source/{name}; rename one of them.")
    return files


def file_of(model: object) -> Path | None:
    """The file that defines a model's class; None for milkit's own and where there is no file (a notebook)."""
    cls = type(model)
    if cls.__module__.startswith("milkit."):
        return None
    # the code knows its file for certain; a module's name may by now stand for another folder's module
    codes = [value.__code__.co_filename for value in vars(cls).values() if isinstance(value, FunctionType)]
    for name in [*codes, _module_file(cls)]:
        if name and Path(name).is_file():
            return Path(name).resolve()
    return None


def _module_file(cls: type) -> str:
    try:
        return inspect.getfile(cls)
    except (OSError, TypeError):
        return ""


def source_json(model: object, files: Mapping[str, Path]) -> dict[str, object]:
    """What `config.json` says of the kept files: their digests and, of a model of one's own, its name and file."""
    said: dict[str, object] = {"files": {name: digest(path) for name, path in files.items()}}
    if not type(model).__module__.startswith("milkit."):
        said["model"] = type(model).__name__
        said["file"] = next((name for name, path in files.items() if path == file_of(model)), None)
    return said


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
