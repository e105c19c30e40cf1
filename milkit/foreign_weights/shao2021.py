"""TransMIL: the authors' code, MIL-Lab, torchmil; all with the attention of the library, `compat="authors"`."""

from collections.abc import Callable

import numpy as np

from milkit.foreign_weights.names import Found, Names, Rearrange, Shapes, norm
from milkit.models import TransMIL


def convolution(kernel: np.ndarray) -> np.ndarray:
    """[out, 1, height, width] to [height, width, 1, out]."""
    return kernel.transpose(2, 3, 1, 0)


def along(kernel: np.ndarray) -> np.ndarray:
    """[heads, 1, tokens, 1] to [tokens, heads]."""
    return kernel[:, 0, :, 0].T


def authors(shapes: Shapes) -> Found:
    """Two layers, counted from one."""

    def part(i: int, name: str) -> str:
        return f"layer{i + 1}.{name}"

    layers = max(2, shapes.count("layer#.norm.weight") - 1)
    return _with_residual(shapes, part, "attn", layers, "_fc1.0", "_fc2")


def mil_lab(shapes: Shapes) -> Found:
    """As many layers as there are."""

    def part(i: int, name: str) -> str:
        return f"blocks.{i}.{name}"

    return _with_residual(
        shapes, part, "attention", max(2, shapes.count("blocks.#.norm.weight")), "patch_embed.0", "classifier"
    )


def _with_residual(
    shapes: Shapes, part: Callable[[int, str], str], attention: str, layers: int, encoder: str, classifier: str
) -> Found:
    residual = f"{part(0, attention)}.res_conv.weight"
    width = shapes.size(f"{encoder}.weight")
    config = TransMIL(
        width=width, heads=_heads(shapes.size(residual), width), layers=layers,
        residual=shapes.size(residual, 2), compat="authors",
    )  # fmt: skip
    linear = {encoder: "encoder", classifier: "classifier"}
    linear |= {part(i, f"{attention}.to_out.0"): f"layers/{i}/attention/out" for i in range(layers)}
    arrays = _arrays(layers, part, "norm", f"{attention}.to_qkv", f"{attention}.res_conv")
    in_features, out_features = shapes.size(f"{encoder}.weight", 1), shapes.size(f"{classifier}.weight")
    return Found(config, in_features, out_features, Names(linear, arrays))


def torchmil(shapes: Shapes) -> Found:
    """Without encoder, projection and convolution of the values. The heads cannot be read off; 4 is its default."""

    def part(i: int, name: str) -> str:
        return f"layers.{i}.{name}"

    layers, width = max(2, shapes.count("layers.#.norm1.weight")), shapes.size("classifier.weight", 1)
    config = TransMIL(
        width=width, heads=_heads(4, width), layers=layers, encoder=False, projection=False, residual=0,
        dropout=0.0, compat="authors",
    )  # fmt: skip
    unused = tuple(part(i, f"norm2.{leaf}") for i in range(layers) for leaf in ("weight", "bias"))
    names = Names({"classifier": "classifier"}, _arrays(layers, part, "norm1", "att_module.qkv_nn"), unused)
    return Found(config, width, shapes.size("classifier.weight"), names)


def _heads(heads: int, width: int) -> int:
    """What no width can be shared by is of a damaged file: its shapes will not fit."""
    return heads if width % max(heads, 1) == 0 else 1


def _arrays(
    layers: int, part: Callable[[int, str], str], norms: str, qkv: str, residual: str = ""
) -> dict[str, tuple[str, Rearrange]]:
    """Arrays that are no linear layer's."""
    found: dict[str, tuple[str, Rearrange]] = {"cls_token": ("class_token", np.ravel)}
    for i, suffix in enumerate(("", "1", "2")):
        found[f"pos_layer.proj{suffix}.weight"] = (f"ppeg/kernels/{i}", convolution)
        found[f"pos_layer.proj{suffix}.bias"] = (f"ppeg/biases/{i}", np.asarray)
    found |= norm("norm", "norm")
    for i in range(layers):
        found |= norm(part(i, norms), f"layers/{i}/norm")
        found[f"{part(i, qkv)}.weight"] = (f"layers/{i}/attention/qkv/kernel", np.transpose)
        if residual:
            found[f"{part(i, residual)}.weight"] = (f"layers/{i}/attention/residual", along)
    return found
