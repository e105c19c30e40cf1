"""`milkit run`: experiments of a file, or one that was run before."""

import argparse
import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from milkit.errors import ConfigError
from milkit.execute.interrupt import Wish, interruptible

if TYPE_CHECKING:
    from milkit import api
    from milkit.experiment import Experiment

HELP = """usage: milkit run FILE.py[:NAME ...] [options] [overrides]
       milkit run TABLE.csv [--images DIR] [options] [overrides]
       milkit run RUN --out DIR [options]
       milkit run RUN --resume

Train, select, predict, measure and report an experiment, or all experiments of a file. The second form is a study of
one's own images, without code; the third repeats a run (its folder, or the config.json in it) to the same bits (same
width, backend and versions); the fourth goes on with it.

options:
  --out DIR        run folder (default: runs/NAME); with several experiments, their folders are made inside it
  --resume         go on with a study that was interrupted
  --force          replace the run that is in the folder
  --executor NAME  where programs run: local (default), processes (one a core) or ray (a cluster; docs/executors.md)
  --workers N      programs at a time, with --executor processes or ray (default: the usable cores)
  --ray-address A  a running Ray cluster, such as auto or HOST:6379 (default: $RAY_ADDRESS, else one of this machine)
  --programs LIST  run only some programs (3, 0-3, 0,4,7; or 2/8, a share) of a folder that other processes run others
                   of, such as a Slurm array; `milkit run RUN --resume` then makes tables and report
  --dry-run        train nothing, write nothing: say which programs, shapes, memory and time the study means
  --track wandb    follow it in Weights & Biases too (offline, unless WANDB_MODE says otherwise)
  --trust-source   replay a run whose model is defined in its saved experiment file (this runs that file's code)

options of a table of images (docs/own_images.md):
  --images DIR     where the images are (default: the table's folder); the table names them in a column image
  --label COLUMN   the column of yes-or-no labels (default: label); --positive VALUE says which is yes
  --masks DIR      masks, for scoring only; training never opens them
  --model NAME     SAMIL (default), DWSMIL, SwinMIL, CAM ...: a small preset that needs no weights
  --weights FILE   start from these weights instead (of ImageNet, say)
  --downsample N   make N x N pixels one (default: so that no side is longer than 512)
  --crop N         train on crops of N px, labelled by the masks of their images
  --image, --patient, --split COLUMN   columns that are not recognised

overrides: any field of the experiment, such as --train.epochs 50, --seeds 3, --train.optimizer.learning-rate 1e-4;
  `milkit run FILE.py:NAME --help` lists them with their values.

Ctrl-C ends a study after the epoch that runs, with a checkpoint (exit status 130; SIGTERM: 143). Compiled programs are
kept in $XDG_CACHE_HOME/milkit (~/.cache/milkit).

examples:
  milkit run experiments/ilse2018_classic.py:musk1_gated
  milkit run experiments/ilse2018_classic.py:musk1_gated:musk1_attention --seeds 3 --out runs/ilse
  milkit run labels.csv --images slides --out runs/glands
  milkit run runs/demo --out runs/again
"""


TABLES = (".csv", ".xlsx")
_ALL_DONE = "all programs are done; `milkit run {} --resume` makes tables and report"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as all of milkit does, not by a usage line that knows half of the options."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `milkit run --help` lists the options.")


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    cut = next((i for i, a in enumerate(arguments) if a.startswith("-")), len(arguments))
    targets, rest = arguments[:cut], arguments[cut:]
    if rest[:1] in (["-h"], ["--help"]) and not targets:
        print(HELP, end="")
        return 0
    if not targets:
        raise ConfigError(
            "Name an experiment first: milkit run FILE.py[:NAME] [options]; `milkit run --help` has examples."
        )
    own = _Parser(add_help=False, allow_abbrev=False)
    own.add_argument("--out", type=Path)
    own.add_argument("--resume", action="store_true")
    own.add_argument("--force", action="store_true")
    own.add_argument("--trust-source", action="store_true")
    own.add_argument("--executor", default="local")
    own.add_argument("--workers", type=int)
    own.add_argument("--ray-address")
    own.add_argument("--programs")
    own.add_argument("--dry-run", action="store_true")
    own.add_argument("--track", action="append", choices=["wandb"], default=[])
    options, overrides = own.parse_known_args(rest)
    if options.resume and options.force:
        raise ConfigError("--resume goes on with a run and --force throws it away; give one of them.")
    if options.programs and (options.force or options.track):
        raise ConfigError("--programs runs a part of a study that others share; it takes neither --force nor --track.")

    with interruptible() as stop:  # from here on: JAX may drop a Ctrl-C while it is imported, too
        _run(targets, options, overrides, stop)
    return 0


def _run(targets: list[str], options: argparse.Namespace, overrides: list[str], stop: Wish) -> None:
    from milkit import api
    from milkit.commands.overrides import override
    from milkit.commands.show import summary
    from milkit.execute.compiled import keep_compiled
    from milkit.execute.executors import Where
    from milkit.execute.spreading import use_cores
    from milkit.watch.device import note_import

    note_import()
    keep_compiled()
    use_cores()
    where = Where(options.executor, options.workers, options.ray_address)
    found: list[api.Stated] = []
    for target in targets:
        if Path(target).suffix.lower() in TABLES:
            stated, overrides = _own_images(targets, overrides)
            found.append(stated)
            continue
        found += _find(target, trust_source=options.trust_source)
    # all overrides and folders are understood before the first study starts
    studies = [(s, override(s.experiment, overrides, f"milkit run {targets[0]}")) for s in found]
    if options.dry_run:
        _dry_run([experiment for _, experiment in studies], stop)
        return
    folders = _folders(found, options.out, resume=options.resume or options.programs is not None)
    for (stated, experiment), out in zip(studies, folders, strict=True):
        stop.check()
        expected = {} if overrides else stated.expected  # a varied replay is another study
        if options.programs is not None:
            left = api.run_part(
                experiment, out, options.programs, source=stated.source, expected=expected, where=where
            )  # fmt: skip
            print(f"programs {options.programs} are done, {left} others are left" if left else _ALL_DONE.format(out))
            continue
        results = api.run(
            experiment,
            out,
            resume=options.resume,
            force=options.force,
            track=tuple(options.track),
            source=stated.source,
            expected=expected,
            where=where,
        )
        print(summary(results, out))
        _draw(experiment, out, stop)
    stop.check()


def _draw(experiment: "Experiment", out: Path, stop: Wish) -> None:
    """Lay attention over the slides that the data name for it; a replay draws them anew."""
    slides = getattr(experiment.data, "heatmaps", ())
    if not slides:
        return
    from milkit.heatmaps.draw import heatmap

    for slide in slides:
        stop.check()
        _, files = heatmap(out, slide, out / "heatmaps", force=True)
        print(f"heat map of {slide}: {files[0]}")


def _own_images(targets: list[str], arguments: list[str]) -> "tuple[api.Stated, list[str]]":
    """The study of a table of images, and the arguments that are fields of it."""
    from milkit import api
    from milkit.commands.own_images import made

    if len(targets) > 1:
        raise ConfigError(f"{targets[0]} and {targets[1]}: a table of images is run by itself; run them one by one.")
    own = made(Path(targets[0]), arguments)
    print("by default:\n  " + "\n  ".join(own.said))
    if own.overrides:
        print("  but for what the command line says: " + " ".join(own.overrides))
    return api.Stated(own.experiment.name, own.experiment), own.overrides


def _dry_run(experiments: "list[Experiment]", stop: Wish) -> None:
    from milkit.commands.dry_run import words
    from milkit.execute.forecast import forecast

    for i, experiment in enumerate(experiments):
        stop.check()
        print(("\n" if i else "") + words(forecast(experiment)))


def _folders(found: "list[api.Stated]", out: Path | None, *, resume: bool) -> list[Path]:
    """The run folder of each study, no two the same."""
    if len(found) == 1 and out is not None:
        return [out]
    folders = []
    for stated in found:
        if resume and out is None and stated.folder is not None:
            folders.append(stated.folder)
            continue
        name = re.sub(r"[^\w.-]+", "-", stated.name).strip(".-") or "experiment"  # never a path: a name may be ".."
        folders.append((out or Path("runs")) / name)
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(
                f"{folders.count(folder)} of these experiments would be written to {folder}; give each a name of its "
                "own (Experiment(name=...)), or run them one by one with --out."
            )
    return folders


def _find(target: str, *, trust_source: bool) -> "list[api.Stated]":
    from milkit import api

    file, *names = target.split(":")
    path = Path(file)
    if path.is_dir() and not (path / "config.json").exists():
        raise ConfigError(f"{path} is a folder without config.json, so no run; give a run folder or a .py file.")
    if path.suffix == ".json" or path.is_dir():
        path = path / "config.json" if path.is_dir() else path
        return [api.replay(path, trust_source=trust_source)]
    known = api.experiments(path)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"{path} has no experiment {name!r}; {hint}It has: {', '.join(known)}.")
    return [api.Stated(n, known[n], path) for n in names or known]
