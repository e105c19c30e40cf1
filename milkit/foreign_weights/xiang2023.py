"""ILRA: the authors' code and MIL-Lab, which differ in one name. The heads are in no array."""

from functools import partial

import numpy as np

from milkit.foreign_weights.names import Found, Names, Rearrange, Shapes, first, norm
from milkit.models import ILRA


def _read(shapes: Shapes, inner: str) -> Found:
    blocks = shapes.count("gab_blocks.#.latent") or 1
    norms = "pooling.mha.ln0.weight" in shapes
    linear, unused = {"classifier": "classifier"}, []
    arrays: dict[str, tuple[str, Rearrange]] = {"pooling.S": ("query", first)}
    layers = {"pooling.mha": "pool"}
    for i in range(blocks):
        arrays[f"gab_blocks.{i}.latent"] = (f"blocks/{i}/latents", first)
        for a, b in (("for", "in"), ("back", "out")):
            layers[f"gab_blocks.{i}.project_{a}ward"] = f"blocks/{i}/{b}ward"
    for theirs, ours in layers.items():
        parts = {"fc_q": "query", "fc_k": "key", "fc_v": "value", "fc_o": "hidden", f"{inner}.out_proj": "out"}
        parts |= {"gate.0": "gate"} if ours != "pool" else {}
        linear |= {f"{theirs}.{a}": f"{ours}/{b}" for a, b in parts.items()}
        arrays[f"{theirs}.{inner}.in_proj_weight"] = (f"{ours}/inner/kernel", np.transpose)
        arrays[f"{theirs}.{inner}.in_proj_bias"] = (f"{ours}/inner/bias", np.asarray)
        unused.append(f"{theirs}.fc_k.bias")
        for i in range(2 * norms):
            arrays |= norm(f"{theirs}.ln{i}", f"{ours}/norms/{i}")
    width, rank = shapes.size("gab_blocks.0.latent", 2), shapes.size("gab_blocks.0.latent", 1)
    config = ILRA(blocks=blocks, width=width, heads=8 if width % 8 == 0 else 1, rank=rank, layer_norm=norms)
    in_features = shapes.size("gab_blocks.0.project_forward.fc_k.weight", 1)
    return Found(config, in_features, shapes.size("classifier.weight"), Names(linear, arrays, tuple(unused)))


authors = partial(_read, inner="multihead_attn")
mil_lab = partial(_read, inner="multihead_attention")
