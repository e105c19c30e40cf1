"""DTFD: the authors' code and MIL-Lab. How the slide is split and what is distilled is in no array."""

import numpy as np

from milkit.foreign_weights.ilse2018 import GATED
from milkit.foreign_weights.names import Found, Names, Rearrange, Shapes
from milkit.models import DTFD

GATES = {"attention_V.0": "tanh", "attention_U.0": "gate", "attention_weights": "score"}
"""Gated attention in the code of DTFD's and of ACMIL's authors."""


def authors(shapes: Shapes) -> Found:
    """Four networks; in the files of their training script two of them have other names than in it."""
    saved = "dim_reduction.fc1.weight" in shapes or "att_classifier.classifier.fc.weight" in shapes
    reduction, second = ("dim_reduction", "att_classifier") if saved else ("dimReduction", "attCls")
    blocks = shapes.count(f"{reduction}.resBlocks.#.block.0.weight")
    linear = {
        f"{reduction}.fc1": "projection/first",
        **_blocks(reduction, blocks),
        **{f"attention.{theirs}": f"tier1/{ours}" for theirs, ours in GATES.items()},
        "classifier.fc": "classifier1",
        **{f"{second}.attention.{theirs}": f"tier2/{ours}" for theirs, ours in GATES.items()},
        f"{second}.classifier.fc": "classifier2",
    }
    unused = ("attention.attention_weights.bias", f"{second}.attention.attention_weights.bias")
    config = DTFD(
        width=shapes.size(f"{reduction}.fc1.weight"), residual_blocks=blocks,
        attention=shapes.size("attention.attention_V.0.weight"),
    )  # fmt: skip
    in_features, out_features = shapes.size(f"{reduction}.fc1.weight", 1), shapes.size("classifier.fc.weight")
    return Found(config, in_features, out_features, Names(linear, unused=unused))


def mil_lab(shapes: Shapes) -> Found:
    """Another function (`compat="mil_lab"`), whose scores have no softmax, so that their biases matter."""
    blocks = shapes.count("patch_embed.resBlocks.#.block.0.weight")
    linear = {
        "patch_embed.fc1.0": "projection/first",
        **_blocks("patch_embed", blocks),
        **{f"attention.{theirs}": f"tier1/{ours}" for theirs, ours in GATED.items()},
        "classifier.fc": "classifier1",
        **{f"attCls.global_attn.{theirs}": f"tier2/{ours}" for theirs, ours in GATED.items()},
        "attCls.classifier.fc": "classifier2",
    }
    arrays: dict[str, tuple[str, Rearrange]] = {
        "attention.attention_c.bias": ("bias1", np.asarray),
        "attCls.global_attn.attention_c.bias": ("bias2", np.asarray),
    }
    config = DTFD(
        width=shapes.size("patch_embed.fc1.0.weight"), residual_blocks=blocks,
        attention=shapes.size("attention.attention_a.0.weight"), compat="mil_lab",
    )  # fmt: skip
    in_features, out_features = shapes.size("patch_embed.fc1.0.weight", 1), shapes.size("classifier.fc.weight")
    return Found(config, in_features, out_features, Names(linear, arrays))


def _blocks(theirs: str, blocks: int) -> dict[str, str]:
    """Linear layers of the residual blocks: two each, the second after a ReLU."""
    return {
        f"{theirs}.resBlocks.{b}.block.{i}": f"projection/blocks/{b}/{i // 2}" for b in range(blocks) for i in (0, 2)
    }
