"""Cases of a parity file that has adjacency matrices, as one padded batch, and its graph as milkit has graphs."""

import jax.numpy as jnp
import numpy as np

from milkit.nn.smooth import Edges


def padded_batch(reference):
    """All cases together.

    Returns:
        x, mask, adjacency, the cotangent of each bag's logit, and {case: (its rows, its length)}.
    """
    longest = max(reference.arrays[f"x{case}"].shape[1] for case in reference.cases)
    parts, places, first = [], {}, 0
    for case in reference.cases:
        x, adjacency = reference.arrays[f"x{case}"], reference.arrays[f"adj{case}"]
        b, n, _ = x.shape
        key = f"mask{case}"
        mask = reference.arrays[key].astype(bool) if key in reference.arrays.files else np.ones((b, n), bool)
        more = (0, longest - n)
        parts.append(
            (
                np.pad(x, ((0, 0), more, (0, 0))),
                np.pad(mask, ((0, 0), more)),
                np.pad(adjacency, ((0, 0), more, more)),
                reference.arrays[f"cotangent{case}"].reshape(b),
            )
        )
        places[case] = (slice(first, first + b), n)
        first += b
    return *(np.concatenate(of_all) for of_all in zip(*parts, strict=True)), places


def edges_of_matrix(adjacency):
    """Rows of neighbours with their weights, from a symmetric matrix [b, n, n]."""
    np.testing.assert_array_equal(adjacency, adjacency.swapaxes(1, 2))
    own = np.diagonal(adjacency, axis1=1, axis2=2)
    others = adjacency * (1 - np.eye(adjacency.shape[1], dtype=adjacency.dtype))
    width = max(1, int((others != 0).sum(-1).max()))
    index = np.argsort(others == 0, axis=-1, kind="stable")[..., :width]
    weight = np.take_along_axis(others, index, -1)
    return Edges(jnp.asarray(np.where(weight != 0, index, -1).astype(np.int32)), jnp.asarray(weight), jnp.asarray(own))
