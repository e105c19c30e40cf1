"""Known public sets: what they are, whether they are here, where to get them, and how to use them in a study."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

import milkit
from milkit.bag import Bag
from milkit.data.build import build_study
from milkit.data.memory import MemorySource
from milkit.data.study import GivenSplit, Study, Unit
from milkit.data.table import table_of
from milkit.data.where import did_you_mean
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.task import Binary, MultiClass, Task

_PACKAGED = Path(__file__).parent / "packaged"
_MIDATASETS = "https://github.com/komartom/MIDatasets.jl (with 5 x 10 folds)"
_ANDREWS = (
    "S. Andrews, I. Tsochantaridis, T. Hofmann. Support vector machines for multiple-instance learning. NIPS 2002."
)
_DIETTERICH = (
    "T. G. Dietterich, R. H. Lathrop, T. Lozano-Perez. Solving the multiple instance problem with axis-parallel "
    "rectangles. Artificial Intelligence 89 (1997) 31-71."
)
_COREL = "http://www.cs.columbia.edu/~andrews/mil/datasets.html or " + _MIDATASETS


@dataclass(frozen=True)
class Known:
    """A public set that milkit can read.

    Attributes:
        name: what `classic` is called with.
        what: one line on what a bag, an instance and the label are.
        bags: number of bags.
        positives: number of positive bags.
        instances: number of instances.
        features: width d.
        classes: names of the negative and the positive class.
        folds: it comes with 5 x 10 folds.
        licence: what is known of it.
        citation: what to cite.
        where: where a user gets it.
        here: the file, "" where the set is not on this machine.
    """

    name: str
    what: str
    bags: int
    positives: int
    instances: int
    features: int
    classes: tuple[str, str]
    folds: bool
    licence: str
    citation: str
    where: str
    here: str = ""


def _corel(animal: str, instances: int) -> Known:
    return Known(
        name=animal,
        what=f"Corel images (bags) of segments (instances): is there a {animal}?",
        bags=200,
        positives=100,
        instances=instances,
        features=230,
        classes=("other", animal),
        folds=True,
        licence="none written; not shipped with milkit",
        citation=_ANDREWS,
        where=_COREL,
    )


def _musk(version: int, bags: int, positives: int, instances: int) -> Known:
    uci = f"https://archive.ics.uci.edu/dataset/{73 + version}/musk+version+{version}"
    return Known(
        name=f"musk{version}",
        what="molecules (bags) of conformations (instances): does it smell of musk?",
        bags=bags,
        positives=positives,
        instances=instances,
        features=166,
        classes=("non-musk", "musk"),
        folds=version == 1,
        licence="CC BY 4.0 (UCI)",
        citation=_DIETTERICH,
        where=f"comes with milkit; {uci}" if version == 1 else uci,
    )


_KNOWN: dict[str, Known] = {
    known.name: known
    for known in (
        _musk(1, 92, 47, 476),
        _musk(2, 102, 39, 6598),
        _corel("fox", 1320),
        _corel("tiger", 1220),
        _corel("elephant", 1391),
        Known(
            name="ucsb_breast_features",
            what="breast tissue images (bags) of patches (instances): malignant?",
            bags=58,
            positives=26,
            instances=2002,
            features=708,
            classes=("benign", "malignant"),
            folds=False,
            licence="research use; redistribution not granted in writing",
            citation="E. D. Gelasca, J. Byun, B. Obara, B. S. Manjunath. Evaluation and benchmark for biological image "
            "segmentation. ICIP 2008. Features: M. Kandemir, C. Zhang, F. A. Hamprecht. Empowering multiple instance "
            "histopathology cancer diagnosis by cell graphs. MICCAI 2014.",
            where="http://www.miproblems.org or https://github.com/komartom/MIDatasets.jl (UCSBBreastCancer)",
        ),
        Known(
            name="web1",
            what="web index pages (bags) of linked pages (instances): did volunteer 1 like it?",
            bags=75,
            positives=21,
            instances=2212,
            features=5863,
            classes=("0", "1"),
            folds=False,
            licence="academic use only, with citation",
            citation="Z.-H. Zhou, K. Jiang, M. Li. Multi-instance learning based web mining. Applied Intelligence 22 "
            "(2005) 135-147.",
            where="http://www.lamda.nju.edu.cn/data_MILWEB.ashx or https://github.com/komartom/MIDatasets.jl (Web1)",
        ),
    )
}


def known() -> tuple[Known, ...]:
    """All known sets, with the file of those that are on this machine."""
    return tuple(replace(record, here=str(_find(record.name) or "")) for record in _KNOWN.values())


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
        _record(self.name)  # a mistyped name is found when the experiment is written

    def load(self, task: Task | None = None, unit: Unit = "patient") -> Study:
        """Read the set and make its study.

        Args:
            task: `Binary()` by default; its positive class is the set's own unless the task names one.
            unit: patient and slide are the same here.

        Raises:
            DataError: the set is not on this machine (says where to get it and where to put it), or is not what
                its name says.
        """
        record = _record(self.name)
        path = _find(self.name)
        if path is None:
            raise _absent(record)
        x, offsets, y, train = _read(path, record)
        ids = np.array([f"{self.name}-{i + 1:03d}" for i in range(record.bags)])
        cells = {"slide_id": ids, "label": np.array(record.classes)[y]}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        table = table_of(path.name, cells, np.arange(record.bags), digest=digest, line_word="bag")
        source = MemorySource(
            ids=tuple(ids.tolist()),
            lengths=np.diff(offsets).astype(np.int64),
            features=record.features,
            provenance={"encoder": f"{self.name} (hand-made features)", "mpp": None, "file": path.name},
            bags={name: Bag(name, x[a:b]) for name, a, b in zip(ids.tolist(), offsets, offsets[1:], strict=False)},
        )
        given = tuple(
            GivenSplit(repeat, fold, np.where(train[repeat, fold], "train", "test"))
            for repeat, fold in np.ndindex(train.shape[:2])
        )
        return build_study(self.name, table, source, _with_classes(task or Binary(), record), unit, given=given)


def classic(name: str) -> Classic:
    """A classic MIL set: musk1, musk2, fox, tiger, elephant, ucsb_breast_features or web1.

    Raises:
        ConfigError: no such set. Whether its file is here is asked when it is loaded.
    """
    return Classic(name)


def _record(name: str) -> Known:
    if name not in _KNOWN:
        raise ConfigError(f"No known set {name!r}; there are {', '.join(_KNOWN)}.{did_you_mean(name, _KNOWN)}")
    return _KNOWN[name]


def _with_classes(task: Task, record: Known) -> Task:
    """The task with the set's own order of classes, where it states none: "musk" sorts before "non-musk"."""
    if isinstance(task, Binary) and task.label == "label" and not task.positive:
        return replace(task, positive=record.classes[1])
    if isinstance(task, MultiClass) and task.label == "label" and not task.classes:
        return replace(task, classes=record.classes)
    return task


def _folders() -> list[Path]:
    """Folders that may hold the classic sets, the first that has the file wins."""
    set_by_user = os.environ.get("MILKIT_DATA")
    if set_by_user:
        return [Path(set_by_user).expanduser() / "mil_classic"]
    checkout = Path(milkit.__file__).resolve().parents[1]
    return [base.parent / "shared" / "data" / "mil_classic" for base in (checkout, Path.cwd())]


def _find(name: str) -> Path | None:
    files = [folder / f"{name}.npz" for folder in (_PACKAGED, *_folders())]
    return next((file for file in files if file.is_file()), None)


def _absent(record: Known) -> DataError:
    return DataError(
        f"The set {record.name!r} is not on this machine (looked in {', '.join(map(str, _folders()))}). "
        f"Get it from {record.where}; licence: {record.licence}. Put it as {record.name}.npz into the folder "
        "mil_classic of the folder that the environment variable MILKIT_DATA names; docs/data.md says which "
        "arrays it holds."
    )


def _read(path: Path, record: Known) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features float32 [N, d], offsets [B+1], labels [B] and training masks [repeats, folds, B]."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            x, offsets, y = arrays["X"].astype(np.float32), arrays["offsets"].astype(np.int64), arrays["y"].astype(int)
            train = arrays["train_folds"] if "train_folds" in arrays else np.zeros((0, 0, len(y)), bool)
    except (OSError, ValueError, TypeError, KeyError, BadZipFile, EOFError) as error:
        raise DataError(f"{path} cannot be read as a classic set: {error}. Get it anew from {record.where}.") from None
    found = (len(y), int((y == 1).sum()), len(x), x.shape[1], set(y.tolist()) <= {0, 1})
    expected = (record.bags, record.positives, record.instances, record.features, True)
    whole = len(offsets) == len(y) + 1 and offsets[0] == 0 and offsets[-1] == len(x) and (np.diff(offsets) > 0).all()
    if found != expected or not whole or train.shape[-1] != len(y) or not np.isfinite(x).all():
        raise DataError(
            f"{path} is not {record.name}: it holds {found[0]} bags ({found[1]} positive), {found[2]} instances of "
            f"{found[3]} features; expected {record.bags} ({record.positives}), {record.instances} of "
            f"{record.features}, finite, with offsets from 0 to {record.instances}. Get it anew from {record.where}."
        )
    return x, offsets, y, train
