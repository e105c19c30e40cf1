"""What a kept model finds in a folder of images: masks, maps, overlays, polygons, and a table of areas."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

import milkit
from milkit.data.images.decode import block_means, read_image
from milkit.errors import NonFiniteError
from milkit.fields import check_fields
from milkit.keep.folder import Kept, whole_folder
from milkit.keep.ids import digest_features
from milkit.keep.image_facts import reading_of
from milkit.keep.image_files import Shown, checked, file_word, images_in
from milkit.keep.image_geojson import area_of, colour_of, feature_collection
from milkit.keep.image_layers import FOREGROUND, Layer, kinds, layer, split_maps
from milkit.keep.image_maps import Seen, Viewer, margin_of
from milkit.keep.image_overlay import How, overlay
from milkit.keep.predict import called

AREAS, FACTS = "areas.csv", "prediction.json"
WHAT = "predictions of images"
HEADER = (
    "image", "class", "probability", "label", "foreground_px", "pixels", "share", "objects", "largest_px", "area_um2",
    "windows", "members", "in_training", "marks",
)  # fmt: skip
FURTHER = (
    "the network looks further than the margin of a window: maps of images larger than its canvas depend a little on "
    "where windows lie"
)


@dataclass(frozen=True)
class Finding:
    """How masks are made of a model's maps."""

    threshold: float | None = None
    """Probability from which on a pixel is foreground; None takes the model's."""
    min_area: int = 0
    """Objects of fewer pixels (of the image itself) are left out of masks, polygons and counts."""
    window: int = 0
    """Side of the windows of a large image, px; 0 takes the canvas of the training images."""
    mpp: float | None = None
    """Micrometres a pixel of the images, for areas."""
    name: str = ""
    """What to call that which is found; "" takes the model's word."""
    overlay: How = "both"
    """What overlays show of a mask."""

    def __post_init__(self) -> None:
        check_fields(self, "", threshold="[0, 1]", min_area="[0, inf)", window="[0, inf)", mpp="(0, inf)")


def predict_images(
    kept: Kept, given: Path, out: Path, how: Finding = Finding(), *, force: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> list[list[str]]:  # fmt: skip
    """Let a model look at images, and write what it finds.

    Args:
        kept: a model of images.
        given: a folder of images, or one image.
        out: the folder to make.
        how: threshold, windows and what is shown.
        force: replace the predictions of images in `out`.
        tell: (images done, images in all), called after each.

    Returns:
        Header and rows of `areas.csv`.

    Raises:
        MilkitError: the model reads no images or says not where; images that cannot be read; `out` is there.
    """
    reading, own = reading_of(kept.facts), kinds(kept, how.name)
    shown = checked(images_in(given), reading, getattr(kept.model, "smallest_side", 1))
    viewer = Viewer.of(kept, how.window)
    cut = any(-(-n // reading.downsample) > c for one in shown for n, c in zip(one.size, viewer.canvas, strict=True))
    margin, exact = margin_of(viewer) if cut else (0, True)
    marks = [*kept.facts["marks"], *([] if exact else [FURTHER])]
    threshold = kept.map_threshold if how.threshold is None else how.threshold
    rows = [list(HEADER)]

    def fill(folder: Path) -> None:
        for name in ("masks", "maps", "overlays", "geojson"):
            (folder / name).mkdir()
        for i, one in enumerate(shown):
            pixels, _ = read_image(one.path, replace(reading, downsample=1))
            small = block_means(pixels, reading.downsample) if reading.downsample > 1 else pixels
            seen = _see(viewer, small, margin, one)
            layers = [
                layer(name, found, one.size, reading.downsample, threshold, how.min_area)
                for name, found in zip(own, split_maps(kept, seen.maps), strict=True)
            ]
            _write(folder, one, pixels, layers, how)
            rows.extend(_rows(kept, one, seen, layers, how.mpp, _was_seen(kept, small), marks))
            if tell is not None:
                tell(i + 1, len(shown))
        with open(folder / AREAS, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        facts = _facts(kept, how, threshold, viewer, (margin, cut), shown, marks)
        (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    whole_folder(out, fill, FACTS, WHAT, force=force)
    return rows


def _see(viewer: Viewer, pixels: UInt8[np.ndarray, "h w 3"], margin: int, one: Shown) -> Seen:
    try:
        return viewer.see(pixels, margin)
    except NonFiniteError as error:
        raise NonFiniteError(f"{one.path}: {error}.") from None


def _write(folder: Path, one: Shown, pixels: np.ndarray, layers: list[Layer], how: Finding) -> None:
    masks = [found.full_mask for found in layers]
    for found, mask in zip(layers, masks, strict=True):
        name = one.stem if len(layers) == 1 else f"{one.stem}.{file_word(found.name)}"
        _save(folder / "masks" / f"{name}.png", mask.astype(np.uint8) * 255)
        _save(folder / "maps" / f"{name}.png", found.full_map)
    colours = [colour_of(i) for i in range(len(layers))]
    _save(folder / "overlays" / f"{one.stem}.png", overlay(pixels, masks, colours, how.overlay))
    text = feature_collection(layers, how.mpp)
    (folder / "geojson" / f"{one.stem}.geojson").write_text(text, encoding="utf-8")


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    path.write_bytes(file.getvalue())


def _rows(
    kept: Kept, one: Shown, seen: Seen, layers: list[Layer], mpp: float | None, in_training: bool, marks: Sequence[str]
) -> list[list[str]]:
    score = seen.members.mean(0)
    (labels,) = called(kept, score[None])
    names = list(kept.names)
    out = []
    for i, found in enumerate(layers):
        # binary tasks have both classes' probabilities and one label; of foreground and background the former counts
        place = -1 if kept.kind == "Binary" else names.index(FOREGROUND) if len(layers) < len(names) else i
        areas = [area_of(found.full_rings(o)) for o in found.objects]
        total, pixels = sum(areas), one.size[0] * one.size[1]
        cells = [found.name, repr(float(score[place])), labels[place], total, pixels, repr(total / pixels), len(areas)]
        cells += [max(areas, default=0), "" if mpp is None else repr(total * mpp * mpp)]
        cells += [seen.windows, len(kept.members), "yes" if in_training else "no", ";".join(marks)]
        out.append([one.path.name, *map(str, cells)])
    return out


def _was_seen(kept: Kept, pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether the model was trained on an image, told by its pixels; of crops by that at the top left."""
    known = set(kept.facts["training"]["seen"]["features"])
    height, width = kept.facts["images"]["canvas"]
    parts = (pixels, pixels[:height, :width])
    return any(digest_features(part.reshape(-1, part.shape[2])) in known for part in parts)


def _facts(
    kept: Kept, how: Finding, threshold: float, viewer: Viewer, cut: tuple[int, bool], shown: list[Shown],
    marks: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """What `prediction.json` holds."""
    margin, was_cut = cut
    converted = {one.path.name: list(one.said) for one in shown if one.said}
    return {
        "milkit": milkit.__version__,
        "model": {"name": kept.facts["name"], "type": kept.facts["model"]["type"], "digest": kept.facts["digest"]},
        "images": len(shown),
        "converted": converted,
        "how": asdict(how),
        "threshold": threshold,
        "reading": kept.facts["images"]["reading"],
        "canvas": list(viewer.canvas),
        "windows": {"margin": margin, "overlap": viewer.overlap(margin)} if was_cut else None,
        "marks": list(marks),
    }
