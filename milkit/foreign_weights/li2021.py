"""DSMIL: the authors' code and torchmil, of which the attending stream answers. MIL-Lab's is another function."""

import numpy as np

from milkit.foreign_weights.names import Found, Names, Rearrange, Shapes
from milkit.models import DSMIL


def end_to_end(kernel: np.ndarray) -> np.ndarray:
    """A convolution over the classes' embeddings, [out, classes, e], as one linear layer [classes * e, out]."""
    return kernel.reshape(len(kernel), -1).T


def authors(shapes: Shapes) -> Found:
    """Queries of one layer or two; values where there are some."""
    two = "b_classifier.q.0.weight" in shapes
    queries = ["b_classifier.q.0", "b_classifier.q.2"] if two else ["b_classifier.q"]
    linear = {"i_classifier.fc.0": "scorer"} | {name: f"queries/{i}" for i, name in enumerate(queries)}
    values = shapes.size("b_classifier.v.1.weight") if "b_classifier.v.1.weight" in shapes else 0
    linear |= {"b_classifier.v.1": "values"} if values else {}
    config = DSMIL(
        query=shapes.size(f"{queries[0]}.weight"), query_layers=2 if two else 1, values=values, compat="authors"
    )
    arrays: dict[str, tuple[str, Rearrange]] = {
        "b_classifier.fcc.weight": ("classifier/kernel", end_to_end),
        "b_classifier.fcc.bias": ("classifier/bias", np.asarray),
    }
    in_features, out_features = shapes.size("i_classifier.fc.0.weight", 1), shapes.size("i_classifier.fc.0.weight")
    return Found(config, in_features, out_features, Names(linear, arrays))


def torchmil(shapes: Shapes) -> Found:
    """Its feature extractor is the user's own, and must be none."""
    linear = {"inst_classifier": "scorer", "q_nn.0": "queries/0", "q_nn.2": "queries/1", "bag_classifier": "classifier"}
    values = shapes.size("v_nn.1.weight") if "v_nn.1.weight" in shapes else 0
    linear |= {"v_nn.1": "values"} if values else {}
    config = DSMIL(query=shapes.size("q_nn.0.weight"), values=values, compat="authors")
    in_features, out_features = shapes.size("inst_classifier.weight", 1), shapes.size("inst_classifier.weight")
    return Found(config, in_features, out_features, Names(linear))
