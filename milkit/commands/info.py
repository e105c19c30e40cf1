"""`milkit info`: what is in a file, a folder or a cohort table."""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from milkit.commands.feature_options import add_feature_options, facts

if TYPE_CHECKING:
    from milkit.data.describe import Description

DESCRIPTION = """Say what is in a file of features, a folder of them, a milkit store or a cohort table: which tool wrote
it, slides, patients, instances, width, dtype, scale, encoder, labels, and which facts are missing. Reads headers."""
EPILOG = """examples:
  milkit info trident_out/20x_256px_0px_overlap/features_uni_v2
  milkit info clinical.csv --features store.h5
  milkit info store.h5 --json
"""
FULL, EIGHTHS = "█", "▏▎▍▌▋▊▉"


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit info", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file or folder of features, or a cohort table")
    parser.add_argument(
        "--features", "--store", nargs="+", default=[], metavar="PATH", help="of the slides of a cohort table"
    )
    add_feature_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args(arguments)

    from milkit.data.describe import as_text, describe
    from milkit.data.pack import Asked

    found = describe(Asked(tuple(options.paths), **facts(options)), tuple(options.features))
    print(as_text(found) if options.json else in_words(found))
    return 0


def in_words(found: "Description") -> str:
    """A description for the terminal."""
    lines = [f"{found.path}: {found.words}"]
    rows = [
        ("tool", " / ".join(dict.fromkeys(filter(None, (found.tool, found.layout))))),
        ("slides", found.slides),
        ("patients", found.patients),
        ("features", None if found.features is None else f"{found.features} x {found.dtype}"),
        ("encoder", found.encoder),
        ("tile", _tile(found)),
        ("mpp of level 0", _range(found.mpp_level0)),
        ("on disk", _bytes(found.bytes)),
        ("sha256", ", ".join(found.said.get("content_sha256", [])[:3])),
    ]
    lines += [f"  {name:<15} {value}" for name, value in rows if value not in (None, "")]
    lines += _sizes(found)
    lines += [line for name, column in found.labels.items() for line in _column(name, column)]
    if found.missing:
        lines.append("  missing")
        for fact in found.missing:
            supply = f"; {fact['option']} supplies it" if fact["option"] else ""
            lines.append(f"    {fact['fact']}: {fact['where']}{supply}")
    lines += [f"  note: {note}" for note in found.notes]
    return "\n".join(lines)


def _tile(found: "Description") -> str:
    known = ((found.tile_um, "um"), (found.tile_px, "px"), (found.mpp, "um a pixel"))
    return ", ".join(f"{value:.6g} {unit}" for value, unit in known if value is not None)


def _range(value: Any) -> str:
    return "" if value is None else " to ".join(f"{v:.6g}" for v in (value if isinstance(value, list) else [value]))


def _bytes(count: int) -> str:
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count} bytes" if count else ""


def _sizes(found: "Description") -> list[str]:
    sizes = found.instances
    if sizes is None:
        return []
    said = f"min {sizes['min']}, median {sizes['median']:g}, mean {sizes['mean']:.1f}, max {sizes['max']}"
    empty = f"; {sizes['empty']} bags are empty" if sizes["empty"] else ""
    lines = [f"  {'instances':<15} {sizes['total']} in all; a bag: {said}{empty}"]
    edges, counts = found.histogram
    names = [f"{low}-{high - 1}" if high - low > 1 else f"{low}" for low, high in pairwise(edges)]
    return lines + histogram(names, counts)


def histogram(names: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Bars, one a line, to the width of the terminal."""
    room = max(10, min(60, shutil.get_terminal_size().columns - 40))
    width, most = max(map(len, names), default=0), max([1, *counts])
    return [f"    {name:>{width}} {bar(count / most, room)} {count}" for name, count in zip(names, counts, strict=True)]


def bar(share: float, room: int) -> str:
    """A bar of `share` of so many characters, to an eighth of one; something where there is anything."""
    eighths = max(round(share * room * 8), 1 if share > 0 else 0)
    return FULL * (eighths // 8) + (EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def _column(name: str, column: Mapping[str, Any]) -> list[str]:
    empty = f", {column['missing']} empty" if column["missing"] else ""
    if "counts" in column:
        values = ", ".join(f"{value!r} {count}" for value, count in column["counts"].items())
        return [f"  {name:<15} {values or 'nothing'}{empty}"]
    if "min" in column:
        numbers = f"numbers from {column['min']:g} to {column['max']:g}, median {column['median']:g}"
        return [f"  {name:<15} {numbers}{empty}"]
    return [f"  {name:<15} {column['distinct']} values{empty}"]
