"""Split files of other tools, recognised by what is in them; one tool a module, listed in `known.LAYOUTS`."""

from milkit.data.splits_of.named import NamedSplit, NamedSplits
from milkit.data.splits_of.read import read_splits

__all__ = ["NamedSplit", "NamedSplits", "read_splits"]
