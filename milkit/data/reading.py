"""Reading bags ahead of their use, in bounded memory: threads fill padded buffers, in the order they will be wanted.

Nothing here knows JAX. A `Reader` belongs to a study and keeps its buffers between passes; `Reader.batches` walks one
pass. Whoever takes a block gives it back by `release` when the numbers in it are used up: only then is its buffer
filled again, so a device may work on the very bytes that were read.
"""

import mmap
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from milkit.data.mapped import copy_to, map_of, place_in
from milkit.data.study import Study
from milkit.errors import DataError

BUDGET = 256 << 20
"""Bytes that buffers and bags under way may take, unless three of the largest batches take more."""
HELD = 2
"""Blocks that may be in use at a time: one is computed on while the next is copied to the device."""
ALIGN = 64  # a CPU device takes such a buffer as it is, without a copy


class Wanted(NamedTuple):
    """A batch to be read.

    Attributes:
        bags: rows of the study; fewer than `size` leave fillers of no instance.
        size: bags of the batch, fillers included.
        length: instances that each bag is padded to; no bag is longer.
    """

    bags: tuple[int, ...]
    size: int
    length: int


@dataclass(frozen=True, eq=False)
class Block:
    """A batch that was read; what lies beyond a bag's own instances is left over from other bags.

    Attributes:
        number: its place in the pass.
        wanted: what was asked for.
        x: features as stored.
        coords_um: positions, or None.
        lengths: instances of each bag, 0 for a filler.
    """

    number: int
    wanted: Wanted
    x: Float[np.ndarray, "b n d"]
    coords_um: Float[np.ndarray, "b n 2"] | None
    lengths: Int[np.ndarray, "b"]
    _raw: np.ndarray = field(repr=False)
    _pool: "_Pool" = field(repr=False)

    def release(self) -> None:
        """Give the buffer back; the arrays must not be looked at any more."""
        self._pool.put(self._raw)


class _Pool:
    """Buffers of one size, which hold a batch of any length and are used again; and a count of all bytes under way.

    One size for all: memory that is given back and asked for anew costs as much as the read.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.held, self.peak, self.size = budget, 0, 0, 0
        self._free: list[np.ndarray] = []
        self._change = threading.Condition()
        self.closed = False

    def allow(self, size: int, extra: int) -> None:
        """Let buffers have so many bytes, and the budget hold `HELD + 1` of them with `extra` bytes each."""
        with self._change:
            if size > self.size:
                self.held -= sum(b.nbytes for b in self._free)
                self._free, self.size = [], size
            self.budget = max(self.budget, (HELD + 1) * (self.size + extra))

    def take(self, extra: int, wait: bool = True) -> np.ndarray | None:
        """A buffer, with `extra` bytes counted beside it; waits for room, or else gives None; None after `close`."""
        with self._change:
            while not self.closed:
                need = extra + (0 if self._free else self.size)
                # where copies take the room of a buffer, free ones make it
                while self.held + need > self.budget and len(self._free) > 1:
                    self.held -= self._free.pop().nbytes
                if self.held + need <= self.budget:
                    self.held += need
                    self.peak = max(self.peak, self.held)
                    return self._free.pop() if self._free else np.empty(self.size, np.uint8)
                if not wait:
                    return None
                self._change.wait()
            return None

    def put(self, buffer: np.ndarray) -> None:
        """Take a buffer back."""
        with self._change:
            if buffer.nbytes == self.size:
                self._free.append(buffer)
            else:
                self.held -= buffer.nbytes
            self._change.notify_all()

    def spent(self, extra: int) -> None:
        """Bytes beside a buffer are no longer needed."""
        with self._change:
            self.held -= extra
            self._change.notify_all()

    def close(self, closed: bool) -> None:
        """Wake whoever waits (True), or open for another pass (False)."""
        with self._change:
            self.closed = closed
            self._change.notify_all()


class Reader:
    """Reads batches of a study's bags ahead of use.

    Args:
        study: whose bags.
        coords: whether positions are read too.
        threads: how many read.
        budget: bytes that all buffers and bags under way may take; see `allow`.
    """

    def __init__(self, study: Study, *, coords: bool = False, threads: int = 2, budget: int = BUDGET) -> None:
        self.study, self.coords, self.threads = study, coords, threads
        self.dtype = _narrow(study.read(0).x.dtype)
        self._pool = _Pool(budget)

    def allow(self, size: int, length: int) -> None:
        """Make buffers for so many bags of so many instances, and raise the budget to `HELD + 1` of them if it is less.

        As a step works on one while the next one is copied, fewer would wait for each other for ever.
        """
        longest = min(length, int(self.study.lengths.max()))
        self._pool.allow(self._bytes(size, length), self._copied(longest))

    @property
    def budget(self) -> int:
        """Bytes that may be under way."""
        return self._pool.budget

    @property
    def peak(self) -> int:
        """The most bytes that were under way at a time."""
        return self._pool.peak

    def _bytes(self, size: int, length: int) -> int:
        row = self.study.features * self.dtype.itemsize + (8 if self.coords else 0)
        return size * length * row + 2 * ALIGN

    def _copied(self, instances: int) -> int:
        """What `Study.read` may hold of so many instances, where it makes copies."""
        return instances * (self.study.features * 4 + 8)

    def batches(self, wanted: Sequence[Wanted]) -> "Pass":
        """One pass over some batches: a context manager and an iterator of blocks, in the order given."""
        for size, length in {(w.size, w.length) for w in wanted}:
            self.allow(size, length)
        return Pass(self, wanted)

    def room(self, wanted: Wanted, wait: bool = True) -> np.ndarray | None:
        """A buffer for a batch, once there is room for it and for copies that are made in reading; None if closed.

        Without `wait` also None where there is no room now.
        """
        return self._pool.take(self._copied(self._longest(wanted)), wait)

    def _longest(self, wanted: Wanted) -> int:
        return int(self.study.lengths[list(wanted.bags)].max(initial=0))

    def fill(self, number: int, wanted: Wanted, raw: np.ndarray) -> Block:
        """Read one batch into the buffer that `room` gave."""
        b, n, d = wanted.size, wanted.length, self.study.features
        try:
            start = -raw.ctypes.data % ALIGN
            end = start + b * n * d * self.dtype.itemsize
            x = raw[start:end].view(self.dtype).reshape(b, n, d)
            xy = None
            if self.coords:
                end += -end % 8
                xy = raw[end : end + b * n * 8].view(np.float32).reshape(b, n, 2)
            lengths = np.zeros(b, np.int32)
            for place, i in enumerate(wanted.bags):
                lengths[place] = self._copy(i, x[place], None if xy is None else xy[place])
        except BaseException:
            self._pool.put(raw)
            raise
        finally:
            self._pool.spent(self._copied(self._longest(wanted)))
        return Block(number, wanted, x, xy, lengths, raw, self._pool)

    def _copy(self, i: int, x: np.ndarray, xy: np.ndarray | None) -> int:
        """Copy bag i to the head of x and xy; returns its length."""
        bag = self.study.read(i)
        n = len(bag.x)
        if bag.x.shape != (int(self.study.lengths[i]), self.study.features):
            raise DataError(
                f"Bag {str(self.study.bag[i])!r} has features of shape {bag.x.shape}, but the cohort was opened with "
                f"{(int(self.study.lengths[i]), self.study.features)}; its file has changed. Start anew."
            )
        if not np.can_cast(_narrow(bag.x.dtype), self.dtype):
            raise DataError(
                f"Bag {str(self.study.bag[i])!r} is {bag.x.dtype}, but {str(self.study.bag[0])!r} is {self.dtype}; a "
                "cohort that is read while it is trained on needs one dtype. Write one store of all bags."
            )
        copy_to(bag.x, x[:n])
        if xy is not None:
            xy[:n] = bag.coords_um
        _let_go(bag.x)
        return n


def _let_go(x: np.ndarray) -> None:
    """Take what was copied from a memory map out of this process; the system keeps it while there is room.

    Else the whole cohort would count as this process's memory after an epoch.
    """
    base = map_of(x)
    if base is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = place_in(base, x)
    first, last = -(-first // mmap.PAGESIZE), (first + x.nbytes) // mmap.PAGESIZE
    if last > first:
        base.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)


def _narrow(dtype: np.dtype) -> np.dtype:
    """The dtype in which features travel: as stored, float64 as float32."""
    return np.dtype(np.float32) if dtype == np.float64 else dtype


class Pass:
    """One pass; see `Reader.batches`. What a thread raises is raised where its block is wanted."""

    def __init__(self, reader: Reader, wanted: Sequence[Wanted]) -> None:
        self._reader, self._wanted = reader, wanted
        self._next = 0
        self._claim = threading.Lock()  # batches get their memory in the order of use, so none waits for a later one
        self._change = threading.Condition()
        self._ready: dict[int, Block | BaseException] = {}
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(reader.threads)]

    def __enter__(self) -> "Pass":
        """Begin to read."""
        self._reader._pool.close(False)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads; blocks that nobody took are given back."""
        self._reader._pool.close(True)
        with self._claim:
            self._next = len(self._wanted)
        for thread in self._threads:
            thread.join()
        for block in self._ready.values():
            if isinstance(block, Block):
                block.release()

    def __iter__(self) -> Iterator[Block]:
        """The blocks, in order."""
        for number in range(len(self._wanted)):
            while not self._is_ready(number) and self._help():
                pass
            with self._change:
                while number not in self._ready:
                    self._change.wait()
                block = self._ready.pop(number)
            if isinstance(block, BaseException):
                raise block
            yield block

    def _is_ready(self, number: int) -> bool:
        with self._change:
            return number in self._ready

    def _help(self) -> bool:
        """Read the next batch that nobody reads yet, in the thread that would else wait for an earlier one.

        To be woken costs more than it seems: on a machine with other work the woken thread takes the reader's place on
        its core, so that each block cost a slice of the scheduler's, twice the time of the read.

        Returns:
            Whether there was one, and room for it without waiting.
        """
        if not self._claim.acquire(blocking=False):
            return False  # a reader waits for room, which only the blocks in use can give
        try:
            number = self._next
            raw = self._reader.room(self._wanted[number], wait=False) if number < len(self._wanted) else None
            if raw is None:
                return False
            self._next += 1
        finally:
            self._claim.release()
        self._fill(number, raw)
        return True

    def _work(self) -> None:
        while True:
            with self._claim:  # held while waiting for room, so that memory is given out in the order of use
                number = self._next
                if number >= len(self._wanted):
                    return
                self._next += 1
                raw = self._reader.room(self._wanted[number])
            if raw is None:
                return
            self._fill(number, raw)

    def _fill(self, number: int, raw: np.ndarray) -> None:
        """Read a batch into its buffer and lay it ready."""
        done: Block | BaseException
        try:
            done = self._reader.fill(number, self._wanted[number], raw)
        except KeyboardInterrupt:  # of the thread that asked, which ends here
            raise
        except BaseException as error:  # raised where the block is wanted
            done = error
        with self._change:
            self._ready[number] = done
            self._change.notify_all()
