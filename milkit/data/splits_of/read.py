"""Any tool's split files as one thing: who trains, validates and tests, by name."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milkit.data.splits_of import clam
from milkit.data.splits_of.arrange import numbered, partition_note
from milkit.data.splits_of.known import LAYOUTS
from milkit.data.splits_of.named import NamedSplit, NamedSplits, SplitFile, SplitLayout
from milkit.data.text import MOST_BYTES, parse, read_text
from milkit.data.where import and_more
from milkit.errors import ProtocolError

ENDINGS = (".csv", ".tsv", ".json")
"""Files of a folder that are looked at."""


def read_splits(path: str | Path | Sequence[str | Path], *, allow_twice: bool = False) -> NamedSplits:
    """Read the splits of a file, of several files, or of a folder of them, whoever wrote them.

    What a file is, is told by its contents: milkit's folds.csv, CLAM, TransMIL, MIL_BASELINE, Patho-Bench, STAMP,
    ACMIL, torchmil, soma, or a plain table of ids with a column split, fold, or fold_0, fold_1, ... No study is asked:
    ids are those of the file. Splits whose test parts cover everybody once are the folds of one repeat; others are
    redraws (what CLAM calls folds always is), and each is a repeat of its own.

    Args:
        path: a file, several, or a folder (its own files, not those of folders in it).
        allow_twice: keep ids that stand in two parts of a split, in `NamedSplit.twice`, instead of raising.

    Returns:
        The splits. `split.roles` is id -> "train", "validation" or "test".

    Raises:
        ProtocolError: nothing there, not text, a layout that is not known, files of different layouts, a cell that is
            not understood, or (unless `allow_twice`) an id in two parts of a split. Names file, line, column and id.
    """
    files, passed = _files(path)
    read = [one for file in files if (one := _recognised(file, passed, must=len(files) == 1))]
    if not read:
        where = ", ".join(map(str, files)) if len(files) < 4 else f"the {len(files)} files of {path}"
        raise ProtocolError(f"No splits in {where}. {_spoken()}")
    layout, kept = _one_layout(read, passed)
    drafts = [list(layout.read(file)) for file in kept]
    for file, found in zip(kept, drafts, strict=True):
        if not any(draft.parts for draft in found):
            raise ProtocolError(f"{file.file}: the table has a header but no row, so it holds no split.")
    splits = numbered(drafts, layout.whole)
    if not allow_twice:
        for split in splits:
            _refuse_two_parts(split, also_repeated=layout.grouped_by is not None)
    about = [_source_note(layout, kept, splits), partition_note(layout.tool, splits), layout.note]
    notes = [*about, _repeated_note(splits), *passed.notes()]
    grouped_by = layout.grouped_by(kept[0]) if layout.grouped_by else "patient"
    own = layout.grouped_by is not None
    return NamedSplits(
        layout.tool,
        splits,
        tuple(file.file for file in kept),
        () if own else tuple(note for note in notes if note),
        grouped_by,
    )


@dataclass(eq=False)
class _Passed:
    """Files that were passed over, and why."""

    counts: list[str]
    unknown: list[str]
    same: list[str]

    def notes(self) -> list[str]:
        """A note on each kind."""
        said = []
        for files, why in (
            (self.counts, "CLAM's counts, which hold no split"),
            (self.unknown, "no split file that milkit knows"),
            (self.same, "the same splits again"),
        ):
            if files:
                said.append(f"passed over {len(files)} file(s), {why}: {and_more(files[:3], len(files))}")
        return said


def _files(path: str | Path | Sequence[str | Path]) -> tuple[list[Path], _Passed]:
    """The files that are meant, by name; numbers in names count as numbers (splits_2 before splits_10)."""
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    files: list[Path] = []
    for one in (Path(p).expanduser() for p in paths):
        try:
            inside = sorted(one.iterdir(), key=_natural) if one.is_dir() else [one]
        except OSError as fault:
            raise ProtocolError(f"The folds in {one} cannot be read: {fault.strerror or fault}.") from None
        if one.is_dir():
            folders = [f.name for f in inside if f.is_dir()]
            inside = [f for f in inside if f.suffix.lower() in ENDINGS and f.name[0] != "." and f.is_file()]
            if not inside:
                give = f"; give one of the folders in it: {and_more(folders[:5], len(folders))}" if folders else ""
                raise ProtocolError(
                    f"The folder {one} holds no file that ends in {', '.join(ENDINGS)}{give}. {_spoken()}"
                )
        files += inside
    if not files:
        raise ProtocolError("No file of folds is given; name a file, several, or a folder.")
    return list(dict.fromkeys(files)), _Passed([], [], [])


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"([0-9]+)", path.name)]


def _recognised(path: Path, passed: _Passed, *, must: bool) -> tuple[SplitLayout, SplitFile] | None:
    """A file with its layout; None (and noted) where a file among several is none of splits."""
    if not must and path.is_file() and path.stat().st_size > MOST_BYTES:
        passed.unknown.append(path.name)
        return None
    file = _taken_apart(path)
    if file.table is not None and clam.is_counts(file):
        if must:
            raise ProtocolError(
                f"{path}: these are CLAM's counts of slides a class and part, without ids; give the splits_<i>.csv "
                "beside it, or the folder."
            )
        passed.counts.append(path.name)
        return None
    layout = next((layout for layout in LAYOUTS if layout.claims(file)), None)
    if layout is None:
        if must:
            what = f"the header {list(file.table.header)}" if file.table is not None else "this JSON"
            raise ProtocolError(f"{path}: {what} is of no split file that milkit knows. {_spoken()}")
        passed.unknown.append(path.name)
        return None
    return layout, file


def _taken_apart(path: Path) -> SplitFile:
    text, _ = read_text(path, "folds file", ProtocolError)
    if text.lstrip()[:1] in ("{", "["):
        try:
            return SplitFile(str(path), value=json.loads(text, object_pairs_hook=_once))
        except (ValueError, RecursionError) as fault:
            raise ProtocolError(f"{path}: not valid JSON ({str(fault)[:200]}).") from None
    table = parse(text, str(path), ProtocolError, strip=False)
    if not table.header:
        raise ProtocolError(f"{path}: the file is empty. {_spoken()}")
    return SplitFile(str(path), table=table)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a key that is given twice would hide the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key is given twice among {', '.join(sorted(found)[:5])}")
    return found


def _spoken() -> str:
    return f"Known are: {'; '.join(layout.spoken for layout in LAYOUTS)}."


def _one_layout(read: list[tuple[SplitLayout, SplitFile]], passed: _Passed) -> tuple[SplitLayout, list[SplitFile]]:
    """The layout that all files have; CLAM's true-or-false tables are passed over where they say the same."""
    plain = [file for layout, file in read if layout is clam.LAYOUT]
    boolean = [file for layout, file in read if layout is clam.BOOL]
    if plain and boolean:
        by_name = {file.file: file for file in plain}
        twins = [f for f in boolean if f.file.replace("_bool.csv", ".csv") in by_name]
        for twin in twins:
            _check_same(by_name[twin.file.replace("_bool.csv", ".csv")], twin)
            passed.same.append(Path(twin.file).name)
        read = [(layout, file) for layout, file in read if file not in twins]
    layouts = list({id(layout): layout for layout, _ in read}.values())
    if len(layouts) > 1:
        kinds = []
        for layout in layouts:
            first = next(file.file for own, file in read if own is layout)
            kinds.append(f"{layout.tool} ({first})")
        raise ProtocolError(
            f"These files are of {len(layouts)} layouts: {', '.join(kinds)}. Give the files of one, by name."
        )
    files = [file for _, file in read]
    if layouts[0].grouped_by is not None and len(files) > 1:
        raise ProtocolError(
            f"{files[0].file} and {files[1].file} are both milkit's folds.csv, which holds a whole plan; give one."
        )
    return layouts[0], files


def _check_same(plain: SplitFile, boolean: SplitFile) -> None:
    one, other = clam.LAYOUT.read(plain)[0].parts, clam.BOOL.read(boolean)[0].parts
    differ = sorted({name for name, _ in one.items() ^ other.items()})
    if differ:
        name = differ[0]
        raise ProtocolError(
            f"{plain.file} and {boolean.file} do not say the same: {len(differ)} slide(s) differ, such as {name!r} "
            f"({one.get(name, 'in no part')!r} and {other.get(name, 'in no part')!r}). Give the one that is right."
        )


def _refuse_two_parts(split: NamedSplit, also_repeated: bool) -> None:
    """An id in two parts is a leak, whatever the study; one that is repeated in its own part is a slip."""
    two = [one for one in split.twice if also_repeated or one.parts[0] != one.parts[1]]
    if not two:
        return
    (before, part), (first, place) = two[0].parts, two[0].places
    more = f"; so are {len(two) - 1} more ids: {and_more([repr(o.id) for o in two[1:4]], len(two) - 1)}"
    raise ProtocolError(
        f"{split.file}, {place}: {two[0].id!r} has a role in this split already ({before}, {first}) and is given "
        f"another ({part}) ({split}){more if len(two) > 1 else ''}. An id has one role in a split; mend the file."
    )


def _repeated_note(splits: Sequence[NamedSplit]) -> str:
    """Ids that a part names more than once, which counts once here."""
    said = [f"{one.id!r} ({Path(split.file).name}, {one.places[1]})" for split in splits for one in split.twice]
    if not said:
        return ""
    return f"{len(said)} id(s) are repeated within their part and count once: {and_more(said[:3], len(said))}"


def _source_note(layout: SplitLayout, files: Sequence[SplitFile], splits: Sequence[NamedSplit]) -> str:
    names = [Path(file.file).name for file in files]
    whose = "" if layout.tool == "a table" else f", {layout.tool}'s layout"
    return f"folds: {len(splits)} split(s) from {and_more(names[:3], len(names))}{whose}"
