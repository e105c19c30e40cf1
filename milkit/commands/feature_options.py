"""The options that say of features what their files do not; shared by the commands that open features."""

import argparse
from typing import Any


def add_feature_options(parser: argparse.ArgumentParser) -> None:
    """Add --mpp, --tile-um, --encoder, --unit, --patches and --allow."""
    parser.add_argument("--mpp", metavar="NUMBER", help="micrometres per pixel of level 0, or a table's column of them")
    parser.add_argument("--tile-um", type=float, metavar="NUMBER", help="width of a tile in micrometres")
    parser.add_argument("--encoder", default="", metavar="NAME", help="for files that do not name theirs")
    parser.add_argument("--unit", default="", metavar="UNIT", help="of positions: px (of level 0), um, grid or tile_px")
    parser.add_argument("--patches", default="", metavar="DIR", help="CLAM's patches or soma's tiles, if elsewhere")
    for name in ("slide", "patient"):
        parser.add_argument(f"--{name}", default="", metavar="COLUMN", help=f"column of a table with the {name} ids")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="WHAT", help="what slides may differ in: encoder, tile or mpp"
    )


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """The options as arguments of `milkit.data.pack.Asked`."""
    return {
        "mpp": number_or_name(options.mpp),
        "tile_um": options.tile_um,
        "encoder": options.encoder,
        "unit": options.unit,
        "patches": options.patches,
        "allow": tuple(options.allow),
        "slide": options.slide,
        "patient": options.patient,
    }


def number_or_name(text: str | None) -> float | str:
    """A number where it is one, else the text; "" where nothing was given."""
    try:
        return float(text) if text else ""
    except ValueError:
        return text or ""
