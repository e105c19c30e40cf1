"""`milkit tile`: slides to the places of their tiles."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from milkit.commands.progress import on_one_line
from milkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from milkit.slides.tile_slides import Outcome
    from milkit.slides.tiling import Tiling

DESCRIPTION = """Find the tissue of slides and lay a grid of tiles over it, in micrometres. OUT then holds a manifest a
slide, NAME.json and NAME.csv (one row a tile), and qc/NAME.html, a page to look at."""
EPILOG = """examples:
  milkit tile slides/ --out tiles --tile-um 128 --tile-px 256
  milkit tile biopsy.svs --out tiles --tile-um 112 --tile-px 224 --mpp 0.25 --overlap-um 56
  milkit tile slides/ --cohort cohort.csv --out tiles --tile-um 128 --tile-px 256
  milkit tile slides/ --out tumour --tile-um 128 --tile-px 256 --mask outlines/ --include Tumor
  milkit tile slides/ --out context --tile-um 64 --tile-px 256 --scales 1 2 4 --workers 4

A slide that is there already, tiled in the same way, is kept; tiled in another way, it is refused without --force.
A slide that cannot be read is named with its reason, the others go on, and the exit status is 1.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `milkit tile --help` lists the options.")


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status: 0, or 1 where a slide failed."""
    options = _parser().parse_args(arguments)
    from milkit.slides.tile_slides import Mpp, Outcome, find_slides, tile_slides

    tiling = _tiling(options)
    slides = find_slides(options.slides)
    mpp: Mpp = options.mpp
    missing: tuple[str, ...] = ()
    if options.cohort is not None:
        from milkit.slides.of_cohort import slides_of_cohort

        found = slides_of_cohort(options.cohort, slides)
        slides, missing = dict(found.files), found.missing
        mpp = found.mpp if options.mpp is None else options.mpp
        if not slides:
            raise DataError(f"No slide of {options.cohort} is among the files given; its first is {missing[0]!r}.")
    if options.workers < 1:
        raise ConfigError(f"--workers is {options.workers}; expected 1 or more.")
    outcomes = []
    try:
        for outcome in tile_slides(
            slides, options.out, tiling, mpp=mpp, workers=options.workers, force=options.force,
            page=not options.no_page,
        ):  # fmt: skip
            outcomes.append(outcome)
            on_one_line("")
            _say(outcome)
            on_one_line(f"slide {len(outcomes)} of {len(slides)}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the slides that were finished are kept, repeat the command.") from None
    finally:
        on_one_line("")
    for name in missing:
        outcomes.append(Outcome(name, None, f"{options.cohort} names it, but no file given has this name"))
        _say(outcomes[-1])
    failed = [o for o in outcomes if o.tiles is None]
    total = sum(o.tiles or 0 for o in outcomes)
    print(f"{options.out}: {len(outcomes) - len(failed)} of {len(outcomes)} slides, {total} tiles")
    if failed:
        print(f"milkit tile: {len(failed)} slides could not be tiled, see above.", file=sys.stderr)
    return 1 if failed else 0


def _say(outcome: "Outcome") -> None:
    if outcome.tiles is None:
        print(f"{outcome.slide_id}: failed: {outcome.reason}", file=sys.stderr)
        return
    print(f"{outcome.slide_id}: {outcome.tiles} tiles{' (kept as they were)' if outcome.kept_manifest else ''}")
    for note in outcome.notes:
        print(f"  note: {note}")
    if not outcome.tiles and not outcome.kept_manifest:
        print(f"  warning: no tile of {outcome.slide_id} has enough tissue; look at its page", file=sys.stderr)


def _tiling(options: argparse.Namespace) -> "Tiling":
    from milkit.slides.masks import mask_choice
    from milkit.slides.tiling import Tiling
    from milkit.slides.tissue import TissueRule

    if options.mask is None and (options.include or options.exclude is not None or options.and_tissue):
        raise ConfigError("--include, --exclude and --and-tissue choose of a mask; give --mask too.")
    return Tiling(
        tile_um=options.tile_um, tile_px=options.tile_px, overlap_um=options.overlap_um, tissue=options.tissue,
        scales=tuple(sorted({1, *options.scales})), blur=not options.no_blur, least_blur=options.least_blur,
        most_fold=options.most_fold, mask=options.mask,
        rule=TissueRule(saturation=options.saturation, ink=not options.keep_ink),
        choice=mask_choice(options.include, options.exclude, options.and_tissue),
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="milkit tile", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("slides", nargs="+", type=Path, metavar="SLIDE", help="slide files, or folders of them")
    add("--out", required=True, type=Path, metavar="DIR", help="folder of the manifests")
    add("--tile-um", required=True, type=float, metavar="UM", help="width of a tile in micrometres")
    add("--tile-px", required=True, type=int, metavar="PX", help="its width in pixels as the encoder gets it")
    add("--mpp", type=float, metavar="UM", help="micrometres a pixel of level 0, where the files do not state it")
    add("--cohort", type=Path, metavar="TABLE", help="only its slides; its column mpp is each slide's own")
    add("--overlap-um", type=float, default=0.0, metavar="UM", help="of neighbouring tiles (default: 0)")
    add("--tissue", type=float, default=0.5, metavar="SHARE", help="least share of tissue in a tile (default: 0.5)")
    add("--scales", type=int, nargs="+", default=[1], metavar="N", help="also wider tiles about the same centres")
    add("--workers", type=int, default=1, metavar="N", help="processes, a slide each (default: 1)")
    add("--force", action="store_true", help="make manifests anew that are there")
    add("--no-page", action="store_true", help="write no page to look at")
    tissue = parser.add_argument_group("what is tissue")
    tissue.add_argument("--saturation", type=float, metavar="S", help="threshold in 0..255 (default: Otsu's, a slide)")
    tissue.add_argument("--keep-ink", action="store_true", help="do not take out blue, green and black pen")
    tissue.add_argument("--mask", type=Path, metavar="PATH", help="GeoJSON (QuPath) or PNG, or a folder: NAME.geojson")
    tissue.add_argument("--include", nargs="+", default=[], metavar="CLASS", help="classes of the mask that count")
    tissue.add_argument("--exclude", nargs="*", metavar="CLASS", help="classes that are taken out (default: Ignore*)")
    tissue.add_argument("--and-tissue", action="store_true", help="within the mask, what is found to be tissue")
    quality = parser.add_argument_group("quality")
    quality.add_argument("--no-blur", action="store_true", help="do not measure blur, which reads the tiles once")
    quality.add_argument("--least-blur", type=float, metavar="V", help="leave out tiles below this (more blurred)")
    quality.add_argument("--most-fold", type=float, metavar="SHARE", help="leave out tiles with more folded tissue")
    return parser
