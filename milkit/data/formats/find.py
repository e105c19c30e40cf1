"""The feature files under some paths: which there are, and which tool wrote them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from milkit.data.agree import check_agree
from milkit.data.formats.header import Header, opened
from milkit.data.formats.kind import kind_of
from milkit.data.formats.known import BY_NAME, LAYOUTS, tools
from milkit.data.formats.layout import Layout
from milkit.data.formats.not_features import not_features
from milkit.data.store_write import FORMAT
from milkit.data.where import and_more
from milkit.errors import DataError

STORE = "milkit store"
MOST = 5
"""Files that a message names."""
PREFERRED = ("hdf5", "pt", "npy", "csv", "svm")
"""Of several kinds in one folder the first is read: tools write the same features twice (CLAM's h5 and pt)."""


@dataclass(frozen=True)
class Found:
    """The feature files under some paths.

    Attributes:
        layout: name of their layout, or `STORE`.
        files: all of them, in the order of the paths, each folder by name.
        headers: one a slide; () for stores.
        folders: the paths as the user wrote them.
        notes: what was passed over.
    """

    layout: str
    files: tuple[Path, ...]
    headers: tuple[Header, ...]
    folders: tuple[str, ...]
    notes: tuple[str, ...]


def find(paths: Sequence[Path]) -> Found:
    """Look at every file under some paths: its header only, never a feature matrix.

    Raises:
        DataError: a path without feature files; files of other or of several tools; half-written ones. Names the files.
    """
    seen: list[tuple[Path, str, tuple[Header, ...]]] = []
    notes: list[str] = []
    wrong: list[str] = []
    for path in paths:
        path = path.expanduser()
        whole = _whole_folder(path)
        if whole is not None:
            seen.append((path, whole.name, whole.headers(path, None)))
            continue
        files, passed = _files(path)
        for file in files:
            try:
                seen.append((file, *_looked_at(file)))
            except DataError as error:
                wrong.append(str(error))
        if passed:
            notes.append(f"not read in {path}: {and_more(passed[:MOST], len(passed))}")
    if wrong:
        raise DataError("\n".join(wrong[:MOST] + ([f"... and {len(wrong) - MOST} more"] if len(wrong) > MOST else [])))
    named = [(str(file), layout) for file, layout, _ in seen]
    layout = check_agree("layout", named, "give files of one tool, or write them all into one store (milkit pack).")
    return Found(
        layout=layout,
        files=tuple(file for file, _, _ in seen),
        headers=tuple(header for _, _, headers in seen for header in headers),
        folders=tuple(str(p) for p in paths),
        notes=tuple(notes),
    )


def _looked_at(path: Path) -> tuple[str, tuple[Header, ...]]:
    """Layout and slides of one file."""
    kind = kind_of(path)
    if kind == "pickle":
        raise DataError(
            f"{path} is a pickle, which runs whatever code is in it when it is read, so milkit does not. Save its "
            "arrays with numpy.save, one file a slide, or write a store from them (docs/data.md)."
        )
    if kind == "hdf5":
        with opened(path) as file:
            if file.attrs.get("format") == FORMAT:
                return STORE, ()
            return _claimed(path, kind, file)
    return _claimed(path, kind, None)


def _claimed(path: Path, kind: str, content: Any) -> tuple[str, tuple[Header, ...]]:
    for layout in LAYOUTS:
        if layout.container == kind and layout.claims(path, content):
            return layout.name, layout.headers(path, content)
    raise DataError(f"{path}: {_strange(content, kind)}. {_known()}")


def layout_of(path: Path, file: h5py.File) -> Layout | None:
    """The layout of an open HDF5 file, None where no tool's that is read."""
    return next((la for la in LAYOUTS if la.container == "hdf5" and la.claims(path, file)), None)


def _known() -> str:
    return (
        f"milkit reads its own stores and files of {tools()}; anything else can be written into a store (docs/data.md)."
    )


def _strange(file: h5py.File | None, kind: str) -> str:
    """What a file looks like that no layout claims."""
    if file is None:
        return f"it is {f'of kind {kind}' if kind else 'no kind of file'} that holds no features milkit knows"
    other = not_features(file)
    if other is not None:
        return other.words
    held = sorted(file)
    if "features" in file:
        attributes = sorted({name for data in held for name in file[data].attrs})[:6]
        return f"it holds {held[:6]} with attributes {attributes}, which no tool that milkit knows writes"
    return f"it holds {held[:6]}, which {'is no layout' if held else 'nothing'} that milkit knows"


def _whole_folder(path: Path) -> Layout | None:
    """The layout that reads a folder as a whole, if one does."""
    if not path.is_dir():
        return None
    return next((la for la in LAYOUTS if la.container == "folder" and la.claims(path, None)), None)


def _files(path: Path) -> tuple[list[Path], list[str]]:
    """The feature files of a path, by name, and the names of what else lies there."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise DataError(f"No feature file or folder at {path}; the folder is {Path.cwd()}.")
    # names that begin with a dot are the system's: copies to network drives leave ._slide.h5 beside slide.h5
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    kinds = {entry: kind_of(entry) for entry in inside if entry.is_file()}
    for kind in PREFERRED:
        files = [entry for entry, its in kinds.items() if its == kind and _may_be(kind, entry)]
        if files:
            taken = set(files)
            return files, [entry.name for entry in inside if entry not in taken]
    for name in ("h5_files", "pt_files"):
        if (path / name).is_dir():
            return _files(path / name)
    raise DataError(_no_files(path, inside, kinds))


def _may_be(kind: str, path: Path) -> bool:
    """A folder often holds tables beside features, so of text files only those count that a layout claims."""
    return kind not in ("csv", "svm") or any(la.container == kind and la.claims(path, None) for la in LAYOUTS)


def _no_files(path: Path, inside: Sequence[Path], kinds: dict[Path, str]) -> str:
    """What a folder without feature files is, and which one to give."""
    if pickles := [entry.name for entry, kind in kinds.items() if kind == "pickle"]:
        return (
            f"{path} holds pickles ({and_more(pickles[:3], len(pickles))}), which run whatever code is in them when "
            "they are read, so milkit does not. Save their arrays with numpy.save, one file a slide (docs/data.md)."
        )
    folders = sorted(entry for entry in (*path.glob("features_*"), *path.glob("*/features_*")) if entry.is_dir())
    if folders:
        named = and_more([str(folder) for folder in folders[:MOST]], len(folders))
        return f"{path} holds folders of features, of one tiling and encoder each; give one of them: {named}."
    held = and_more([entry.name for entry in inside[:MOST]], len(inside)) or "nothing"
    give = "give the folder with one feature file a slide, several such folders, or a store."
    return f"{path} holds no feature file that milkit reads (it holds {held}); {give}"


def layout_named(name: str) -> Layout:
    """A layout by its name."""
    return BY_NAME[name]
