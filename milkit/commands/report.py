"""`milkit report`: numbers and pages of run folders, made again from their predictions."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit report",
        description="Recompute every number of a run from its predictions.csv and write its report again.",
        epilog="example: milkit report runs/demo",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    options = parser.parse_args(arguments)

    from milkit import api
    from milkit.commands.show import summary

    for out in options.runs:
        print(summary(api.report(out), out))
    return 0
