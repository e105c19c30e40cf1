"""Bags through the encoder, one after another: what each came to, and where the time went."""

import contextlib
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from milkit.embed.behind import Behind
from milkit.embed.feed import Turn, turns
from milkit.embed.part import Part, StopError
from milkit.embed.settings import Settings
from milkit.embed.source import Opener
from milkit.encoders import Encoder
from milkit.errors import ConfigError, DataError, MilkitError
from milkit.slides.tile_slides import READ_ERRORS

NO_TILES = "it has no tiles (no tissue was found); look at its page, or leave it out of the table"


@dataclass(frozen=True)
class Embedded:
    """What came of a bag.

    Attributes:
        id: of the bag.
        tiles: how many are encoded; None where it failed.
        kept: of those, what an earlier process had encoded.
        reason: why it failed, or "".
    """

    id: str
    tiles: int | None
    kept: int = 0
    reason: str = ""


@dataclass
class Clock:
    """Where the time went, in seconds.

    What passes until the first block is encoded is counted by itself: slides are opened and the encoder's program is
    compiled then.

    Attributes:
        tiles: encoded by this process.
        first: tiles of the first block.
        started: seconds until it was encoded.
        encoding: that the encoder worked, afterwards.
        waiting: for tiles to be read, afterwards.
        seconds: in all, afterwards.
    """

    tiles: int = 0
    first: int = 0
    started: float = 0.0
    encoding: float = 0.0
    waiting: float = 0.0
    seconds: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def add(self, tiles: int, encoding: float, waiting: float) -> None:
        """Count a block."""
        self.tiles += tiles
        if self.first:
            self.encoding += encoding
            self.waiting += waiting
        else:
            self.first, self.started = tiles, time.monotonic() - self._began
        self.seconds = time.monotonic() - self._began - self.started

    @property
    def rate(self) -> float:
        """Tiles a second, after the first block where there was another."""
        after = self.tiles - self.first
        return after / max(self.seconds, 1e-9) if after else self.tiles / max(self.started, 1e-9)

    @property
    def busy(self) -> float | None:
        """Share of the time in which the encoder worked, after the first block; None where that is not known."""
        known = self.tiles > self.first and self.encoding > 0
        return self.encoding / max(self.seconds, 1e-9) if known else None


def embed_slide(
    opener: Opener,
    encoder: Encoder,
    work: Path,
    settings: Settings,
    *,
    workers: int = 4,
    clock: Clock | None = None,
    progress: Callable[[int], None] | None = None,
) -> Embedded:
    """Encode one bag into its folder below `work`, or go on where an earlier process was ended.

    What is written depends on the bag, the encoder and the settings only, so bags may be shared out over processes and
    machines that see the same folder.

    Args:
        opener: the bag.
        encoder: what makes the features.
        work: the folder of all bags.
        settings: `settings_of(encoder, ...)`, made where it is encoded.
        workers: threads that read tiles.
        clock: of this process, which is added to.
        progress: called with the number of tiles after each block.

    Returns:
        What came of it; a bag that cannot be read is told, not raised.

    Raises:
        ConfigError: tiles that the encoder does not take, or what lies there was made with other settings.
        StopError: the disk is full, or the encoder raised.
    """
    (found,) = embed_bags([opener], encoder, work, settings, workers=workers, clock=clock, progress=progress)
    return found


def embed_bags(
    openers: Iterable[Opener],
    encoder: Encoder,
    work: Path,
    settings: Settings,
    *,
    workers: int = 4,
    clock: Clock | None = None,
    progress: Callable[[int], None] | None = None,
) -> Generator[Embedded, None, None]:
    """As `embed_slide` for one after the other; tiles of the next are read while one is encoded."""
    clock = clock or Clock()
    gone: dict[str, str] = {}

    def begin(opener: Opener) -> Part:
        source = opener.open()
        try:
            check_side(encoder, source.side, opener.id)
            if not len(source):
                raise DataError(NO_TILES)
            return Part(source, opener.id, work, settings)
        except BaseException:
            source.close()
            raise

    held: Part | None = None
    writer = Behind()
    stream = turns(openers, begin, workers, gone)
    try:
        for turn in stream:
            held, name = turn.part, turn.opener.id
            if held is not None and not turn.ends:
                if name not in gone:
                    with _told(name, gone):
                        _encode(turn, held, encoder, clock, writer)
                        if progress:
                            progress(turn.stop - turn.start)
                continue
            with _told(name, gone):
                writer.wait()
                if turn.error is not None:
                    raise turn.error
                if held is not None and name not in gone:
                    held.finish()
            if held is not None:
                held.close()
            if name in gone or held is None:
                yield Embedded(name, None, reason=gone[name])
            else:
                yield Embedded(name, held.tiles, held.kept)
    finally:
        stream.close()
        writer.close()
        if held is not None:
            held.close()


@contextlib.contextmanager
def _told(name: str, gone: dict[str, str]):
    """Keep why a bag failed, unless it is a reason to stop."""
    try:
        yield
    except (StopError, ConfigError):
        raise
    except MilkitError as error:
        gone[name] = str(error)
    except READ_ERRORS as error:
        gone[name] = f"it could not be read: {type(error).__name__}: {str(error)[:200]}"


def _encode(turn: Turn, part: Part, encoder: Encoder, clock: Clock, writer: Behind) -> None:
    before = time.monotonic()
    tiles = turn.tiles()
    read = time.monotonic()
    found = _features(encoder, tiles, turn)
    done = time.monotonic()
    writer.do(part.append, found)
    clock.add(len(tiles), done - read, read - before)


def _features(encoder: Encoder, tiles: np.ndarray, turn: Turn) -> np.ndarray:
    """What the encoder makes of tiles; an error that is not of milkit's ends all, as no other slide would mend it."""
    try:
        return encoder.encode(tiles)
    except MilkitError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        memory = "; a smaller --batch may fit" if "RESOURCE_EXHAUSTED" in str(error) else ""
        raise StopError(
            f"Encoder {encoder.name} failed on tiles {turn.start} to {turn.stop} of {turn.opener.id!r}: "
            f"{type(error).__name__}: {str(error)[:300]} ({place.filename}, line {place.lineno}){memory}. What was "
            "encoded is kept."
        ) from error


def check_side(encoder: Encoder, side: int, name: str) -> None:
    """See that an encoder takes tiles of `side` pixels.

    Raises:
        ConfigError: it takes another side, and does not resize.
    """
    resizes = encoder.facts().get("resize", "none") != "none"
    if encoder.side and encoder.side != side and not resizes:
        raise ConfigError(
            f"Tiles of {name!r} are {side} pixels a side, and the encoder {encoder.name} takes {encoder.side}; tile "
            f"with --tile-px {encoder.side}."
        )
