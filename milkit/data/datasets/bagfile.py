"""A file of bags of one's own: the classic sets as they are passed around, in JLD, `.svm`, `.mat`, text or `.npz`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milkit.bag import Bag
from milkit.data.datasets.assemble import LabelledBags, as_float32, checked, without
from milkit.data.datasets.bagset import BagSet
from milkit.data.datasets.folders import arrays_of, check_digest
from milkit.data.datasets.mat import read_mat
from milkit.data.datasets.text import read_text
from milkit.data.formats import jld
from milkit.data.formats.header import opened
from milkit.data.formats.kind import kind_of
from milkit.data.memory import MemorySource
from milkit.data.study import GivenSplit, Study, Unit
from milkit.errors import DataError
from milkit.fields import check_fields
from milkit.task import Task


@dataclass(frozen=True)
class BagFile:
    """Labelled bags in one file, which is known by what is in it.

    | file | what is in it |
    |---|---|
    | MIDatasets.jl's JLD | bags, labels, 5 x 10 folds |
    | `.svm` | `instance:bag:label index:value ...` (DSMIL's classic sets) |
    | `.mat` | `data`, `bag_ids`, `labels`; cells; PRTools' MIL datasets |
    | text | UCI's `clean1.data`, or a table with columns for bag and label |
    | `.npz` | `X`, `offsets`, `y` and perhaps `train_folds`, as docs/data.md says |

    A feature that is the label (MUSK has been passed around with 167 columns) is refused; `drop` leaves it out. Each
    bag counts as its own patient: such files do not say whose it is.
    """

    path: str
    bag: str = ""
    """Of a text file: the column with the bags' names, by name or by number counted from 1; "" finds it by its name."""
    label: str = ""
    """Likewise the column with the label."""
    drop: tuple[int, ...] = ()
    """Features to leave out, counted from 1."""
    sha256: str = ""
    """Digest that the file must have; "" takes any."""

    def __post_init__(self) -> None:
        check_fields(self, "data", drop="[1, inf)")

    def read(self) -> BagSet:
        """Bags, labels and folds.

        Raises:
            DataError: it is no such file, is damaged, or holds the label among the features.
        """
        path = Path(self.path).expanduser()
        digest = _digest(path)
        if self.sha256:
            check_digest(path, digest, self.sha256, "or correct sha256=")
        bags = without(path, _bags_of(path, self.bag, self.label), self.drop)
        provenance = {"encoder": f"{path.stem} (hand-made features)", "mpp": None, "file": path.name, "sha256": digest}
        source = MemorySource(
            ids=bags.names,
            lengths=np.diff(bags.offsets).astype(np.int64),
            features=bags.x.shape[1],
            provenance=provenance,
            bags={n: Bag(n, bags.x[a:b]) for n, a, b in zip(bags.names, bags.offsets, bags.offsets[1:], strict=False)},
        )
        given = tuple(
            GivenSplit(repeat, fold, np.where(bags.train[repeat, fold], "train", "test"))
            for repeat, fold in np.ndindex(bags.train.shape[:2])
        )
        instances, offsets = bags.instances, bags.offsets
        return BagSet(
            name=path.stem,
            source=source,
            classes=bags.classes,
            labels=bags.y,
            digest=digest,
            given=given,
            notes=bags.notes,
            instances=None if instances is None else lambda i: instances[offsets[i] : offsets[i + 1]],
            instance_classes=() if instances is None else bags.classes,
        )

    def load(self, task: Task | None = None, unit: Unit = "patient") -> Study:
        """The study of a task; the class stands in the column `label`."""
        return self.read().study(task, unit)


def midatasets(path: str | Path) -> BagFile:
    """A set of MIDatasets.jl in its JLD file (`data/Fox.jld` of that package), with its folds."""
    return BagFile(str(path))


def _bags_of(path: Path, bag: str, label: str) -> LabelledBags:
    kind = kind_of(path)
    if kind == "hdf5":
        with path.open("rb") as file:
            if file.read(16).startswith(b"MATLAB 7.3 MAT-f"):
                return read_mat(path)
        with opened(path) as content:
            if jld.is_jld(path, content):
                return _jld(path)
        raise DataError(f"{path} is HDF5, but neither MIDatasets.jl's nor MATLAB's; Cohort reads features of slides.")
    if kind == "mat":
        return read_mat(path)
    if kind == "npz":
        return _npz(path)
    if kind == "pickle":
        raise DataError(f"{path} is a pickle, which runs what is in it when it is read; save it with numpy.savez.")
    return read_text(path, bag, label)


def _jld(path: Path) -> LabelledBags:
    with opened(path) as file:
        headers = jld.headers(path, file)
    labels, train = jld.labels_and_folds(path)
    if len(labels) != len(headers):
        raise DataError(f"{path}: {len(headers)} bags, but {len(labels)} labels.")
    x = np.concatenate([jld.features(header) for header in headers])
    offsets = np.concatenate([[0], np.cumsum([header.length for header in headers])]).astype(np.int64)
    names = tuple(header.id for header in headers)
    return checked(path, LabelledBags(names, as_float32(x), offsets, ("0", "1"), labels.astype(np.int64), train))


def _npz(path: Path) -> LabelledBags:
    arrays = arrays_of(path, again="where it is from")
    if not {"X", "offsets", "y"} <= set(arrays):
        raise DataError(f"{path} holds {sorted(arrays)[:6]}; expected X, offsets and y (docs/data.md).")
    x, offsets, y = arrays["X"], arrays["offsets"].astype(np.int64), arrays["y"]
    train = arrays.get("train_folds", np.zeros((0, 0, len(y)), bool)).astype(bool)
    whole = x.ndim == 2 and len(offsets) == len(y) + 1 and offsets[0] == 0 and offsets[-1] == len(x)
    if not whole or (np.diff(offsets) < 1).any() or train.ndim != 3 or train.shape[-1] != len(y) or y.ndim != 1:
        raise DataError(f"{path}: X {x.shape}, offsets {offsets.shape} and y {y.shape} do not fit together.")
    classes = tuple(str(value) for value in np.unique(y).tolist())
    names = tuple(f"{path.stem}-{i + 1:03d}" for i in range(len(y)))
    number = np.searchsorted(np.unique(y), y).astype(np.int64)
    return checked(path, LabelledBags(names, as_float32(x), offsets, classes, number, train))


def _digest(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise DataError(f"No file of bags at {path}; the folder is {Path.cwd()}.")
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
