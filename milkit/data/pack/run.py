"""Packing: from any readable features to native stores."""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path

from milkit.data.formats.header import Unit
from milkit.data.missing import missing_facts, other_notes
from milkit.data.pack.journal import Work, Written
from milkit.data.pack.packer import Packer, Progress
from milkit.data.pack.plan import Asked, Dtype, Plan, plan
from milkit.data.pack.provenance import provenance_of
from milkit.data.pack.report import PackReport
from milkit.data.pack.rounding import Rounding
from milkit.data.pack.shards import Shard, of_same_name
from milkit.data.store import open_store
from milkit.errors import DataError

ALONE = 256 * 2**20
"""Bytes below which one process is as fast as several, which must start first."""


def pack(
    paths: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    dtype: Dtype = "float16",
    shard_gib: float | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    cohort: str | Path = "",
    mpp: float | str = "",
    tile_um: float | None = None,
    encoder: str = "",
    unit: Unit = "",
    patches: str = "",
    allow: Sequence[str] = (),
    slide: str = "",
    patient: str = "",
    progress: Progress | None = None,
) -> PackReport:
    """Pack features into native stores.

    Slides keep their order, empty ones are left out. What was finished is kept in `.<store>.pack` beside the target
    until the whole is done; a pack that was killed gives, with `resume`, the same bytes as one that was not.

    Args:
        paths: what `milkit.data.open_features` takes.
        out: the file to write.
        dtype: of the features; "keep" takes theirs.
        shard_gib: write several files of at most so many GiB: `<out>-00001-of-00003.h5` ...
        workers: processes; None takes the usable cores where there is enough to do.
        resume: go on with a pack that was interrupted.
        overwrite: replace a store that is there, and throw an interrupted pack away.
        cohort, mpp, tile_um, encoder, unit, patches, allow, slide, patient: see `milkit.data.pack.Asked`.
        progress: called with slides done and their number.

    Raises:
        DataError: features that cannot be used, values that do not fit the dtype, a store that is there already, an
            interrupted pack of other features. Names slide and file.
        WorkerError: a process died.
    """
    began = time.monotonic()
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    asked = Asked(
        tuple(map(str, named)), str(cohort), mpp, tile_um, encoder, unit, patches, tuple(allow), slide, patient
    )
    out = Path(out).expanduser()
    settled = plan(asked, out, dtype, shard_gib)
    provenance_of(settled, {}, 1)  # what contradicts itself is said before the work, not after it
    work = Work(out)
    _check_target(settled, out, work, overwrite, resume)
    packer = Packer(settled, work, dtype == "keep", _processes(settled, workers), progress)
    with _disk(out), work.locked():
        if overwrite and not resume:
            work.clear()
        work.begin(settled, resume)
        packer.published = {s.number for s in settled.shards if _is_published(work, s)}
        resumed = packer.prepare()
        try:
            packer.convert()
        except DataError:  # features that cannot be packed: to mend them changes them, so nothing can be gone on with
            work.remove()
            raise
        digests = packer.publish()
        for old in of_same_name(out) if overwrite else ():
            if old not in {s.path for s in settled.shards}:
                old.unlink()  # shards of the store that this one replaces
        work.remove()
    return _report(settled, packer.done, digests, resumed, time.monotonic() - began)


@contextlib.contextmanager
def _disk(out: Path) -> Iterator[None]:
    """A disk that is full or cannot be written, in words."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        do = "make room and give --resume" if full else "mend it and give --resume"
        raise DataError(f"Packing {out} failed: {error.strerror or error}; {do}.") from error


def _check_target(settled: Plan, out: Path, work: Work, overwrite: bool, resume: bool) -> None:
    if out.is_dir():
        raise DataError(f"{out} is a folder; give the name of a file to write, such as {out / 'store.h5'}.")
    mine = {s.path for s in settled.shards if _is_published(work, s)} if resume else set()
    there = [path for path in of_same_name(out) if path not in mine]
    sources = {Path(name).resolve() for name in settled.files}
    if any(path.resolve() in sources for path in there):
        raise DataError(f"{out} is among the features to be packed; give another name.")
    if there and not overwrite:
        raise DataError(f"{there[0]} is there already; --overwrite replaces it.")
    make_folder(out.parent)
    need = sum(settled.opened.lengths) * settled.row_bytes
    if not work.path.exists() and (free := shutil.disk_usage(out.parent).free) < need:
        raise DataError(
            f"The store takes {need / 2**30:.1f} GiB, but {out.parent} has {free / 2**30:.1f} GiB left; make room."
        )


def make_folder(path: Path) -> None:
    """Make the folder that something is written into.

    Raises:
        DataError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {path} cannot be made: {error.strerror or error}.") from None


def _is_published(work: Work, shard: Shard) -> bool:
    """Whether an interrupted pack had given a shard its name already."""
    note = work.published(shard.number)
    if work.shard(shard.number).exists() or not note.is_file() or not shard.path.is_file():
        return False
    return str(open_store(shard.path).provenance["sha256"]) == note.read_text()


def _processes(settled: Plan, workers: int | None) -> int:
    if workers is not None and workers < 1:
        raise DataError(f"workers={workers}; expected a number of processes, 1 or more.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bytes_ = sum(settled.opened.lengths) * settled.row_bytes
    return min(workers or (cores if bytes_ >= ALONE else 1), len(settled.opened.ids))


def _report(
    settled: Plan, done: Mapping[int, Written], digests: Sequence[str], resumed: int, seconds: float
) -> PackReport:
    files = tuple(shard.path for shard in settled.shards)
    entries = [done[i] for i in range(len(settled.opened.ids))]
    missing = missing_facts(settled.opened.source, settled.opened.encoder)
    notes = other_notes(settled.opened.notes, missing)
    for name in ("coords_um", "coords_px"):
        some = sum(bool(getattr(entry, name)) for entry in entries)
        if 0 < some < len(entries) and not all(entry.coords_px for entry in entries):
            notes.append(f"{name} are not in the store: {len(entries) - some} of {len(entries)} slides have none")
    return PackReport(
        files=files,
        digests=tuple(digests),
        slides=len(entries),
        instances=sum(settled.opened.lengths),
        features=settled.width,
        dtype=settled.dtype,
        rounding=reduce(add, (entry.rounding for entry in entries), Rounding()),
        bytes_read=sum(size for size, _ in settled.files.values()),
        bytes_written=sum(path.stat().st_size for path in files),
        left_out=settled.opened.empty,
        resumed=resumed,
        missing=tuple(m.to_json for m in missing),
        notes=tuple(notes),
        seconds=round(seconds, 2),
    )
