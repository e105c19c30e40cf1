"""`milkit check`: a leak and health scanner for a cohort, before anything is trained."""

import argparse
import json
import sys
from pathlib import Path

DESCRIPTION = """Look for leaks and for what is unhealthy in a cohort: patients, slides or sites on both sides of a
split, copied or re-scanned slides, feature columns that are the label, scalers fitted on test slides, lost leading
zeros, missing features, classes or values, bags far off, and sites or scanners confounded with the label."""

EPILOG = """example:
  milkit check clinical.csv --store features.h5 --folds folds.csv
  milkit check clinical.csv --store trident_out/20x_256px_0px_overlap/features_uni_v2 --label her2 --json

exit status: 0 no error was found (there may be warnings), 1 an error was found, 2 a file could not be read"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit check",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("cohort", metavar="COHORT.csv", help="the cohort's table, one row a slide")
    parser.add_argument(
        "--store",
        "--features",
        action="append",
        default=[],
        metavar="PATH",
        help="the features: a store, or a file or folder of another tool; once each (without: table and folds only)",
    )
    parser.add_argument(
        "--folds",
        default="",
        metavar="FILE",
        help="who trains, validates and tests, whoever wrote it (default: split and fold columns of the table)",
    )
    for name, what in (
        ("label", "the label (default: the column called label, target, class ...)"),
        ("slide", "the slide ids"),
        ("patient", "the patient ids"),
        ("site", "the site; - for none"),
        ("split", "splits in the table: a column, fold_*, or - for none"),
    ):
        parser.add_argument(f"--{name}", default="", metavar="COLUMN", help=f"column with {what}")
    parser.add_argument("--encoder", default="", metavar="NAME", help="for feature files that do not name theirs")
    parser.add_argument("--patches", default="", metavar="DIR", help="CLAM's patches, where not beside the features")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write check.md and check.json there")
    parser.add_argument("--json", action="store_true", help="print the findings as a JSON list and nothing else")
    options = parser.parse_args(arguments)

    from milkit.check import check_cohort
    from milkit.check.report import markdown, terminal

    checked = check_cohort(
        options.cohort,
        options.store[0] if len(options.store) == 1 else options.store,
        options.folds,
        label=options.label,
        slide=options.slide,
        patient=options.patient,
        site=options.site,
        split=options.split,
        encoder=options.encoder,
        patches=options.patches,
        tick=_tick if sys.stderr.isatty() else lambda done: None,
    )
    text = json.dumps(checked.json(), indent=1, ensure_ascii=False, allow_nan=False)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, content in (("check.json", text + "\n"), ("check.md", markdown(checked))):
            half = options.out / (name + ".part")
            half.write_text(content, encoding="utf-8")
            half.replace(options.out / name)
    print(text if options.json else terminal(checked))
    return 1 if checked.errors else 0


def _tick(done: int) -> None:
    """One line that says how many slides have been read."""
    if done % 10 == 0:
        print(f"\r{done} slides read", end="", file=sys.stderr, flush=True)
