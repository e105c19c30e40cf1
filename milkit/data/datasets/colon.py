"""Colon images as bags of patches at nuclei: CRCHistoPhenotypes, as Ilse et al. (2018) use it."""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from milkit.bag import Bag
from milkit.data.datasets.bagset import BagSet, MadeSource
from milkit.data.datasets.folders import bytes_of, find
from milkit.data.datasets.records import absent, record_of
from milkit.data.study import Study, Unit
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.task import Task

TYPES = ("epithelial", "inflammatory", "fibroblast", "others")
SIDE = 500
"""Width and height of each image, in pixels."""
PIXELS = "pixels / 127.5 - 1"
LEAKY = (
    "patient-leaky: the images are from 9 patients, but no file says which is whose, so folds cannot keep a patient's "
    "images together; results are better than on new patients"
)


@dataclass(frozen=True)
class ColonNuclei:
    """100 H&E images of colorectal adenocarcinoma (bags), a square patch at each nucleus (instances).

    A bag is positive if one of its nuclei is epithelial. A patch is centred on its nucleus; where it would reach over
    the border it is moved inside, so that every patch is whole. Features are the flattened pixels, `pixel / 127.5 - 1`.
    Positions are those of the image, top-left corner of the patch, not of the slide that it was cut from. The type of
    each nucleus is known (`read().instance_labels(i)`) and is not among the features.

    There are no patient ids, so a fold may test on images of a patient it was trained on: every number is marked.

    Deviations from Ilse et al.: they report 99 images (which one is missing is not said), and augment (stain, flips,
    moved patches), which belongs to training.

    References:
        Sirinukunwattana et al. IEEE TMI 35 (2016) 1196-1206; Ilse, Tomczak, Welling. ICML 2018, section 4.3.
    """

    patch_px: int = 27
    """Width of a patch, odd, so that it has a centre; 27 is Ilse et al.'s."""
    mpp: float = 0.55
    """Micrometres a pixel, as Sirinukunwattana et al. state it (20x, Omnyx VL120); in no file."""
    verify: bool = True
    """Compare all files with their known digests; False takes other copies, such as the original BMPs as JPEGs."""

    def __post_init__(self) -> None:
        check_fields(self, "data", patch_px="[1, 499]", mpp="(0, 100]")
        if self.patch_px % 2 == 0:
            raise ConfigError(
                f"data.patch_px is {self.patch_px}; expected an odd number, so that a patch has a centre."
            )

    def read(self) -> BagSet:
        """Read the annotation, and look at the images.

        Raises:
            DataError: a file is absent, another one, or not as it should be.
        """
        record = record_of("colon_nuclei")
        if not all(find(file) for file in record.files):
            raise absent(record)
        instead = f"from {record.where}; for copies of your own set verify=False"
        path, content = bytes_of(record.files[0], self.verify, instead)
        nuclei = nuclei_in(path, content)
        digest = hashlib.sha256(content)
        paths = {}
        for name in nuclei:
            paths[name], image = bytes_of(f"{record.files[1]}/{name}.jpg", self.verify, instead)
            digest.update(hashlib.sha256(image).digest())
        ids = tuple(nuclei)
        tile_um = self.patch_px * self.mpp

        def patches(i: int) -> np.ndarray:
            return cut(image_of(paths[ids[i]], SIDE), corners(nuclei[ids[i]][0], self.patch_px), self.patch_px)

        def make(i: int) -> Bag:
            x = patches(i).reshape(len(nuclei[ids[i]][0]), -1).astype(np.float32) / np.float32(127.5) - np.float32(1)
            corner = corners(nuclei[ids[i]][0], self.patch_px)
            return Bag(ids[i], x, (corner * self.mpp).astype(np.float32), corner, tile_um, self.mpp)

        source = MadeSource(
            ids=ids,
            lengths=np.array([len(points) for points, _ in nuclei.values()], np.int64),
            features=3 * self.patch_px**2,
            provenance={
                "encoder": PIXELS, "mpp": self.mpp, "tile_um": tile_um, "tile_px": self.patch_px, "file": path.name
            },
            make=make,
        )  # fmt: skip
        return BagSet(
            name=record.name,
            source=source,
            classes=record.classes,
            labels=np.array([(types == 0).any() for _, types in nuclei.values()], np.int64),
            digest=digest.hexdigest(),
            file=path.name,
            notes=(LEAKY,),
            instances=lambda i: nuclei[ids[i]][1],
            instance_classes=TYPES,
            pictures=patches,
        )

    def load(self, task: Task | None = None, unit: Unit = "patient") -> Study:
        """The study; each image counts as its own patient, and every number says so."""
        return self.read().study(task, unit)


def corners(points: Float[np.ndarray, "n 2"], width: int) -> Int[np.ndarray, "n 2"]:
    """Top-left corners (x, y) of patches centred on points and moved inside the image, whole pixels."""
    return np.clip(np.rint(points).astype(np.int64) - width // 2, 0, SIDE - width)


def cut(image: UInt8[np.ndarray, "h w 3"], corner: Int[np.ndarray, "n 2"], width: int) -> UInt8[np.ndarray, "n p p 3"]:
    """Patches of an image at some corners (x, y)."""
    reach = np.arange(width)
    rows, columns = corner[:, 1, None] + reach, corner[:, 0, None] + reach
    return image[rows[:, :, None], columns[:, None, :]]


def image_of(path: Path, side: int = 0) -> UInt8[np.ndarray, "h w 3"]:
    """An image file as RGB.

    Args:
        path: JPEG, PNG, BMP or TIFF.
        side: width and height that it must have; 0 for any.

    Raises:
        DataError: it cannot be read, or has another size.
    """
    from PIL import Image  # comes with tiffslide; light work does without it

    try:
        with Image.open(path) as image:
            if side and image.size != (side, side):
                raise DataError(f"{path} is {image.size[0]} x {image.size[1]} pixels; expected {side} x {side}.")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}.") from None


def nuclei_in(path: Path, content: bytes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Centres (x, y) in pixels [n, 2] and types [n] (index in `TYPES`) of the nuclei of each image, by name, in order.

    Raises:
        DataError: other columns, a point outside the image, or an unknown type.
    """
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig", "replace"))))
    if not rows or rows[0] != ["image", "x", "y", "type"]:
        raise DataError(f"{path} has the columns {rows[:1]}; expected image, x, y, type.")
    found: dict[str, list[tuple[float, float, int]]] = {}
    for line, row in enumerate(rows[1:], start=2):
        try:
            name, x, y, kind = row[0], float(row[1]), float(row[2]), TYPES.index(row[3])
            fits = len(row) == 4 and 0 <= x <= SIDE and 0 <= y <= SIDE and name.isalnum()
        except (ValueError, IndexError):
            fits = False
        if not fits:
            raise DataError(
                f"{path}, line {line}: {','.join(row)!r:.60}; expected the image's name, x and y from 0 to {SIDE}, and "
                f"one of {', '.join(TYPES)}."
            )
        found.setdefault(name, []).append((x, y, kind))
    return {
        name: (np.array([nucleus[:2] for nucleus in nuclei]), np.array([nucleus[2] for nucleus in nuclei], np.int64))
        for name, nuclei in found.items()
    }
