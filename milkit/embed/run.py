"""A cohort's slides to a store: `milkit embed` as a function."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milkit.data.pack.journal import alone
from milkit.data.pack.run import make_folder
from milkit.data.slide_facts import slide_facts
from milkit.data.store import open_store
from milkit.data.store_write import StoreDtype
from milkit.data.table import CohortTable
from milkit.embed.assemble import PUBLISHED, assemble, provenance
from milkit.embed.cohort import Chosen, choose
from milkit.embed.encode import Clock, Embedded, check_side, embed_bags
from milkit.embed.part import FEATURES, agree, finished, writing
from milkit.embed.settings import Settings, settings_of, settle
from milkit.embed.source import Listed
from milkit.encoders import Encoder
from milkit.errors import ConfigError, DataError

Told = Callable[[Embedded], None]
Progress = Callable[[int, int, Clock], None]
Bags = Generator[Embedded, None, None]
Encode = Callable[[Sequence[Listed], Path, Clock, Callable[[int], None]], Bags]


@dataclass(frozen=True)
class Report:
    """What came of a cohort.

    Attributes:
        out: the store.
        content: sha256 of what it holds.
        bags: what came of each slide, in the order of the cohort.
        features: width of a tile's features.
        clock: where the time went.
        there: whether the store was there already, as asked for.
        left: folder of what is encoded, kept because slides failed; None where all are in the store.
    """

    out: Path
    content: str
    bags: tuple[Embedded, ...]
    features: int
    clock: Clock
    there: bool = False
    left: Path | None = None

    @property
    def failed(self) -> tuple[Embedded, ...]:
        """Slides that are not in the store."""
        return tuple(bag for bag in self.bags if bag.tiles is None)

    @property
    def tiles(self) -> int:
        """Tiles in the store."""
        return sum(bag.tiles or 0 for bag in self.bags)


def embed(
    slides: CohortTable | Sequence[str],
    tiles: Path | str,
    encoder: Encoder,
    out: Path | str,
    *,
    dtype: StoreDtype = "float16",
    folder: Path | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    anew: bool = False,
    told: Told | None = None,
    progress: Progress | None = None,
) -> Report:
    """Encode the tiles of a cohort's slides into a native store.

    A slide that cannot be read is told and left out. What is encoded is kept beside the store until all slides are in
    it, so that the same call goes on after a stop, and ends with the same bytes.

    Args:
        slides: a cohort table, or ids.
        tiles: what `milkit tile --out` wrote.
        encoder: what makes the features.
        out: the store.
        dtype: of the features in it.
        folder: of the slides, where they were moved since they were tiled.
        workers: threads that read tiles; None takes the usable cores, 8 at most.
        overwrite: replace a store that is there already.
        anew: throw away what an earlier call left unfinished.
        told: called with what came of each slide.
        progress: called after each block with tiles done, their number, and the clock.

    Raises:
        ConfigError: tiles that the encoder does not take, or an unfinished store of other settings.
        DataError: nothing can be embedded, or a store is there already.
        StopError: the disk is full, or the encoder raised.
    """
    chosen = choose(slides, Path(tiles), None if folder is None else Path(folder))
    return embed_chosen(
        chosen, encoder, out, dtype=dtype, workers=workers, overwrite=overwrite, anew=anew, told=told, progress=progress
    )


def embed_chosen(
    chosen: Chosen,
    encoder: Encoder,
    out: Path | str,
    *,
    dtype: StoreDtype = "float16",
    workers: int | None = None,
    overwrite: bool = False,
    anew: bool = False,
    told: Told | None = None,
    progress: Progress | None = None,
) -> Report:
    """As `embed`, of bags that were chosen: tiled slides, frames of videos, or slices of volumes."""
    settings, threads = settings_for(chosen, encoder, dtype), threads_for(workers)

    def here(bags: Sequence[Listed], work: Path, clock: Clock, count: Callable[[int], None]) -> Bags:
        return embed_bags(bags, encoder, work, settings, workers=threads, clock=clock, progress=count)

    return make_store(chosen, settings, here, out, overwrite=overwrite, anew=anew, told=told, progress=progress)


def settings_for(chosen: Chosen, encoder: Encoder, dtype: StoreDtype) -> Settings:
    """The settings of a store.

    Raises:
        ConfigError: tiles that the encoder does not take.
    """
    tile_um, tile_px = chosen.tiling.get("tile_um"), chosen.tiling.get("tile_px")
    if tile_px is not None:  # of frames and slices it is seen when they are opened
        check_side(encoder, int(tile_px), chosen.slides[0].id)
    return settings_of(
        encoder, dtype, None if tile_um is None else float(tile_um), None if tile_px is None else int(tile_px)
    )


def make_store(
    chosen: Chosen,
    settings: Settings,
    encode: Encode,
    out: Path | str,
    *,
    overwrite: bool = False,
    anew: bool = False,
    told: Told | None = None,
    progress: Progress | None = None,
) -> Report:
    """As `embed`, by a way to encode: in this process, or spread over many machines.

    Args:
        chosen: the bags.
        settings: of the store.
        encode: given bags, the folder of all, a clock and a function to count tiles, it encodes each into its folder
            and yields what came of it.
        out, overwrite, anew, told, progress: see `embed`.
    """
    out = Path(out).expanduser()
    if out.is_dir():
        raise DataError(f"{out} is a folder; give the name of a file to write, such as {out / 'store.h5'}.")
    make_folder(out.parent)
    work = out.with_name(f".{out.name}.embed")
    if (there := _as_asked(out, chosen, settings)) is not None:
        _sweep(work, there)
        return there
    with contextlib.ExitStack() as held:
        with writing(work):
            held.enter_context(alone(work, f"Another milkit embed is writing {out}"))
            held.callback(_leave, work)
            _check_target(out, work, overwrite)
            if anew or not _encoded_in(work):
                _clear(work)
            settle(work, settings)
        clock = Clock()
        count = _counted(chosen.tiles, clock, progress)
        bags = _encoded(chosen, encode, work, settings, clock, told, count)
        return _published(chosen, bags, work, out, settings, clock)


def _encoded(
    chosen: Chosen,
    encode: Encode,
    work: Path,
    settings: Settings,
    clock: Clock,
    told: Told | None,
    count: Callable[[int], None],
) -> dict[str, Embedded]:
    """What came of each slide, by its id; those whose files are not there are told first."""
    found: dict[str, Embedded] = {}

    def keep(bag: Embedded) -> None:
        found[bag.id] = bag
        if told:
            told(bag)

    for name, reason in chosen.failed.items():
        keep(Embedded(name, None, reason=reason))
    left: list[Listed] = []
    for slide in chosen.slides:
        done = finished(work, slide.id, settings, slide.facts)
        if done is not None:
            count(done.tiles)
            keep(Embedded(slide.id, done.tiles, done.tiles))
            continue
        try:
            slide.check()
            left.append(slide)
        except DataError as error:
            keep(Embedded(slide.id, None, reason=str(error)))
    with contextlib.closing(encode(left, work, clock, count)) as bags:
        for bag in bags:
            keep(bag)
    return found


def _published(
    chosen: Chosen, bags: Mapping[str, Embedded], work: Path, out: Path, settings: Settings, clock: Clock
) -> Report:  # fmt: skip
    """The store of all that could be encoded."""
    ids = [name for name in chosen.ids if bags[name].tiles is not None]
    failed = [name for name in chosen.ids if bags[name].tiles is None]
    if not ids:
        reason = f"{failed[0]!r}: {bags[failed[0]].reason}"
        raise DataError(f"None of the {len(failed)} slides could be embedded; {reason}")
    content = assemble(work, ids, out, settings, _about(chosen, failed))
    if not failed:
        _remove(work)
    every = tuple(bags[name] for name in chosen.ids)
    return Report(out, content, every, open_store(out).features, clock, left=work if failed else None)


def _about(chosen: Chosen, failed: Sequence[str]) -> dict[str, Any]:
    return {"tiling": dict(chosen.tiling), "left_out": list(failed)}


def _as_asked(out: Path, chosen: Chosen, settings: Settings) -> Report | None:
    """The store that is there, if it holds just what is asked for; so a call that is repeated does no harm."""
    if not out.is_file() or chosen.failed:
        return None
    try:
        store, lines = open_store(out), list(slide_facts(out).values())
    except DataError:
        return None
    made = json.loads(json.dumps(provenance(settings, _about(chosen, []), store.features)))
    if (
        list(store.ids) != list(chosen.ids)
        or store.provenance["extra"] != made
        or store.provenance["dtype"] != settings.dtype
        or len(lines) != len(chosen.slides)
        or not all(agree(line, slide.facts) for line, slide in zip(lines, chosen.slides, strict=True))
    ):
        return None
    bags = tuple(Embedded(n, t, t) for n, t in zip(store.ids, store.lengths.tolist(), strict=True))
    return Report(out, store.provenance["sha256"], bags, store.features, Clock(), there=True)


def _check_target(out: Path, work: Path, overwrite: bool) -> None:
    """Refuse to replace a store, unless it was made of the parts that lie there."""
    if not out.exists() or overwrite:
        return
    with contextlib.suppress(DataError, OSError):
        if open_store(out).provenance["sha256"] == (work / PUBLISHED).read_text():
            return
    raise DataError(
        f"{out} is there already, and is not what this command makes of these slides. Take another --out, or replace "
        "it with --overwrite."
    )


def _encoded_in(work: Path) -> bool:
    """Whether anything is encoded in the folder of all bags."""
    return any(path.stat().st_size for path in work.glob(f"*/{FEATURES}"))


def _leave(work: Path) -> None:
    """Take the folder away where it holds nothing that is worth going on with."""
    with contextlib.suppress(OSError):
        if not _encoded_in(work):
            shutil.rmtree(work)


def _sweep(work: Path, there: Report) -> None:
    """Take away the parts of a store that is finished, which a stop in the last moment left."""
    with contextlib.suppress(DataError, OSError):
        if (work / PUBLISHED).read_text() == there.content:
            with alone(work, ""):
                _remove(work)


def _remove(work: Path) -> None:
    """Take the folder away, last of all the note which store it was for."""
    _clear(work, keep=("lock", PUBLISHED))
    shutil.rmtree(work, ignore_errors=True)


def _clear(work: Path, keep: Sequence[str] = ("lock",)) -> None:
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name not in keep:
            entry.unlink(missing_ok=True)


def threads_for(workers: int | None) -> int:
    """Threads that read tiles.

    Raises:
        ConfigError: none.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}; expected a number of threads, 1 or more.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers or min(8, cores)


def _counted(total: int, clock: Clock, progress: Progress | None) -> Callable[[int], None]:
    """Counts tiles together and hands on how far it is."""
    done = 0

    def count(tiles: int) -> None:
        nonlocal done
        done += tiles
        if progress:
            progress(done, total, clock)

    return count
