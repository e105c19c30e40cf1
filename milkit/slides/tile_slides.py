"""Many slides to their tiles: which are meant, which are done already, and what came of each."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from milkit.errors import ConfigError, DataError, MilkitError, RunFolderError
from milkit.slides.open import open_slide
from milkit.slides.page import write_page
from milkit.slides.tiles import manifest_paths, read_facts, read_tiles, write_tiles
from milkit.slides.tiling import Tiling, slide_digest, tiles_of

SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".vms", ".vmu", ".mrxs", ".svslide", ".dcm", ".czi",
    ".png", ".jpg", ".jpeg",
)  # fmt: skip
"""Endings of what counts as a slide in a folder; a file that is named counts whatever it ends in."""
READ_ERRORS = (OSError, ValueError, MemoryError, RuntimeError, IndexError, KeyError, TypeError, ArithmeticError)
"""What decoders of damaged files raise besides errors of milkit's: one such slide must not end the others."""
Mpp = float | Mapping[str, float] | None
"""Micrometres a pixel of level 0: of all slides, slide by slide, or as the files state it."""


def mpp_of(mpp: Mpp, slide_id: str) -> float | None:
    """What is given for a slide; None for what its file states."""
    return mpp.get(slide_id) if isinstance(mpp, Mapping) else mpp


@dataclass(frozen=True)
class Outcome:
    """What came of a slide.

    Attributes:
        slide_id: its name.
        tiles: how many were kept; None where it failed.
        reason: why it failed, or "".
        kept_manifest: whether an equal manifest was there already.
        notes: what a reader should know.
    """

    slide_id: str
    tiles: int | None
    reason: str = ""
    kept_manifest: bool = False
    notes: tuple[str, ...] = ()


def slide_id_of(path: Path) -> str:
    """A file's name without its ending (.ome.tiff is one)."""
    name = path.name[: -len(path.suffix)] if path.suffix else path.name
    return name[:-4] if name.lower().endswith(".ome") and path.suffix.lower() in (".tif", ".tiff") else name


def find_slides(paths: Sequence[Path]) -> dict[str, Path]:
    """The slides of files and folders by name, in the order given; in a folder by name.

    Raises:
        DataError: a path that is not there, or a folder without slides.
        ConfigError: a slide listed twice, or two of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            # a link that leads nowhere is a slide that is missing, and is named as such
            named = (f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
            files = sorted(f for f in named if f.is_file() or (f.is_symlink() and not f.exists()))
            if not files:
                raise DataError(f"The folder {path} holds no slide; expected files ending in {', '.join(SUFFIXES)}.")
        elif path.exists():
            files = [path]
        else:
            raise DataError(f"There is no slide {path}; the folder is {Path.cwd()}.")
        for file in files:
            name = slide_id_of(file)
            other = found.setdefault(name, file)
            if other is file:
                continue
            if other.exists() and file.exists() and os.path.samefile(other, file):
                raise ConfigError(f"The slide {file} is listed twice; name it once.")
            raise ConfigError(
                f"Two slides are named {name!r}: {other} and {file}. Their tiles would have one name; rename one, or "
                "tile them into different folders."
            )
    return found


def done_already(
    slides: Mapping[str, Path], out: Path, tiling: Tiling, mpp: Mpp, *, force: bool = False
) -> dict[str, int]:
    """The slides whose tiles are there already, with how many; nothing is read but manifests.

    Raises:
        ConfigError: a manifest is of other settings or of another file, and `force` is not given.
        DataError: a file stands in a manifest's place that is none.
    """
    done: dict[str, int] = {}
    if force:
        return done
    for name, path in slides.items():
        facts = read_facts(out, name)
        if facts is None:
            continue
        # a slide whose mpp was given once is not asked for it again
        given = mpp_of(mpp, name)
        wanted = tiling.settings | {"mpp": facts.get("mpp") if given is None else given}
        had = {**(facts.get("settings") or {}), "mpp": facts.get("mpp")}
        other = sorted(k for k in {*wanted, *had} if _plain(wanted.get(k)) != _plain(had.get(k)))
        manifest = manifest_paths(out, name)[0]
        if other:
            key = other[0]
            raise ConfigError(
                f"{manifest} is of other settings: {key} was {had.get(key)!r}, now {wanted.get(key)!r}"
                f"{f' (and {len(other) - 1} more)' if len(other) > 1 else ''}. Use another --out, or --force."
            )
        if facts.get("digest") != slide_digest(path):
            raise ConfigError(
                f"{manifest} is of another file than {path}: name, size or time of change differ. If the slide was "
                "replaced or copied, tile it again with --force."
            )
        try:
            done[name] = len(read_tiles(out, name))
        except DataError:
            continue  # its table is damaged: made again
    return done


def tile_one(
    path: Path, slide_id: str, out: Path, tiling: Tiling, mpp: float | None = None, page: bool = True
) -> Outcome:
    """Tile a slide and write its manifest and page; what cannot be read is told, not raised."""
    try:
        with open_slide(path, mpp=mpp) as slide:
            before = slide_digest(path)
            tiles, found = tiles_of(slide, slide_id, tiling)
            if slide_digest(path) != before:
                raise DataError(f"The slide {path} changed while it was read; tile it again when it is complete.")
    except MilkitError as error:
        return Outcome(slide_id, None, str(error))
    except READ_ERRORS as error:
        return Outcome(slide_id, None, f"{path} could not be read: {type(error).__name__}: {str(error)[:200]}")
    try:
        if page:
            write_page(out, slide_id, tiles, found)
        write_tiles(out, slide_id, tiles)
    except OSError as error:  # a full disk is no fault of the slide; a name that files cannot have is
        if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise _unwritten(out, error) from error
        return Outcome(slide_id, None, f"its tiles cannot be named after {path.name}: {error.strerror}; rename it")
    return Outcome(slide_id, len(tiles), notes=tuple(tiles.facts["notes"]))


def tile_slides(
    slides: Mapping[str, Path], out: Path, tiling: Tiling, *, mpp: Mpp = None, workers: int = 1,
    force: bool = False, page: bool = True,
) -> Iterator[Outcome]:  # fmt: skip
    """Tile slides, each by itself; a slide that cannot be read does not stop the others.

    Args:
        slides: of `find_slides`.
        out: folder of the manifests.
        tiling: what tiles.
        mpp: micrometres a pixel of level 0, of all slides or slide by slide; None, or a slide that is not among them,
            for what the file states.
        workers: processes, of one slide at a time each.
        force: make manifests anew that are there.
        page: whether a page is written for each slide.

    Yields:
        What came of each, in the order of the slides.

    Raises:
        ConfigError: see `done_already`; before anything is read.
    """
    if tiling.mask is not None and not tiling.mask.is_dir() and len(slides) > 1:
        raise ConfigError(
            f"--mask {tiling.mask} is one file, but there are {len(slides)} slides; give a folder with a mask a slide."
        )
    if tiling.mask is not None and not tiling.mask.exists():
        raise DataError(f"There is no mask {tiling.mask}.")
    done = done_already(slides, out, tiling, mpp, force=force)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritten(out, error) from error
    todo = [name for name in slides if name not in done]
    if workers <= 1 or len(todo) < 2:
        for name, path in slides.items():
            if name in done:
                yield Outcome(name, done[name], kept_manifest=True)
            else:
                yield tile_one(path, name, out, tiling, mpp_of(mpp, name), page)
        return
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(workers, len(todo)), mp_context=get_context("spawn")) as pool:
        waiting = {
            name: pool.submit(tile_one, slides[name], name, out, tiling, mpp_of(mpp, name), page) for name in todo
        }
        for name in slides:
            yield Outcome(name, done[name], kept_manifest=True) if name in done else _result(name, waiting[name])


def _unwritten(out: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"The folder {out} cannot be written to: {error.strerror or error}. Finished slides are kept; mend it, "
        "and repeat the command."
    )


def _result(name: str, future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        return Outcome(
            name, None, "a process died (memory, or a damaged file); repeat the command, with fewer --workers: what is "
            "done is kept",
        )  # fmt: skip


def _plain(value: object) -> object:
    """A setting as JSON gives it back."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value
