"""Bags in MATLAB's files: plain variables, structs, cells, and datasets of PRTools' MIL toolbox."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milkit.data.datasets.assemble import LabelledBags, of_rows, plain
from milkit.data.datasets.mat5 import Fields, Unread, read_mat5
from milkit.data.formats.header import opened
from milkit.data.formats.jld import target
from milkit.errors import DataError

DATA = ("data", "features", "x", "instances")
BAGS = ("bag_ids", "bagids", "bagid", "bag_id", "xtb", "milbag", "bags", "bag")
LABELS = ("labels", "label", "y", "yb", "bag_labels", "baglabels", "l", "nlab")
CELLS = ("bags", "data", "x", "d", "instances")
_HOW = (
    "In MATLAB: data = [instances x features], bag_ids = [instances x 1], labels = [instances x 1] or one a bag; "
    "save('bags.mat', 'data', 'bag_ids', 'labels')."
)


def read_mat(path: Path) -> LabelledBags:
    """Bags of a MATLAB file of level 5 (`-v6`, `-v7`) or 7.3.

    Understood are: `data` [N, d] with `bag_ids` [N] and `labels` [N] or [bags]; the same inside one struct; a cell
    array of matrices, one a bag, with `labels`; and a PRTools dataset of the MIL toolbox (`data`, `nlab`, `lablist`,
    `ident.milbag`). Names are found whatever their case; see `DATA`, `BAGS` and `LABELS`.

    Raises:
        DataError: it is none of these; says what it holds, and how to save it.
    """
    with path.open("rb") as file:
        level5 = not file.read(16).startswith(b"MATLAB 7.3 MAT-f")
    variables = read_mat5(path) if level5 else read_mat73(path)
    for values, of_class in _places(variables):
        found = _bags_in(path, values, of_class)
        if found is not None:
            return found
    opaque = [name for name, value in variables.items() if isinstance(value, Unread)]
    why = f"{opaque[0]!r} is {variables[opaque[0]].what}, which is not read" if opaque else "none is known by its name"
    raise DataError(f"{path} holds {sorted(variables)[:8]}, but no bags that milkit finds: {why}. {_HOW}")


def read_mat73(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB 7.3 file (HDF5), as `read_mat5` gives them; matrices are transposed there."""
    with opened(path) as file:
        names = [name for name in file if not name.startswith("#") and _own(file, name)]
        return {name: _value(path, file, file.get(name), 0) for name in names}


def _own(group: h5py.Group, name: str) -> bool:
    """Whether a name does not lead elsewhere."""
    return isinstance(group.get(name, getlink=True), h5py.HardLink)


def _value(path: Path, file: h5py.File, found: Any, depth: int) -> Any:
    if depth > 8:
        return Unread("cells and structs too deep inside one another")
    of_class = found.attrs.get("MATLAB_class", b"") if found is not None else b""
    of_class = of_class.decode() if isinstance(of_class, bytes) else str(of_class)
    if isinstance(found, h5py.Group):
        if "MATLAB_sparse" in found.attrs:
            return Unread("a sparse matrix of a 7.3 file: save it as full(...)")
        return Fields({k: _value(path, file, found.get(k), depth + 1) for k in found if _own(found, k)}, of_class)
    if not isinstance(found, h5py.Dataset) or "MATLAB_object_decode" in found.attrs:
        return Unread("an object of MATLAB")
    values = found[()]
    if h5py.check_ref_dtype(found.dtype) is h5py.Reference:
        cells = np.asarray(values).T.ravel(order="F")
        return [_value(path, file, target(path, file, cell, f"a cell of {found.name}"), depth + 1) for cell in cells]
    if found.attrs.get("MATLAB_empty", 0) or values.dtype.kind not in "fiub":
        return np.zeros((0, 0))
    if of_class == "char":
        return ["".join(chr(int(code)) for code in row).rstrip() for row in np.atleast_2d(values.T)]
    return np.asarray(values).T


def _places(variables: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The variables, and the fields of each struct among them, by lower-case name."""
    places = [({name.lower(): value for name, value in variables.items()}, "")]
    for value in variables.values():
        if isinstance(value, Fields):
            places.append(({name.lower(): its for name, its in value.values.items()}, value.of_class))
    return places


def _bags_in(path: Path, values: dict[str, Any], of_class: str) -> LabelledBags | None:
    ident = values.get("ident")
    if isinstance(ident, Fields):  # PRTools
        values = {**values, **{name.lower(): its for name, its in ident.values.items()}}
    labels = _first(values, LABELS, _is_vector)
    cells = _first(values, CELLS, lambda value: isinstance(value, list) and all(map(_is_matrix, value)))
    if cells and labels is not None:
        return _of_cells(path, cells, labels)
    data, bags = _first(values, DATA, _is_matrix), _first(values, BAGS, _is_vector)
    if data is None or bags is None or labels is None:
        return None
    bags, labels = bags.ravel(), labels.ravel()
    notes = []
    if len(data) != len(bags) and data.shape[1] == len(bags):
        data = data.T
        notes.append(f"{path.name}: instances are columns; transposed")
    names = [plain(value) for value in bags.tolist()]
    said = _named(labels, values.get("lablist")) if "nlab" in values else [plain(v) for v in labels.tolist()]
    if len(said) != len(names):
        order = {name: i for i, name in enumerate(plain(value) for value in np.unique(bags).tolist())}
        if len(said) != len(order):
            raise DataError(
                f"{path}: {len(said)} labels for {len(names)} instances of {len(order)} bags; expected one an instance "
                f"or one a bag. {_HOW}"
            )
        said = [said[order[name]] for name in names]
    return of_rows(path, data, names, said, notes)


def _of_cells(path: Path, cells: Sequence[np.ndarray], labels: np.ndarray) -> LabelledBags:
    said = [plain(value) for value in labels.ravel().tolist()]
    if len(said) != len(cells):
        raise DataError(f"{path}: {len(cells)} bags in a cell array, but {len(said)} labels; expected one a bag.")
    rows, columns = {len(cell) for cell in cells}, {cell.shape[1] for cell in cells}
    notes = []
    if len(columns) > 1 and len(rows) == 1:
        cells = [cell.T for cell in cells]
        notes.append(f"{path.name}: instances are columns of each cell; transposed")
    elif len(columns) > 1:
        raise DataError(f"{path}: the cells have {sorted(columns)[:5]} columns; expected one width for all bags.")
    names = [str(i + 1) for i, cell in enumerate(cells) for _ in cell]
    return of_rows(path, np.concatenate(cells), names, [said[int(name) - 1] for name in names], notes)


def _named(numbers: np.ndarray, lablist: Any) -> list[str]:
    """Labels of a PRTools dataset: numbers from 1 into a list of names, where it is one of text."""
    while isinstance(lablist, list) and len(lablist) and isinstance(lablist[0], list):
        lablist = lablist[0]
    text = isinstance(lablist, list) and all(isinstance(name, str) for name in lablist)
    places = [int(number) for number in numbers.ravel().tolist()]
    if text and places and min(places) >= 1 and max(places) <= len(lablist):
        return [lablist[place - 1] for place in places]
    return [str(place) for place in places]


def _first(values: Mapping[str, Any], names: Sequence[str], fits: Any) -> Any:
    return next((values[name] for name in names if name in values and fits(values[name])), None)


def _is_matrix(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.size > 0


def _is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size > 1 and max(value.shape) == value.size
