"""Images that were found, before and after they are decoded: the study whose bags they are, and their masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from milkit.data.build import NO_FEATURES, build_study
from milkit.data.images.decode import SUFFIXES, Reading
from milkit.data.images.load import ImageSource, check_memory, decode, digest_of, sizes_of
from milkit.data.images.masks import Masks
from milkit.data.study import Flow, GivenSplit, Study, Unit
from milkit.data.table import CohortTable
from milkit.data.where import and_more
from milkit.errors import ConfigError, DataError
from milkit.task import Task

NO_IMAGE = "the table has a row but there is no such image file"


@dataclass(frozen=True, eq=False)
class OpenImages:
    """A table of images and their files; nothing is decoded.

    Attributes:
        name: of the cohort.
        table: one row an image.
        files: path of each image that is there, by id.
        masks: path of the mask of each image that has one; for scoring.
        reading: how images are read.
        foreground: values of masks that count; () for every one but 0.
        split: columns of given splits, see `milkit.data.splits.given_splits`.
        max_gib: the most memory that pixels may take; 0 is a quarter of the machine's.
        given: splits that did not come as columns, one role a row of the table.
        notes: what a reader should know of them.
    """

    name: str
    table: CohortTable
    files: Mapping[str, Path] = field(repr=False)
    masks: Mapping[str, Path] = field(repr=False)
    reading: Reading = Reading()
    foreground: tuple[int, ...] = ()
    split: str = ""
    max_gib: float = 0.0
    given: tuple[GivenSplit, ...] = ()
    notes: tuple[str, ...] = ()

    def masks_of(self, study: Study) -> Masks:
        """The masks of a study of these images; files are opened one by one, when asked for.

        Raises:
            DataError: the study is none of images.
        """
        if study.sizes is None:
            raise DataError(f"{study.name!r} holds no images, so there are no masks of them.")
        return self.masks_for(images_of(study), study.sizes)

    def masks_for(self, ids: Sequence[str], sizes: np.ndarray) -> Masks:
        """The masks of some images, whose heights and widths are given, [n, 2]."""
        return Masks(tuple(ids), tuple(self.masks.get(i) for i in ids), sizes, self.reading, self.foreground)


def image_study(
    opened: OpenImages, task: Task, unit: Unit, *, strict: bool = False, slide_labels: bool = True,
    pixel_masks: bool = False,
) -> Study:  # fmt: skip
    """Decode the images that have labels, and make the study whose bags they are. No mask is opened.

    Args:
        opened: the images.
        task, unit, strict, slide_labels: see `milkit.data.build.build_study`.
        pixel_masks: whether masks will be handed out after this, so that the flow must not say that none is.

    Raises:
        CohortError: a table that does not fit the task.
        DataError: images that cannot be used, or take too much memory; names the file.
        ConfigError: the unit is the patient, and one has several images.
    """
    files, reading = opened.files, opened.reading
    sizes = sizes_of(files, reading)
    source = ImageSource(
        tuple(files), np.array(list(sizes.values()), np.int64).reshape(-1, 2), {}, provenance_of(reading)
    )
    _check_unit(opened, unit)
    study = build_study(
        opened.name, opened.table, source, task, unit, split=opened.split, given=opened.given, notes=opened.notes,
        strict=strict, slide_labels=slide_labels,
    )  # fmt: skip
    ids = images_of(study)
    pixels, notes = decode_all(opened, ids, sizes)
    source.pixels.update(pixels)
    shape = np.array([sizes[i] for i in ids], np.int64)
    notes = (*notes, *_size_notes(shape), *_unlisted(opened), *(() if pixel_masks else _mask_notes(opened, ids)))
    return replace(
        study,
        sizes=shape,
        flow=_about_images(study.flow, notes),
        provenance={**study.provenance, "pixels_sha256": digest_of(pixels, ids)},
    )


def decode_all(
    opened: OpenImages, ids: Sequence[str], sizes: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The pixels of some images, uint8 [h, w, 3] by id, and notes on how they were read.

    Raises:
        DataError: they take too much memory, or cannot be read.
    """
    check_memory([sizes[i] for i in ids], opened.max_gib, opened.name)
    pixels, converted = decode({i: opened.files[i] for i in ids}, opened.reading)
    changed = [i for i in ids if pixels[i].shape[:2] != sizes[i]]
    if changed:
        raise DataError(f"{opened.files[changed[0]]} has another size than its header says; put it there again.")
    side = opened.reading.downsample
    block = [f"each pixel is the mean of a block of {side} x {side}"] if side > 1 else []
    said = (f"{count} of {len(ids)} images converted: {word}" for word, count in sorted(converted.items()))
    return pixels, (*block, *said)


def provenance_of(reading: Reading) -> dict[str, object]:
    """What is known of the pixels beforehand."""
    return {"encoder": None, "mpp": None, "tile_um": None, "tile_px": None, "downsample": reading.downsample}


def images_of(study: Study) -> list[str]:
    """Id of each bag's image; in the patient unit a bag is named by its patient."""
    return [slides[0] for slides in study.slides]


def _check_unit(opened: OpenImages, unit: Unit) -> None:
    name, table, files = opened.name, opened.table, opened.files
    there = [patient for i, patient in zip(table.slide.tolist(), table.patient.tolist(), strict=True) if i in files]
    if unit == "patient" and len(set(there)) < len(there):
        raise ConfigError(
            f"{name!r} has {len(there)} images of {len(set(there))} patients; an image is a bag, so the unit is no "
            'patient. Set unit="slide"; folds keep the images of a patient together all the same.'
        )


def _size_notes(sizes: np.ndarray) -> tuple[str, ...]:
    """What a reader should know of sizes: all images stand in one canvas."""
    low, high = sizes.min(0), sizes.max(0)
    canvas = f"all are shown in a canvas of {high[0]} x {high[1]}, so that memory and time are those of the largest"
    said = f"images differ in size (height {low[0]} to {high[0]}, width {low[1]} to {high[1]} px); {canvas}"
    return (said,) if (low != high).any() else ()


def _unlisted(opened: OpenImages) -> tuple[str, ...]:
    """Image files beside those of the table that it does not name."""
    known = {path.resolve() for path in (*opened.files.values(), *opened.masks.values())}
    there = (p for folder in sorted({p.parent for p in opened.files.values()}) for p in sorted(folder.iterdir()))
    more = [p.name for p in there if p.suffix.lower() in SUFFIXES and p.resolve() not in known]
    said = f"{len(more)} image files beside them have no row in the table ({and_more(more[:3], len(more))})"
    return (said,) if more else ()


def _mask_notes(opened: OpenImages, ids: Sequence[str]) -> tuple[str, ...]:
    count = sum(i in opened.masks for i in ids)
    said = f"{count} of {len(ids)} images have a mask, for scoring only; none is opened while training"
    return (said,) if opened.masks else ()


def _about_images(flow: Flow, notes: Sequence[str]) -> Flow:
    """The flow in the words of images."""
    left_out = tuple((name, NO_IMAGE if why == NO_FEATURES else why) for name, why in flow.left_out)
    return replace(flow, left_out=left_out, notes=(*flow.notes, *notes))
