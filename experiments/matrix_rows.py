"""The rows of the matrix: every model, at one width, and what it is compared with.

Published widths differ from paper to paper, by a factor of ten and more; a table in which each model had its own would
rank widths. Here projections are `WIDE`, attention is `WIDE`, and dropout is off; all else is the paper's. What a model
costs as published stands in a column of its own.
"""

import dataclasses
from typing import Any, get_args

from milkit import models
from milkit.models import Model

SETS = ("musk1", "fox", "tiger", "elephant", "musk2")
"""The classic sets."""
WIDE = 32
WIDTHS = {
    "width": WIDE, "attention": WIDE, "joint": WIDE, "query": WIDE, "mlp": WIDE, "heads": 4, "cross_heads": 4,
    "branch": WIDE, "dropout": 0.0, "attention_dropout": 0.0, "convolution_dropout": 0.0, "merge_dropout": 0.0,
    "merge_heads": 4, "merge_head_width": 8, "latents": 16,
}  # fmt: skip
"""Fields that are set alike wherever a model has them."""
OWN: dict[str, dict[str, Any]] = {
    "ABMIL": {"encoder": (WIDE,), "heads": 1},
    "InstancePooling": {"encoder": (WIDE,)},
    "EmbeddingPooling": {"encoder": (WIDE,)},
    "InstanceNet": {"widths": (WIDE,)},
    "BagNet": {"widths": (WIDE,)},
    "BagNetDS": {"widths": (WIDE, WIDE)},
    "BagNetRC": {"widths": (WIDE, WIDE)},
    "CLAMSB": {"encoder": (WIDE,)},
    "CLAMMB": {"encoder": (WIDE,)},
    "DSMIL": {"encoder": (WIDE,)},
    "TransMIL": {"landmarks": 16},
    "DTFD": {},
    "ACMIL": {"branches": 5},
    "ILRA": {},
    "Chowder": {"encoder": (WIDE,), "head": (WIDE,)},
    "AdditiveMIL": {"attention": (WIDE,), "classifier": (WIDE,)},
    "S4MIL": {"states": 16},
    "SAABMIL": {"encoder": (WIDE,), "query": 8},
    "DeepSets": {"encoder": (WIDE,), "head": (WIDE,)},
    "SmABMIL": {"encoder": (WIDE,)},
    "SmTransformerABMIL": {"encoder": (WIDE,)},
    "IBMIL": {"width": 0},
    "PatchGCN": {"attention": WIDE},
    "MambaMIL": {"layers": 1},
    "DeepAttnMISL": {"encoder": (WIDE,), "head": (WIDE,)},
    "TransformerABMIL": {"mlp": 2 * WIDE},
    "SETMIL": {"layers": 2},
    "GTP": {"clusters": 8, "layers": 2},
    "IIBMIL": {"hidden": 2 * WIDE},
    "SmoothABMIL": {"encoder": (WIDE,)},
    "ProbSmoothABMIL": {"encoder": (WIDE,), "draws": 100},
    "PSDeVCEM": {"head": WIDE},
    "BagOfWords": {"words": WIDE},
    "TopTiles": {"encoder": (WIDE,)},
    "SpatialSparse": {"encoder": (WIDE,), "selector": WIDE},
}
"""Fields of single models."""
ABSENT = {"PatchCNN": "reads pictures; experiments/ilse2018_pixels.py has its rows"}
"""Models without a row, and why."""
BASELINES = ("ABMIL", "EmbeddingPooling")
"""What all rows are compared with: gated attention, and the mean of embeddings."""


def fields_of(kind: type) -> dict[str, Any]:
    """Names and defaults of a config's fields."""
    return {f.name: f.default for f in dataclasses.fields(kind)}


def row_of(kind: type) -> Any:
    """A model at the matrix's width."""
    known = fields_of(kind)
    values = {name: value for name, value in WIDTHS.items() if type(known.get(name)) in (int, float)}
    own = OWN.get(kind.__name__, {})
    return kind(**{**values, **{k: v for k, v in own.items() if k in known}})


def rows() -> dict[str, Any]:
    """Config of each row by its name."""
    kinds = [kind for kind in get_args(Model) if kind.__name__ not in ABSENT]
    own = {
        "EmbeddingPooling(max)": models.EmbeddingPooling("max", encoder=(WIDE,)),
        "InstancePooling(mean)": models.InstancePooling("mean", encoder=(WIDE,)),
        "ABMIL(tanh)": models.ABMIL((WIDE,), WIDE, gated=False),
    }
    return {kind.__name__: row_of(kind) for kind in kinds} | own
