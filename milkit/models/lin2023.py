"""IBMIL: interventional bag MIL (Lin et al., CVPR 2023, arXiv:2303.06873).

What slides have in common by the way they were made (stain, scanner, the clinic's patients) can stand in for the label.
Such confounders are taken to be a few typical bags, and each bag is classified beside what of them it resembles, so
that the classifier can tell the one from the other (backdoor adjustment):

    z = attention pooling of the bag's instances (Ilse et al. 2018)
    w = softmax over confounders c_k of (W_q z).(W_k c_k) / sqrt(joint)
    logits = linear layer of [z, c] ("cat"), z + c ("add") or z - c ("sub"), with c = sum w_k c_k

In two stages, as the authors do it. First a model without confounders is trained; the embeddings that it gives of the
**training** bags are clustered, and the clusters' means are the confounders. Then this model is trained beside them:

    plain = ABMIL(encoder=(), attention=512, gated=False)          # train it; it pools the features themselves
    centres = confounders_of(embeddings, count=8, seed=0)          # embeddings of the training bags, [bags, width]
    module = with_confounders(IBMIL(learned=False).build(d, c, rngs=rngs), centres)

or in a study `IBMIL(learned=False, weights="centres.npz")`, the file holding them as the array `confounders`. One file
serves one split: bags of its validation and test parts must not have been clustered, and milkit cannot see from the
file whether they were. By default (`learned=True`, no file) confounders start at random and are trained with the rest,
which needs no first stage and leaks nothing, and is not the paper's method.

Read in the authors' code (abmil.py, clustering.py): attention is not gated and as wide as the features, which are
pooled as they are; there are 2, 4, 8 or 16 confounders, their example having 8; clusters are found among embeddings of
length 1 (k-means, one start, 20 iterations), and confounders are means of the embeddings as they were; the declared
dropout of .5 is never applied. The copy in Zhang et al. (2024) projects instances first and has gated attention of
width 128: `IBMIL(width=512, gated=True, attention=128)`. Its embeddings, and so its confounders, live in the
projection's space, so that the projection must be that of the first stage, with its weights.

Deviations:
    - No biases in the pooling's score nor in W_k: a softmax takes both away.
    - k-means by scikit-learn, the best of ten starts; the authors' is faiss's, of one start.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from milkit.errors import DataError
from milkit.fields import check_fields
from milkit.nn import AttentionPool, linear
from milkit.nn.projection import Projection
from milkit.types import Bags, Output


@dataclass(frozen=True)
class IBMIL:
    """Attention pooling whose classifier also sees which confounders the bag resembles."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    confounders: int = 8  # the authors' example, of 2, 4, 8 and 16
    """How many."""
    learned: bool = True  # ours: without a first stage there is nothing else; the authors' default is False
    """Whether they are trained too; else they stay as they were given."""
    merge: Literal["cat", "add", "sub"] = "cat"  # the authors' default
    """How the bag's embedding and that of its confounders are put together."""
    joint: int = 128  # the authors' default
    """Width in which bags and confounders are compared."""
    width: int = 0  # the authors' code; its copy in Zhang et al. (2024) has 512
    """Of the projected instances; 0 pools the features themselves."""
    attention: int = 512  # the authors': as wide as their features
    """Width of the pooling's hidden layer."""
    gated: bool = False  # the authors' code; its copy in Zhang et al. (2024) has it
    """Whether the pooling is gated."""
    weights: str = ""
    """File (.npz or .safetensors) with the array `confounders`, [confounders, width of an embedding]; "" starts at
    random."""

    def __post_init__(self) -> None:
        check_fields(self, "model", confounders="[2, inf)", joint="[1, inf)", width="[0, inf)", attention="[1, inf)")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "IBMILModule":
        """Make the module for bags of `in_features` and `out_features` logits, its confounders at random."""
        return IBMILModule(self, in_features, out_features, rngs=rngs)

    def load(self, module: "IBMILModule", arrays: Mapping[str, np.ndarray]) -> None:
        """Take the confounders out of a file's arrays.

        Raises:
            DataError: there are none, or they do not fit.
        """
        if "confounders" not in arrays:
            raise DataError(
                f"{self.weights or 'The file'} holds {', '.join(sorted(arrays)) or 'nothing'}; expected an array "
                "`confounders` (numpy.savez(FILE, confounders=confounders_of(...)))."
            )
        _fill(module, arrays["confounders"])


class Confounders(nnx.Variable):
    """Confounders that are not trained: an array leaf of the module's state."""


class IBMILModule(nnx.Module):
    """See `IBMIL`."""

    def __init__(self, config: IBMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.merge = config.merge
        self.projection = Projection(in_features, config.width, rngs=rngs) if config.width else None
        width = config.width or in_features
        self.pool = AttentionPool(width, config.attention, gated=config.gated, rngs=rngs)
        start = jax.random.normal(rngs.params(), (config.confounders, width)) / math.sqrt(width)  # of length 1 or so
        self.confounders = nnx.Param(start) if config.learned else Confounders(start)
        self.query = linear(width, config.joint, rngs=rngs)
        self.key = linear(width, config.joint, rngs=rngs, use_bias=False)
        self.classifier = linear((1 + (config.merge == "cat")) * width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the pooling's attention and the merged embedding.

        `extras["confounder_attention"]` [b, k] says how much of each confounder a bag was given.
        """
        h = bags.x if self.projection is None else self.projection(bags.x)
        pooled, attention = self.pool(h, bags.mask)
        z, c = pooled[:, 0], self.confounders[...]
        wide = jnp.promote_types(z.dtype, jnp.float32)
        energy = jnp.einsum("bj,kj->bk", self.query(z), self.key(c), preferred_element_type=wide)
        weight = jax.nn.softmax(energy / math.sqrt(self.query.out_features))
        given = weight.astype(c.dtype) @ c
        if self.merge == "cat":
            embedding = jnp.concatenate([z, given.astype(z.dtype)], 1)
        else:
            embedding = z + given if self.merge == "add" else z - given
        extras = {"confounder_attention": weight}
        return Output(self.classifier(embedding), attention=attention, embedding=embedding, extras=extras)


def with_confounders(module: IBMILModule, centres: np.ndarray) -> IBMILModule:
    """A copy of the module with these confounders, [confounders, width of an embedding].

    Raises:
        DataError: they do not fit, or are not finite.
    """
    copy: IBMILModule = nnx.clone(module)
    _fill(copy, centres)
    return copy


def _fill(module: IBMILModule, centres: np.ndarray) -> None:
    found, wanted = np.asarray(centres), module.confounders.shape
    if found.shape != wanted or not np.isfinite(found).all():
        raise DataError(
            f"The confounders have shape {found.shape}{'' if np.isfinite(found).all() else ' and are not all finite'}; "
            f"the model needs finite numbers of shape {wanted}: as many as its `confounders`, as wide as its embedding."
        )
    module.confounders[...] = jnp.asarray(found, module.confounders.dtype)


def confounders_of(embeddings: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Typical bags: k-means among embeddings of length 1, then the mean of each cluster's embeddings as they were.

    Args:
        embeddings: of the training bags and of no others, [bags, width], by a model of the first stage.
        count: how many clusters, 2 or more.
        seed: of the starts of k-means.

    Returns:
        [count, width], clusters of more bags first.

    Raises:
        DataError: not a table of finite numbers, or fewer different bags than clusters.
    """
    given = np.asarray(embeddings, np.float64)
    if given.ndim != 2 or not np.isfinite(given).all():
        raise DataError(
            f"Embeddings have shape {given.shape}{'' if np.isfinite(given).all() else ' and are not all finite'}; "
            "expected finite numbers, [training bags, width]."
        )
    unit = given / (np.linalg.norm(given, axis=1, keepdims=True) + 1e-10)
    different = len(np.unique(unit.astype(np.float32), axis=0))
    if not 2 <= count <= different:
        raise DataError(
            f"{count} clusters of {len(given)} bags with {different} different directions; expected 2 to {different}."
        )
    from sklearn.cluster import KMeans  # slow to import, and only the first stage needs it

    label = KMeans(count, n_init=10, random_state=seed).fit(unit).labels_
    order = np.argsort(-np.bincount(label, minlength=count), kind="stable")
    return np.stack([given[label == k].mean(0) for k in order]).astype(np.float32)
