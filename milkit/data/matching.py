"""Slide ids of a table against those of its features: why they do not match, and what would help."""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from milkit.data.where import and_more

_SUFFIX = re.compile(
    r"\.(svs|tiff?|ndpi|mrxs|scn|vms|bif|czi|dcm|ome|h5|hdf5|pt|npy|npz|csv|png|jpe?g)$", re.IGNORECASE
)


def _without_suffix(name: str) -> str:
    while (short := _SUFFIX.sub("", name)) != name:
        name = short
    return name


def file_stem(name: str) -> str:
    """A path without its folder and the extensions of files of slides and features; other dots stay."""
    return _without_suffix(PurePosixPath(name.replace("\\", "/")).name)


def as_number(name: str) -> str:
    """The id that is left of an all-digit one when a program reads it as a number ("007" -> "7", "7.0"); else ""."""
    match = re.fullmatch(r"0*([0-9]+)(\.0+)?", name, re.ASCII)
    return match[1] if match else ""


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", name)


# what two ids may differ by, with the simplest first; tried alone, then all together
_REPAIRS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("dropping the file extension", _without_suffix),
    ("dropping the folder", lambda name: PurePosixPath(name.replace("\\", "/")).name),
    ("ignoring upper and lower case", str.casefold),
    ("dropping .0 at the end (were the ids read as numbers somewhere?)", lambda name: re.sub(r"\.0$", "", name)),
    ("dropping leading zeros (were the ids read as numbers somewhere?)", _without_zeros),
    (
        "all of: dropping folder, file extension and leading zeros, ignoring case",
        lambda name: _without_zeros(file_stem(name)).casefold(),
    ),
)


def hint(rows: Iterable[str], slides: Iterable[str]) -> str:
    """How unmatched rows and unmatched slides could be brought together, or "".

    Example: `12 of 14 would match after dropping the file extension ('a1.svs' and 'a1')`.
    """
    left, right = list(rows), list(slides)
    best, most = "", 0
    for what, repair in _REPAIRS:
        by_name = {repair(slide): slide for slide in right}
        pairs = [(row, by_name[repair(row)]) for row in left if repair(row) in by_name]
        if len(pairs) > most:
            row, slide = pairs[0]
            best, most = (
                f"{len(pairs)} of {len(left)} would match after {what} ({row!r} and {slide!r})",
                len(pairs),
            )
    return best or _beginnings(left, right)


def _beginnings(rows: Sequence[str], slides: Sequence[str]) -> str:
    """Whether the rows name patients, whose slides' ids begin with the patient's."""
    inside = sorted(slides)
    pairs = []
    for row in rows:
        place = bisect_left(inside, row)
        if place < len(inside) and inside[place].startswith(row):
            pairs.append((row, inside[place]))
    if not pairs:
        return ""
    row, slide = pairs[0]
    return (
        f"{len(pairs)} of {len(rows)} are only the beginning of a slide's id ({row!r} and {slide!r}); are they "
        "patients? The table needs one row a slide, with the slide's whole id"
    )


def without_extensions(rows: Sequence[str], slides: Sequence[str]) -> dict[str, str]:
    """Ids of a table that name a slide once file extensions are dropped (`a.svs` and `a`), with that slide's id.

    For features whose ids are file names: the tools drop the slide's extension, tables often keep it. Ids that match as
    they stand, and slides that another row already names, are left alone; so is what could be meant in two ways.
    """
    exact = set(rows) & set(slides)
    by_name: dict[str, list[str]] = {}
    for slide in slides:
        if slide not in exact:
            by_name.setdefault(_without_suffix(slide), []).append(slide)
    asking: dict[str, list[str]] = {}
    for row in rows:
        if row not in exact:
            asking.setdefault(_without_suffix(row), []).append(row)
    return {
        wanted[0]: by_name[name][0]
        for name, wanted in asking.items()
        if len(wanted) == 1 and len(by_name.get(name, ())) == 1
    }


def repairs(rows: Iterable[str], slides: Iterable[str]) -> tuple[dict[str, str], str]:
    """Rows that would name a slide after a repair, with that slide, and what the repair is ("" where there is none).

    The repair that mends most is taken, of equal ones the simplest; what could be meant in two ways is left alone.
    """
    left, right = list(rows), list(slides)
    best: dict[str, str] = {}
    how = ""
    for what, repair in _REPAIRS:
        by_name: dict[str, list[str]] = {}
        for slide in right:
            by_name.setdefault(repair(slide), []).append(slide)
        asking = Counter(repair(row) for row in left)
        pairs = {row: by_name[name][0] for row in left if len(by_name.get(name := repair(row), ())) == 1}
        pairs = {row: slide for row, slide in pairs.items() if asking[repair(row)] == 1}
        if len(pairs) > len(best):
            best, how = pairs, what
    return best, how


def in_one_way(
    lists: Sequence[Iterable[str]], names: Iterable[str], held: Mapping[str, str], repair: Callable[[str], str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Ids that name somebody after a repair where no other name could be meant, nor another id of the same list.

    Args:
        lists: ids that ask, in lists of which each names anybody once ("7" and "7.0" of two lists may be one).
        names: of those that can be meant.
        held: ids that have found their name already; they ask no more, but still stand in the way of others.
        repair: what is compared; ids that it makes "" are left alone.

    Returns:
        id -> name; and id -> why not, of those with several ways.
    """
    meant: dict[str, list[str]] = {}
    for name in names:
        meant.setdefault(repair(name), []).append(name)
    found: dict[str, str] = {}
    unclear: dict[str, str] = {}
    repaired = {name: repair(name) for name in dict.fromkeys(name for ids in lists for name in ids)}
    for ids in lists:
        asking: dict[str, dict[str, None]] = {}
        for name in ids:
            asking.setdefault(repaired[name], {})[name] = None
        for key, wanted in asking.items():
            for name in wanted if key and key in meant else ():
                others = [other for other in wanted if other != name]
                if name not in held and len(meant[key]) > 1:
                    unclear[name] = f"it could be {and_more([repr(c) for c in meant[key][:3]], len(meant[key]))}"
                elif name not in held and others:
                    unclear[name] = f"the file also has {and_more([repr(c) for c in others[:3]], len(others))}"
                elif name not in held:
                    found[name] = meant[key][0]
    return {name: one for name, one in found.items() if name not in unclear}, unclear


def examples(ids: Sequence[str], count: int = 3) -> str:
    """A few ids in words."""
    return and_more([repr(str(name)) for name in ids[:count]], len(ids))
