"""Tiles read ahead of the encoder: threads fill blocks in order, a few at a time, across the ends of bags."""

import contextlib
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from milkit.embed.part import Part
from milkit.embed.source import Opener
from milkit.errors import DataError

AHEAD = 2
"""Blocks that are being read while one is encoded; with it, three are in memory."""
PIECE = 4
"""Tiles that a thread reads at a time."""


@dataclass
class Turn:
    """What the encoder does next: a block of a bag, or its end.

    Attributes:
        opener: of the bag.
        part: the bag under way; None where it could not be opened.
        error: why not.
        start, stop: tiles of the block; both 0 at the end of a bag.
    """

    opener: Opener
    part: Part | None = None
    error: Exception | None = None
    start: int = 0
    stop: int = 0
    _tiles: np.ndarray | None = None
    _pieces: list[Future[None]] = field(default_factory=list)

    @property
    def ends(self) -> bool:
        """Whether nothing more comes of the bag."""
        return self.stop == 0

    def tiles(self) -> np.ndarray:
        """The block's tiles, uint8 [n, side, side, 3], once they are read; raises what reading them did."""
        for piece in self._pieces:
            piece.result()
        assert self._tiles is not None
        return self._tiles


def turns(
    openers: Iterable[Opener], begin: Callable[[Opener], Part], workers: int, gone: Container[str]
) -> Generator[Turn, None, None]:
    """Blocks of bags in their order, read ahead by threads.

    Args:
        openers: of the bags.
        begin: opens one.
        workers: threads.
        gone: ids of bags of which no more blocks are wanted; looked at as it goes on.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tiles")
    waiting: deque[Turn] = deque()
    try:
        with contextlib.closing(_planned(openers, begin, pool, gone)) as planned:
            for turn in planned:
                waiting.append(_started(turn, pool))
                while len(waiting) > AHEAD:
                    yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
        for part in {id(t.part): t.part for t in waiting if t.part is not None}.values():
            part.close()


def _planned(
    openers: Iterable[Opener], begin: Callable[[Opener], Part], pool: ThreadPoolExecutor, gone: Container[str]
) -> Generator[Turn, None, None]:
    """Turns without tiles; a bag is opened while the one before it is read."""
    ahead: deque[tuple[Opener, Future[Part]]] = deque()
    left = iter(openers)
    try:
        while True:
            while len(ahead) < 2 and (opener := next(left, None)) is not None:
                ahead.append((opener, pool.submit(begin, opener)))
            if not ahead:
                return
            opener, opening = ahead.popleft()
            try:
                part = opening.result()
            except Exception as error:  # whoever takes the turn decides what it means
                yield Turn(opener, error=error)
                continue
            for start, stop in part.blocks:
                if opener.id in gone:
                    break
                yield Turn(opener, part, start=start, stop=stop)
            yield Turn(opener, part)
    finally:
        for _, opening in ahead:
            if not opening.cancel() and opening.exception() is None:
                opening.result().close()


def _started(turn: Turn, pool: ThreadPoolExecutor) -> Turn:
    """The turn, whose tiles threads begin to read."""
    if turn.part is None or turn.ends:
        return turn
    side = turn.part.source.side
    turn._tiles = np.empty((turn.stop - turn.start, side, side, 3), np.uint8)
    firsts = range(turn.start, turn.stop, PIECE)
    turn._pieces = [pool.submit(_read, turn, first, min(first + PIECE, turn.stop)) for first in firsts]
    return turn


def _read(turn: Turn, first: int, stop: int) -> None:
    assert turn.part is not None
    assert turn._tiles is not None
    found = turn.part.source.read_tiles(first, stop)
    place = turn._tiles[first - turn.start : stop - turn.start]
    if found.shape != place.shape or found.dtype != np.uint8:
        raise DataError(
            f"Tiles {first} to {stop} of {turn.opener.id!r} are {found.dtype} {list(found.shape)}; expected uint8 "
            f"{list(place.shape)}."
        )
    place[:] = found
