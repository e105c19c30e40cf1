"""Folders of frames and volumes as bags to embed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from milkit.embed.source import Source
from milkit.slides.stacks import Stacking, find_stack, open_stack


@dataclass(frozen=True)
class StackedBag:
    """A folder of frames, or a volume; an `Opener`.

    Attributes:
        stacks: the folder that holds it.
        id: of the bag: the frames' folder, or the volume's file without its ending.
        stacking: how its pictures become tiles.
    """

    stacks: Path
    id: str
    stacking: Stacking

    def open(self) -> Source:
        """The bag; raises a DataError where it cannot be read, and a ConfigError where nibabel is not installed."""
        return open_stack(find_stack(self.stacks, self.id), self.stacking)


def stacked_bags(stacks: Path, ids: Sequence[str], stacking: Stacking) -> list[StackedBag]:
    """A bag a name, in the order of the names; none is opened."""
    return [StackedBag(stacks, name, stacking) for name in ids]
