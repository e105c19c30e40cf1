"""`milkit watch`: the live table of a study that runs elsewhere, by reading its folder only."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from milkit.errors import RunFolderError
from milkit.watch.standing import Reader, Standing
from milkit.watch.table import facts, table

EVERY = 1.0
"""Seconds between two looks."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit watch",
        description="Show how a study stands that another process runs. Its folder is read, nothing is written; the "
        "figures are of training and validation. Ends with the study, or by Ctrl-C, which leaves the study alone.",
        epilog="example: milkit watch runs/demo; milkit watch runs/demo --json",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--once", action="store_true", help="show it once and end (so also where there is no terminal)")
    parser.add_argument("--json", action="store_true", help="as one line of JSON, once")
    options = parser.parse_args(arguments)
    reader = Reader(options.run)
    standing = reader.read()
    if standing is None:
        there = options.run.is_dir()
        why = "has no progress.jsonl, so no study has run in it" if there else "is no folder that is there"
        raise RunFolderError(f"{options.run} {why}; give the run folder of a study, as in `milkit watch runs/demo`.")
    if options.json:
        print(json.dumps(asdict(standing)))
    elif options.once or not sys.stdout.isatty():
        print(_plain(standing))
    else:
        _follow(reader, standing)
    return 0


def _plain(standing: Standing) -> str:
    rows = [(standing.name, standing.state), *facts(standing)]
    width = max(len(what) for what, _ in rows)
    return "\n".join(f"{what:<{width}}  {how}" for what, how in rows)


def _follow(reader: Reader, standing: Standing) -> None:
    from rich.live import Live

    with Live(table(standing), auto_refresh=False) as screen:
        while standing.state == "running":
            time.sleep(EVERY)
            standing = reader.read() or standing
            screen.update(table(standing), refresh=True)
