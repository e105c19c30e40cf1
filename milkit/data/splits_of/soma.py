"""soma's `splits.csv`: the columns sample_id, split (train, tune, test or a name that begins with test) and fold."""

from collections.abc import Sequence

from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout
from milkit.data.splits_of.rows import RowColumns, a_cell_names_the_part


def _claims(file: SplitFile) -> bool:
    return {"sample_id", "split"} <= set(file.header)


def _read(file: SplitFile) -> Sequence[Draft]:
    fold = "fold" if "fold" in file.header else ""
    patient = "patient_id" if "patient_id" in file.header else ""
    return a_cell_names_the_part(file, RowColumns("sample_id", "slide", patient, "split", fold=fold))


LAYOUT = SplitLayout("soma", _claims, _read, whole=True, spoken="soma's splits.csv: the columns sample_id, split, fold")
