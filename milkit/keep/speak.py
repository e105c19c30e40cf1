"""What the members of a model say about bags: each by itself, together, and how far they differ.

Bags are read one at a time, padded to one of a few lengths, and all members answer at once. Members are averaged where
averages mean something: probabilities (not logits, whose scale differs between fits), values in the target's unit, and
risks. A Cox model's log risk has no zero of its own, so each member's is counted from its `centre`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from milkit.data.batches import ladder, rung_of
from milkit.data.covariates import Covariates
from milkit.errors import NonFiniteError
from milkit.keep.folder import SCALERS, Kept
from milkit.task import Binary, Regression, probabilities
from milkit.train.state import Graph, forward, graph_of
from milkit.types import Bags

if TYPE_CHECKING:
    from milkit.types import Bag

LENGTHS = 6
"""At most so many padded lengths; each is compiled once."""
HELD_BYTES = 1 << 30
"""About how much the members that answer side by side may hold."""


@dataclass(frozen=True, eq=False)
class Said:
    """Answers for n bags by m members.

    Attributes:
        logits: as each member gave them, [m, n, c].
        members: probabilities (binary: both classes), values in the target's unit, or the centred risk, [m, n, s].
    """

    logits: Float[np.ndarray, "m n c"]
    members: Float[np.ndarray, "m n s"]

    @property
    def score(self) -> Float[np.ndarray, "n s"]:
        """Mean over members."""
        return self.members.mean(0)

    @property
    def spread(self) -> Float[np.ndarray, "n s"]:
        """Standard deviation over members; NaN for a single one."""
        return self.members.std(0, ddof=1) if len(self.members) > 1 else np.full(self.members.shape[1:], np.nan)


def speak(
    kept: Kept, lengths: np.ndarray, read: Callable[[int], "Bag"], tell: Callable[[int, int], None] | None = None,
    *, covariates: Covariates | None = None,
) -> Said:  # fmt: skip
    """Let every member answer for every bag.

    Args:
        kept: the model.
        lengths: instances of each bag, [n].
        read: bag number -> bag.
        tell: (bags done, bags in all), called after each.
        covariates: of the bags, read by the model's codings; None for a model without.

    Raises:
        NonFiniteError: an answer is not finite; names the bag.
    """
    beside = None if covariates is None else covariates.values
    sizes = (kept.facts["in_features"], kept.facts["out_features"], 0 if beside is None else beside.shape[1])
    graph = graph_of(kept.model, *sizes)
    rungs = ladder(np.asarray(lengths, np.int64), LENGTHS, getattr(kept.model, "min_instances", 1))
    place = rung_of(np.asarray(lengths, np.int64), rungs)
    wide = max(kept.facts["in_features"], 512)
    arrays = jax.device_put((kept.params, kept.buffers, tuple(getattr(kept, k) for k in SCALERS)))
    out = []
    for i in range(len(lengths)):
        bag, length = read(i), rungs[place[i]]
        at_once = int(max(1, min(len(kept.members), HELD_BYTES // (8 * length * wide))))
        own = None if beside is None else beside[i : i + 1]
        logits = np.asarray(_answers(graph, at_once, arrays, *_padded(bag, length), own), np.float64)[:, 0]
        if not np.isfinite(logits).all():
            member = kept.members[int(np.flatnonzero(~np.isfinite(logits).all(1))[0])]["run"]
            raise NonFiniteError(
                f"Bag {bag.id!r}: member {member} gives {logits[~np.isfinite(logits)][0]}. Look at the bag's features: "
                "very large values, or features of another scale than those in training?"
            )
        out.append(logits)
        if tell is not None:
            tell(i + 1, len(lengths))
    stacked = np.stack(out, 1)
    return Said(stacked, scores(kept, stacked))


def scores(kept: Kept, logits: Float[np.ndarray, "m n c"]) -> Float[np.ndarray, "m n s"]:
    """Each member's logits as probabilities, values or risks."""
    if isinstance(kept.task, Regression):
        shift, scale = (np.array([m[k] for m in kept.members])[:, None] for k in ("target_shift", "target_scale"))
        return logits * scale + shift
    read = probabilities(kept.task, logits)
    if kept.kind == "Survival":
        return read - np.array([m["centre"] for m in kept.members])[:, None, None]
    return np.concatenate([1.0 - read, read], -1) if isinstance(kept.task, Binary) else read


def _padded(bag: "Bag", length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Features [1, length, d], mask and positions of one bag."""
    n = len(bag.x)
    dtype = jnp.promote_types(bag.x.dtype, jnp.float32)
    x = np.zeros((1, length, bag.x.shape[1]), dtype)
    mask = np.zeros((1, length), bool)
    x[0, :n], mask[0, :n] = bag.x, True
    if bag.coords_um is None:
        return x, mask, None
    xy = np.zeros((1, length, 2), np.float32)
    xy[0, :n] = bag.coords_um
    return x, mask, xy


@partial(jax.jit, static_argnums=(0, 1))
def _answers(graph: Graph, at_once: int, arrays: Any, x: Any, mask: Any, xy: Any, covariates: Any) -> jax.Array:
    """Logits of every member for some bags, [m, b, c]; `at_once` members are computed side by side."""

    def one(member: Any) -> jax.Array:
        params, buffers, (shift, inverse_scale, covariate_shift, covariate_inverse) = member
        scaled = x if shift is None else (x - shift) * inverse_scale
        beside = None
        if covariates is not None:
            beside = (covariates - covariate_shift) * covariate_inverse
            beside = jnp.where(jnp.isnan(beside), 0.0, beside)  # a missing one stands at the training part's mean
        bags = Bags(jnp.where(mask[..., None], scaled, 0.0), mask, xy, covariates=beside)
        return forward(graph, params, buffers, bags, None)[0].logits

    return jax.lax.map(one, arrays, batch_size=at_once)
