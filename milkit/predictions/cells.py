"""Text of `predictions.csv` to columns of numbers, with errors that name file, row and column."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from milkit.errors import RunFolderError


def read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, every row as long as the header.

    Raises:
        RunFolderError: the file is absent, not UTF-8, or cut short.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise RunFolderError(f"There is no {path}; a run writes it when its first program is done.") from None
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is not UTF-8 text (byte {error.start}); was it saved by a spreadsheet?") from None
    header: list[str] = []
    rows: list[list[str]] = []
    if text:
        header, *rows = csv.reader(io.StringIO(text, newline=""))
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise RunFolderError(
                f"{path}, row {number}: found {len(row)} cells, expected {len(header)}; the file was cut "
                "short or edited. Make it anew with --resume."
            )
    if not text.endswith("\n"):
        raise RunFolderError(f"{path} ends in the middle of row {len(rows)}; make it anew with --resume.")
    return header, rows


def convert(path: Path, name: str, cells: Sequence[str], to: Callable[[str], float], bags: Sequence[str]) -> list:
    """One column by `to`; the first cell that it refuses is named.

    Raises:
        RunFolderError: a cell is not a number.
    """
    try:
        return list(map(to, cells))
    except ValueError:
        for i, cell in enumerate(cells):
            try:
                to(cell)
            except ValueError:
                raise RunFolderError(
                    f"{path}, row {i + 1} (bag {bags[i]!r}), column {name}: found {cell!r}, expected a number."
                ) from None
        raise


def thresholds(path: Path, cells: Sequence[str], labels: int, bags: Sequence[str]) -> np.ndarray:
    """Thresholds [n, labels], NaN for none; many rows share one cell, so each distinct one is read once.

    Raises:
        RunFolderError: not a number, or not one a label.
    """
    place = {cell: i for i, cell in enumerate(dict.fromkeys(cells))}
    table = np.full((len(place), labels), np.nan)
    for cell, i in place.items():
        parts = cell.split(";") if cell else [""] * labels
        row = cells.index(cell)
        if len(parts) != labels:
            raise RunFolderError(
                f"{path}, row {row + 1} (bag {bags[row]!r}), column threshold: found {len(parts)} numbers, "
                f"expected {labels}, one a label."
            )
        try:
            table[i] = [float(part or "nan") for part in parts]
        except ValueError:
            raise RunFolderError(
                f"{path}, row {row + 1} (bag {bags[row]!r}), column threshold: found {cell!r}, expected a number."
            ) from None
    return table[[place[cell] for cell in cells]].reshape(len(cells), labels)


def threshold_cells(table: np.ndarray) -> list[str]:
    """The inverse of `thresholds`."""
    known: dict[tuple[float, ...], str] = {}
    out = []
    for row in map(tuple, table.tolist()):
        if row not in known:
            cells = ["" if t != t else repr(t) for t in row]
            known[row] = ";".join(cells) if any(cells) else ""
        out.append(known[row])
    return out
