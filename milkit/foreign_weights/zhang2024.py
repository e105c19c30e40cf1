"""ACMIL: the authors' code, with gated and with multi-head attention. Of the latter the heads are in no array."""

from milkit.foreign_weights.names import Found, Names, Rearrange, Shapes, first, norm
from milkit.foreign_weights.zhang2022 import GATES
from milkit.models import ACMIL

PROJECTION = {"dimreduction.fc1": "projection/first"}


def gated(shapes: Shapes) -> Found:
    """A column of scores a branch."""
    branches = shapes.count("classifier.#.fc.weight") or 1
    pool = {f"attention.{theirs}": f"branches/pool/{ours}" for theirs, ours in GATES.items()}
    linear = {**PROJECTION, **pool, **_classifiers(branches)}
    config = ACMIL(
        branches=branches,
        width=shapes.size("dimreduction.fc1.weight"),
        attention=shapes.size("attention.attention_V.0.weight"),
    )
    return _found(shapes, config, Names(linear, unused=("attention.attention_weights.bias",)))


def multihead(shapes: Shapes) -> Found:
    """Projections and a normalisation of its own a branch, and those of the slide."""
    branches, width = shapes.count("classifier.#.fc.weight") or 1, shapes.size("dimreduction.fc1.weight")
    config = ACMIL("multihead", branches, width=width, heads=8 if width % 8 == 0 else 1)
    linear = {**PROJECTION, **_classifiers(branches), **value_layers("bag_attention", "branches/slide")}
    arrays: dict[str, tuple[str, Rearrange]] = {
        "q": ("branches/queries", first),
        **norm("bag_attention.layer_norm", "branches/slide/norm"),
    }
    for i in range(branches):
        theirs = f"sub_attention.{i}"
        linear |= {f"{theirs}.q_proj": f"branches/asked/{i}/query", f"{theirs}.k_proj": f"branches/asked/{i}/key"}
        linear |= value_layers(theirs, f"branches/values/{i}")
        arrays |= norm(f"{theirs}.layer_norm", f"branches/values/{i}/norm")
    unused = tuple(f"sub_attention.{i}.k_proj.bias" for i in range(branches))
    return _found(shapes, config, Names(linear, arrays, unused))


def _found(shapes: Shapes, config: ACMIL, names: Names) -> Found:
    in_features, out_features = (
        shapes.size("dimreduction.fc1.weight", 1),
        shapes.size("Slide_classifier.fc.weight"),
    )
    return Found(config, in_features, out_features, names)


def _classifiers(branches: int) -> dict[str, str]:
    own = {f"classifier.{i}.fc": f"branch_classifiers/{i}" for i in range(branches)}
    return {**own, "Slide_classifier.fc": "classifier"}


def value_layers(theirs: str, ours: str) -> dict[str, str]:
    """What multi-head attention does to the pooled instances."""
    return {f"{theirs}.v_proj": f"{ours}/value", f"{theirs}.out_proj": f"{ours}/out"}
