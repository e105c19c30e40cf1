"""The classic sets of bags: MUSK, Fox, Tiger, Elephant, UCSB breast, Web."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milkit.bag import Bag
from milkit.data.datasets.bagset import BagSet
from milkit.data.datasets.folders import arrays_of, check_digest, digest_of, find
from milkit.data.datasets.records import CLASSIC, Known, absent, record_of
from milkit.data.memory import MemorySource
from milkit.data.study import GivenSplit, Study, Unit
from milkit.errors import DataError
from milkit.fields import check_fields
from milkit.task import Task


@dataclass(frozen=True)
class Classic:
    """One of the classic sets: musk1, musk2, fox, tiger, elephant, ucsb_breast_features or web1.

    Each bag is its own patient; its class stands in the column `label`.

    Raises:
        ConfigError: no such set. Whether its file is here is asked when it is loaded.
    """

    name: str

    def __post_init__(self) -> None:
        check_fields(self, "data")
        record_of(self.name, CLASSIC)  # a mistyped name is found when the experiment is written

    def read(self) -> BagSet:
        """The bags, their labels and folds.

        Raises:
            DataError: the set is not on this machine (says where to get it and where to put it), or is not what
                its name says.
        """
        record = record_of(self.name)
        path = find(record.files[0])
        if path is None:
            raise absent(record)
        x, offsets, y, train = _read(path, record)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return bag_set(self.name, record.classes, x, offsets, y, train, digest, path.name)

    def load(self, task: Task | None = None, unit: Unit = "patient") -> Study:
        """Read the set and make its study.

        Args:
            task: `Binary()` by default; its positive class is the set's own unless the task names one.
            unit: patient and slide are the same here.

        Raises:
            DataError: see `read`.
        """
        return self.read().study(task, unit)


def classic(name: str) -> Classic:
    """A classic MIL set: musk1, musk2, fox, tiger, elephant, ucsb_breast_features or web1.

    Raises:
        ConfigError: no such set. Whether its file is here is asked when it is loaded.
    """
    return Classic(name)


def bag_set(
    name: str,
    classes: tuple[str, ...],
    x: np.ndarray,
    offsets: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    digest: str,
    file: str,
) -> BagSet:
    """Bags that lie one after the other in a matrix.

    Args:
        name: of the set; bags are called NAME-001, NAME-002, ...
        classes: names of the classes.
        x: features, [N, d].
        offsets: bag b is rows `offsets[b]:offsets[b + 1]`, [B + 1].
        y: number of each bag's class, [B].
        train: True where a bag trains, bool [repeats, folds, B].
        digest: of what was read.
        file: its name.
    """
    ids = tuple(f"{name}-{i + 1:03d}" for i in range(len(y)))
    source = MemorySource(
        ids=ids,
        lengths=np.diff(offsets).astype(np.int64),
        features=x.shape[1],
        provenance={"encoder": f"{name} (hand-made features)", "mpp": None, "file": file},
        bags={bag: Bag(bag, x[a:b]) for bag, a, b in zip(ids, offsets, offsets[1:], strict=False)},
    )
    given = tuple(
        GivenSplit(repeat, fold, np.where(train[repeat, fold], "train", "test"))
        for repeat, fold in np.ndindex(train.shape[:2])
    )
    return BagSet(name, source, classes, y.astype(np.int64), digest, file, given=given)


def _read(path: Path, record: Known) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features float32 [N, d], offsets [B+1], labels [B] and training masks [repeats, folds, B]."""
    arrays = arrays_of(path, again=record.where)
    lacking = [name for name in ("X", "offsets", "y") if name not in arrays]
    if lacking:
        raise DataError(f"{path} cannot be read as a classic set: it lacks {lacking}. Get it anew from {record.where}.")
    x, offsets, y = arrays["X"], arrays["offsets"], arrays["y"]
    train = arrays.get("train_folds", np.zeros((0, 0, len(y)), bool))
    shaped = (x.ndim, offsets.ndim, y.ndim, train.ndim) == (2, 1, 1, 3)
    if not shaped or any(array.dtype.kind not in "fiub" for array in (x, offsets, y, train)):
        raise DataError(f"{path} cannot be read as a classic set: its arrays are of another shape or kind.")
    x, offsets, y, train = x.astype(np.float32), offsets.astype(np.int64), y.astype(np.int64), train.astype(bool)
    _check_counts(path, record, x, offsets, y, train)
    known = {"X": x, "offsets": offsets, "y": y, "train_folds": train}
    instead = f'from {record.where}; a version of your own is read by BagFile("{path.name}")'
    check_digest(path, digest_of(known), record.digest, instead)
    return x, offsets, y, train


def _check_counts(
    path: Path, record: Known, x: np.ndarray, offsets: np.ndarray, y: np.ndarray, train: np.ndarray
) -> None:
    found = (len(y), int((y == 1).sum()), len(x), x.shape[1], set(y.tolist()) <= {0, 1})
    expected = (record.bags, record.positives, record.instances, record.features, True)
    whole = len(offsets) == len(y) + 1 and offsets[0] == 0 and offsets[-1] == len(x) and (np.diff(offsets) > 0).all()
    if found != expected or not whole or train.shape[-1] != len(y) or not np.isfinite(x).all():
        raise DataError(
            f"{path} is not {record.name}: it holds {found[0]} bags ({found[1]} positive), {found[2]} instances of "
            f"{found[3]} features; expected {record.bags} ({record.positives}), {record.instances} of "
            f"{record.features}, finite, with offsets from 0 to {record.instances}. Get it anew from {record.where}."
        )
