"""`milkit view`: a local web page of a run's slides, their heat maps and predictions."""

import argparse
import os
import threading
import webbrowser
from pathlib import Path
from typing import NoReturn

from milkit.errors import ConfigError

DESCRIPTION = """Show a finished run in a browser on this machine: its slides with what held-out models said of them,
each slide to zoom into, and its heat map over it. Run and slides are only read, nothing leaves this machine."""
EPILOG = """examples:
  milkit view runs/tumour
  milkit view runs/tumour --slides /data/slides
  milkit view runs/tumour --store features.h5 --slides /data/slides --mpp 0.25 --no-browser

The files of slides are those that the store names (`milkit embed` writes them down), or are looked for by the slides'
ids in --slides. On another machine, forward the port: ssh -L PORT:127.0.0.1:PORT.
"""

WAIT_SECONDS = 2.0
"""How long a heat map that is being computed may still take after Ctrl-C."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `milkit view --help` lists the options.")


def main(arguments: list[str]) -> int:
    """Run the command until Ctrl-C; returns the exit status."""
    options = _parser().parse_args(arguments)
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"--port is {options.port}; expected 1 to 65535, or 0 for a free one.")

    from milkit.execute.compiled import keep_compiled
    from milkit.viewer.opened import open_viewer
    from milkit.viewer.server import ViewerServer

    keep_compiled()
    viewer = open_viewer(
        options.run, slides=options.slides, store=options.store, cohort=options.cohort, mpp=options.mpp,
        trust_source=options.trust_source,
    )  # fmt: skip
    with ViewerServer(viewer, options.port) as server:
        missing = sum(file.path is None for file in viewer.found.values())
        print(f"{len(viewer.found)} slides" + (f", {missing} without a file" if missing else ""))
        print(f"{server.access.url}\nThis address is for you alone: it holds a key. Ctrl-C ends it.", flush=True)
        if not options.no_browser:
            threading.Thread(target=webbrowser.open, args=(server.access.url,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(flush=True)
    if not viewer.close(WAIT_SECONDS):
        os._exit(0)  # nothing is lost; Python's own end would pull a thread out of XLA, which aborts the process
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="milkit view", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder")
    add("--slides", type=Path, metavar="DIR", help="folder of the slide files (default: where the store says)")
    add("--store", type=Path, metavar="STORE", help="features of the slides, where they have moved")
    add("--cohort", type=Path, metavar="CSV", help="cohort table, where it has moved")
    add("--mpp", type=float, metavar="UM", help="micrometres a pixel of level 0, where slides do not state it")
    add("--port", type=int, default=0, metavar="N", help="port of 127.0.0.1 (default: a free one)")
    add("--no-browser", action="store_true", help="say the address only")
    add("--trust-source", action="store_true", help="import the saved source of a model of one's own")
    return parser
