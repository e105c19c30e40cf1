"""Compressed chunks, opened here rather than by the HDF5 library, whose gzip grows without bound.

A chunk of 60 MB can hold 60 GB of zeros: the library doubles its buffer until they fit. Here a chunk may grow to the
size that its dataset says and no further. It costs no time: the same zlib does the work, and it lets other threads run.
"""

import math
import zlib
from typing import Any

import h5py
import numpy as np
from h5py import h5t, h5z

from milkit.errors import DataError

KNOWN_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}
_CHECKSUM = 4
"""Bytes that Fletcher's checksum adds to a chunk."""


def filters(data: h5py.Dataset) -> list[tuple[int, str]]:
    """Number and name of each filter of a dataset, in the order in which they were applied."""
    settings = data.id.get_create_plist()
    known = [settings.get_filter(i) for i in range(settings.get_nfilters())]
    return [(code, name.decode("ascii", "replace") or str(code)) for code, _, _, name in known]


def read_rows(data: h5py.Dataset, start: int, stop: int, room: int) -> np.ndarray:
    """Rows of a compressed dataset.

    Args:
        data: its chunks are opened by the filters in `KNOWN_FILTERS` only.
        start, stop: which rows; within it.
        room: bytes that the rows may take.

    Raises:
        DataError: they would take more; a chunk is not there, or is damaged.
    """
    shape, chunk, dtype = data.shape, data.chunks, _stored_dtype(data)
    out_shape = (stop - start, *shape[1:])
    size = math.prod(chunk) * dtype.itemsize
    if math.prod(out_shape) * dtype.itemsize > room or size > room:
        raise _damaged(data, f"claims {math.prod(out_shape) * dtype.itemsize:,} bytes")
    out = np.empty(out_shape, dtype)
    steps = [range(start - start % chunk[0], stop, chunk[0])]
    steps += [range(0, n, c) for n, c in zip(shape[1:], chunk[1:], strict=True)]
    codes = [code for code, _ in filters(data)]
    for place in np.ndindex(*map(len, steps)):
        corner = tuple(step[i] for step, i in zip(steps, place, strict=True))
        values = np.frombuffer(_opened(data, corner, codes, size, dtype.itemsize), dtype).reshape(chunk)
        first = max(start - corner[0], 0)
        inner: tuple[slice, ...] = (slice(first, min(chunk[0], stop - corner[0])),)
        inner += tuple(slice(0, n - at) for n, at in zip(shape[1:], corner[1:], strict=True))
        part = values[inner]
        top = corner[0] + first - start
        outer: tuple[slice, ...] = (slice(top, top + len(part)),)
        outer += tuple(slice(at, at + k) for at, k in zip(corner[1:], part.shape[1:], strict=True))
        out[outer] = part
    return (out.astype(np.uint32) << 16).view(np.float32) if is_bfloat16_float(data) else out


def _opened(data: h5py.Dataset, corner: tuple[int, ...], codes: list[int], size: int, item: int) -> bytes | memoryview:
    """The bytes of one chunk, its filters undone from the last to the first."""
    stored = data.id.get_chunk_info_by_coord(corner)
    if stored.byte_offset is None or not 0 < stored.size <= data.file.size - stored.byte_offset:
        raise _damaged(data, f"the chunk at {corner} is not stored, it is damaged")
    skipped, raw = data.id.read_direct_chunk(corner)
    for i, code in reversed(list(enumerate(codes))):
        if skipped >> i & 1:
            continue
        if code == h5z.FILTER_FLETCHER32:
            raw = raw[:-_CHECKSUM]
        elif code == h5z.FILTER_DEFLATE:
            try:
                raw = zlib.decompressobj().decompress(raw, size + _CHECKSUM)
            except zlib.error as error:
                raise _damaged(data, f"the chunk at {corner} is no gzip ({error}), it is damaged") from None
        elif code == h5z.FILTER_SHUFFLE and item > 1:
            raw = _unshuffled(raw, item)
    if len(raw) != size:
        raise _damaged(data, f"the chunk at {corner} holds {len(raw)} bytes; expected {size}, it is damaged")
    return raw


def _unshuffled(raw: bytes | memoryview, item: int) -> bytes | memoryview:
    """All first bytes of the values stand first, then all second ones ...; what is left over follows as it is."""
    whole = len(raw) // item * item
    bytes_of = np.frombuffer(raw, np.uint8)
    values = np.empty((whole // item, item), np.uint8)
    for i, plane in enumerate(bytes_of[:whole].reshape(item, -1)):
        values[:, i] = plane
    return values.tobytes() + raw[whole:] if whole < len(raw) else values.data.cast("B")


def is_bfloat16_float(data: h5py.Dataset) -> bool:
    """Whether values are a float of 16 bits with 8 of exponent, which h5py hands out as float32."""
    kind = data.id.get_type()
    return isinstance(kind, h5t.TypeFloatID) and kind.get_size() == 2 and kind.get_ebias() == 127


def _stored_dtype(data: h5py.Dataset) -> np.dtype:
    """The dtype on disk, whose byte order is the file's; the bits of a bfloat16."""
    if is_bfloat16_float(data):
        return np.dtype(">u2" if data.id.get_type().get_order() == h5t.ORDER_BE else "<u2")
    dtype: Any = data.dtype
    if dtype.kind not in "fiuVSb" or dtype.itemsize != data.id.get_type().get_size():
        raise _damaged(data, f"{dtype} in compressed chunks is not read; write it without compression")
    return np.dtype(dtype)


def _damaged(data: h5py.Dataset, what: str) -> DataError:
    return DataError(f"{data.file.filename}: {data.name!r}: {what}. Make or copy the file anew, or remove it.")
