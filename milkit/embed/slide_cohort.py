"""The data of an experiment as slide files: tiled and embedded when the study first needs it, then a cohort."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from milkit.data.cohort import Cohort
from milkit.data.study import Study, Unit
from milkit.data.table import CohortTable, read_cohort
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.task import Task

if TYPE_CHECKING:
    from milkit.embed.run import Report
    from milkit.slides.tiling import Tiling

Say = Callable[[str], None]


@dataclass(frozen=True)
class SlideCohort:
    """A cohort whose features are yet to be made of slide files. Paths are relative to where the command is run.

    It does what `milkit tile` and `milkit embed` do, with the same files, and goes on where either stopped; once the
    store is there, nothing is done again.
    """

    cohort: Cohort
    """The table, and in `features` the store to make of its slides, such as "runs/slides.h5"."""
    slides: str | tuple[str, ...]
    """Folders, of which the table's slides are taken, and files, which are taken whether the table has them or not: a
    slide without a row trains and tests nothing, and models can be asked about it (`milkit heatmap`)."""
    encoder: str = "efficientnet_lite0"
    """A name of docs/encoders.md, `module:function`, or `FILE.onnx`."""
    weights: str = ""
    """The encoder's file of weights."""
    tile_um: float = 128.0
    """Width of a tile in micrometres."""
    tile_px: int = 256
    """Its width in pixels as the encoder gets it."""
    overlap_um: float = 0.0
    """Of neighbouring tiles."""
    tissue: float = 0.5
    """Least share of tissue in a tile, 0 to 1."""
    saturation: float | None = None
    """Tissue is what is more saturated than this, of 255; None takes Otsu's threshold of each slide, which needs some
    glass beside the tissue: crops have none."""
    mpp: float | tuple[tuple[str, float], ...] = ()
    """Micrometres a pixel of level 0, of all slides or by name: (("tcga-*", 0.25), ...), the first that fits. Others
    have that of the table's column `mpp`, or else what their files state; it is never guessed."""
    tiles: str = ""
    """Folder of the manifests; "" makes one beside the store, named after it."""
    dtype: Literal["float16", "float32", "bfloat16"] = "float16"
    """Of the features in the store."""
    heatmaps: tuple[str, ...] = ()
    """Slides of which `milkit run` lays attention over the slide when the study is done, in RUN/heatmaps."""

    def __post_init__(self) -> None:
        check_fields(self, "data", skip=("cohort", "mpp"), tissue="[0, 1]", tile_um="(0, 1e6)", tile_px="[1, 65536]")
        if not isinstance(self.cohort, Cohort) or not isinstance(self.cohort.features, str):
            raise ConfigError(
                "SlideCohort wants cohort=Cohort(TABLE, STORE), whose features are one store to make; found "
                f"{self.cohort!r}."
            )
        for pair in self._given_mpp:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and pair[1] > 0):
                raise ConfigError(f'mpp has {pair!r}; expected micrometres a pixel, or pairs such as ("tcga-*", 0.25).')

    @property
    def slide_labels(self) -> bool:
        """Whether labels belong to slides."""
        return self.cohort.slide_labels

    @property
    def store(self) -> Path:
        """The store."""
        return Path(str(self.cohort.features))

    @property
    def tiling(self) -> "Tiling":
        """What tiles."""
        from milkit.slides.tiling import Tiling
        from milkit.slides.tissue import TissueRule

        rule = TissueRule(saturation=self.saturation)
        return Tiling(self.tile_um, self.tile_px, self.overlap_um, self.tissue, rule=rule)

    @property
    def _given_mpp(self) -> tuple[tuple[str, float], ...]:
        """Pattern of names, and their mpp."""
        return self.mpp if isinstance(self.mpp, tuple) else (("*", self.mpp),)

    def load(self, task: Task, unit: Unit = "patient") -> Study:
        """Tile and embed what is not there yet, and make the study of a task.

        Raises:
            DataError: a slide that the cohort's `strict` does not let out cannot be read, or none can.
            MilkitError: see `Cohort.load`.
        """
        self.make()
        return self.cohort.load(task, unit)

    def make(self, say: Say = print) -> "Report":
        """Tile and embed what is not there yet; `say` is told of each slide that fails, and of the whole."""
        # an experiment is imported everywhere, also where no library that reads slides is
        from milkit.embed.run import embed
        from milkit.encoders.load import load_encoder
        from milkit.slides.tile_slides import tile_slides

        own = self.cohort
        table = read_cohort(
            own.table, slide=own.slide, patient=own.patient, site=own.site, cohort=own.cohort, sheet=own.sheet
        )
        slides, mpp = self._chosen(table, say)
        folder = Path(self.tiles) if self.tiles else self.store.with_suffix(".tiles")
        kept = []
        for outcome in tile_slides(slides, folder, self.tiling, mpp=mpp):
            if outcome.tiles is None:
                self._left_out(outcome.slide_id, outcome.reason, say)
            else:
                kept.append(outcome.slide_id)
        encoder = load_encoder(self.encoder, self.weights or None)
        report = embed(kept, folder, encoder, self.store, dtype=self.dtype)
        for bag in report.failed:
            self._left_out(bag.id, bag.reason, say)
        if not report.there:
            say(f"{self.store}: {report.tiles} tiles of {len(kept) - len(report.failed)} slides, by {self.encoder}")
        return report

    def _chosen(self, table: CohortTable, say: Say) -> tuple[dict[str, Path], dict[str, float]]:
        """Files by slide: the table's, then those named; and the mpp of those that are given one."""
        from milkit.slides.of_cohort import slides_of_cohort
        from milkit.slides.tile_slides import find_slides, slide_id_of

        paths = [Path(p) for p in ((self.slides,) if isinstance(self.slides, str) else self.slides)]
        every = find_slides(paths)
        named = {slide_id_of(path) for path in paths if not path.is_dir()}
        found = slides_of_cohort(table, every)
        for name in found.missing:
            self._left_out(name, f"no file of this name in {', '.join(map(str, paths))}", say)
        slides = dict(found.files) | {name: path for name, path in every.items() if name in named}
        if not slides:
            raise DataError(f"No slide of {table.file} is in {', '.join(map(str, paths))}.")
        fits = {
            name: next((m for pattern, m in self._given_mpp if fnmatchcase(name, pattern)), None) for name in slides
        }
        return slides, {**found.mpp, **{name: mpp for name, mpp in fits.items() if mpp is not None}}

    def _left_out(self, slide_id: str, reason: str, say: Say) -> None:
        if self.cohort.strict:
            raise DataError(f"Slide {slide_id!r} cannot be used, and the cohort is strict: {reason}")
        say(f"{slide_id}: left out: {reason}")
