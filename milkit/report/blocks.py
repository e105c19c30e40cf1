"""The parts of a page, before anyone decides whether they become HTML or Markdown.

Every text here is plain: a writer escapes it for its own format. So an id from a user's file can never turn into
markup, and both pages say the same.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    """A heading; level 2 opens a section, 3 a part of one."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text; `kind` is how it looks: body, `lead` (the answer), `question` above it, or `note` (small)."""

    text: str
    kind: str = "body"


@dataclass(frozen=True)
class Notice:
    """A box that must not be overlooked: what is wrong or special about every number of the page."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Bullets:
    """A short list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Names and values, one pair a line."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """A table; columns named in `numeric` are right-aligned, rows in `strong` stand out."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[str, ...] = ()
    strong: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A drawn figure: the PNG's place in the run folder (relative) and the same drawing as SVG for the page.

    Attributes:
        png: path of the PNG, relative to the run folder.
        svg: an `<svg>` element whose colours follow the page's light or dark scheme.
        title: a few words above it.
        caption: what is drawn, of how many, and what is not.
        wide: give it the full width of the page.
    """

    png: Path
    svg: str
    title: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Pictures:
    """Pictures that stand side by side where there is room."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Code:
    """Text to copy, in a fixed-width face."""

    text: str


@dataclass(frozen=True)
class Folded:
    """Parts that HTML shows only when asked for; Markdown too, where its viewer knows the element."""

    summary: str
    blocks: tuple["Block", ...]


Block = Heading | Paragraph | Notice | Bullets | Facts | Table | Pictures | Code | Folded


@dataclass(frozen=True)
class Page:
    """A whole page: its title and its parts in order."""

    title: str
    blocks: tuple[Block, ...]
