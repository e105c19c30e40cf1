"""torchmil's `splits.csv`: the columns bag_name and split, with train and test (some sets: val).

References:
    Castro-Macías et al. (2025), torchmil: a PyTorch-based library for deep multiple instance learning.
"""

from collections.abc import Sequence

from milkit.data.splits_of.columns import INDEX
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout
from milkit.data.splits_of.rows import RowColumns, a_cell_names_the_part


def _claims(file: SplitFile) -> bool:
    return {c for c in file.header if c not in INDEX} == {"bag_name", "split"}


def _read(file: SplitFile) -> Sequence[Draft]:
    return a_cell_names_the_part(file, RowColumns("bag_name", "unknown", part="split"))


LAYOUT = SplitLayout(
    "torchmil", _claims, _read, whole=True, spoken="torchmil's splits.csv: the columns bag_name, split"
)
