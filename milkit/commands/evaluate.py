"""`milkit evaluate`: a kept model on another cohort."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit evaluate",
        description="Measure a model that `milkit finalize` made on another cohort: discrimination, calibration, the "
        "locked threshold, by cohort, site and sub-group. Nothing is fitted; patients of its training are refused.",
        epilog="example: milkit evaluate models/demo other.h5 other.csv --out runs/other --labels tumour=1,normal=0",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    parser.add_argument("store", type=Path, metavar="STORE", help="features of the cohort's slides")
    parser.add_argument("cohort", type=Path, metavar="COHORT.csv", help="one row a slide: ids, target, site ...")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--labels", default="", metavar="THEIRS=OURS,...", help="its classes in the model's words")
    parser.add_argument("--target", default="", metavar="COLUMN,...", help="columns of the target, if named otherwise")
    parser.add_argument("--subgroup", action="append", metavar="COLUMN", help="a column to look at; may be given again")
    for role in ("slide", "patient", "site"):
        parser.add_argument(f"--{role}", default="", metavar="COLUMN", help=f"column of the {role}, if not recognised")
    features_options(parser)
    parser.add_argument("--force", action="store_true", help="replace the evaluation that is in the folder")
    parser.add_argument("--trust-source", action="store_true", help="import the saved source of a model of one's own")
    options = parser.parse_args(arguments)

    from milkit import api
    from milkit.commands.progress import bags_done
    from milkit.execute.compiled import keep_compiled
    from milkit.keep.cohort import Reading

    keep_compiled()
    reading = Reading(
        target=tuple(filter(None, options.target.split(","))),
        labels=_labels(options.labels),
        slide=options.slide,
        patient=options.patient,
        site=options.site,
    )
    results = api.evaluate(
        options.model,
        features_of(options),
        options.cohort,
        options.out,
        reading=reading,
        groups=options.subgroup,
        force=options.force,
        trust_source=options.trust_source,
        tell=bags_done,
    )
    print(_summary(results, options.out))
    return 0


def features_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what features are; `features_of` reads them."""
    unknown = "use features whose encoder (mpp) only one side knows; marks every number; may be given twice"
    parser.add_argument("--allow-unknown", action="append", default=[], metavar="encoder|mpp", help=unknown)
    level0 = "for files of other tools: micrometres a pixel at level 0, or the table's column of them"
    parser.add_argument("--mpp", default="", help=level0)
    parser.add_argument("--encoder", default="", help="for files of other tools that do not say their encoder")
    parser.add_argument("--patches", default="", metavar="DIR", help="CLAM's patches files, if not beside the features")


def features_of(options: argparse.Namespace):
    """The features that the command line names."""
    from milkit.keep.features import Features

    try:
        mpp: float | str = float(options.mpp)
    except ValueError:
        mpp = options.mpp
    return Features(options.store, mpp, options.encoder, options.patches, tuple(options.allow_unknown))


def _labels(text: str) -> dict[str, str]:
    from milkit.errors import ConfigError

    pairs = [part.split("=", 1) for part in text.split(",") if part]
    if any(len(pair) < 2 for pair in pairs):
        raise ConfigError(f"--labels {text}: write pairs THEIRS=OURS, joined by commas, such as tumour=1,normal=0.")
    return {theirs.strip(): ours.strip() for theirs, ours in pairs}


def _summary(results: dict, out: Path) -> str:
    from milkit.commands.progress import number, pair
    from milkit.commands.show import SHOWN

    counts, against = results["counts"], results["against_study"]
    classes = ", ".join(f"{name} {count}" for name, count in counts["classes"].items())
    lines = [f"{counts['patients']} patients{f' ({classes})' if classes else ''}, none of them in training"]
    lines.append(f"{'':>31}  value   sampling 95 %    in the study")
    at = [name for name in results["metrics"] if name.endswith("_at_threshold")]
    for name in [*(n for n in SHOWN if n in results["metrics"]), *at]:
        metric = results["metrics"][name]
        before = against.get(name, {}).get("study", {}).get("value")
        lines.append(f"{name:>31}  {number(metric['value'])}   {pair(metric['sampling'])}   {number(before)}")
        if metric["value"] is None:
            lines[-1] += f"  ({metric['note']})"
    lines += [f"left out: {count} slides, {reason}" for reason, count in results["left_out"].items()]
    lines += [f"marked: {mark}" for mark in results["marks"]]
    return "\n".join([*lines, f"report: {out / 'report.html'}"])
