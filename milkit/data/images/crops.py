"""Crops of images as bags of pixels, labelled by what their masks hold: crop-label supervision.

References:
    Li et al. (2022), Online easy example mining for weakly-supervised gland segmentation, MICCAI (OEEM's crops: 112 px,
    stride 56, a class is present if it covers more than 5 % of a crop).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from milkit.bag import Bag
from milkit.data.build import build_study
from milkit.data.datasets.bagset import MadeSource
from milkit.data.images.cohort import ImageCohort
from milkit.data.images.known import KnownImages
from milkit.data.images.load import CHANNELS, check_memory, digest_of, sizes_of, threaded
from milkit.data.images.masks import Masks
from milkit.data.images.opened import OpenImages, decode_all, images_of, provenance_of
from milkit.data.images.truth import check_masks, coded, covered, handed_out, pixel_labels, words
from milkit.data.images.windows import grid, windows
from milkit.data.splits import given_splits
from milkit.data.study import GivenSplit, Study, Unit
from milkit.data.table import NONE, table_of
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.task import Task

TEST = "a test image: its mask stays closed, so its crops have no label"
IDLE = "its split gives it no role"
SMALL = "the image is smaller than a crop"
COLUMNS = ("label", "foreground", "background")
"""Columns of labels: a crop holds foreground at all; foreground, background cover more than `min_share` of it."""


@dataclass(frozen=True)
class ImageCrops:
    """Square crops of the images of a cohort, each a bag of pixels with labels from the image's mask.

    `Binary()` asks whether a crop holds any foreground (column `label`); `MultiLabel(("foreground", "background"))` is
    OEEM's two labels: a class is present if it covers more than `min_share` of the crop. The cohort says in one split
    which images are test images: **their masks are never opened**, and their crops take no part, unless `test_crops`.

    Crops stand on a grid from the top left, whole ones only; folds keep the crops of a patient together.
    """

    images: ImageCohort | KnownImages
    """Whose images; with masks, and with one given split."""
    size: int = 112
    """Side of a crop in pixels (after downsampling); OEEM's."""
    stride: int = 56
    """Pixels from one crop to the next; OEEM's."""
    min_share: float = 0.05
    """A class is present if it covers more than this share of a crop; OEEM's."""
    test_crops: bool = False
    """Let crops of test images be predicted, so that their maps can be stitched. Their label is unknown and written as
    0: metrics of the crops' labels then mean nothing, which the flow says. They reach up to the borders."""
    test_stride: int | None = None
    """Pixels from one crop of a test image to the next; None is `stride`. Less than `size` lets them overlap, and their
    maps are blended."""
    max_gib: float = 0.0
    """The most memory that the crops may take; 0 is a quarter of the machine's."""
    pixel_masks: bool = False
    """Hand out the masks themselves of training and validation crops, for supervised upper bounds: the study is then
    one of pixel supervision, which its flow says. Needs `GivenFolds`."""

    slide_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(
            self, "data", size="[2, 4096]", stride="[1, 4096]", test_stride="[1, 4096]", min_share="[0, 1)",
            max_gib="[0, inf)",
        )  # fmt: skip
        if self.test_crops and self._test_stride > self.size:
            raise ConfigError(f"data.stride is {self._test_stride}, but test crops of {self.size} px would leave gaps.")
        if self.images.pixel_masks:
            raise ConfigError("The crops hand out masks, not their images: set pixel_masks=True of ImageCrops itself.")

    def load(self, task: Task, unit: Unit = "patient") -> Study:
        """Decode the images, open the masks of those that are no test images, and make the study of their crops.

        Raises:
            CohortError: a table that does not fit the task.
            ConfigError: the unit is the patient; no split, or several.
            DataError: images or masks that cannot be used; names the file.
        """
        if unit == "patient":
            raise ConfigError('A patient has many crops, and each is a bag; set unit="slide".')
        opened = self.images.open()
        roles = self._roles(opened)
        wanted = ("train", "validation", *(["test"] if self.test_crops else []))
        ids = [i for i in opened.files if roles[i] in wanted]
        sizes = sizes_of({i: opened.files[i] for i in ids}, opened.reading)
        places = {i: self._places(sizes[i], roles[i] == "test") for i in ids}
        small = [i for i in ids if not len(places[i])]
        ids = [i for i in ids if len(places[i])]
        if not ids:
            raise DataError(f"No image of {opened.name!r} is as large as a crop of {self.size} px; take smaller crops.")
        pixels, notes = decode_all(opened, ids, sizes)
        labelled = [i for i in ids if roles[i] != "test"]
        shapes = np.array([sizes[i] for i in labelled], np.int64).reshape(-1, 2)
        masks = opened.masks_for(labelled, shapes)
        check_masks(opened.name, masks, "Crops get their labels from masks")
        truths = threaded(masks.truth, range(len(masks)))
        held = {i: self._labels(truth, places[i]) for i, truth in zip(labelled, truths, strict=True)}
        study = self._study(opened, task, ids, places, held, roles, pixels)
        shut = [i for i in opened.files if roles[i] == "test" and not self.test_crops]
        flow = study.flow
        idle = [i for i in opened.files if not roles[i]]
        left_out = (*((i, TEST) for i in shut), *((i, SMALL) for i in small), *((i, IDLE) for i in idle))
        study = replace(
            study,
            sizes=np.full((len(study), 2), self.size, np.int64),
            flow=replace(
                flow,
                left_out=(*flow.left_out, *left_out),
                notes=(*flow.notes, *opened.notes, *notes, *self._notes(held, ids, places)),
            ),
            provenance={**study.provenance, "pixels_sha256": digest_of(pixels, ids)},
        )
        if not self.pixel_masks:
            return study
        return self._with_masks(study, dict(zip(labelled, truths, strict=True)), places, pixel_labels(task))

    def _with_masks(
        self, study: Study, truths: Mapping[str, np.ndarray], places: Mapping[str, np.ndarray], labels: Sequence[str]
    ) -> Study:
        """The study with the masks of those crops whose images' masks are open."""
        codes = {i: coded(truth > 0, labels) for i, truth in truths.items()}
        of = {f"{i} y{y} x{x}": (i, y, x) for i in codes for y, x in places[i].tolist()}
        own = []
        for crop in images_of(study):
            image, top, left = of.get(crop, ("", 0, 0))
            own.append(codes[image][top : top + self.size, left : left + self.size] if image else None)
        seen = sum(covered(truth.shape, places[i], self.size) for i, truth in truths.items())
        return handed_out(study, own, words(len(codes), seen), codes)

    def masks_of(self, study: Study) -> Masks:
        """The masks of the whole images that a study's crops are from, in the order of their first crop; for scoring.

        Raises:
            DataError: images that are not there.
        """
        opened = self.images.open()
        ids = list(dict.fromkeys(study.columns["image"].tolist()))
        sizes = sizes_of({i: opened.files[i] for i in ids}, opened.reading)
        return opened.masks_for(ids, np.array([sizes[i] for i in ids], np.int64))

    def _roles(self, opened: OpenImages) -> dict[str, str]:
        """What each image does in the only split."""
        splits, _, _ = given_splits(opened.table.columns, opened.split, opened.table.where)
        splits = (*splits, *opened.given)
        if len(splits) != 1:
            raise ConfigError(
                f"{opened.name!r} comes with {len(splits)} splits, but crops need one: it says which images are test "
                "images, whose masks stay closed. Give the table a column split of train, val and test; of several "
                "name one: split='fold_0'."
            )
        return dict(zip(opened.table.slide.tolist(), splits[0].role.tolist(), strict=True))

    @property
    def _test_stride(self) -> int:
        return self.stride if self.test_stride is None else self.test_stride

    def _places(self, size: tuple[int, int], test: bool) -> np.ndarray:
        """Top left corners of an image's crops."""
        if test and min(size) >= self.size:
            return windows(*size, self.size, self.size - self._test_stride)
        return grid(*size, self.size, self.stride)

    def _labels(self, truth: np.ndarray, places: np.ndarray) -> np.ndarray:
        """For each crop of an image the values of `COLUMNS`, bool [n, 3]."""
        table = np.pad(truth.astype(np.int32), ((1, 0), (1, 0))).cumsum(0, np.int32).cumsum(1, np.int32)
        (top, left), side = places.T, self.size
        held = table[top + side, left + side] - table[top, left + side] - table[top + side, left] + table[top, left]
        share = held / side**2
        return np.stack([held > 0, share > self.min_share, 1 - share > self.min_share], 1)

    def _study(
        self, opened: OpenImages, task: Task, ids: Sequence[str], places: Mapping[str, np.ndarray],
        held: Mapping[str, np.ndarray], roles: Mapping[str, str], pixels: Mapping[str, np.ndarray],
    ) -> Study:  # fmt: skip
        """The study of all crops, in the order of the images."""
        count = np.array([len(places[i]) for i in ids])
        check_memory([(self.size, self.size)] * int(count.sum()), self.max_gib, f"{opened.name} (crops)")
        row = {i: r for r, i in enumerate(opened.table.slide.tolist())}
        of = np.repeat(np.arange(len(ids)), count)
        corners = np.concatenate([places[i] for i in ids])
        values = np.concatenate([held.get(i, np.zeros((len(places[i]), 3), bool)) for i in ids])
        rows = np.array([row[i] for i in ids])[of]
        cells = {
            "crop": np.array(
                [f"{ids[k]} y{y} x{x}" for k, (y, x) in zip(of.tolist(), corners.tolist(), strict=True)], np.str_
            ),
            "patient": opened.table.patient[rows],
            **{role: getattr(opened.table, role)[rows] for role in ("site", "cohort") if role in opened.table.used},
            "image": opened.table.slide[rows],
            "top": corners[:, 0].astype(np.str_),
            "left": corners[:, 1].astype(np.str_),
            **{name: values[:, k].astype(np.int64).astype(np.str_) for k, name in enumerate(COLUMNS)},
        }
        table = table_of(
            opened.table.file, cells, np.arange(len(corners)), slide="crop", patient="patient",
            digest=opened.table.digest, line_word="crop",
        )  # fmt: skip

        def make(i: int) -> Bag:
            (top, left), side = corners[i], self.size
            crop = pixels[ids[of[i]]][top : top + side, left : left + side]
            return Bag(str(cells["crop"][i]), np.ascontiguousarray(crop).reshape(-1, CHANNELS))

        source = MadeSource(
            ids=tuple(cells["crop"].tolist()),
            lengths=np.full(len(corners), self.size**2, np.int64),
            features=CHANNELS,
            provenance=provenance_of(opened.reading),
            make=make,
        )
        role = np.array([roles[ids[k]] for k in of.tolist()], "U10")
        given = (GivenSplit(0, 0, role),)
        return build_study(opened.name, table, source, task, "slide", split=NONE, given=given, slide_labels=True)

    def _notes(
        self, held: Mapping[str, np.ndarray], ids: Sequence[str], places: Mapping[str, np.ndarray]
    ) -> tuple[str, ...]:
        values = np.concatenate(list(held.values()))
        both = (values[:, 1] & values[:, 2]).mean()
        kind = "" if self.pixel_masks else "crop-label supervision: "
        supervision = (
            f"{kind}labels of crops are from the masks of {len(held)} training and validation "
            f"images, {len(values) / len(held):.1f} crops an image ({self.size} px, stride {self.stride}); of "
            f"{len(values)} crops {int((~values[:, 0]).sum())} hold no foreground, {both:.0%} both classes"
        )
        test = [i for i in ids if i not in held]
        unknown = (
            f"{sum(len(places[i]) for i in test)} crops of {len(test)} test images have no label: it is written as 0, "
            "so metrics of crops' labels on the test part mean nothing; score their maps"
        )
        return (supervision, *([unknown] if test else []))
