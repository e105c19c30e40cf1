"""Names of a vision transformer's arrays: timm's, DINOv2's and those of Transformers, all put into timm's.

DINOv2's differ by its gated layer (`w12`, `w3`), its register tokens, and blocks that may be numbered within chunks
(`blocks.1.13.norm1`). Transformers keep queries, keys and values apart, and have other names throughout (`ViTModel`, as
Phikon is published, and `Dinov2Model`).
"""

import re

import numpy as np

from milkit.errors import DataError

IGNORED = ("head", "head_dist", "fc", "classifier", "pooler", "mask_token", "embeddings.mask_token")
"""What may stand in a file and features do not depend on."""
_DINOV2 = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
    (r"^register_tokens$", "reg_token"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_TRANSFORMERS = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)


def in_timm_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under timm's names; a name that belongs to none of the three stays as it is.

    Raises:
        DataError: a file of Transformers has queries without keys or values of the same block.
    """
    found: dict[str, np.ndarray] = {}
    rules = _TRANSFORMERS if "embeddings.cls_token" in arrays else _DINOV2
    for name, array in arrays.items():
        new = name
        for pattern, to in rules:
            new = re.sub(pattern, to, new)
        found[new] = array
    for name in [n for n in found if ".attn.query." in n]:
        parts = [found.pop(name.replace(".query.", f".{part}."), None) for part in ("query", "key", "value")]
        there = [p for p in parts if p is not None]
        if len(there) < 3:
            raise DataError(f"The weights hold {name} without keys or values beside it; the file is not whole.")
        found[name.replace(".query.", ".qkv.")] = np.concatenate(there)
    return found
