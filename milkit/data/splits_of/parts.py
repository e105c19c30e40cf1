"""Which part of a file is the test part, where it has several or none."""

from collections import Counter

from milkit.data.splits_of.named import NamedSplits, role_of
from milkit.errors import ProtocolError


def chosen_roles(named: NamedSplits, test: str) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Role of each id in each split, with one test part.

    Args:
        named: the splits.
        test: the part that is tested; "" for the only one whose name begins with test.

    Returns:
        id -> "train", "validation", "test" or "" for each split, and notes.

    Raises:
        ProtocolError: several test parts, or none; names them all.
    """
    counts = Counter(part for split in named for part in split.parts.values())
    several = [part for part in counts if role_of(part) == "test"]
    words = ", ".join(f"{part!r} ({count} rows)" for part, count in counts.items())
    wanted = test.strip().lower()
    if wanted and wanted not in counts:
        raise ProtocolError(f"{named.files[0]}: no part {test!r} (given as test={test!r}); the parts are {words}.")
    if not wanted and len(several) > 1:
        raise ProtocolError(
            f"{named.files[0]}: {len(several)} test parts, and a number is of one; the parts are {words}. Say which: "
            f"test={several[0]!r}."
        )
    if not wanted and not several:
        raise ProtocolError(
            f"{named.files[0]}: no test part; the parts are {words}. If the part that was held out is what should be "
            f"tested, say so: test={next((p for p in counts if role_of(p) == 'validation'), 'val')!r} (with "
            "validation=0.1, so that something else selects)."
        )
    tested = wanted or several[0]
    roles = [{name: _role(part, tested) for name, part in split.parts.items()} for split in named]
    notes = [f"the part {tested!r} of the folds is tested"] if wanted else []
    if unused := [part for part in several if part != tested]:
        notes.append(f"parts of the folds that are not used: {', '.join(f'{p!r} ({counts[p]} rows)' for p in unused)}")
    return roles, tuple(notes)


def _role(part: str, tested: str) -> str:
    role = role_of(part)
    return "test" if part == tested else "" if role == "test" else role
