"""Vision transformers as encoders, of any width and depth (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929).

With what pathology's foundation models add: layer scale (Touvron et al., ICCV 2021), gated layers (Shazeer, 2020,
arXiv:2002.05202; packed, as in DINOv2), register tokens (Darcet et al., ICLR 2024). Sizes are read off the arrays of
the file; the configuration says what arrays cannot, and may state sizes, which are then insisted on.

Layer scale is put into the matrix before it, and positions of class and register tokens into the tokens. Blocks are
stacked and scanned over, so that forty of them compile as fast as one.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from milkit.encoders.arrays import Taker
from milkit.encoders.pixels import Pixels
from milkit.encoders.positions import Positions, to_grid
from milkit.encoders.vit_names import IGNORED, in_timm_names
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.nn.gelu import gelu


@dataclass(frozen=True)
class ViT:
    """The network's configuration; a size of 0 is the file's."""

    cpu_batch: ClassVar[int] = 8

    heads: int
    """Attention heads, which no array tells."""
    width: int = 0
    """Channels of a token."""
    depth: int = 0
    """Blocks."""
    patch: int = 0
    """Pixels a side of a patch."""
    registers: int = -1
    """Register tokens; -1: the file's."""
    pool: Literal["class", "mean", "class_mean"] = "class"
    """Features: the class token, the mean of the patches' tokens, or both beside each other (Virchow)."""
    positions: Positions = "timm"
    """How positions are interpolated where the file's grid is another."""
    epsilon: float = 1e-6  # timm's and DINOv2's; 1e-12 of Transformers' ViTModel
    """Of the layer normalisation."""
    pixels: Pixels = Pixels(224, "bilinear")
    """Its input."""

    def __post_init__(self) -> None:
        read = "[0, inf)"  # 0 is read off the file
        check_fields(
            self, "encoder", heads="[1, inf)", epsilon="(0, 1)", width=read, depth=read, patch=read,
            registers="[-1, inf)",
        )  # fmt: skip
        if self.patch and self.pixels.side % self.patch:
            raise ConfigError(f"encoder.pixels.side is {self.pixels.side}, no multiple of the patch of {self.patch}.")

    def parameters(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Weights in the naming of timm, DINOv2 or Transformers; heads and pooling layers above are not read.

        Raises:
            DataError: they do not fit.
        """
        arrays = in_timm_names(arrays)
        sizes = self._sizes(arrays)
        width, patch = sizes["width"], sizes["patch"]
        taker = Taker(arrays)
        kernel = taker.take("patch_embed.proj.weight", width, 3, patch, patch)
        prefix, grid = self._tokens(taker, arrays, sizes)
        blocks = [_block(taker, f"blocks.{i}", arrays, width) for i in range(sizes["depth"])]
        if len({tuple(b) for b in blocks}) > 1 or len({b["fc1"].shape for b in blocks}) > 1:
            raise DataError("The weights' blocks are not all alike; a vision transformer repeats one block.")
        found = {
            "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, width),
            "bias": taker.take("patch_embed.proj.bias", width),
            "prefix": prefix,
            "grid": grid,
            "blocks": {name: np.stack([b[name] for b in blocks]) for name in blocks[0]},
            "norm": taker.take("norm.weight", width),
            "norm_bias": taker.take("norm.bias", width),
        }
        taker.close(f"a vision transformer of width {width} and depth {sizes['depth']}", IGNORED)
        return jax.tree.map(lambda a: a.astype(np.float32), found)

    def features(self, parameters: Any, x: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        """The class token, the patches' mean, or both, after the last normalisation."""
        kernel, prefix = parameters["kernel"], parameters["prefix"]
        patch = math.isqrt(kernel.shape[0] // 3)
        b, side = x.shape[0], x.shape[1] // patch
        x = x.reshape(b, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, side * side, -1)
        x = x @ kernel + parameters["bias"] + parameters["grid"]
        x = jnp.concatenate([jnp.broadcast_to(prefix, (b, *prefix.shape)).astype(x.dtype), x], 1)

        def step(x: Array, block: dict[str, Array]) -> tuple[Array, None]:
            return self._transformed(x, block), None

        x, _ = jax.lax.scan(step, x, parameters["blocks"])
        x = _normalised(x, parameters["norm"], parameters["norm_bias"], self.epsilon).astype(jnp.float32)
        first, mean = x[:, 0], x[:, prefix.shape[0] :].mean(1)
        return {"class": first, "mean": mean, "class_mean": jnp.concatenate([first, mean], -1)}[self.pool]

    def _transformed(self, x: Array, block: dict[str, Array]) -> Array:
        """One block: attention, then a layer of its own for each token, each added to what it was given."""
        b, n, d = x.shape
        y = _normalised(x, block["norm1"], block["norm1_bias"], self.epsilon)
        q, k, v = (y @ block["qkv"] + block["qkv_bias"]).reshape(b, n, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        scores = (q @ k.swapaxes(2, 3)).astype(jnp.float32) / math.sqrt(d // self.heads)
        y = jax.nn.softmax(scores).astype(x.dtype) @ v
        x = x + y.transpose(0, 2, 1, 3).reshape(b, n, d) @ block["proj"] + block["proj_bias"]
        y = _normalised(x, block["norm2"], block["norm2_bias"], self.epsilon)
        y = y @ block["fc1"] + block["fc1_bias"]
        if block["fc1"].shape[1] == 2 * block["fc2"].shape[0]:
            gate, value = jnp.split(y, 2, -1)
            y = jax.nn.silu(gate) * value
        else:
            y = gelu(y)
        return x + y @ block["fc2"] + block["fc2_bias"]

    def _sizes(self, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        """What the file has, held against what is stated."""
        kernel = arrays.get("patch_embed.proj.weight")
        if kernel is None or kernel.ndim != 4:
            some = ", ".join(sorted(arrays)[:3])
            raise DataError(
                "The weights are of no vision transformer: missing patch_embed.proj.weight (timm, DINOv2) or "
                f"embeddings.patch_embeddings.projection.weight (Transformers); there is {some} ..."
            )
        numbers = [int(n.split(".")[1]) for n in arrays if n.startswith("blocks.") and n.split(".")[1].isdigit()]
        registers = arrays["reg_token"].shape[1] if "reg_token" in arrays and arrays["reg_token"].ndim == 3 else 0
        sizes = {"width": kernel.shape[0], "depth": max(numbers, default=-1) + 1, "patch": kernel.shape[2]}
        sizes["registers"] = registers
        if not sizes["depth"]:
            raise DataError("The weights are of no vision transformer: missing blocks.0.norm1.weight and what follows.")
        stated = {"width": self.width, "depth": self.depth, "patch": self.patch}
        wrong = [f"{n} {sizes[n]} (expected {v})" for n, v in stated.items() if v and v != sizes[n]]
        if self.registers >= 0 and self.registers != registers:
            wrong.append(f"registers {registers} (expected {self.registers})")
        if sizes["width"] % self.heads:
            wrong.append(f"width {sizes['width']}, which {self.heads} heads do not divide")
        if self.pixels.side % sizes["patch"]:
            wrong.append(f"patch {sizes['patch']}, which does not divide the input of {self.pixels.side} pixels")
        if wrong:
            raise DataError(f"The weights are of another network than this encoder's: {', '.join(wrong)}.")
        return sizes

    def _tokens(
        self, taker: Taker, arrays: dict[str, np.ndarray], sizes: dict[str, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Class and register tokens with their positions, and the patches' positions.

        A file has positions of the patches alone, also of the class token, or also of the registers.
        """
        width, registers, side = sizes["width"], sizes["registers"], self.pixels.side // sizes["patch"]
        prefix = taker.take("cls_token", 1, 1, width)[0]
        if registers:
            prefix = np.concatenate([prefix, taker.take("reg_token", 1, registers, width)[0]])
        there = arrays.get("pos_embed")
        count = there.shape[1] if there is not None and there.ndim == 3 else side**2 + 1
        extra = next((e for e in (0, 1, 1 + registers) if count > e and math.isqrt(count - e) ** 2 == count - e), None)
        if extra is None:
            raise DataError(f"The weights have {count} positions (pos_embed), which with {registers} registers are "
                            "those of no square grid of patches.")  # fmt: skip
        positions = taker.take("pos_embed", 1, count, width)[0]
        prefix[:extra] += positions[:extra]
        return prefix, to_grid(positions[extra:], side, self.positions)


def _block(taker: Taker, at: str, arrays: dict[str, np.ndarray], width: int) -> dict[str, np.ndarray]:
    """One block's arrays, [in, out], layer scale in the matrices before it."""
    inner = {n: a.shape for n in ("fc1", "fc2") if (a := arrays.get(f"{at}.mlp.{n}.weight")) is not None}
    rows = inner["fc1"][0] if len(inner.get("fc1", ())) == 2 else 4 * width
    gated = len(inner.get("fc2", ())) == 2 and rows == 2 * inner["fc2"][1]
    found = {}
    for norm in ("norm1", "norm2"):
        found[norm], found[f"{norm}_bias"] = (taker.take(f"{at}.{norm}.{leaf}", width) for leaf in ("weight", "bias"))
    found["qkv"] = taker.take(f"{at}.attn.qkv.weight", 3 * width, width).T
    there = f"{at}.attn.qkv.bias" in arrays
    found["qkv_bias"] = taker.take(f"{at}.attn.qkv.bias", 3 * width) if there else np.zeros(3 * width)
    found["fc1"] = taker.take(f"{at}.mlp.fc1.weight", rows, width).T
    found["fc1_bias"] = taker.take(f"{at}.mlp.fc1.bias", rows)
    for ours, theirs, scale, size in (
        ("proj", "attn.proj", "ls1", width),
        ("fc2", "mlp.fc2", "ls2", rows // 2 if gated else rows),
    ):
        there = f"{at}.{scale}.gamma" in arrays
        gamma = taker.take(f"{at}.{scale}.gamma", width) if there else np.ones(width)
        found[ours] = taker.take(f"{at}.{theirs}.weight", width, size).T * gamma
        found[f"{ours}_bias"] = taker.take(f"{at}.{theirs}.bias", width) * gamma
    return {name: array.astype(np.float32) for name, array in found.items()}


def _normalised(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """Layer normalisation over channels, in float32 at least."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    wide = wide - wide.mean(-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return (wide * scale + bias).astype(x.dtype)
