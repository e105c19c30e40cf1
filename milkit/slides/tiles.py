"""The manifest of a slide's tiles: NAME.json, what was asked and of which file, beside NAME.csv, one row a tile.

The JSON is written last and states the table's sha256, so a table without it, or with another, is no manifest: both are
there and belong together, or neither counts.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from milkit.data.formats.guard_bytes import regular
from milkit.errors import DataError
from milkit.slides.mpp import LARGEST, SMALLEST

VERSION = 1
COLUMNS = ("x_px", "y_px", "x_um", "y_um", "tissue", "blur", "pen", "fold")
MOST_BYTES = 4 << 30
"""Of a table: some fifty million tiles."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of one slide, row by row from the top left.

    Attributes:
        facts: what the JSON holds: `slide_id`, `slide` (path), `digest` (of name, size and time of change), `mpp`,
            `size_px`, `tile_um`, `tile_px` (pixels that an encoder gets), `overlap_um`, `width_px` (of a tile, in
            pixels of level 0), `step_px`, `settings`, `notes`.
        xy_px: top-left corners, whole pixels of level 0.
        xy_um: the same in micrometres: xy_px * mpp.
        tissue: share of tissue, 0..1.
        blur: variance of the Laplacian, the lower the more blurred; NaN where it was not asked for.
        pen: share of ink, 0..1.
        fold: share of folded tissue, 0..1.
        context: corners of wider tiles about the same centres, by how many times as wide; may be negative.
    """

    facts: Mapping[str, Any]
    xy_px: Int[np.ndarray, "n 2"]
    xy_um: Float[np.ndarray, "n 2"]
    tissue: Float[np.ndarray, "n"]
    blur: Float[np.ndarray, "n"]
    pen: Float[np.ndarray, "n"]
    fold: Float[np.ndarray, "n"]
    context: Mapping[int, Int[np.ndarray, "n 2"]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.xy_px)


def manifest_paths(folder: Path, slide_id: str) -> tuple[Path, Path]:
    """NAME.json and NAME.csv."""
    return folder / f"{slide_id}.json", folder / f"{slide_id}.csv"


def read_facts(folder: Path | str, slide_id: str) -> dict[str, Any] | None:
    """What the JSON of a manifest holds; None where there is none.

    Raises:
        DataError: it is no manifest.
    """
    path = manifest_paths(Path(folder), slide_id)[0]
    try:
        with open(regular(path), "rb") as file:
            raw = file.read(MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise DataError(f"The manifest {path} cannot be read: {fault.strerror or fault}.") from None
    try:
        facts = json.loads(raw)
        if facts["milkit_tiles"] != VERSION:
            raise DataError(
                f"The manifest {path} is of version {facts['milkit_tiles']!r}; this milkit reads {VERSION}."
            )
        _check_facts(path, facts)
        return facts
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path} is no manifest of tiles; `milkit tile` writes such files.") from None


def _check_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Raise where facts that are there cannot be what was written: the file was damaged, or changed by hand."""

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def count(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    fine: dict[str, Callable[[Any], bool]] = {
        "slide": lambda v: isinstance(v, str),
        "digest": lambda v: isinstance(v, str),
        "sha256": lambda v: isinstance(v, str),
        "settings": lambda v: isinstance(v, dict),
        "mpp": lambda v: number(v) and SMALLEST <= v <= LARGEST,
        "tile_um": lambda v: number(v) and 0 < v < 1e6,
        "tile_px": lambda v: count(v, 1) and v <= 65536,
        "width_px": lambda v: count(v, 1),
        "tiles": lambda v: count(v, 0),
        "size_px": lambda v: isinstance(v, list) and len(v) == 2 and all(count(side, 1) for side in v),
    }
    for name, fits in fine.items():
        if name in facts and not fits(facts[name]):
            raise DataError(
                f"The manifest {path} is damaged: its {name} is {str(facts[name])[:60]!r}. Tile the slide again with "
                "--force."
            )


def read_tiles(folder: Path | str, slide_id: str) -> Tiles:
    """The tiles of a slide.

    Args:
        folder: what `milkit tile --out` wrote.
        slide_id: name of the slide's file without its ending.

    Raises:
        DataError: there is no manifest, or it is damaged.
    """
    path, table = manifest_paths(Path(folder), slide_id)
    facts = read_facts(folder, slide_id)
    if facts is None:
        raise DataError(f"There is no manifest {path}; `milkit tile {slide_id}... --out {folder}` makes it.")
    try:
        with open(regular(table), "rb") as file:
            raw = file.read(MOST_BYTES)
    except OSError as fault:
        raise DataError(f"{table}, the table of {path.name}, cannot be read: {fault.strerror or fault}.") from None
    if hashlib.sha256(raw).hexdigest() != facts.get("sha256"):
        raise DataError(
            f"{table} is not the table that {path.name} was written with (its sha256 is another); tile the slide again "
            "with --force."
        )
    header, values = _parsed(raw, table)
    at = {name: values[:, i] for i, name in enumerate(header)}
    context = {
        int(name[1:-3]): np.stack([at[name], at[f"y{name[1:]}"]], 1).astype(np.int64)
        for name in header
        if name.startswith("x") and name.endswith("_px") and name != "x_px"
    }
    xy_px = np.stack([at["x_px"], at["y_px"]], 1)
    # (of NaN nothing is true)
    fine = (xy_px == np.floor(xy_px)) & (xy_px >= 0) & (xy_px < np.array(facts["size_px"], np.float64))
    if not fine.all():
        row = int(np.flatnonzero(~fine.all(1))[0])
        raise DataError(
            f"{table} has a tile at {xy_px[row].tolist()} (line {row + 2}); expected whole pixels within the slide's "
            f"{facts['size_px']}. Tile the slide again with --force."
        )
    xy_px = xy_px.astype(np.int64)
    tissue, blur, pen, fold = (at[name].astype(np.float32) for name in COLUMNS[4:])
    return Tiles(facts, xy_px, (xy_px * float(facts["mpp"])).astype(np.float32), tissue, blur, pen, fold, context)


def write_tiles(folder: Path, slide_id: str, tiles: Tiles) -> None:
    """Write a manifest; what was there under this name is replaced. A stop leaves the old, the new, or none."""
    folder.mkdir(parents=True, exist_ok=True)
    path, table = manifest_paths(folder, slide_id)
    text = table_of(tiles).encode()
    facts = {
        "milkit_tiles": VERSION, **tiles.facts, "tiles": len(tiles), "sha256": hashlib.sha256(text).hexdigest(),
    }  # fmt: skip
    fresh = write_beside(table, text)
    try:
        path.unlink(missing_ok=True)  # from here on, until the new one is there, the slide has no manifest
        os.replace(fresh, table)
    finally:
        fresh.unlink(missing_ok=True)
    beside = write_beside(path, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    os.replace(beside, path)


def write_beside(path: Path, data: bytes) -> Path:
    """Write a file under a temporary name, all of it or nothing; returns the name."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return fresh


def table_of(tiles: Tiles) -> str:
    """The table as text: pixels whole, micrometres to 4 places, shares to 4, blur to 3 (nan where not asked for)."""
    names = [*COLUMNS, *(f"{axis}{scale}_px" for scale in tiles.context for axis in "xy")]
    x_um, y_um = (tiles.xy_px * float(tiles.facts["mpp"])).T
    x_px, y_px = tiles.xy_px.T
    columns = [x_px, y_px, x_um, y_um, tiles.tissue, tiles.blur, tiles.pen, tiles.fold]
    row = "%d,%d,%.4f,%.4f,%.4f,%.3f,%.4f,%.4f" + ",%d,%d" * len(tiles.context)
    columns += [axis for corners in tiles.context.values() for axis in corners.T]
    lines = [row % values for values in zip(*(column.tolist() for column in columns), strict=True)]
    return "\n".join([",".join(names), *lines, ""])


def _parsed(raw: bytes, path: Path) -> tuple[list[str], Float[np.ndarray, "n c"]]:
    """Header and numbers of a table."""
    head, _, body = raw.partition(b"\n")
    header = next(csv.reader([head.decode("utf-8", "replace")]), [])
    if tuple(header[: len(COLUMNS)]) != COLUMNS:
        raise DataError(f"{path} has the columns {header}; expected {list(COLUMNS)} first.")
    if not body.strip():
        return header, np.zeros((0, len(header)))
    try:
        values = np.loadtxt(io.BytesIO(body), delimiter=",", ndmin=2, dtype=np.float64, comments=None)
    except ValueError as fault:
        raise DataError(f"{path} holds a cell that is no number, or a row of another length: {fault}.") from None
    if values.shape[1] != len(header):
        raise DataError(f"{path} has rows of {values.shape[1]} cells, but {len(header)} columns.")
    return header, values
