"""The data room: cohort tables, feature stores, the studies they make, and public sets. Never imports jax itself."""

from milkit.data.build import build_study
from milkit.data.cohort import Cohort, read_cohort
from milkit.data.datasets import Classic, classic
from milkit.data.features import open_features
from milkit.data.memory import InMemory, in_memory
from milkit.data.store import Store, open_store, write_store
from milkit.data.study import Flow, GivenSplit, Study
from milkit.data.targets import Targets

__all__ = [
    "Classic",
    "Cohort",
    "Flow",
    "GivenSplit",
    "InMemory",
    "Store",
    "Study",
    "Targets",
    "build_study",
    "classic",
    "in_memory",
    "open_features",
    "open_store",
    "read_cohort",
    "write_store",
]
