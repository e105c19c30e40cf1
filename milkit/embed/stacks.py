"""Frames of videos and slices of volumes as the bags of a cohort."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from milkit.data.table import CohortTable
from milkit.embed.cohort import Chosen
from milkit.embed.source import Source
from milkit.errors import DataError
from milkit.slides.stacks import Stacking, digest_of, find_stack, open_stack, stack_id


@dataclass(frozen=True)
class StackedBag:
    """A folder of frames, or a volume.

    Attributes:
        id: of the bag.
        path: the folder or the file.
        stacking: how its pictures become tiles.
    """

    id: str
    path: Path
    stacking: Stacking

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What tells it from another one, or from itself with other settings."""
        return {"slide": str(self.path), "digest": digest_of(self.path), "settings": self.stacking.settings}

    @property
    def count(self) -> int:
        """Not known before it is opened."""
        return 0

    def check(self) -> None:
        """See that it can be read; raises a DataError."""
        _ = self.facts

    def open(self) -> Source:
        """The bag; raises a DataError where it cannot be read, and a ConfigError where nibabel is not installed."""
        return open_stack(self.path, self.stacking)


def choose_stacks(cohort: CohortTable | Sequence[str], stacks: Path, stacking: Stacking) -> Chosen:
    """Find the frame folders and volumes of a cohort; none is opened.

    Args:
        cohort: a table, or ids: names of folders, or of files with or without their ending.
        stacks: the folder that holds them.
        stacking: how their pictures become tiles.

    Raises:
        DataError: no such folder, a bag that is listed twice, or none of them is there.
    """
    if not stacks.is_dir():
        raise DataError(f"There is no folder {stacks} (--stacks) of frame folders and volumes.")
    ids = [stack_id(name) for name in (cohort.slide.tolist() if isinstance(cohort, CohortTable) else cohort)]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{twice!r} is listed twice; name it once.")
    found: list[StackedBag] = []
    failed: dict[str, str] = {}
    for name in ids:
        try:
            bag = StackedBag(name, find_stack(stacks, name), stacking)
            bag.check()
            found.append(bag)
        except DataError as error:
            failed[name] = str(error)
    if not found:
        raise DataError(f"None of the {len(ids)} bags can be embedded; {ids[0]!r}: {failed[ids[0]]}")
    return Chosen(tuple(ids), tuple(found), failed, {"stacks": stacking.settings})
