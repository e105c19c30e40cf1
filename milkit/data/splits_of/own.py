"""milkit's own table of folds, as `Plan.save` writes it: repeat, fold, inner, role, bag, patient, grouped_by."""

from collections.abc import Sequence

from milkit.data.splits_of.columns import table_in, whole_number
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout
from milkit.errors import ProtocolError

ROLES = ("train", "validation", "test")
KEY = ("repeat", "fold", "inner")


def _claims(file: SplitFile) -> bool:
    return {"role", "bag"} <= set(file.header)


def _read(file: SplitFile) -> Sequence[Draft]:
    table = table_in(file)
    drafts: dict[tuple[int, ...], Draft] = {}
    for cells, line in zip(table.rows, table.lines, strict=True):
        row = dict(zip(file.header, cells, strict=True))
        numbers = [whole_number(row.get(k, "0").strip(), f"{file.file}, line {line}: {k}") for k in KEY]
        key = (numbers[0], numbers[1], numbers[2])
        role = row["role"].strip()
        if role not in ROLES:
            raise ProtocolError(f"{file.file}, line {line}: role is {role!r}; expected one of {', '.join(ROLES)}.")
        draft = drafts.setdefault(key, Draft(file.file, "bag", key=key))
        # blanks around an id are part of it, as in a study made in memory
        draft.add(row["bag"], role, f"line {line}", patient=row.get("patient", "").strip())
    return [drafts[key] for key in sorted(drafts)]


def _grouped_by(file: SplitFile) -> str:
    if "grouped_by" not in file.header:
        return "patient"
    at = file.header.index("grouped_by")
    found = sorted({row[at].strip() for row in table_in(file).rows})
    if len(found) != 1 or found[0] not in ("patient", "site", "none"):
        raise ProtocolError(
            f"{file.file}: column grouped_by holds {found}; expected one of patient, site, none in all rows."
        )
    return found[0]


LAYOUT = SplitLayout(
    "milkit",
    _claims,
    _read,
    whole=True,
    spoken="milkit's folds.csv: the columns repeat, fold, inner, role, bag, patient, grouped_by (or role and bag)",
    grouped_by=_grouped_by,
)
