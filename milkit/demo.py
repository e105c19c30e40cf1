"""The demo's experiment: gated attention MIL on MUSK1, 10 folds, 3 seeds.

    milkit demo                                   # about 1 minute on 2 cores

Published (Ilse et al. 2018, Table 1, recalled): .900, printed +- .050, over 5 x 10 folds. The demo runs the first of
the five repeats; `experiments/ilse2018_classic.py` has all five.
"""

from milkit.data.datasets import Classic
from milkit.data.protocol import GivenFolds
from milkit.experiment import Experiment
from milkit.models import ABMIL
from milkit.train.config import Sgd, Train

EXPERIMENT = Experiment(
    name="demo",
    data=Classic("musk1"),
    protocol=GivenFolds(validation=0.1, repeats=1),
    model=ABMIL(encoder=(256, 128, 64), attention=64, gated=True),
    train=Train(Sgd(5e-4, momentum=0.9, weight_decay=5e-3), epochs=100, standardise=True),
    seeds=3,
)
