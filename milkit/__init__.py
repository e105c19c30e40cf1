"""milkit: weakly supervised multiple-instance learning, from an experiment file to numbers that last.

The names below are what an experiment file needs; they are imported when first used, so that `import milkit` and
`milkit --help` cost nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from milkit.api import run
    from milkit.bag import Bag
    from milkit.data.aligned import Aligned, FeatureFiles
    from milkit.data.cohort import Cohort
    from milkit.data.covariates import Categorical, Numeric
    from milkit.data.datasets import BagFile, Classic, ColonNuclei, MnistBags, MnistBenchmark, TissueFeatures
    from milkit.data.images import ImageCohort, ImageCrops, KnownImages
    from milkit.data.memory import in_memory
    from milkit.data.protocol import GivenFolds, Holdout, KFold, LabelBudget, MonteCarlo, Nested, SavedFolds
    from milkit.embed.slide_cohort import SlideCohort
    from milkit.experiment import Experiment
    from milkit.models import ABMIL
    from milkit.search import Choice, Grid, LogUniform, Random, Tpe, Uniform
    from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival
    from milkit.train.config import Adam, AdamW, Augment, Sgd, Train
    from milkit.types import Bags, Batch, Images, Output

_WHERE = {
    "milkit.api": ("run",),
    "milkit.bag": ("Bag",),
    "milkit.data.datasets": (
        "BagFile",
        "Classic",
        "ColonNuclei",
        "MnistBags",
        "MnistBenchmark",
        "TissueFeatures",
    ),
    "milkit.data.aligned": ("Aligned", "FeatureFiles"),
    "milkit.data.cohort": ("Cohort",),
    "milkit.embed.slide_cohort": ("SlideCohort",),
    "milkit.data.covariates": ("Categorical", "Numeric"),
    "milkit.data.images": ("ImageCohort", "ImageCrops", "KnownImages"),
    "milkit.data.memory": ("in_memory",),
    "milkit.data.protocol": ("GivenFolds", "Holdout", "KFold", "LabelBudget", "MonteCarlo", "Nested", "SavedFolds"),
    "milkit.experiment": ("Experiment",),
    "milkit.models": ("ABMIL",),
    "milkit.search": ("Choice", "Grid", "LogUniform", "Random", "Tpe", "Uniform"),
    "milkit.task": ("Binary", "MultiClass", "MultiLabel", "Regression", "Survival"),
    "milkit.train.config": ("Adam", "AdamW", "Augment", "Sgd", "Train"),
    "milkit.types": ("Bags", "Batch", "Images", "Output"),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"milkit has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
