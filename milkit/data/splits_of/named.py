"""A split as a file states it: ids and the part each is in, before any study has been asked who they are."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from milkit.data.splits import ROLE_NAMES
from milkit.data.text import TextTable

Level = Literal["slide", "patient", "bag", "unknown"]
"""What an id names. "bag" is milkit's own: the patient or the slide, whichever the study's bags are."""


@dataclass(frozen=True)
class Twice:
    """An id that stands in a split more than once; the first place is the one that `NamedSplit.parts` holds."""

    id: str
    parts: tuple[str, str]
    places: tuple[str, str]


@dataclass(frozen=True, eq=False)
class NamedSplit:
    """Who trains, validates and tests, by the names in a file.

    Attributes:
        repeat, fold, inner: numbers of the split, from 0, as in `milkit.data.protocol.Split`.
        file: where it was read from.
        of: what the ids name, as far as the file says it.
        parts: the file's own word for the part of each id, in lower case: "train", "val", "test_b" ...
        places: where each id stands: "line 12, column 'train'".
        labels: label of each id, where the file states labels.
        patients: patient of each id, where the file states slides and patients.
        twice: ids that stand in the split more than once.
    """

    repeat: int
    fold: int
    inner: int
    file: str
    of: Level
    parts: Mapping[str, str]
    places: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)
    twice: tuple[Twice, ...] = ()

    @property
    def roles(self) -> dict[str, str]:
        """Role of each id: "train", "validation" or "test"; every part whose name begins with test is a test part."""
        return {name: role_of(part) for name, part in self.parts.items()}

    def __str__(self) -> str:
        return f"repeat {self.repeat}, fold {self.fold}" + (f", inner fold {self.inner}" if self.inner else "")


@dataclass(frozen=True, eq=False)
class NamedSplits:
    """All splits of a file or of a folder.

    Attributes:
        tool: whose layout it is.
        splits: in the order of (repeat, fold, inner).
        files: that were read.
        notes: what a reader should know: what was passed over, whether the test parts are a partition.
        grouped_by: what the file says folds keep together; only milkit's own files say it.
    """

    tool: str
    splits: tuple[NamedSplit, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    grouped_by: str = "patient"

    def __iter__(self) -> Iterator[NamedSplit]:
        return iter(self.splits)

    def __len__(self) -> int:
        """Number of splits."""
        return len(self.splits)


@dataclass(frozen=True, eq=False)
class SplitFile:
    """The text of one file, taken apart: `table` of a CSV, `value` of a JSON; the other is None."""

    file: str
    table: TextTable | None = None
    value: Any = None

    @property
    def header(self) -> tuple[str, ...]:
        """Column names in lower case; () of a JSON."""
        return tuple(name.lower() for name in self.table.header) if self.table else ()


@dataclass(frozen=True, eq=False)
class Draft:
    """A split as it is read, without its number; `key` is (repeat, fold, inner) where the file states it."""

    file: str
    of: Level
    parts: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    twice: list[Twice] = field(default_factory=list)
    key: tuple[int, int, int] | None = None

    def add(self, name: str, part: str, place: str, *, label: str = "", patient: str = "") -> None:
        """Put an id into a part; a second time is noted, and the first stays."""
        if name in self.parts:
            self.twice.append(Twice(name, (self.parts[name], part), (self.places[name], place)))
            return
        self.parts[name], self.places[name] = part, place
        if label:
            self.labels[name] = label
        if patient:
            self.patients[name] = patient

    def numbered(self, repeat: int, fold: int, inner: int = 0) -> NamedSplit:
        """The split, with its number."""
        held = (self.parts, self.places, self.labels, self.patients)
        return NamedSplit(repeat, fold, inner, self.file, self.of, *held, tuple(self.twice))


@dataclass(frozen=True)
class SplitLayout:
    """How one tool writes its splits.

    Attributes:
        tool: its name.
        claims: whether a file is of this layout, by what is in it.
        read: the splits of a file that `claims`.
        whole: a file holds all splits of a draw, so that several files are several draws; else each file holds one
            split of a series.
        spoken: the layout in words, for messages.
        note: what a reader of any number from these folds should know; "" for nothing.
        grouped_by: what folds keep together, where files of this layout say it.
    """

    tool: str
    claims: Callable[[SplitFile], bool]
    read: Callable[[SplitFile], Sequence[Draft]]
    whole: bool
    spoken: str
    note: str = ""
    grouped_by: Callable[[SplitFile], str] | None = None


@functools.lru_cache(maxsize=1024)  # some words, asked for of every cell
def role_of(part: str) -> str:
    """Role that a part's name stands for: ROLE_NAMES, "test" for test_a, test-b ...; "" for any other word."""
    return ROLE_NAMES.get(part, "test" if part.startswith("test") else "")
