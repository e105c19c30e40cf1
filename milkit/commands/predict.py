"""`milkit predict`: what a kept model says about the slides of a store, or finds in a folder of images."""

import argparse
from pathlib import Path

from milkit.commands.evaluate import features_of, features_options

TABLE, FOLDER = Path("predictions.csv"), Path("predicted")


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)

    from milkit.execute.compiled import keep_compiled
    from milkit.keep.folder import read_facts

    of_images = bool(read_facts(options.model).get("images"))
    _refuse_options(options, of_images)
    keep_compiled()
    return _images(options) if of_images else _slides(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="milkit predict",
        description="Let a model that `milkit finalize` made answer for the slides of a store: one row a slide, or a "
        "patient where a table says whose the slides are. A model of images finds things in a folder of images: "
        "masks, maps, overlays, polygons for QuPath, and a table of areas.",
        epilog="examples: milkit predict models/demo new_features.h5 --out predictions.csv; "
        "milkit predict models/glands new_slides --out predicted --mpp 0.5",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    parser.add_argument("store", type=Path, metavar="STORE", help="features of the slides; or a folder of images")
    parser.add_argument(
        "--out", type=Path, help=f"CSV to write (default: {TABLE}); of images the folder to make (default: {FOLDER})"
    )
    parser.add_argument("--trust-source", action="store_true", help="import the saved source of a model of one's own")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    slides = parser.add_argument_group("slides")
    slides.add_argument("--cohort", type=Path, metavar="CSV", help="table of slides and patients: a row a patient")
    slides.add_argument("--slide", default="", metavar="COLUMN", help="its column of slide ids, if not recognised")
    slides.add_argument("--patient", default="", metavar="COLUMN", help="its column of patient ids, if not recognised")
    features_options(parser)
    images = parser.add_argument_group("images", "(--mpp, too: micrometres a pixel, for areas)")
    images.add_argument(
        "--threshold", type=float, help="probability from which on a pixel counts (default: the model's)"
    )
    images.add_argument(
        "--min-area", type=int, default=0, metavar="PX", help="leave out objects of fewer pixels of the image"
    )
    images.add_argument("--class", dest="name", default="", metavar="NAME", help="what to call what is found")
    images.add_argument("--overlay", choices=["both", "contour", "tint"], default="both", help="how overlays show it")
    images.add_argument(
        "--window", type=int, default=0, metavar="PX",
        help="side of the windows of a large image, as the model sees it (default: the training images' canvas)",
    )  # fmt: skip
    return parser


def _refuse_options(options: argparse.Namespace, of_images: bool) -> None:
    """Options of the other kind of model are refused rather than left unread."""
    from milkit.errors import ConfigError

    slides = {"--cohort": "cohort", "--slide": "slide", "--patient": "patient", "--encoder": "encoder"}
    slides |= {"--patches": "patches", "--allow-unknown": "allow_unknown"}
    images = {"--threshold": "threshold", "--min-area": "min_area", "--class": "name", "--window": "window"}
    wrong, reads, other = (
        (slides, "images", "slides' features") if of_images else (images, "slides' features", "images")
    )
    given = [flag for flag, name in wrong.items() if getattr(options, name) not in (None, "", 0, [])]
    if given:
        raise ConfigError(f"{given[0]} is for models of {other}; {options.model} reads {reads}. Leave it out.")


def _images(options: argparse.Namespace) -> int:
    from milkit import api
    from milkit.commands.progress import on_one_line
    from milkit.errors import ConfigError
    from milkit.keep.image_predict import Finding

    try:
        mpp = float(options.mpp) if options.mpp else None
    except ValueError:
        raise ConfigError(f"--mpp {options.mpp}: give the micrometres a pixel of the images as a number.") from None
    how = Finding(options.threshold, options.min_area, options.window, mpp, options.name, options.overlay)
    out = options.out or FOLDER

    def tell(done: int, of: int) -> None:
        on_one_line("" if done == of else f"image {done} of {of}")

    header, *rows = api.predict_images(
        options.model, options.store, out, how, force=options.force, trust_source=options.trust_source, tell=tell
    )
    column = {name: i for i, name in enumerate(header)}
    for kind in dict.fromkeys(row[column["class"]] for row in rows):
        own = [row for row in rows if row[column["class"]] == kind]
        found = [row for row in own if int(row[column["foreground_px"]])]
        share = sum(int(row[column["foreground_px"]]) for row in own) / sum(int(row[column["pixels"]]) for row in own)
        objects = sum(int(row[column["objects"]]) for row in own)
        print(f"{kind}: in {len(found)} of {len(own)} images, {objects} objects, {100 * share:.1f} % of the pixels")
    images = {row[0]: row for row in rows}.values()
    trained = sum(row[column["in_training"]] == "yes" for row in images)
    if trained:
        print(f"{trained} of them were in training (column in_training): what is said about them is no prediction")
    for mark in filter(None, rows[0][column["marks"]].split(";")):
        print(f"marked: {mark}")
    print(f"{len(images)} images looked at by {rows[0][column['members']]} members: {out / 'areas.csv'}")
    print(f"beside it: {', '.join(('masks', 'maps', 'overlays', 'geojson'))}")
    return 0


def _slides(options: argparse.Namespace) -> int:
    from milkit.errors import RunFolderError

    out = options.out or TABLE
    if out.exists() and not options.force:
        raise RunFolderError(f"{out} is there already; replace it by --force, or give another --out.")

    from milkit import api
    from milkit.commands.progress import bags_done

    header, *rows = api.predict(
        options.model,
        features_of(options),
        cohort=options.cohort,
        out=out,
        trust_source=options.trust_source,
        slide=options.slide,
        patient=options.patient,
        tell=bags_done,
    )
    column = {name: i for i, name in enumerate(header)}
    print(f"{len(rows)} {header[0]}s answered by {rows[0][column['members']]} members: {out}")
    trained = sum(row[column["in_training"]] == "yes" for row in rows)
    if trained:
        print(f"{trained} of them were in training (column in_training): what is said about them is no prediction")
    for mark in filter(None, rows[0][column["marks"]].split(";")):
        print(f"marked: {mark}")
    return 0
