"""Whether a TIFF is whole: its chain of directories followed to the end, before any library allocates by its claims."""

import struct
from pathlib import Path
from typing import BinaryIO

from milkit.errors import DataError

MOST_DIRECTORIES = 4096
"""Images of one file; a slide has some ten, a stack some hundred."""
NEEDED = {*range(254, 297), 317, *range(320, 331), 338, 339, 347, *range(529, 533)}
"""Tags whose values lie elsewhere in the file and without which its pixels cannot be read."""
BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Of one value, by TIFF's code of types."""
SUB_IMAGES = 330
"""A tag that lists where further images are, as levels of a pyramid."""
NDPI = 65420
"""A tag of Hamamatsu, whose offsets exceed 32 bits in a way of its own."""


def check_chain(path: Path, file: BinaryIO, size: int) -> None:
    """Follow the directories and see that they, and values that matter, lie within the file.

    Raises:
        DataError: they do not (a truncated copy, mostly), or the chain runs in a circle.
    """
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = len(head) == 16 and struct.unpack(order + "H", head[2:4])[0] == 43
    if len(head) < (16 if big else 8):
        raise _truncated(path, size, "its header")
    offset = struct.unpack(order + "Q", head[8:16])[0] if big else struct.unpack(order + "L", head[4:8])[0]
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) >= MOST_DIRECTORIES:
            raise DataError(f"{path} is damaged: its chain of images has no end. Copy or convert it again.")
        seen.add(offset)
        if offset > size:
            raise _truncated(path, size, f"the image at byte {offset:,}")
        following = _directory(path, file, size, offset, order, big)
        if following is None:
            return
        offset = following
    if not seen:
        raise DataError(f"{path} is a TIFF without any image. Copy or convert it again.")


def _directory(path: Path, file: BinaryIO, size: int, offset: int, order: str, big: bool) -> int | None:
    """Where the next directory is (0: nowhere); None where offsets are not TIFF's."""
    counter, entry, pointer = ("Q", "HHQQ", "Q") if big else ("H", "HHLL", "L")
    n_counter, n_entry, n_pointer = (struct.calcsize("<" + code) for code in (counter, entry, pointer))
    file.seek(offset)
    raw = file.read(n_counter)
    if len(raw) < n_counter:
        raise _truncated(path, size, f"the image at byte {offset:,}")
    (entries,) = struct.unpack(order + counter, raw)
    if offset + n_counter + entries * n_entry + n_pointer > size:
        raise _truncated(path, size, f"the image at byte {offset:,} of {entries:,} tags")
    raw = file.read(entries * n_entry)
    tags = [struct.unpack_from(order + entry, raw, i * n_entry) for i in range(entries)]
    if any(tag == NDPI for tag, *_ in tags):
        return None
    for tag, kind, count, place in tags:
        held = BYTES.get(kind, 1) * count
        if tag in NEEDED and held > n_pointer and place + held > size:
            raise _truncated(path, size, f"tag {tag} of {count:,} values at byte {place:,}")
    following = struct.unpack(order + pointer, file.read(n_pointer))[0]
    for tag, kind, count, place in tags:
        wide = BYTES.get(kind)
        if tag == SUB_IMAGES and wide in (4, 8):
            raw = struct.pack(order + pointer, place)
            if wide * count > n_pointer:
                file.seek(place)
                raw = file.read(wide * count)
            last = max(struct.unpack_from(f"{order}{count}{'L' if wide == 4 else 'Q'}", raw), default=0)
            if last >= size:
                raise _truncated(path, size, f"the sub-image at byte {last:,}")
    return following


def _truncated(path: Path, size: int, what: str) -> DataError:
    return DataError(f"{path} ends at byte {size:,}, before {what} does: it is truncated or damaged. Copy it again.")
