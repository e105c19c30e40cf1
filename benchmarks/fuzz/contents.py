"""Spoiling text, JSON, NumPy and zip files (PyTorch's are zips) by what they mean."""

import io
import zipfile
import zlib
from functools import cache
from pathlib import Path

from benchmarks.fuzz.raw import Rng

CELLS = (
    "",
    " ",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e999",
    "-1e400",
    "1e-999",
    "abc",
    "0x10",
    "1_000",
    "１２",
    "0012",
    "1,5",
    "=1+1",
    "../x",
    "/etc/passwd",
    "a\0b",
    "\x1b[31m",
    '"',
    '""',
    "'",
    "ünï",
    "\ufeff",
    "\u202e",
    "x" * 200_000,
    "9" * 5000,
    "True",
    "1;2",
    "a\tb",
    "a\nb",
    "\r",
    "-",
    "#",
    ":",
    "1:2:3",
    "-1",
    "10000000",
    "99999999999999999999",
    "[]",
    "{}",
    "null",
)


def text(data: bytes, rng: Rng) -> bytes:
    """Change a text: a cell, a line, its separators, its encoding, its size."""
    try:
        words = data.decode("utf-8")
    except UnicodeDecodeError:
        return data[::-1]
    kind = rng.integers(9)
    if kind == 0:
        return words.encode(["utf-16", "latin-1", "utf-7", "utf-8-sig", "cp500"][rng.integers(5)], "replace")
    if kind == 1:
        return words.replace(
            *[(",", ";"), (",", "\t"), ("\n", "\r"), ("\n", "\r\n"), (",", ""), ("\n", " ")][rng.integers(6)]
        ).encode()
    if kind == 2:
        return (
            words + ["\n" * 100_000, "," * 100_000, '"', "\n" + words, words, "\x1a", "\n,,,,,,\n"][rng.integers(7)]
        ).encode()
    lines = words.split("\n")
    at = int(rng.integers(len(lines)))
    if kind == 3:
        lines.insert(at, lines[rng.integers(len(lines))])
    elif kind == 4:
        del lines[at]
    else:
        mark = max(",\t; ", key=lines[at].count)
        cells = lines[at].split(mark)
        place = int(rng.integers(len(cells)))
        if kind == 5:
            del cells[place]
        elif kind == 6:
            cells.insert(place, CELLS[rng.integers(len(CELLS))])
        else:
            cells[place] = CELLS[rng.integers(len(CELLS))]
        lines[at] = mark.join(cells)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def json_text(data: bytes, rng: Rng) -> bytes:
    """Change a JSON: a value or key, its depth, its numbers."""
    words = data.decode("utf-8", "replace")
    kind = rng.integers(5)
    if kind == 0:
        return (b"[" * 100_000, b'{"a":' * 50_000, b"[" * 500 + b"]" * 500, b"9" * 10_000, b'"\\ud800"')[
            rng.integers(5)
        ]
    parts = words.split('"')
    if len(parts) > 2 and kind < 4:
        parts[int(rng.integers(len(parts) // 2)) * 2 + 1] = CELLS[rng.integers(len(CELLS))].replace('"', "")
        return '"'.join(parts).encode("utf-8", "surrogatepass")
    odd = ["NaN", "Infinity", "-1", "1e999", "null", "[]", "{}", "true", '"x"', "[[[]]]", "9" * 400]
    marks = [i for i, c in enumerate(words) if c in ":,["]
    if not marks:
        return odd[rng.integers(len(odd))].encode()
    at = marks[rng.integers(len(marks))] + 1
    return (words[:at] + odd[rng.integers(len(odd))] + words[at + int(rng.integers(6)) :]).encode()


DTYPES = (
    "|O",
    "<f8",
    ">f4",
    "<U9",
    "<U999999999",
    "|S0",
    "<c16",
    "|V3",
    "<M8[s]",
    "|b1",
    "<i8",
    "<f2",
    "<u1",
    "x",
    "[('a','<f4')]",
)
SHAPES = (
    "(10000000, 1024)",
    "(0, 4)",
    "()",
    "(-1, 4)",
    "(6,)",
    "(1000000000000,)",
    "(6, 4, 1)",
    "(4, 6)",
    "('a',)",
    "(6.0, 4)",
    "(" * 300,
    "(True, 4)",
    "(2**62, 4)",
    "[6, 4]",
    "(6, 0)",
)


def npy(data: bytes, rng: Rng) -> bytes:
    """Change the header of an array; its length stays true half of the time."""
    try:
        length = int.from_bytes(data[8:10], "little")
        head = data[10 : 10 + length].decode("latin-1")
        descr, shape = head.split("'descr': ")[1].split(", 'fortran")[0], head.split("'shape': ")[1].rsplit(", }", 1)[0]
    except (IndexError, ValueError):
        return data[::-1]
    if rng.random() < 0.5:
        head = head.replace(f"'shape': {shape}", f"'shape': {SHAPES[rng.integers(len(SHAPES))]}")
    else:
        kind = DTYPES[rng.integers(len(DTYPES))]
        head = head.replace(descr, kind if kind.startswith("[") else f"'{kind}'")
    if rng.random() < 0.1:
        head = head.replace("False", ["True", "None", "1"][rng.integers(3)])
    new = head.encode("latin-1")
    length = len(new) if rng.random() < 0.9 else int(rng.integers(65536))
    return (
        data[:6]
        + bytes([rng.choice([1, 1, 1, 2, 3, 9]), 0])
        + length.to_bytes(2, "little")
        + new
        + data[10 + len(new) :]
    )


@cache
def _zeros() -> bytes:
    return zlib.compress(bytes(300 << 20), 1)[2:-4]


def zipped(data: bytes, rng: Rng, outside: Path) -> bytes:
    """Change a zip: its members' names, bytes and sizes; a bomb; a pickle that opens a file outside."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old:
            members = [(m.filename, old.read(m)) for m in old.infolist()]
    except (zipfile.BadZipFile, OSError, zlib.error, NotImplementedError):
        return data[::-1]
    if not members:
        return data[::-1]
    at = int(rng.integers(len(members)))
    name, inside = members[at]
    kind = rng.integers(9)
    how = zipfile.ZIP_STORED
    if kind == 0:
        members[at] = (["../x", "/x", "a\\b", "", "x" * 5000, name.upper(), "ünï"][rng.integers(7)], inside)
    elif kind == 1:
        del members[at]
    elif kind == 2:
        members.append((name, inside[::-1]))
    elif kind == 3:
        how = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA][rng.integers(3)]
    elif kind == 4:
        members[at] = (name, evil(outside, rng))
    elif kind == 5 and name.endswith(".npy"):
        members[at] = (name, npy(inside, rng))
    elif kind == 6:
        return _bomb(name, rng)
    elif inside:
        spoilt = bytearray(inside)
        for place in rng.integers(len(inside), size=int(rng.integers(1, 6))):
            spoilt[place] = int(rng.integers(256))
        members[at] = (name, bytes(spoilt))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as new:
        for name, inside in members:
            new.writestr(zipfile.ZipInfo(name or "empty"), inside, compress_type=how)
    return out.getvalue()


def evil(outside: Path, rng: Rng) -> bytes:
    """A pickle that writes a file outside when it is read."""
    call = f"open({str(outside / 'pickled')!r}, 'w').close()"
    kind = rng.integers(3)
    if kind == 0:
        return b"c__builtin__\nexec\n(V" + call.encode() + b"\ntR."
    if kind == 1:
        return (
            b"\x80\x02cos\nsystem\nX"
            + len(s := f"touch {outside / 'pickled'}".encode()).to_bytes(4, "little")
            + s
            + b"\x85R."
        )
    return b"\x80\x02ccollections\nOrderedDict\n)R" + b"q\x01" * 3 + b"h\x01" * 5 + b"."


def _bomb(name: str, rng: Rng) -> bytes:
    """One member of 300 kB that says it holds 300 MB, or 100 bytes, and holds 300 MB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr(name, b"x")
    whole = out.getvalue()
    said = [300 << 20, 100][rng.integers(2)].to_bytes(4, "little")
    packed = _zeros()
    local = whole[:18] + len(packed).to_bytes(4, "little") + said + whole[26 : 30 + len(name.encode())] + packed
    start = whole.index(b"PK\x01\x02")
    centre = whole[start : start + 20] + len(packed).to_bytes(4, "little") + said + whole[start + 28 :]
    end = centre.index(b"PK\x05\x06")
    centre = centre[: end + 16] + len(local).to_bytes(4, "little") + centre[end + 20 :]
    return local + centre


def meaning(path: Path, rng: Rng, outside: Path) -> str:
    """Spoil a file that is no HDF5 by what it is; returns how."""
    data = path.read_bytes()
    if rng.random() < 0.02:
        path.write_bytes(evil(outside, rng))
        return "evil pickle"
    if data.startswith(b"PK"):
        path.write_bytes(zipped(data, rng, outside))
        return "zip"
    if data.startswith(b"\x93NUMPY"):
        path.write_bytes(npy(data, rng))
        return "npy"
    json = data.lstrip()[:1] in (b"{", b"[") and rng.random() < 0.7
    path.write_bytes(json_text(data, rng) if json else text(data, rng))
    return "json" if json else "text"
