"""Ilse, Tomczak & Welling (2018), Table 1: does attention beat the pooling networks of Wang et al. (2018)?

    milkit run experiments/ilse2018_classic.py:musk1_gated    # one cell of the table
    make study-classic                                        # all of it, resumable, on all cores

Published: accuracy over 5 x 10 folds, recalled and still to be read in the paper; beside ours, with intervals and
verdicts, in results/ilse2018_classic.md (and .json).

Folds: those that ship with MUSK1, Fox, Tiger and Elephant (not the authors' own); MUSK2 has none, so they are dealt by
rule and kept in folds/musk2.csv. A tenth of each training part chooses the epoch by its loss; `optimistic` reads the
epoch of best accuracy off the test fold, to see what that would report.

Hyper-parameters: one choice for all sets stands in the table: for attention what the paper's appendix gives MUSK1 as
recalled (learning rate 5e-4, weight decay 5e-3, momentum .9, 100 epochs), for the networks of Wang et al. their code's
(Nesterov momentum, 50 epochs, Keras's l2 of 5e-3, which is a decay of 1e-2 where decay multiplies the weight). The
appendix also tunes attention on each set, on the very folds that are reported: `..._tuned` repeats that, and its
numbers carry the mark `inherited tuning`.
"""

from dataclasses import replace

from milkit import ABMIL, Classic, Experiment, GivenFolds, KFold, Sgd, Train
from milkit.models import BagNet, BagNetDS, BagNetRC, InstanceNet

ATTENTION = Train(Sgd(5e-4, momentum=0.9, weight_decay=5e-3), epochs=100, batch_bags=1, standardise=True)
WANG = replace(ATTENTION, optimizer=Sgd(5e-4, momentum=0.9, nesterov=True, weight_decay=1e-2), epochs=50)
PAPER = ("musk1", "fox", "tiger", "elephant", "musk2")
"""The sets of the paper's table."""
SETS = (*PAPER, "ucsb_breast_features", "web1")
"""All sets that have these rows."""
TUNED = {"musk2": (5e-4, 3e-2), "tiger": (1e-4, 1e-2), "elephant": (1e-4, 5e-3)}
"""Learning rate and weight decay of attention in the paper's appendix, where they are not MUSK1's (recalled)."""


def protocol(name: str) -> GivenFolds | KFold:
    """The 5 x 10 folds that ship with a set, or as many dealt by rule, with a tenth of each training part held out."""
    given = name in ("musk1", "fox", "tiger", "elephant")
    return GivenFolds(validation=0.1) if given else KFold(folds=10, repeats=5, validation=0.1)


def table(name: str) -> dict[str, Experiment]:
    """The rows of the table for one set."""
    gated = Experiment(
        data=Classic(name),
        protocol=protocol(name),
        model=ABMIL(encoder=(256, 128, 64), attention=64, gated=True),
        train=ATTENTION,
        optimistic="accuracy",
    )
    attention = replace(gated, model=ABMIL(encoder=(256, 128, 64), attention=64, gated=False))
    rows = {  # mi-Net and MI-Net by their other names: not all file systems tell upper from lower case
        "instance_net": replace(gated, model=InstanceNet(), train=WANG),
        "bag_net": replace(gated, model=BagNet(), train=WANG),
        "bag_net_ds": replace(gated, model=BagNetDS(), train=WANG),
        "bag_net_rc": replace(gated, model=BagNetRC(), train=WANG),
        "attention": attention,
        "gated": gated,
    }
    if name in TUNED:
        rate, decay = TUNED[name]
        tuned = replace(ATTENTION, optimizer=Sgd(rate, momentum=0.9, weight_decay=decay))
        rows |= {f"{row}_tuned": replace(rows[row], train=tuned) for row in ("attention", "gated")}
    return {f"{name}_{row}": experiment for row, experiment in rows.items()}


def explanations() -> dict[str, Experiment]:
    """Where a cell differs from what was published: the same cell with what may explain it changed.

    On Tiger a tenth of the training part is 18 bags, and in nine of the fifty folds its loss is lowest in the first few
    epochs, before the network has learnt to rank: an overconfident network loses on 18 bags what it gains in accuracy.
    If that is the reason, choosing by accuracy mends it; it mends about half (results/ilse2018_classic.md).
    """
    gated = table("tiger")["tiger_gated_tuned"]
    return {"tiger_gated_tuned_by_accuracy": replace(gated, train=replace(gated.train, select="accuracy"))}


for _set in SETS:
    globals().update(table(_set))
globals().update(explanations())
