"""The `milkit` command. Exit status: 0 done, 2 the user's mistake (a message, no traceback), 1 ours, 130/143 stop."""

import errno
import importlib
import os
import sys

from milkit.errors import MilkitError
from milkit.freed_memory import keep_freed_memory

COMMANDS = {
    "demo": "a real cross-validated study on packaged data (MUSK1), no argument needed",
    "run": "an experiment file, or all experiments in it: train, select, predict, measure, report",
    "watch": "the live table of a study that runs elsewhere",
    "report": "recompute a run folder's numbers from its predictions and write its report again",
    "finalize": "make a model to keep of a finished run: the fold ensemble, or a refit on all data",
    "import-weights": "a model to keep of weights that its authors, or another library, trained",
    "predict": "what a kept model says about the slides of a store",
    "evaluate": "a kept model on another cohort: every number, with threshold and temperature as they were locked",
    "heatmap": "what a run's models saw in a slide, laid over it: picture, polygons for QuPath, pyramid, page",
    "view": "a local page of a run: slides to zoom into, heat maps over them, predictions",
    "check": "leaks and defects of a cohort: its table, folds and features, before a model is trained",
    "info": "what is in a file or folder of features, or a cohort table, and which facts are missing",
    "tile": "slides to tiles: tissue, a grid in micrometres, a manifest and a page a slide",
    "embed": "tiles of slides to a store of features, by an encoder with published weights or one's own",
    "pack": "features of any tool into one store, in parallel and resumable; or a store into other tools' layouts",
    "compare": "runs on the same patients: paired differences, tests, and a verdict in words",
    "data": "known public data sets: what is here, where to get the rest",
}

_USAGE = """usage: milkit COMMAND [arguments]

{commands}

examples:
  milkit demo
  milkit run experiments/ilse2018_classic.py:musk1_gated --train.epochs 50 --seeds 3
  milkit run runs/demo --out runs/again
  milkit COMMAND --help
"""


def usage() -> str:
    """The text of `milkit --help`."""
    width = max(map(len, COMMANDS))
    return _USAGE.format(commands="\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()))


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        from milkit import __version__

        print(f"milkit {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `milkit {close[0]}`?" if close else "`milkit --help` lists the commands."
        print(f"milkit: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    keep_freed_memory()
    try:
        return importlib.import_module(f"milkit.commands.{name.replace('-', '_')}").main(rest)
    except MilkitError as error:
        print(f"milkit {name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives until exit, which would flush into the pipe again
        return 0
    except OSError as error:  # whichever file it was: a disk that is full or closed is not a bug of ours
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(f"milkit {name}: {error.filename or 'a file'} could not be used: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nmilkit {name}: {str(stop) or 'interrupted.'}", file=sys.stderr)
        return getattr(stop, "status", 130)


if __name__ == "__main__":
    sys.exit(main())
