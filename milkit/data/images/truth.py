"""Masks handed out for training: what each pixel of a training or validation image is, beside the image.

Only `pixel_masks=True` of the data opens them so, and a study then says *pixel supervision*. Masks of test images stay
closed: those of their pixels are not known, here as everywhere before scoring.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, UInt8

from milkit.data.images.load import threaded
from milkit.data.images.masks import Masks
from milkit.data.images.opened import OpenImages, images_of
from milkit.data.study import Study
from milkit.errors import ConfigError, DataError
from milkit.task import Binary, MultiLabel, Task

FOREGROUND, BACKGROUND = "foreground", "background"
SUPERVISION = "pixel supervision"


def with_pixel_masks(study: Study, opened: OpenImages, task: Task) -> Study:
    """A study of whole images whose training and validation images come with their masks.

    Raises:
        ConfigError: the task's labels are not those of pixels, or no single split says who is tested.
        DataError: a mask is absent or cannot be used; names the file.
    """
    labels = pixel_labels(task)
    if len(study.given) != 1:
        raise ConfigError(
            f"{study.name!r} comes with {len(study.given)} splits, but pixel_masks=True needs one: it says which "
            "images are test images, whose masks stay closed. Give the table a column split of train, val and test; "
            "of several name one: split='fold_0'."
        )
    ids = images_of(study)
    rows = np.flatnonzero(np.isin(study.given[0].role, ("train", "validation"))).tolist()
    assert study.sizes is not None
    masks = opened.masks_for([ids[i] for i in rows], study.sizes[rows])
    check_masks(opened.name, masks, "Pixel supervision learns from masks")
    truths = threaded(masks.truth, range(len(masks)))
    codes = {ids[i]: coded(truth > 0, labels) for i, truth in zip(rows, truths, strict=True)}
    own = tuple(codes.get(i) for i in ids)
    said = words(len(codes), sum(code.size for code in codes.values()))
    return handed_out(study, own, said, codes)


def handed_out(
    study: Study,
    codes: Sequence[UInt8[np.ndarray, "_ _"] | None],
    said: str,
    files: Mapping[str, UInt8[np.ndarray, "_ _"]],
) -> Study:
    """A study with what its bags' pixels are; its flow says so, and its digest covers the masks.

    Args:
        study: of images.
        codes: of each bag, see `coded`; None where the mask stays closed.
        said: for the flow.
        files: of each image whose mask was opened.
    """
    digest = hashlib.sha256()
    for name, code in files.items():
        digest.update(f"{name}\0{code.shape}\0".encode())
        digest.update(np.ascontiguousarray(code).data)
    return replace(
        study,
        pixel_truth=lambda i: codes[i],
        flow=replace(study.flow, notes=(*study.flow.notes, said)),
        provenance={**study.provenance, "masks_sha256": digest.hexdigest()},
    )


def words(images: int, pixels: int) -> str:
    """What supervision it is, and how much of it an image."""
    each = round(pixels / max(images, 1))
    return (
        f"{SUPERVISION}: training and selection read the masks of {images} training and validation images, {each:,} "
        f"labelled pixels an image ({pixels:,} in all); masks of test images stay closed"
    )


def pixel_labels(task: Task) -> tuple[str, ...]:
    """What a task asks of each pixel, in the order of its labels.

    Raises:
        ConfigError: something that a mask of foreground and background does not say.
    """
    if isinstance(task, Binary):
        return (FOREGROUND,)
    if isinstance(task, MultiLabel) and set(task.labels) <= {FOREGROUND, BACKGROUND}:
        return task.labels
    raise ConfigError(
        f"pixel_masks=True with {task!r}: masks say foreground and background of each pixel, so the task is Binary() "
        "(foreground) or MultiLabel(('foreground', 'background'))."
    )


def coded(foreground: Bool[np.ndarray, "h w"], labels: Sequence[str]) -> UInt8[np.ndarray, "h w"]:
    """A byte a pixel, whose bit k says label k."""
    code = np.zeros(foreground.shape, np.uint8)
    for k, label in enumerate(labels):
        code |= (foreground == (label == FOREGROUND)).astype(np.uint8) << np.uint8(k)
    return code


def covered(size: tuple[int, int], places: np.ndarray, side: int) -> int:
    """Pixels of an image that lie in a crop; those of overlapping crops count once.

    Args:
        size: height and width of the image.
        places: top left corner of each crop, [n, 2].
        side: of a crop.
    """
    seen = np.zeros(size, bool)
    for top, left in places.tolist():
        seen[top : top + side, left : left + side] = True
    return int(seen.sum())


def check_masks(name: str, masks: Masks, what: str) -> None:
    """Refuse a study whose training or validation images lack a mask.

    Args:
        name: of the study.
        masks: of these images.
        what: needs them, the beginning of the message.

    Raises:
        DataError: one has none, or there is no such image.
    """
    lacking = [image for i, image in enumerate(masks.ids) if not masks.has(i)]
    if lacking or not len(masks):
        said = f"{lacking[0]!r} has none" if lacking else "there is no training or validation image"
        raise DataError(
            f"{what}, but {said} (in {name!r}). Give masks of all training and validation images (masks='a folder'), "
            "or leave those images out."
        )
