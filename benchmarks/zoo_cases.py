"""What `benchmarks/zoo_speed.py` times: one row a model, with milkit's configuration and its peer's module.

A peer is torchmil's module where it has one, else a plain PyTorch module of the same layers
(`benchmarks/zoo_peers.py`).
Widths are the peer's defaults for 512 features and one logit; dropout is off in both. A new model is one line here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from milkit import models as zoo

FEATURES = 512
TORCHMIL, OURS = "torchmil 1.0.2", "pytorch (ours)"
LONG = 10_000


@dataclass(frozen=True)
class Case:
    """A row.

    Attributes:
        model: milkit's configuration.
        peer: makes the peer's module of what holds its classes.
        of: whose it is.
        takes: what the peer is given beside the features: nothing, the graph as a matrix, or grid positions.
        longest: instances up to which both are tried; quadratic ones are left out of long bags.
    """

    model: Any
    peer: Callable[[Any], Any]
    of: str = TORCHMIL
    takes: Literal["", "sparse", "dense", "coords"] = ""
    longest: int = LONG


SHAPE = {"in_shape": (FEATURES,)}
CASES: dict[str, Case] = {
    "ABMIL": Case(zoo.ABMIL(encoder=(), attention=128, gated=False), lambda m: m.ABMIL(**SHAPE, att_dim=128)),
    "ABMIL gated": Case(zoo.ABMIL(encoder=(), attention=128), lambda m: m.ABMIL(**SHAPE, att_dim=128, gated=True)),
    "CLAMSB": Case(
        zoo.CLAMSB(encoder=(), attention=128, gated=False, dropout=0.0, k=10, subtyping=True),
        lambda m: m.CLAM_SB(**SHAPE, att_dim=128, k_sample=10),
    ),
    "DSMIL": Case(zoo.DSMIL(query=128, values=512), lambda m: m.DSMIL(**SHAPE, nonlinear_q=True, nonlinear_v=True)),
    "TransMIL": Case(
        zoo.TransMIL(heads=4, encoder=False, projection=False, residual=0, dropout=0.0),
        lambda m: m.TransMIL(**SHAPE),
    ),
    "TransformerABMIL": Case(
        zoo.TransformerABMIL(encoder=False, width=512, heads=8, layers=1, mlp=2048, attention=128),
        lambda m: m.TransformerABMIL(**SHAPE),
        longest=1_000,
    ),
    "SmABMIL": Case(zoo.SmABMIL(attention=128, compat="authors"), lambda m: m.SmABMIL(**SHAPE), takes="sparse"),
    "SmoothABMIL": Case(zoo.SmoothABMIL(attention=128), lambda m: m.SmoothABMIL(**SHAPE), takes="dense", longest=1_000),
    "SmTransformerABMIL": Case(
        zoo.SmTransformerABMIL(attention=128, compat="authors"),
        lambda m: m.SmTransformerABMIL(**SHAPE),
        takes="sparse",
        longest=1_000,
    ),
    "PatchGCN": Case(
        zoo.PatchGCN(width=512, attention=128, convolutions=3, dropout=0.0, convolution_dropout=0.0, compat="torchmil"),
        lambda m: m.PatchGCN(**SHAPE, n_gcn_layers=3, hidden_dim=512),
        takes="sparse",
    ),
    "DeepGraphSurv": Case(
        zoo.DeepGraphSurv(width=128, compat="torchmil"),
        lambda m: m.DeepGraphSurv(**SHAPE, hidden_dim=128),
        takes="sparse",
    ),
    "GTP": Case(
        zoo.GTP(width=512, clusters=100, layers=1, heads=8, compat="torchmil"),
        lambda m: m.GTP(**SHAPE),
        takes="dense",
        longest=1_000,
    ),
    "CAMIL": Case(
        zoo.CAMIL(width=512, heads=4, landmarks=256, attention=128, gated=False, compat="authors"),
        lambda m: m.CAMIL(**SHAPE, n_landmarks=256),
        takes="sparse",
    ),
    "IIBMIL": Case(
        zoo.IIBMIL(256, stages=1, layers=1, heads=4, dropout=0.0, compat="torchmil"),
        lambda m: m.IIBMIL(**SHAPE),
        longest=1_000,
    ),
    "ABMIL 512": Case(zoo.ABMIL(encoder=(512,), attention=128), lambda m: m.ABMIL(FEATURES, 512, 128), OURS),
    "CLAMMB": Case(zoo.CLAMMB(attention=256, dropout=0.0, bag_weight=1.0), lambda m: m.CLAMMB(FEATURES), OURS),
    "DTFD": Case(zoo.DTFD(width=512), lambda m: m.DTFD(FEATURES), OURS),
    "ACMIL": Case(zoo.ACMIL(width=512, masked=0), lambda m: m.ACMIL(FEATURES), OURS),
    "ILRA": Case(zoo.ILRA(), lambda m: m.ILRA(FEATURES), OURS),
    "Chowder": Case(zoo.Chowder(), lambda m: m.Chowder(FEATURES), OURS),
    "mean of instances": Case(zoo.InstancePooling("mean", encoder=(512,)), lambda m: m.MeanOfInstances(FEATURES), OURS),
}
