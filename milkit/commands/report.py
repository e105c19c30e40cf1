"""`milkit report`: numbers and pages of run folders, made again from their predictions."""

import argparse
from pathlib import Path

from milkit.errors import RunFolderError


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit report",
        description="Recompute every number of a run from its predictions.csv and write its report again.",
        epilog="example: milkit report runs/demo; milkit report runs/lung --subgroup sex --subgroup age",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    parser.add_argument(
        "--subgroup",
        action="append",
        metavar="COLUMN",
        help="group patients by this column of the cohort table (site, cohort, sex, age ...; numbers are cut at their "
        "tertiles); may be given several times; default: columns with 2 to 8 levels, six at most",
    )
    parser.add_argument(
        "--sensitivity",
        type=float,
        metavar="SHARE",
        help="choose each run's threshold anew: the highest that reaches this sensitivity on its validation patients "
        "(binary tasks; default: the one with the largest Youden's J on them)",
    )
    options = parser.parse_args(arguments)

    from milkit import api
    from milkit.commands.show import summary

    for out in options.runs:
        if not out.is_dir():
            raise RunFolderError(f"{out} is {'a file' if out.exists() else 'not there'}; give a run folder.")
    for out in options.runs:
        print(summary(api.report(out, groups=options.subgroup, sensitivity=options.sensitivity), out))
    return 0
