"""`milkit heatmap`: what a run's models saw in a slide, laid over it."""

import argparse
from pathlib import Path
from typing import NoReturn

from milkit.errors import ConfigError

KINDS = ("attention", "instance", "contributions", "gradient", "integrated")
FORMATS = ("png", "geojson", "ome.tif", "h5", "csv", "html")
DESCRIPTION = """Ask the models of a run that held a slide out about each of its tiles, and lay the answers over the
slide: a picture (NAME.png), polygons for QuPath (NAME.geojson), a pyramid for viewers (NAME.ome.tif), raw scores
(NAME.h5) and a page with the highest and the lowest tiles (NAME.html)."""
EPILOG = """examples:
  milkit heatmap runs/er slides/biopsy.svs --out maps
  milkit heatmap runs/er biopsy --slides slides --out maps --kind integrated --label positive
  milkit heatmap runs/er slides/biopsy.svs --out maps --contours 0.9 0.95 --force
  milkit heatmap models/er slides/new.svs --store new.h5 --out maps

Colours show the rank within the slide (--scale raw: the score itself). A slide that every model was trained or
validated on is refused without --seen, and is then marked.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `milkit heatmap --help` lists the options.")


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    from milkit.execute.compiled import keep_compiled
    from milkit.heatmaps.draw import Drawing, heatmap

    formats, contours = (tuple(dict.fromkeys(given)) for given in (options.format, options.contours))
    drawing = Drawing(formats, options.scale, options.opacity, contours, options.tiles)
    keep_compiled()
    scores, files = heatmap(
        options.run, options.slide, options.out, drawing,
        kind=options.kind, label=options.label, slides=options.slides, mpp=options.mpp, name=options.name,
        seen=options.seen, other_file=options.other_file, force=options.force, store=options.store,
        cohort=options.cohort, selection=options.selection, trust_source=options.trust_source,
    )  # fmt: skip
    print(f"{scores.slide_id}")
    for line in scores.legend().split("\n"):
        print(f"  {line}")
    for file in files:
        print(file)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="milkit heatmap", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder, or a kept model (then with --store)")
    add("slide", metavar="SLIDE", help="the slide's file, or its id")
    add("--out", required=True, type=Path, metavar="DIR", help="folder of the files")
    add("--kind", choices=KINDS, default="attention", help="what is shown (default: attention)")
    add("--label", metavar="NAME", help="class, label or value (default: the positive class, or the only one)")
    add("--format", nargs="+", choices=FORMATS, default=[f for f in FORMATS if f != "csv"], help="default: all but csv")
    add("--scale", choices=("rank", "raw"), default="rank", help="what is coloured (default: rank within the slide)")
    add("--contours", type=float, nargs="+", default=[], metavar="Q", help="outlines at quantiles of the scores, too")
    add("--opacity", type=float, default=0.5, help="of the colours over the slide (default: 0.5)")
    add("--tiles", type=int, default=12, metavar="N", help="of each end on the page (default: 12)")
    add("--name", default="", help="of the files (default: the slide's id)")
    add("--force", action="store_true", help="replace files that are there")
    where = parser.add_argument_group("where things are")
    where.add_argument("--slides", type=Path, metavar="DIR", help="folder of slide files, where SLIDE is an id")
    where.add_argument("--mpp", type=float, metavar="UM", help="micrometres a pixel of level 0, if not stated")
    where.add_argument("--other-file", action="store_true", help="take a file that differs from the one that was tiled")
    where.add_argument("--store", type=Path, metavar="STORE", help="features: of a kept model, or where they moved to")
    where.add_argument("--cohort", type=Path, metavar="CSV", help="table: of a kept model, or where it moved to")
    models = parser.add_argument_group("which models")
    models.add_argument("--selection", default="", help="whose weights: validation or last (default: the run's own)")
    models.add_argument("--seen", action="store_true", help="also where all models saw the slide in training; marked")
    models.add_argument("--trust-source", action="store_true", help="import the saved source of a model of one's own")
    return parser
