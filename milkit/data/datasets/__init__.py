"""Known public sets and files of bags: what they are, whether they are here, and how to use them in a study."""

from milkit.data.datasets.bagfile import BagFile, midatasets
from milkit.data.datasets.bagset import BagSet
from milkit.data.datasets.classic import Classic, classic
from milkit.data.datasets.colon import ColonNuclei
from milkit.data.datasets.mnist import MnistBags, MnistBenchmark
from milkit.data.datasets.records import Known, known, known_set
from milkit.data.datasets.stacks import Stack, frames, slices, stacked
from milkit.data.datasets.tissue import TissueFeatures
from milkit.data.datasets.verify import verify

DataSet = Classic | BagFile | MnistBags | MnistBenchmark | ColonNuclei | TissueFeatures
"""What an experiment's `data` may be beside a cohort: the only list."""

__all__ = [
    "BagFile",
    "BagSet",
    "Classic",
    "ColonNuclei",
    "DataSet",
    "Known",
    "MnistBags",
    "MnistBenchmark",
    "Stack",
    "TissueFeatures",
    "classic",
    "frames",
    "known",
    "known_set",
    "midatasets",
    "slices",
    "stacked",
    "verify",
]
