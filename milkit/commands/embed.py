"""`milkit embed`: tiles of slides to a store of features."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from milkit.commands.progress import on_one_line
from milkit.errors import ConfigError

if TYPE_CHECKING:
    from milkit.embed.cohort import Chosen
    from milkit.embed.encode import Clock, Embedded
    from milkit.embed.run import Report
    from milkit.slides.stacks import Stacking

DESCRIPTION = """Encode the tiles of a cohort's slides into one store: features, where each tile lies, and how all of it
was made. COHORT names the slides, one a row, in a column slide_id (or the like)."""
STACKING = ("window", "percentiles", "axis", "unit", "square", "side_px")
EPILOG = """examples:
  milkit embed cohort.csv --tiles tiles --encoder efficientnet_lite0 --weights efficientnet_lite0.npz --out lite0.h5
  milkit embed cohort.csv --tiles tiles --encoder uni --weights uni.safetensors --precision bfloat16 --out uni.h5
  milkit embed cohort.csv --tiles tiles --encoder my_module:encode --out mine.h5 --slides /new/place
  milkit embed cohort.csv --stacks ct --window -160 240 --encoder resnet50 --weights resnet50.pth --out ct.h5

After a stop, of whatever kind, the same command goes on where it was and ends with the same bytes. A slide that cannot
be embedded is named with its reason, the others go on, and the exit status is 1.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `milkit embed --help` lists the options.")


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status: 0, or 1 where a slide is not in the store."""
    options = _parser().parse_args(arguments)
    from milkit.data.table import read_cohort

    table = read_cohort(options.cohort, slide=options.slide_column)
    stacking = _stacking(options)
    from milkit.embed.cohort import choose
    from milkit.embed.stacks import choose_stacks

    if stacking is None:
        chosen = choose(table, options.tiles, options.slides)
    else:
        chosen = choose_stacks(table, options.stacks, stacking)

    try:
        report = _embedded(chosen, options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; what is encoded is kept, repeat the command to go on.") from None
    finally:
        on_one_line("")
    print(in_words(report))
    if report.failed:
        print(
            f"milkit embed: {len(report.failed)} of {len(report.bags)} slides are not in the store, see above. The "
            f"encoded ones are kept in {report.left}: mend the others and repeat the command, or remove that folder.",
            file=sys.stderr,
        )
    return 1 if report.failed else 0


def _embedded(chosen: "Chosen", options: argparse.Namespace) -> "Report":
    """The store made here, or by a cluster."""
    from milkit.embed.run import embed_chosen
    from milkit.embed.spread import EncoderChoice, embed_on_ray

    weights = None if options.weights is None else str(options.weights)
    choice = EncoderChoice(options.encoder, weights, options.batch, options.precision, options.encoder_prefix)
    how: dict[str, Any] = {
        "dtype": options.dtype, "workers": options.workers, "overwrite": options.overwrite, "anew": options.anew,
        "told": _say, "progress": _progress,
    }  # fmt: skip
    if options.ray or options.ray_address:
        return embed_on_ray(
            chosen, choice, options.out, address=options.ray_address, cores=options.ray_cores, **how
        )  # fmt: skip
    return embed_chosen(chosen, choice.load(), options.out, **how)


def _say(bag: "Embedded") -> None:
    on_one_line("")
    if bag.tiles is None:
        print(f"{bag.id}: failed: {bag.reason}", file=sys.stderr)
        return
    kept = f" ({'all' if bag.kept == bag.tiles else bag.kept} of them encoded before)" if bag.kept else ""
    print(f"{bag.id}: {bag.tiles} tiles{kept}")


def _progress(done: int, of: int, clock: "Clock") -> None:
    busy = "" if clock.busy is None else f", encoder busy {clock.busy:.0%}"
    place = f"tile {done}{f' of {of}' if of else ''}"
    on_one_line(f"{place}, {clock.rate:.0f} tiles/s{busy}" if clock.tiles else place)


def _stacking(options: argparse.Namespace) -> "Stacking | None":
    """How frames and slices become tiles; None for tiles of slides."""
    given: dict[str, Any] = {name: getattr(options, name) for name in STACKING if getattr(options, name) is not None}
    if (options.tiles is None) == (options.stacks is None):
        raise ConfigError(
            "Say what is to be embedded: --tiles DIR (slides) or --stacks DIR (frames, volumes), one of them."
        )
    if options.stacks is None:
        if given:
            raise ConfigError(f"--{next(iter(given)).replace('_', '-')} is for frames and volumes; give --stacks too.")
        return None
    if options.slides is not None:
        raise ConfigError("--slides says where tiled slides are; leave it out with --stacks.")
    from milkit.slides.stacks import Stacking

    pairs: dict[str, Any] = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return Stacking(**{**given, **pairs})


def in_words(report: "Report") -> str:
    """What came of a cohort, for the terminal."""
    inside = len(report.bags) - len(report.failed)
    lines = [f"{report.out}: {inside} of {len(report.bags)} slides, {report.tiles} tiles x {report.features} features"]
    clock = report.clock
    if report.there:
        lines.append("  was there already, as asked for")
    elif not clock.tiles:
        lines.append("  all tiles were encoded before")
    else:
        lines.append(
            f"  {clock.tiles} tiles encoded in {clock.started + clock.seconds:.1f} s, of which {clock.started:.1f} s "
            "until the first block was (slides opened, program compiled)"
        )
    if clock.busy is not None:
        waiting = clock.waiting / max(clock.seconds, 1e-9)
        lines.append(
            f"  afterwards {clock.rate:.1f} tiles/s; the encoder was busy {clock.busy:.1%} of the time and waited for "
            f"tiles {waiting:.1%}"
        )
    return "\n".join([*lines, f"  sha256 of the content: {report.content}"])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="milkit embed", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("cohort", type=Path, metavar="COHORT", help="table of the slides (CSV or .xlsx), one a row")
    add("--tiles", type=Path, metavar="DIR", help="what `milkit tile --out` wrote")
    add("--stacks", type=Path, metavar="DIR", help="in place of --tiles: folders of frames, or volumes")
    add("--encoder", required=True, metavar="NAME", help="docs/encoders.md; module:function, or FILE.onnx")
    add("--weights", type=Path, metavar="FILE", help=".safetensors, .npz, PyTorch's, or hf://OWNER/NAME/FILE")
    add("--encoder-prefix", default="", metavar="TEXT", help="to be taken off the names of the file's arrays")
    add("--out", required=True, type=Path, metavar="STORE.h5", help="the store to make")
    add("--slides", type=Path, metavar="DIR", help="where the slides are now, if they were moved after tiling")
    add("--slide-column", default="", metavar="NAME", help="of the table (default: slide_id or the like)")
    add("--batch", type=int, default=0, metavar="N", help="tiles computed at once (default: the encoder's)")
    add("--precision", choices=("float32", "bfloat16"), default="float32", help="of the arithmetic")
    add(
        "--dtype", choices=("float16", "float32", "bfloat16"), default="float16",
        help="of the features in the store (default: float16)",
    )  # fmt: skip
    add("--workers", type=int, metavar="N", help="threads that read tiles (default: the cores, 8 at most)")
    add("--overwrite", action="store_true", help="replace a store that is there already")
    add("--anew", action="store_true", help="throw away what an earlier command left unfinished")
    many = parser.add_argument_group("many machines")
    many.add_argument("--ray", action="store_true", help="a slide is a task of a Ray cluster (the extra ray)")
    many.add_argument(
        "--ray-address", metavar="A", help="of one that runs: auto, HOST:6379 (default: $RAY_ADDRESS, or one here)"
    )
    many.add_argument("--ray-cores", type=int, default=1, metavar="N", help="cores that a slide takes (default: 1)")
    stacks = parser.add_argument_group("frames and volumes (--stacks)")
    pair: dict[str, Any] = {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH")}
    stacks.add_argument("--window", **pair, help="intensities that become black and white")
    stacks.add_argument("--percentiles", **pair, help="the same by percentiles of each volume, 0..100")
    stacks.add_argument("--axis", choices=("axial", "coronal", "sagittal", "i", "j", "k"), help="default: axial")
    stacks.add_argument("--unit", choices=("mm", "micron", "meter"), help="of spacing, where NIfTI files name none")
    stacks.add_argument("--square", choices=("pad", "crop"), help="black borders (default), or the middle")
    stacks.add_argument("--side-px", type=int, metavar="PX", help="resize squares (default: the encoder does)")
    return parser
