"""Classic sets as text, `.svm` (Andrews 2003; DSMIL reads them): many bags in one file, one instance a line.

    inst:bag:label 1:0.31 2:-0.7 5:1.2

The ids are any text without a colon or blank, the label is that of the bag, indices of features count from 1 (from 0
where a 0 occurs), and features that are not named are 0. Lines that begin with `#` are comments, and so is what
follows a `#`. Instances of a bag need not lie together. DSMIL's own reader loses the first line of a file, which it
takes for a header; here every line counts.
"""

import hashlib
import math
import re
from array import array
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64

from milkit.data.formats.header import Header
from milkit.data.formats.layout import Layout, no_positions
from milkit.errors import DataError

EXPANSION = 4
ROOM = 64 << 20
"""Zeros are not written, so a matrix may take `EXPANSION` x the size of its file + `ROOM` bytes, and no more."""
LARGEST_INDEX = 2**31 - 2
MOST_LINE = 4 << 20
"""Characters of one line: its parts take far more memory than the text."""
_LINE = re.compile(r"\s*[^\s:#]+:[^\s:#]+:[^\s:#]+(\s+\d+:\S+)*\s*(#.*)?$")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_EXAMPLE = "'inst:bag:label 1:0.3 2:-0.7'"


@dataclass(frozen=True, eq=False)
class SvmSet:
    """All bags of a file, without the zeros.

    Attributes:
        path: of the file.
        names: of the bags, as text, in the order of their first lines.
        labels: of each bag, as text.
        bag: number of the bag of each instance, int64 [N].
        starts: where the values of each instance begin in `values`, int64 [N+1].
        columns: feature of each value, from 0.
        values: float64, as many as are named in the file.
        width: features d.
        size: bytes of the file.
    """

    path: Path
    names: tuple[str, ...]
    labels: tuple[str, ...]
    bag: Int64[np.ndarray, " N"] = field(repr=False)
    starts: Int64[np.ndarray, " N+1"] = field(repr=False)
    columns: Int[np.ndarray, " V"] = field(repr=False)
    values: Float[np.ndarray, " V"] = field(repr=False)
    width: int
    size: int

    def dense(self, rows: Int64[np.ndarray, " n"], dtype: Any = np.float32) -> Float[np.ndarray, "n d"]:
        """Features of some instances, by their number in the file, zeros included.

        Raises:
            DataError: they would take far more memory than the file.
        """
        claimed = len(rows) * self.width * np.dtype(dtype).itemsize
        if claimed > EXPANSION * self.size + ROOM:
            raise DataError(
                f"{self.path}: {len(rows):,} instances of {self.width:,} features would take {claimed:,} bytes, but "
                f"the file has {self.size:,}; one index is likely wrong."
            )
        x = np.zeros((len(rows), self.width), dtype)
        for i, row in enumerate(rows):
            part = slice(self.starts[row], self.starts[row + 1])
            with np.errstate(over="ignore"):  # too large for dtype becomes infinite, which is refused with its place
                x[i, self.columns[part]] = self.values[part]
        return x

    def of(self, bag: int, dtype: Any = np.float32) -> Float[np.ndarray, "n d"]:
        """Features of one bag, by its number, instances in the order of the file."""
        return self.dense(np.flatnonzero(self.bag == bag), dtype)


def parse_svm(path: Path) -> SvmSet:
    """Read a file of classic bags.

    Raises:
        DataError: names the file, the line and what on it is wrong; no instance; a bag with two labels.
    """
    size = path.stat().st_size
    bags: dict[str, int] = {}
    labels: list[str] = []
    first: list[int] = []
    bag, starts, columns, values = array("q"), array("q", [0]), array("q"), array("d")
    for number, line in _lines(path):
        ids, *pairs = line.split()
        parts = ids.split(":")
        if len(parts) != 3 or not all(parts):
            raise DataError(f"{path}, line {number}: begins with {ids[:40]!r}; expected a line such as {_EXAMPLE}.")
        _, name, label = parts
        place = bags.setdefault(name, len(bags))
        if place == len(labels):
            labels.append(label)
            first.append(number)
        if labels[place] != label:
            raise DataError(
                f"{path}, line {number}: bag {name!r} has label {label!r}, but {labels[place]!r} on line "
                f"{first[place]}. The label is that of the bag; give all its instances the same."
            )
        bag.append(place)
        _pairs(path, number, pairs, columns, values)
        starts.append(len(values))
    if not bag:
        raise DataError(f"{path} holds no instance; expected lines such as {_EXAMPLE}.")
    indices = np.frombuffer(columns, np.int64)
    begin = 0 if len(indices) and indices.min() == 0 else 1
    return SvmSet(
        path=path,
        names=tuple(bags),
        labels=tuple(labels),
        bag=np.frombuffer(bag, np.int64),
        starts=np.frombuffer(starts, np.int64),
        columns=indices - begin,
        values=np.frombuffer(values, np.float64),
        width=int(indices.max()) - begin + 1 if len(indices) else 0,
        size=size,
    )


def _lines(path: Path) -> Any:
    """Number and text of each line that is more than a comment."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(lambda: file.readline(MOST_LINE), ""), 1):
                if len(line) == MOST_LINE:
                    raise DataError(f"{path}, line {number}: longer than {MOST_LINE:,} characters; no such file.")
                text = line.partition("#")[0]
                if text.strip():
                    yield number, text
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text in UTF-8 after line {number}; this is another kind of file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def _pairs(path: Path, number: int, pairs: list[str], columns: "array[int]", values: "array[float]") -> None:
    """Add the features of one line."""
    seen = len(columns)
    for pair in pairs:
        index, colon, value = pair.partition(":")
        # Python's own int() and float() take "1_0" and "nan" as well
        if not (colon and index.isascii() and index.isdecimal() and len(index) < 11 and _NUMBER.fullmatch(value)):
            raise DataError(f"{path}, line {number}: {pair[:40]!r} is no index:value; expected such as 12:0.5.")
        if int(index) > LARGEST_INDEX:
            raise DataError(f"{path}, line {number}: index {index} is out of range.")
        columns.append(int(index))
        values.append(float(value))
        if not math.isfinite(values[-1]):
            raise DataError(f"{path}, line {number}: {pair[:40]!r} is too large a number.")
    own = columns[seen:]
    if len(set(own)) < len(own):
        twice = next(index for i, index in enumerate(own) if index in own[:i])
        raise DataError(f"{path}, line {number}: names feature {twice} twice.")


@lru_cache(maxsize=2)
def _parsed(path: Path, changed: int, size: int) -> SvmSet:
    """The last files stay parsed, for their bags are read one by one; a file that changed is read anew."""
    return parse_svm(path)


def _set(path: Path) -> SvmSet:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    return _parsed(path, state.st_mtime_ns, state.st_size)


def is_svm(path: Path, content: None = None) -> bool:
    """Whether the first line that is no comment is an instance."""
    try:
        line = next((line for _, line in _lines(path)), "")
    except DataError:
        return False
    return bool(_LINE.match(line[:10_000].rpartition(" ")[0] if len(line) > 10_000 else line))


def headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """One header a bag; the file is parsed, for nothing in it says where its bags are."""
    whole = _set(path)
    lengths = np.bincount(whole.bag, minlength=len(whole.names))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return tuple(
        Header(
            name, path, int(n), whole.width, "svm", name, "", positioned=False, label=label, sample=f"{digest} {name}"
        )
        for name, label, n in zip(whole.names, whole.labels, lengths, strict=True)
    )


def features(slide: Header) -> np.ndarray:
    """The instances of one bag, float32 [n, d].

    Raises:
        DataError: the file no longer holds that bag.
    """
    whole = _set(slide.path)
    if slide.key not in whole.names:
        raise DataError(f"{slide.path} changed since it was opened: no bag {slide.key!r}.")
    return whole.of(whole.names.index(slide.key))


LAYOUT = Layout(
    name="svm",
    tool="classic .svm",
    container="svm",
    claims=is_svm,
    headers=headers,
    features=features,
    positions=no_positions,
    lacks={"tile": "instances of classic sets are no tiles"},
)
