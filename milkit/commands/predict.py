"""`milkit predict`: what a kept model says about the slides of a store."""

import argparse
from pathlib import Path

from milkit.commands.evaluate import features_of, features_options


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit predict",
        description="Let a model that `milkit finalize` made answer for the slides of a store: one row a slide, or a "
        "patient where a table says whose the slides are.",
        epilog="example: milkit predict models/demo new_features.h5 --out predictions.csv",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    parser.add_argument("store", type=Path, metavar="STORE", help="features of the slides")
    parser.add_argument(
        "--out", type=Path, help="CSV to write (default: predictions.csv)", default=Path("predictions.csv")
    )
    parser.add_argument("--cohort", type=Path, metavar="CSV", help="table of slides and patients: a row a patient")
    parser.add_argument("--slide", default="", metavar="COLUMN", help="its column of slide ids, if not recognised")
    parser.add_argument("--patient", default="", metavar="COLUMN", help="its column of patient ids, if not recognised")
    features_options(parser)
    parser.add_argument("--trust-source", action="store_true", help="import the saved source of a model of one's own")
    parser.add_argument("--force", action="store_true", help="replace the file that is there")
    options = parser.parse_args(arguments)

    from milkit.errors import RunFolderError

    if options.out.exists() and not options.force:
        raise RunFolderError(f"{options.out} is there already; replace it by --force, or give another --out.")

    from milkit import api
    from milkit.commands.progress import bags_done
    from milkit.execute.compiled import keep_compiled

    keep_compiled()
    header, *rows = api.predict(
        options.model,
        features_of(options),
        cohort=options.cohort,
        out=options.out,
        trust_source=options.trust_source,
        slide=options.slide,
        patient=options.patient,
        tell=bags_done,
    )
    column = {name: i for i, name in enumerate(header)}
    print(f"{len(rows)} {header[0]}s answered by {rows[0][column['members']]} members: {options.out}")
    trained = sum(row[column["in_training"]] == "yes" for row in rows)
    if trained:
        print(f"{trained} of them were in training (column in_training): what is said about them is no prediction")
    for mark in filter(None, rows[0][column["marks"]].split(";")):
        print(f"marked: {mark}")
    return 0
