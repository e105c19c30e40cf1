"""`milkit pack`: features of any tool into a native store."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from milkit.commands.feature_options import add_feature_options, facts
from milkit.commands.progress import bags_done
from milkit.errors import ConfigError

if TYPE_CHECKING:
    from milkit.data.pack import PackReport

DESCRIPTION = """Pack features of any tool that milkit reads into one native store, which is read at the speed of
memory; or, with --to, write them in the layout of another tool."""
EPILOG = """examples:
  milkit pack trident_out/20x_256px_0px_overlap/features_uni_v2 --out uni.h5 --mpp 0.25
  milkit pack clam_out/features --out resnet.h5 --cohort clinical.csv --encoder resnet50 --workers 8
  milkit pack features/ --out big.h5 --shard-gib 64 --resume
  milkit pack uni.h5 --to stamp --out stamp_features/

What was finished is kept beside the target until the whole is done: after a stop, --resume goes on and ends with the
same bytes. The store is read back and compared with what was converted before it gets its name.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `milkit pack --help` lists the options.")


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    _check(options)
    if options.to:
        return _write_back(options)
    from milkit.data.pack import pack

    try:
        report = pack(
            options.paths, options.out, dtype=options.dtype or "float16", shard_gib=options.shard_gib,
            workers=options.workers, resume=options.resume, overwrite=options.overwrite, cohort=options.cohort,
            progress=bags_done, **facts(options),
        )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; what was packed is kept, --resume goes on from there.") from None
    print(json.dumps(report.to_json, indent=1) if options.json else in_words(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="milkit pack", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("paths", nargs="+", metavar="PATH", help="stores, or files or folders of other tools")
    parser.add_argument("--out", required=True, type=Path, metavar="STORE.h5", help="the store (with --to: the folder)")
    parser.add_argument(
        "--dtype", choices=("float16", "float32", "bfloat16", "keep"),
        help="of the features in the store (default: float16)",
    )  # fmt: skip
    parser.add_argument("--cohort", default="", metavar="CSV", help="pack the slides of this table only, with its mpp")
    parser.add_argument("--shard-gib", type=float, metavar="GIB", help="files of at most so many GiB")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: the usable cores)")
    parser.add_argument("--resume", action="store_true", help="go on with a pack that was interrupted")
    parser.add_argument("--overwrite", action="store_true", help="replace the store, or an interrupted pack of it")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    add_feature_options(parser)
    back = parser.add_argument_group("writing another tool's layout")
    back.add_argument("--to", choices=("trident", "clam", "stamp", "torchmil"), help="whose; --out is a folder then")
    back.add_argument("--magnification", type=float, metavar="X", help="of the tiles, for TRIDENT's folder names")
    back.add_argument("--overlap", type=int, metavar="PX", help="of neighbouring tiles, likewise")
    back.add_argument("--tile-px", type=int, metavar="PX", help="width of a tile as the encoder saw it")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raise where options of the one direction are given with the other, rather than pass over them."""
    packing, back = ("dtype", "shard_gib", "workers", "resume", "overwrite"), ("magnification", "overlap", "tile_px")
    idle = [
        name
        for name in (packing if options.to else back)
        if (value := getattr(options, name)) is not None and value is not False
    ]
    if idle:
        word = "goes with a store that is written, not with --to" if options.to else "goes with --to"
        raise ConfigError(f"--{idle[0].replace('_', '-')} {word}; leave it out.")


def _write_back(options: argparse.Namespace) -> int:
    from milkit.data.pack import Asked
    from milkit.data.pack.back.write import Tiling, write_back

    tiling = Tiling(options.magnification, options.overlap, options.tile_px)
    asked = Asked(tuple(options.paths), cohort=options.cohort, **facts(options))
    report = write_back(asked, options.to, options.out, tiling, bags_done)
    if options.json:
        folders = {"folder": str(report.folder), "features": str(report.features)}
        print(json.dumps({**folders, "slides": report.slides, "notes": list(report.notes)}, indent=1))
        return 0
    print(f"{report.features}: {report.slides} slides in {options.to}'s layout")
    for note in report.notes:
        print(f"  note: {note}")
    return 0


def in_words(report: "PackReport") -> str:
    """What a pack did, for the terminal."""
    rate = report.bytes_written / 2**20 / max(report.seconds, 1e-3)
    again = f" ({report.resumed} of them by the pack before)" if report.resumed else ""
    lines = [
        f"{', '.join(map(str, report.files))}: {report.slides} slides{again}, {report.instances} instances x "
        f"{report.features} in {report.dtype}",
        f"  {report.bytes_read / 2**20:.1f} MiB read, {report.bytes_written / 2**20:.1f} MiB written in "
        f"{report.seconds:.1f} s ({rate:.0f} MiB/s), read back and compared",
        f"  rounding: {report.rounding.words}",
        *(f"  sha256 of the content: {digest}" for digest in report.digests[:3]),
    ]
    if report.left_out:
        lines.append(f"  left out, as they hold no instance: {len(report.left_out)} ({', '.join(report.left_out[:5])})")
    for fact in report.missing:
        lines.append(f"  missing: {fact['fact']} of {fact['where']}{fact['option'] and '; ' + fact['option']}")
    return "\n".join(lines + [f"  note: {note}" for note in report.notes])
