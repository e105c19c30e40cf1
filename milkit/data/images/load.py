"""Images of a table's rows: their files, sizes from headers, and all pixels at once, decoded by threads."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from milkit.bag import Bag
from milkit.data.images.decode import SUFFIXES, Reading, read_image, size_of
from milkit.data.table import CohortTable
from milkit.data.where import and_more, did_you_mean
from milkit.errors import DataError

CHANNELS = 3
THREADS = 8
"""More than cores help while files come over a network; decoding itself leaves Python's lock."""


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images by id; a `milkit.data.features.FeatureSource` whose instances are pixels, row by row.

    Attributes:
        ids: of the images.
        sizes: height and width of each, int [B, 2].
        pixels: uint8 [h, w, 3] of each image that was decoded.
        provenance: JSON-able.
    """

    ids: tuple[str, ...]
    sizes: np.ndarray
    pixels: dict[str, np.ndarray] = field(repr=False)
    provenance: Mapping[str, Any]

    @property
    def lengths(self) -> np.ndarray:
        """Pixels of each image, int64 [B]."""
        return self.sizes.astype(np.int64).prod(1)

    @property
    def features(self) -> int:
        """Channels."""
        return CHANNELS

    def read(self, bag_id: str) -> Bag:
        """One image, its pixels row by row."""
        if bag_id not in self.pixels:
            raise DataError(f"No image {bag_id!r}.{did_you_mean(bag_id, self.pixels)}")
        return Bag(bag_id, self.pixels[bag_id].reshape(-1, CHANNELS))

    def coords(self, bag_id: str) -> None:
        """Pixels have no positions of their own: their order and the image's size say where they are."""
        return None


def files_of(table: CohortTable, folder: Path) -> dict[str, Path]:
    """The file of each image of a table, by id; images that are not there are left out.

    Raises:
        DataError: a name without ending that two files have.
    """
    cells = table.columns[table.used["slide"]]
    found = {}
    for name, cell in zip(table.slide.tolist(), cells.tolist(), strict=True):
        path = folder / Path(cell).expanduser()
        if path.is_file():
            found[name] = path
            continue
        there = [p for p in (path.with_name(path.name + suffix) for suffix in SUFFIXES) if p.is_file()]
        if len(there) > 1:
            raise DataError(
                f"Image {name!r} could be {and_more([p.name for p in there], len(there))} in {path.parent}; write the "
                "ending into the table."
            )
        if there:
            found[name] = there[0]
    return found


def sizes_of(files: Mapping[str, Path], reading: Reading) -> dict[str, tuple[int, int]]:
    """Height and width of each image as it will be read.

    Raises:
        DataError: files that are no images that can be read; names the first of them and counts all.
    """
    return dict(zip(files, threaded(lambda path: size_of(path, reading), list(files.values())), strict=True))


def decode(files: Mapping[str, Path], reading: Reading) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """The pixels of each image, uint8 [h, w, 3], and how many images were converted in which way.

    Raises:
        DataError: images that cannot be read; names the first of them and counts all.
    """
    read = threaded(lambda path: read_image(path, reading), list(files.values()))
    words = Counter(word for _, said in read for word in said)
    return {name: pixels for name, (pixels, _) in zip(files, read, strict=True)}, words


def threaded(do: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """The result of each image, several at a time, in their order.

    Raises:
        DataError: the first of those that were raised, and how many there were.
    """

    def attempt(item: Any) -> Any:
        try:
            return do(item)
        except DataError as error:
            return error

    with ThreadPoolExecutor(min(THREADS, 2 * (os.cpu_count() or 1))) as pool:
        results = list(pool.map(attempt, items))
    wrong = [result for result in results if isinstance(result, DataError)]
    if wrong:
        more = f" ({len(wrong)} of {len(items)} images cannot be used.)" if len(wrong) > 1 else ""
        raise DataError(f"{wrong[0]}{more}")
    return results


def check_memory(sizes: Sequence[tuple[int, int]], max_gib: float, name: str) -> None:
    """Refuse images that take more memory than allowed, before any is decoded.

    Args:
        sizes: height and width of each.
        max_gib: the limit; 0 for a quarter of the machine's memory, because packing them takes as much again, twice.
        name: of the study.

    Raises:
        DataError: says how much they take and what to do.
    """
    needed = sum(height * width for height, width in sizes) * CHANNELS
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4 if not max_gib else max_gib * 2**30
    if needed > have:
        side = next(k for k in range(2, 1 << 16) if needed <= have * k * k)
        limit = f"max_gib={max_gib:g}" if max_gib else f"a quarter of the machine's memory ({have / 2**30:.2g} GiB)"
        raise DataError(
            f"The {len(sizes)} images of {name!r} take {needed / 2**30:.3g} GiB of pixels, more than {limit}. Set "
            f"downsample={side} or more, use fewer images, or raise max_gib where there is memory for three times as "
            "much."
        )


def digest_of(pixels: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    """sha256 of some images' names, sizes and pixels."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{pixels[name].shape}\0".encode())
        digest.update(np.ascontiguousarray(pixels[name]).data)
    return digest.hexdigest()
