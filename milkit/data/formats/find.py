"""The feature files under some paths: which there are, and which tool wrote them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from milkit.data.agree import check_agree
from milkit.data.formats import stamp
from milkit.data.formats.header import Header, opened
from milkit.data.formats.kind import kind_of
from milkit.data.formats.known import BY_NAME, LAYOUTS, tools
from milkit.data.formats.layout import Layout
from milkit.data.formats.not_features import not_features
from milkit.data.formats.pt_file import NoTorchError
from milkit.data.store_write import FORMAT
from milkit.data.where import and_more, did_you_mean
from milkit.errors import DataError

STORE = "milkit store"
MOST = 5
"""Files that a message names."""
PREFERRED = ("hdf5", "pt", "npy", "npz", "csv", "svm")
"""Of several kinds in one folder the first is read: tools write the same features twice (CLAM's h5 and pt)."""
NO_PICKLE = (
    "a program as much as data: reading it may run any code that is in it, so milkit does not (DTFD-MIL's mDATA_*.pkl "
    "are such files). If you trust who made it, three lines turn it into one .npy a slide: docs/formats.md, Pickles."
)


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


def find(paths: Sequence[Path], layout: str = "") -> Found:
    """Look at every file under some paths: its header only, never a feature matrix.

    Args:
        paths: files and folders.
        layout: name of the layout, where the files do not tell it themselves.

    Raises:
        DataError: a path without feature files; files of other or of several tools; half-written ones. Names the files.
    """
    if layout and layout not in BY_NAME:
        raise DataError(f"layout={layout!r} is not known.{did_you_mean(layout, BY_NAME)} Known: {', '.join(BY_NAME)}.")
    seen: list[tuple[Path, str, tuple[Header, ...]]] = []
    notes: list[str] = []
    wrong: list[str] = []
    for path in paths:
        path = path.expanduser()
        whole = _whole_folder(path, layout)
        if whole is not None:
            seen.append((path, whole.name, _headers(whole, layout)(path, None)))
            continue
        files, passed = _files(path)
        for file in files:
            try:
                seen.append((file, *_looked_at(file, layout)))
            except NoTorchError:
                raise
            except DataError as error:
                wrong.append(str(error))
        if passed:
            notes.append(f"not read in {path}: {and_more(passed[:MOST], len(passed))}")
    if wrong:
        raise DataError("\n".join(wrong[:MOST] + ([f"... and {len(wrong) - MOST} more"] if len(wrong) > MOST else [])))
    named = [(str(file), name) for file, name, _ in seen]
    return Found(
        layout=check_agree("layout", named, "give files of one tool, or write them all into one store (milkit pack)."),
        files=tuple(file for file, _, _ in seen),
        headers=tuple(header for _, _, headers in seen for header in headers),
        folders=tuple(str(p) for p in paths),
        notes=tuple(notes),
    )


def _looked_at(path: Path, told: str) -> tuple[str, tuple[Header, ...]]:
    """Layout and slides of one file."""
    kind = kind_of(path)
    if kind == "pickle":
        raise DataError(f"{path} is a pickle, {NO_PICKLE}")
    if kind == "hdf5":
        with opened(path) as file:
            if file.attrs.get("format") == FORMAT:
                return STORE, ()
            return _claimed(path, kind, file, told)
    return _claimed(path, kind, None, told)


def _claimed(path: Path, kind: str, content: Any, told: str) -> tuple[str, tuple[Header, ...]]:
    for layout in LAYOUTS:
        if layout.container == kind and (layout.name == told if told else layout.claims(path, content)):
            return layout.name, _headers(layout, told)(path, content)
    if told:
        raise DataError(f"{path} is no file of layout={told!r} (it is of kind {kind or 'unknown'}); leave that out.")
    raise DataError(f"{path}: {_strange(content, kind)}. {_known()}")


def _headers(layout: Layout, told: str) -> Callable[[Path, Any], tuple[Header, ...]]:
    """How a layout's slides are looked at, also where only the user knows that it is this layout."""
    return layout.told if told and layout.told is not None else layout.headers


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
    if not held:
        return "it is an HDF5 file that holds nothing"
    first = file.get(held[0])
    inside = f", the first of them {sorted(first)[:6]}" if isinstance(first, h5py.Group) else ""
    return f"it holds {held[:6]}{inside}, which is no layout that milkit knows"


def _whole_folder(path: Path, told: str) -> Layout | None:
    """The layout that reads a folder as a whole, if one does."""
    if not path.is_dir():
        return None
    known = (la for la in LAYOUTS if la.container == "folder" and told in ("", la.name))
    return next((la for la in known if la.claims(path, None)), None)


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
    for name in ("h5_files", "pt_files", "features/h5_files", "features/pt_files"):
        if (path / name).is_dir():
            return _files(path / name)
    if len(folders := _features_folders(path)) == 1:  # a TRIDENT job with one tiling and one encoder
        return _files(folders[0])
    if below := _below(path):
        return below, []
    raise DataError(_no_files(path, inside, kinds))


def _below(path: Path) -> list[Path]:
    """The files of folders in a folder, where they are STAMP's: it keeps the folders in which the scans lay."""
    files = sorted(file for level in ("*/*.h5", "*/*/*.h5") for file in path.glob(level) if file.name[0] != ".")
    if not files or kind_of(files[0]) != "hdf5":
        return []
    with opened(files[0]) as file:
        return files if stamp.LAYOUT.claims(files[0], file) else []


def _features_folders(path: Path) -> list[Path]:
    """TRIDENT's folders of features in a job, or in one of its tilings."""
    return sorted(entry for entry in (*path.glob("features_*"), *path.glob("*/features_*")) if entry.is_dir())


def _may_be(kind: str, path: Path) -> bool:
    """A folder often holds tables beside features, so of text files only those count that a layout claims."""
    return kind not in ("csv", "svm") or any(la.container == kind and la.claims(path, None) for la in LAYOUTS)


def _no_files(path: Path, inside: Sequence[Path], kinds: dict[Path, str]) -> str:
    """What a folder without feature files is, and which one to give."""
    if pickles := [entry.name for entry, kind in kinds.items() if kind == "pickle"]:
        return f"{path} holds pickles ({and_more(pickles[:3], len(pickles))}), {NO_PICKLE}"
    if folders := _features_folders(path):
        named = and_more([str(folder) for folder in folders[:MOST]], len(folders))
        return f"{path} holds folders of features, of one tiling and encoder each; give one of them: {named}."
    held = and_more([entry.name for entry in inside[:MOST]], len(inside)) or "nothing"
    give = "give the folder with one feature file a slide, several such folders, or a store."
    return f"{path} holds no feature file that milkit reads (it holds {held}); {give}"


def layout_named(name: str) -> Layout:
    """A layout by its name."""
    return BY_NAME[name]
