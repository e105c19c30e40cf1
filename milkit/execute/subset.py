"""Which programs of a study a process takes when several processes share one run folder."""

import re

from milkit.errors import ConfigError

_HOW = "give numbers as in the folder's programs/, such as 3, 0-3 or 0,4,7, or a share such as 2/8"


def chosen(text: str, programs: int) -> list[int]:
    """The program numbers that a text names, ascending.

    Args:
        text: numbers from 0 with `,` and `-` (`0-3,7`); or a share `i/n`, the i-th (from 0) of n even shares.
        programs: how many the study has.

    Raises:
        ConfigError: it is neither, or names a program that the study does not have.
    """
    text = text.replace(" ", "")
    if share := re.fullmatch(r"(\d+)/(\d+)", text):
        i, n = int(share[1]), int(share[2])
        if i >= n:
            raise ConfigError(f"--programs {text}: shares of {n} are numbered from 0 to {n - 1}.")
        return list(range(i, programs, n))
    found: set[int] = set()
    for part in text.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if bounds is None:
            raise ConfigError(f"--programs {text!r} cannot be read; {_HOW}.")
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        if last < first:
            raise ConfigError(f"--programs {text!r}: {part} runs backwards; {_HOW}.")
        if last >= programs:
            raise ConfigError(
                f"--programs {text}: this study has {programs} programs, numbered from 0 to {programs - 1}."
            )
        found.update(range(first, last + 1))
    return sorted(found)
