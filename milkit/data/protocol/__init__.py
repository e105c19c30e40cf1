"""Who trains, validates and tests.

A protocol is a frozen dataclass that an experiment file states; `.plan(study, task)` yields the splits,
checked for leaks. The union `Protocol` is the only list: a new protocol is one class and one name here.
"""

from milkit.data.protocol.given import GivenFolds
from milkit.data.protocol.kfold import KFold
from milkit.data.protocol.labels import LabelBudget
from milkit.data.protocol.leaks import check_leaks
from milkit.data.protocol.monte_carlo import Holdout, MonteCarlo
from milkit.data.protocol.nested import Nested
from milkit.data.protocol.plan import Plan, Split
from milkit.data.protocol.saved import SavedFolds

Protocol = GivenFolds | KFold | MonteCarlo | Holdout | Nested | SavedFolds

__all__ = [
    "GivenFolds",
    "Holdout",
    "KFold",
    "LabelBudget",
    "MonteCarlo",
    "Nested",
    "Plan",
    "Protocol",
    "SavedFolds",
    "Split",
    "check_leaks",
]
