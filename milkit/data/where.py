"""Where a row came from, so that every message can name file, line and id."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np


@dataclass(frozen=True, eq=False)
class Where:
    """The origin of some rows.

    Attributes:
        file: the table's file, or the name of an in-memory study.
        lines: line of each row in the file, counted from 1 with the header as the first, int [R].
        ids: slide id of each row, text [R].
        line_word: what a line is called; in-memory rows have no file, so theirs are "row".
    """

    file: str
    lines: np.ndarray
    ids: np.ndarray
    line_word: str = "line"

    def rows(self, rows: Iterable[int], limit: int = 5) -> str:
        """Some rows in words: `line 4 (slide '0012'), line 9 (slide '0013') and 3 more`."""
        numbers = list(rows)
        said = [f"{self.line_word} {self.lines[i]} (slide {str(self.ids[i])!r})" for i in numbers[:limit]]
        return and_more(said, len(numbers))

    def take(self, rows: np.ndarray) -> "Where":
        """The origin of a part of the rows; `rows` are indices."""
        return Where(self.file, self.lines[rows], self.ids[rows], self.line_word)


def and_more(said: Iterable[str], total: int) -> str:
    """Join some words and say how many more there are: `a, b and 7 more`."""
    words = list(said)
    more = total - len(words)
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint ` Did you mean 'x'?` for a mistyped name, or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
