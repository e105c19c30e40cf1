"""A pack under way: files laid out, slides written by many processes, all read back, completed and named."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from milkit.data.pack.convert import Converter, Task, begin_worker, convert
from milkit.data.pack.files import POSITIONS, complete, is_sound, lay_out, read_back
from milkit.data.pack.journal import Work, Written, write_whole
from milkit.data.pack.plan import Plan, path_of, portable
from milkit.data.pack.provenance import provenance_of
from milkit.data.pack.shards import Shard
from milkit.data.store_write import sync
from milkit.errors import DataError, WorkerError

WRONG = 5
"""Slides that cannot be packed, after which the rest is not tried."""
Progress = Callable[[int, int], None]


@dataclass
class Packer:
    """A pack under way.

    Attributes:
        plan: what is packed.
        work: where.
        keep: whether all features must have the plan's dtype already.
        processes: how many convert.
        progress: called with slides done and their number.
    """

    plan: Plan
    work: Work
    keep: bool
    processes: int
    progress: Progress | None

    def __post_init__(self) -> None:
        self.done: dict[int, Written] = {}
        self.starts: dict[int, int] = {}
        self.published: set[int] = set()

    def prepare(self) -> int:
        """Lay the files out; gives how many slides an earlier pack had written soundly."""
        before = self.work.finished()
        for shard in self.plan.shards:
            if shard.number in self.published:
                self.done.update({i: before[i] for i in shard.slides})
                continue
            start = lay_out(self.work, shard, self.plan.width, self.plan.dtype)
            self.starts[shard.number] = start
            if before:
                self.done.update({t.index: before[t.index] for t in self._tasks(shard) if self._sound(t, before)})
        self.work.begin_journal(self.done)
        return len(self.done)

    def _sound(self, task: Task, before: dict[int, Written]) -> bool:
        """Whether the bytes of a slide are on the disk as the journal says."""
        entry, row = before.get(task.index), self.plan.row_bytes
        if entry is None:
            return False
        parts = [
            (task.shard, task.start + task.row * row, row, entry.features),
            (task.coords_um, 8 * task.row, 8, entry.coords_um),
            (task.coords_px, 16 * task.row, 16, entry.coords_px),
        ]
        return all(is_sound(path, place, task.length * size, sha) for path, place, size, sha in parts if sha)

    def _tasks(self, shard: Shard) -> Iterator[Task]:
        opened, number = self.plan.opened, shard.number
        rows = np.concatenate([[0], np.cumsum(shard.lengths)]).tolist()
        for place, index in enumerate(shard.slides):
            yield Task(
                index=index,
                id=opened.ids[index],
                length=shard.lengths[place],
                row=rows[place],
                shard=self.work.shard(number),
                start=self.starts[number],
                coords_um=self.work.positions(number, "coords_um"),
                coords_px=self.work.positions(number, "coords_px"),
                source=self._first_of.get(index),
            )

    @cached_property
    def _first_of(self) -> dict[int, tuple[str, int, int]]:
        """Source files by the first slide that is in them."""
        found: dict[int, tuple[str, int, int]] = {}
        seen: set[str] = set()
        for index, name in enumerate(self.plan.opened.ids):
            path = path_of(self.plan.opened.source, name)
            if path is not None and str(path) not in seen:
                seen.add(str(path))
                found[index] = (str(path), *self.plan.files[str(path)])
        return found

    def convert(self) -> None:
        """Write the slides that are not written yet.

        Raises:
            DataError: slides that cannot be packed; names some.
            WorkerError: a process died.
        """
        left = [
            task
            for shard in self.plan.shards
            if shard.number not in self.published
            for task in self._tasks(shard)
            if task.index not in self.done
        ]
        wrong: list[str] = []
        with contextlib.closing(self._results(left)) as results:
            for found in results:
                if isinstance(found, str):
                    wrong.append(found)
                    if len(wrong) == WRONG:
                        break
                    continue
                self.done[found.index] = found
                self.work.note(found)
                if self.progress:
                    self.progress(len(self.done), len(self.plan.opened.ids))
        if wrong:
            more = ["... and perhaps others: the rest was not tried"] if len(wrong) == WRONG else []
            raise DataError("\n".join(wrong + more))

    def _results(self, tasks: Sequence[Task]) -> Generator[Written | str, None, None]:
        if self.processes == 1 or len(tasks) < 2:
            one = Converter(self.plan.opened.source, self.plan.dtype, self.keep)
            for task in tasks:
                try:
                    yield one(task)
                except DataError as error:
                    yield str(error)
            return
        opened = self.plan.opened
        # spawned, not forked: an HDF5 library that was forked shares handles and locks with its parent
        pool = ProcessPoolExecutor(
            self.processes,
            multiprocessing.get_context("spawn"),
            begin_worker,
            (portable(opened, self.plan.asked), self.plan.dtype, self.keep),
        )
        try:
            for finished in as_completed([pool.submit(convert, task) for task in tasks]):
                yield finished.result()
        except BrokenProcessPool:
            raise WorkerError(
                "A process of milkit pack died, perhaps of too little memory; give --resume, with fewer --workers."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)

    def publish(self) -> list[str]:
        """Read all back, complete the files and give them their names; gives the digest of each."""
        entries = [self.done[i] for i in range(len(self.plan.opened.ids))]
        held = [name for name in POSITIONS if all(getattr(entry, name) for entry in entries)]
        for shard in self.plan.shards:
            if shard.number in self.published:
                continue
            own = [entries[i] for i in shard.slides]
            whole = read_back(self.work, shard, self.starts[shard.number], self.plan.row_bytes, own)
            attrs = provenance_of(self.plan, self.done, shard.number)
            ids = [self.plan.opened.ids[i] for i in shard.slides]
            content = complete(self.work, shard, ids, own, attrs, whole, held)
            write_whole(self.work.published(shard.number), content)
        digests = [self.work.published(shard.number).read_text() for shard in self.plan.shards]
        for shard in self.plan.shards:
            if shard.number not in self.published:
                os.replace(self.work.shard(shard.number), shard.path)
        sync(self.plan.shards[0].path.parent)
        return digests
