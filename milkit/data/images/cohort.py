"""A folder of images and a table of their labels: what an experiment on pixels is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from milkit.data.build import NO_FEATURES, build_study
from milkit.data.cells import read_cells
from milkit.data.images.decode import SUFFIXES, WHITE, Reading
from milkit.data.images.load import ImageSource, check_memory, decode, digest_of, files_of, sizes_of
from milkit.data.images.masks import MaskFolder, Masks
from milkit.data.matching import examples
from milkit.data.study import Flow, Study, Unit
from milkit.data.table import CohortTable, read_cohort
from milkit.data.where import and_more
from milkit.errors import CohortError, ConfigError, DataError
from milkit.fields import check_fields
from milkit.task import Task

NO_IMAGE = "the table has a row but there is no such image file"


@dataclass(frozen=True)
class ImageCohort:
    """Images with labels, from a table and a folder; an image is a bag, its pixels the instances.

    The table has a column of image files and those of other cohort tables: labels, patient, site, given splits. Labels
    belong to images, so experiments need `unit="slide"` where a patient has several; folds keep patients together.
    Paths are relative to where the command is run.
    """

    table: str
    """The table, one row an image: a CSV or .xlsx file."""
    images: str = ""
    """Folder that the names in the table start from; "" is the table's own folder."""
    masks: str = ""
    """Where masks are, for scoring: a folder of files named like the images (also with `_mask` or `_anno` after the
    name), or a column of the table with files, relative to the table's folder. Training never opens them."""
    image: str = ""
    """Column of the image files; "" recognises image, or else what other cohort tables call the slide. An ending such
    as .png may be left out."""
    patient: str = ""
    """Column of the patient ids; "" recognises patient_id, patient, case_id; where there is none, each image is its own
    patient."""
    site: str = ""
    """Column of the site; "" recognises site, group, hospital, centre, center; "-" uses none."""
    cohort: str = ""
    """Column of the cohort; "" recognises cohort; "-" uses none."""
    split: str = ""
    """Column(s) of given splits: a name, "fold_*", "-" for none; "" recognises split, fold and fold_0, fold_1 ..."""
    downsample: int = 1
    """Side of the blocks of pixels whose mean becomes one pixel; masks follow."""
    white: int = WHITE
    """The value of 16-bit pixels that becomes 255: 65535, or 4095 of cameras of 12 bits."""
    foreground: tuple[int, ...] = ()
    """Values of masks that count; () for every one but 0."""
    max_gib: float = 0.0
    """The most memory that pixels may take; 0 is a quarter of the machine's."""
    max_megapixels: float = 80.0
    """The most pixels of an image file, in millions."""
    slide_labels: bool = True
    """Labels belong to images, so that images of one patient may differ; False refuses a table where they do."""
    strict: bool = False
    """Raise where an image would be left out (no file, no label) instead of counting it."""
    sheet: str = ""
    """Of .xlsx tables, "" for the first."""

    def __post_init__(self) -> None:
        check_fields(
            self, "data", downsample="[1, 1024]", white="[255, 65535]", foreground="[1, inf)", max_gib="[0, inf)",
            max_megapixels="(0, 85]",
        )  # fmt: skip

    @property
    def reading(self) -> Reading:
        """How its images are read."""
        return Reading(self.downsample, self.white, self.max_megapixels)

    def load(self, task: Task, unit: Unit = "patient") -> Study:
        """Read the table, decode all images that it labels, and make the study of a task. No mask is opened.

        Raises:
            CohortError: a table that cannot be used; names file, line and column.
            DataError: images that cannot be used, or take too much memory; names the file.
            ConfigError: the unit is the patient, and one has several images.
        """
        table = self.read_table()
        files = files_of(table, self.folder)
        if not files:
            raise CohortError(
                f"{table.file}: none of its {len(table)} images is in {self.folder}. Images of the table: "
                f"{examples(table.slide.tolist())}. Say where they are: images='the folder'."
            )
        masks = self._mask_files(table, files)
        name = Path(self.table).stem
        sizes = sizes_of(files, self.reading)
        provenance = {"encoder": None, "mpp": None, "tile_um": None, "tile_px": None, "downsample": self.downsample}
        source = ImageSource(tuple(files), np.array(list(sizes.values()), np.int64).reshape(-1, 2), {}, provenance)
        _check_unit(name, table, files, unit)
        study = build_study(
            name, table, source, task, unit, split=self.split, strict=self.strict, slide_labels=self.slide_labels
        )
        ids = images_of(study)
        check_memory([sizes[i] for i in ids], self.max_gib, name)
        pixels, converted = decode({i: files[i] for i in ids}, self.reading)
        changed = [i for i in ids if pixels[i].shape[:2] != sizes[i]]
        if changed:
            raise DataError(f"{files[changed[0]]} has another size than its header says; put it there again.")
        source.pixels.update(pixels)
        shape = np.array([sizes[i] for i in ids], np.int64)
        notes = (
            *(f"{count} of {len(ids)} images converted: {word}" for word, count in sorted(converted.items())),
            *_size_notes(shape, self.downsample),
            *_unlisted([*files.values()], [*masks.values()]),
            *self._mask_notes(masks, ids),
        )
        return replace(
            study,
            sizes=shape,
            flow=_about_images(study.flow, notes),
            provenance={**study.provenance, "pixels_sha256": digest_of(pixels, ids)},
        )

    def masks_of(self, study: Study) -> Masks:
        """The masks of a study that was loaded from it, for scoring; files are opened one by one, when asked for.

        Raises:
            DataError: it names no masks.
        """
        if not self.masks or study.sizes is None:
            raise DataError(f"{study.name!r} names no masks; say where they are: masks='a folder' (or a column).")
        table = self.read_table()
        found = self._mask_files(table, files_of(table, self.folder))
        ids = tuple(images_of(study))
        return Masks(ids, tuple(found.get(i) for i in ids), study.sizes, self.reading, self.foreground)

    @property
    def folder(self) -> Path:
        """Where names of images start from."""
        return Path(self.images).expanduser() if self.images else Path(self.table).expanduser().parent

    def read_table(self) -> CohortTable:
        """The table; its slides are the images.

        Raises:
            CohortError: it cannot be used.
        """
        names = read_cells(self.table, self.sheet).columns
        own = [name for name in names if name.strip().lower() in ("image", "images", "image_file", "image_id")]
        image = self.image or (own[0] if len(own) == 1 else "")
        return read_cohort(
            self.table, slide=image, patient=self.patient, site=self.site, cohort=self.cohort, sheet=self.sheet
        )

    def _mask_files(self, table: CohortTable, files: Mapping[str, Path]) -> dict[str, Path]:
        """The mask of each image that has one; none is opened."""
        if not self.masks:
            return {}
        if self.masks in table.columns:
            cells = dict(zip(table.slide.tolist(), table.columns[self.masks].tolist(), strict=True))
            base = Path(self.table).expanduser().parent
            return {name: base / Path(cell).expanduser() for name, cell in cells.items() if cell}
        folder = MaskFolder.of(Path(self.masks).expanduser())
        found = {name: folder.of_image(path.name) for name, path in files.items()}
        return {name: path for name, path in found.items() if path is not None}

    def _mask_notes(self, masks: Mapping[str, Path], ids: Sequence[str]) -> tuple[str, ...]:
        if not self.masks:
            return ()
        count = sum(i in masks for i in ids)
        return (f"{count} of {len(ids)} images have a mask, for scoring only; none is opened while training",)


def images_of(study: Study) -> list[str]:
    """Id of each bag's image; in the patient unit a bag is named by its patient."""
    return [slides[0] for slides in study.slides]


def _check_unit(name: str, table: CohortTable, files: Mapping[str, Path], unit: Unit) -> None:
    there = [patient for i, patient in zip(table.slide.tolist(), table.patient.tolist(), strict=True) if i in files]
    if unit == "patient" and len(set(there)) < len(there):
        raise ConfigError(
            f"{name!r} has {len(there)} images of {len(set(there))} patients; an image is a bag, so the unit is no "
            'patient. Set unit="slide"; folds keep the images of a patient together all the same.'
        )


def _size_notes(sizes: np.ndarray, downsample: int) -> tuple[str, ...]:
    """What a reader should know of sizes: all images stand in one canvas."""
    low, high = sizes.min(0), sizes.max(0)
    block = f"each pixel is the mean of a block of {downsample} x {downsample}" if downsample > 1 else ""
    canvas = f"all are shown in a canvas of {high[0]} x {high[1]}, so that memory and time are those of the largest"
    differ = f"images differ in size (height {low[0]} to {high[0]}, width {low[1]} to {high[1]} px); {canvas}"
    return tuple(filter(None, [block, differ if (low != high).any() else ""]))


def _unlisted(files: Sequence[Path], masks: Sequence[Path]) -> tuple[str, ...]:
    """Image files beside those of the table that it does not name."""
    known = {path.resolve() for path in (*files, *masks)}
    there = (p for folder in sorted({path.parent for path in files}) for p in sorted(folder.iterdir()))
    more = [p.name for p in there if p.suffix.lower() in SUFFIXES and p.resolve() not in known]
    said = f"{len(more)} image files beside them have no row in the table ({and_more(more[:3], len(more))})"
    return (said,) if more else ()


def _about_images(flow: Flow, notes: Sequence[str]) -> Flow:
    """The flow in the words of images."""
    left_out = tuple((name, NO_IMAGE if why == NO_FEATURES else why) for name, why in flow.left_out)
    return replace(flow, left_out=left_out, notes=(*flow.notes, *notes))
