"""A folder of images and a table of their labels: what an experiment on pixels is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from milkit.data.cells import read_cells
from milkit.data.images.decode import WHITE, Reading
from milkit.data.images.load import files_of
from milkit.data.images.masks import MaskFolder, Masks
from milkit.data.images.opened import OpenImages, image_study
from milkit.data.images.truth import with_pixel_masks
from milkit.data.matching import examples
from milkit.data.study import Study, Unit
from milkit.data.table import CohortTable, read_cohort
from milkit.errors import CohortError, DataError
from milkit.fields import check_fields
from milkit.task import Task


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
    name), or a column of the table with files, relative to the table's folder. Training never opens them, unless
    `pixel_masks`."""
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
    pixel_masks: bool = False
    """Hand out the masks of training and validation images, for supervised upper bounds: the study is then one of pixel
    supervision, which its flow says. Needs one given split (and `GivenFolds`); masks of test images stay closed."""

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
        """Read the table, decode all images that it labels, and make the study of a task. No mask is opened,
        unless `pixel_masks`.

        Raises:
            CohortError: a table that cannot be used; names file, line and column.
            DataError: images (or masks) that cannot be used, or take too much memory; names the file.
            ConfigError: the unit is the patient, and one has several images; see `pixel_masks`.
        """
        opened, options = self.open(), {"strict": self.strict, "slide_labels": self.slide_labels}
        study = image_study(opened, task, unit, pixel_masks=self.pixel_masks, **options)
        return with_pixel_masks(study, opened, task) if self.pixel_masks else study

    def open(self) -> OpenImages:
        """The table and the files it names; no image or mask is read.

        Raises:
            CohortError: a table that cannot be used, or none of its images is there.
        """
        table = self.read_table()
        files = files_of(table, self.folder)
        if not files:
            raise CohortError(
                f"{table.file}: none of its {len(table)} images is in {self.folder}. Images of the table: "
                f"{examples(table.slide.tolist())}. Say where they are: images='the folder'."
            )
        return OpenImages(
            name=Path(self.table).stem,
            table=table,
            files=files,
            masks=self._mask_files(table, files),
            reading=self.reading,
            foreground=self.foreground,
            split=self.split,
            max_gib=self.max_gib,
        )

    def masks_of(self, study: Study) -> Masks:
        """The masks of a study that was loaded from it, for scoring; files are opened one by one, when asked for.

        Raises:
            DataError: it names no masks.
        """
        if not self.masks:
            raise DataError(f"{study.name!r} names no masks; say where they are: masks='a folder' (or a column).")
        return self.open().masks_of(study)

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
        if not any(found.values()):
            raise DataError(
                f"{folder.folder} holds no mask of any image; its files are {examples([*folder.by_stem])}, the images "
                f"{examples([*files])}. Name masks like their images, or name a column of the table with their files."
            )
        return {name: path for name, path in found.items() if path is not None}
