"""Progress on one line of a terminal, and figures of one width."""

import sys


def on_one_line(text: str) -> None:
    """Progress that overwrites itself on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def bags_done(done: int, of: int) -> None:
    """Progress over bags; the line is taken away at the end."""
    on_one_line("" if done == of else f"bag {done} of {of}")


def number(value: float | None) -> str:
    """Three decimals, or as much room."""
    return "  -  " if value is None else f"{value:.3f}"


def pair(bounds: list[float | None] | None) -> str:
    """Two bounds, or as much room."""
    return "      -       " if bounds is None else f"{number(bounds[0])} - {number(bounds[1])}"
