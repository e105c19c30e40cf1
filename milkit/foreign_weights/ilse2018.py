"""ABMIL: the authors' code, MIL-Lab (and so FEATHER), torchmil."""

from milkit.foreign_weights.names import Found, Names, Shapes
from milkit.models import ABMIL

GATED = {"attention_a.0": "tanh", "attention_b.0": "gate", "attention_c": "score"}
"""Gated attention in the code of MIL-Lab and of CLAM's authors."""


def authors(shapes: Shapes) -> Found:
    """Attention and classifier of instances that are features; the LeNet before them is no model of features."""
    gated = "attention_V.0.weight" in shapes
    if gated:
        linear = {"attention_V.0": "pool/tanh", "attention_U.0": "pool/gate", "attention_w": "pool/score"}
    else:
        linear = {"attention.0": "pool/tanh", "attention.2": "pool/score"}
    hidden, *_, score = linear
    config = ABMIL(
        encoder=(), attention=shapes.size(f"{hidden}.weight"), gated=gated, heads=shapes.size(f"{score}.weight")
    )
    names = Names({**linear, "classifier.0": "classifier"}, unused=(f"{score}.bias",))
    return Found(config, shapes.size(f"{hidden}.weight", 1), shapes.size("classifier.0.weight"), names)


def mil_lab(shapes: Shapes) -> Found:
    """As many layers before the attention as there are."""
    linear, widths, in_features = encoder(shapes)
    attention, gated = attention_of(shapes, "global_attn")
    hidden, *_, score = attention
    config = ABMIL(
        encoder=widths, attention=shapes.size(f"{hidden}.weight"), gated=gated, heads=shapes.size(f"{score}.weight"),
        dropout=0.25,
    )  # fmt: skip
    names = Names({**linear, **attention, "classifier": "classifier"}, unused=(f"{score}.bias",))
    return Found(config, in_features, shapes.size("classifier.weight"), names)


def torchmil(shapes: Shapes) -> Found:
    """Its feature extractor is the user's own, and must be none."""
    gated = "pool.fc_gated.module.weight" in shapes
    linear = {"pool.fc1.module": "pool/tanh", "pool.fc2": "pool/score", "classifier.module": "classifier"}
    linear |= {"pool.fc_gated.module": "pool/gate"} if gated else {}
    width = shapes.size("pool.fc1.module.weight")
    config = ABMIL(encoder=(), attention=width, gated=gated)
    in_features, out_features = shapes.size("pool.fc1.module.weight", 1), shapes.size("classifier.module.weight")
    return Found(config, in_features, out_features, Names(linear))


def encoder(shapes: Shapes) -> tuple[dict[str, str], tuple[int, ...], int]:
    """MIL-Lab's layers before the attention: names, widths, and the features that they take."""
    places = shapes.numbers("patch_embed.#.weight") or [0]
    linear = {f"patch_embed.{place}": f"encoder/layers/{i}" for i, place in enumerate(places)}
    widths = tuple(shapes.size(f"{name}.weight") for name in linear)
    return linear, widths, shapes.size(f"patch_embed.{places[0]}.weight", 1)


def attention_of(shapes: Shapes, theirs: str) -> tuple[dict[str, str], bool]:
    """Names of an attention that is gated or not, the hidden layer first and the score last; which of the two it is.

    Without a gate it is a sequence, in which dropout may have a place before the score or not.
    """
    if f"{theirs}.module.0.weight" not in shapes:
        return {f"{theirs}.{name}": f"pool/{ours}" for name, ours in GATED.items()}, True
    score = max(2, shapes.count(f"{theirs}.module.#.weight") - 1)
    return {f"{theirs}.module.0": "pool/tanh", f"{theirs}.module.{score}": "pool/score"}, False
