"""DSMIL (2021): `<set>/<class>/<slide>.csv`, one instance a line under a header `0,1,...,d-1`, and tables `0,label`.

Numbers have four digits (`%.4f`) and are read as float32. Known by the header, which counts (others write
`f1,f2,...`); a folder of such files is read, and a folder of folders, one a class, whose table (`<set>.csv`: path,
label) gives the labels. No positions. Text has no index, so lines are counted when a folder is opened: its bytes are
read once, and not parsed.
"""

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from milkit.data.formats.header import Header
from milkit.data.formats.layout import Layout, no_positions
from milkit.data.formats.npy_file import opened
from milkit.errors import DataError

TOOL = "DSMIL"
MOST_LINE = 4 << 20
"""Bytes of one line: 65,536 features of 64 characters."""
_COUNTED = re.compile(r"([A-Za-z_. -]{0,20}?)([01])")
MOST_TABLE = 64 << 20
BLOCK = 1 << 20


def _first_line(path: Path) -> str:
    with opened(path) as file:
        return file.readline(MOST_LINE).decode("utf-8-sig", "replace").strip()


def _columns(line: str) -> int:
    """Features d of a header that counts, such as `0,1,...,d-1` or `f1,f2,...,fd`; 0 where it does not."""
    names = [name.strip().strip('"') for name in line.split(",")]
    word = _COUNTED.fullmatch(names[0])
    if word is None or len(names) < 2:
        return 0
    begin = int(word[2])
    return len(names) if begin < 2 and names == [f"{word[1]}{begin + i}" for i in range(len(names))] else 0


def is_dsmil(path: Path, content: None = None) -> bool:
    """Whether the header counts columns, with or without the row numbers that pandas writes before them."""
    try:
        line = _first_line(path)
    except DataError:
        return False
    return _columns(line) > 0 or (line.startswith(",") and _columns(line[1:]) > 0)


def headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """Columns, and lines counted.

    Raises:
        DataError: a column of row numbers, which is no feature.
    """
    return (_header(path, None),)


def _header(path: Path, label: str | None) -> Header:
    line = _first_line(path)
    if line.startswith(","):
        raise DataError(
            f"{path}, line 1: the first column has no name; it is pandas' row number, no feature. Write the file with "
            "to_csv(index=False)."
        )
    d = _columns(line)
    if not d:
        raise DataError(f"{path}, line 1: the header is {line[:40]!r}; expected 0,1,2,... as DSMIL writes it.")
    n, digest = _counted(path)
    return Header(path.stem, path, n, d, "dsmil", unit="", positioned=False, label=label, sample=digest)


def _counted(path: Path) -> tuple[int, str]:
    """Lines after the header that are not empty, and a digest of the first block and the size."""
    made = hashlib.sha256(str(path.stat().st_size).encode())
    with opened(path) as file:
        made.update(file.read(BLOCK))
        file.seek(0)
        lines = sum(not line.isspace() for line in file)
    return max(0, lines - 1), made.hexdigest()


def is_folder(path: Path, content: None = None) -> bool:
    """Whether a folder holds folders of such files, one a class, and none itself."""
    return next(_slides(path), None) is not None and not any(map(is_dsmil, _tables(path)))


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.csv") if file.is_file() and not file.name.startswith("."))


def _slides(path: Path) -> Iterator[Path]:
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        yield from (file for file in _tables(folder) if is_dsmil(file))


def folder_headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """All slides of all classes, with the labels that the folder's tables give them.

    Raises:
        DataError: tables that give a slide two labels.
    """
    labels = _labels(path)
    return tuple(_header(file, labels.get((file.parent.name, file.stem))) for file in _slides(path))


def _labels(path: Path) -> dict[tuple[str, str], str]:
    """Label of each (folder, slide) by the tables that lie in a folder: two columns, the second called `label`."""
    labels: dict[tuple[str, str], str] = {}
    for table in _tables(path):
        if table.stat().st_size > MOST_TABLE:
            continue
        with opened(table) as file:
            text = file.read().decode("utf-8-sig", "replace")
        try:
            rows = list(csv.reader(text.splitlines()))
        except csv.Error as error:
            raise DataError(f"{table} is no table of slides and labels ({error}); mend or remove it.") from None
        if not rows or len(rows[0]) != 2 or rows[0][1].strip() != "label":
            continue
        for line, row in enumerate(rows[1:], 2):
            if len(row) != 2:
                continue
            parts = row[0].strip().replace("\\", "/").removesuffix(".csv").split("/")
            slide = (parts[-2] if len(parts) > 1 else "", parts[-1])
            if labels.setdefault(slide, row[1].strip()) != row[1].strip():
                raise DataError(
                    f"{table}, line {line}: {row[0]!r} has label {row[1]!r}, but {labels[slide]!r} in another row; "
                    "correct one."
                )
    return labels


def features(slide: Header) -> np.ndarray:
    """The numbers of one file, float32 [n, d].

    Raises:
        DataError: names line and column of what is no number.
    """
    with opened(slide.path) as file:
        lines = (line for i, line in enumerate(file) if i and not line.isspace())
        first = next(lines, None)
        if first is None:
            return np.empty((0, slide.width), np.float32)
        try:
            x = np.loadtxt(chain([first], lines), np.float32, delimiter=",", comments=None, ndmin=2, encoding="utf-8")
        except (ValueError, UnicodeDecodeError, OverflowError) as error:
            raise DataError(_wrong(slide.path, slide.width, error)) from None
    if x.shape[1] != slide.width:
        raise DataError(_wrong(slide.path, slide.width, ValueError(f"{x.shape[1]} columns")))
    return x


def _wrong(path: Path, width: int, error: Exception) -> str:
    """Line and column of the first cell that is no number."""
    with opened(path) as file:
        for line, raw in enumerate(iter(lambda: file.readline(MOST_LINE), b""), 1):
            cells = raw.decode("utf-8", "replace").strip().split(",")
            if line == 1 or cells == [""]:
                continue
            if len(cells) != width:
                return f"{path}, line {line}: {len(cells)} columns, but the header names {width}; it is cut or damaged."
            for column, cell in enumerate(cells):
                try:
                    float(cell)
                except ValueError:
                    return f"{path}, line {line}, column {column}: {cell[:40]!r} is no number."
    return f"{path} cannot be read ({error}); make it anew."


LAYOUT = Layout(
    name="dsmil",
    tool=TOOL,
    container="csv",
    claims=is_dsmil,
    headers=headers,
    features=features,
    positions=no_positions,
    lacks={"tile": "a table of numbers says nothing of tiles; tile_um= gives the size"},
)
FOLDER = replace(LAYOUT, container="folder", claims=is_folder, headers=folder_headers)
