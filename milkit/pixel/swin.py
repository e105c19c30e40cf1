"""The trunk of a Swin transformer: attention in windows of 7 x 7 tokens, every second time shifted by 3.

Tokens are 4 x 4 pixels. A stage is a number of blocks at one resolution; between stages 2 x 2 tokens are merged into
one of twice the channels. Each stage's result is normalised and handed out.

Windows are cut from an image's top left corner; those of a shifted block begin 4 tokens outside of it. That is the same
as rolling the map and masking what the roll brought together, as published code does, but asks for no mask of regions,
and an image has the same windows whatever the canvas around it. Parameters have the names of the published code
(`layers/0/blocks/0/attn/qkv`); kernels are [in, out], and tables of position biases [heads, differences].

Weights of three namings are read: the published code's, which older timm shares; timm's since 0.9, where a merging of
tokens belongs to the stage after it (`layers.1.downsample`); torchvision's (`features.1.0.attn.qkv`). All three number
the differences of positions alike, and merge 2 x 2 tokens in the same order.

References:
    Liu et al. (2021, ICCV), Swin Transformer; windows shift in maps of any size, as where it serves detection.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.nn.criss_cross import Compat
from milkit.nn.gelu import gelu
from milkit.nn.images import image_sizes, masked, strided
from milkit.nn.initialisers import torch_bias, torch_kernel
from milkit.nn.layer_norm import layer_norm
from milkit.nn.products import tall_dot
from milkit.pixel.weights import Layer, load

PATCH = 4
"""Pixels a side of a token."""

Naming = Literal["published", "timm", "torchvision"]


class Features(NamedTuple):
    """What a stage hands out.

    Attributes:
        x: [b, h, w, c].
        mask: [b, h, w], True on real tokens.
    """

    x: Array
    mask: Array


def dense(a: int, b: int, *, rngs: nnx.Rngs, use_bias: bool = True) -> nnx.Linear:
    """A linear layer as the authors start it: normal with deviation .02, bias 0."""
    kernel, bias = nnx.initializers.normal(0.02), nnx.initializers.zeros_init()
    return nnx.Linear(a, b, use_bias=use_bias, kernel_init=kernel, bias_init=bias, dot_general=tall_dot, rngs=rngs)


class PatchEmbed(nnx.Module):
    """A linear map of each patch of 4 x 4 pixels, normalised; a last row or column is filled up with zeros."""

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs):
        fan_in = PATCH * PATCH * in_channels
        self.kernel = nnx.Param(torch_kernel()(rngs.params(), (PATCH, PATCH, in_channels, channels), jnp.float32))
        self.bias = nnx.Param(torch_bias(fan_in)(rngs.params(), (channels,), jnp.float32))
        self.norm = layer_norm(channels, rngs)

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Features:
        """Tokens, ceil(size / 4) a side."""
        x = _filled_up(masked(x, mask), PATCH)
        b, h, w, c = x.shape
        patches = x.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c).swapaxes(2, 3)
        kernel = self.kernel[...]
        tokens = patches.reshape(b, h // PATCH, w // PATCH, -1) @ kernel.reshape(-1, kernel.shape[-1])
        return Features(self.norm(tokens + self.bias[...]), strided(mask, PATCH))


class PatchMerging(nnx.Module):
    """2 x 2 tokens to one of twice the channels; a last odd row or column is filled up with zeros."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm = layer_norm(4 * channels, rngs)
        self.reduction = dense(4 * channels, 2 * channels, rngs=rngs, use_bias=False)

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Features:
        """Tokens, ceil(size / 2) a side."""
        x = _filled_up(masked(x, mask), 2)
        four = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]  # down first, as published weights want
        return Features(self.reduction(self.norm(jnp.concatenate(four, -1))), strided(mask, 2))


class WindowAttention(nnx.Module):
    """Attention among the tokens of each window, with a learned bias for each difference of positions.

    Args:
        channels, heads: of the tokens; heads divide channels.
        window: tokens a side of a window.
        shift: by how many tokens windows are moved down and right; below `window`.
        compat: see `SwinTrunk`.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, compat: Compat, *, rngs: nnx.Rngs):
        self.heads, self.window, self.shift, self.compat = heads, window, shift, compat
        self.qkv = dense(channels, 3 * channels, rngs=rngs)
        self.proj = dense(channels, channels, rngs=rngs)
        table = nnx.initializers.normal(0.02)(rngs.params(), (heads, (2 * window - 1) ** 2), jnp.float32)
        self.relative_position_bias_table = nnx.Param(table)

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b h w c"]:
        """The same shape as `x`."""
        b, h, w, c = x.shape
        wide = jnp.promote_types(x.dtype, jnp.float32)
        seen = mask if self.compat == "correct" else self._filled(mask)
        # padding is zero before the bias, which is then all that a filling token that is attended to says
        qkv = self._windows(tall_dot(masked(x, mask), self.qkv.kernel[...])) + self.qkv.bias[...]  # type: ignore[index]
        q, k, v = jnp.moveaxis(qkv.reshape(*qkv.shape[:2], 3, self.heads, -1), 2, 0)  # each [windows, tokens, k, d]
        energy = jnp.einsum("nqkd,nskd->nkqs", q * (c // self.heads) ** -0.5, k, preferred_element_type=wide)
        real = self._windows(seen[..., None])[:, None, None, :, 0]
        # a window without any token has no softmax, and what it says is read by nobody: finite is enough
        energy = jnp.where(real, energy + self._bias().astype(wide), jnp.finfo(wide).min / 2)
        weight = jax.nn.softmax(energy, -1).astype(v.dtype)
        found = jnp.einsum("nkqs,nskd->nqkd", weight, v).reshape(*qkv.shape[:2], c)
        return self.proj(self._image(found, b, h, w))

    def _filled(self, mask: Bool[Array, "b h w"]) -> Bool[Array, "b i j"]:
        """True on each image filled up to whole windows, in a canvas that holds them."""
        sizes = -(-image_sizes(mask) // self.window) * self.window
        high, wide = (-(-size // self.window) * self.window for size in mask.shape[1:])
        rows, columns = jnp.arange(high) < sizes[:, :1], jnp.arange(wide) < sizes[:, 1:]
        return rows[:, :, None] & columns[:, None]

    def _windows(self, x: Array) -> Array:
        """A canvas [b, h, w, c] as windows [b * windows, tokens, c], False or zeros where they reach beyond it.

        In published form the canvas grows to whole windows first, and shifted windows must cover those.
        """
        (b, h, w, c), n = x.shape, self.window
        before = (n - self.shift) % n
        high, wide = self._covered(h, before), self._covered(w, before)
        x = jnp.pad(x, ((0, 0), (before, high - before - h), (before, wide - before - w), (0, 0)))
        return x.reshape(b, high // n, n, wide // n, n, c).swapaxes(2, 3).reshape(-1, n * n, c)

    def _covered(self, size: int, before: int) -> int:
        whole = -(-size // self.window) * self.window if self.compat == "authors" else size
        return -(-(whole + before) // self.window) * self.window

    def _image(self, x: Float[Array, "n s c"], b: int, h: int, w: int) -> Float[Array, "b h w c"]:
        """The inverse of `_windows`."""
        n, before = self.window, (self.window - self.shift) % self.window
        high, wide = self._covered(h, before), self._covered(w, before)
        x = x.reshape(b, high // n, wide // n, n, n, -1).swapaxes(2, 3).reshape(b, high, wide, -1)
        return x[:, before : before + h, before : before + w]

    def _bias(self) -> Float[Array, "k s s"]:
        place = np.stack(np.meshgrid(*[np.arange(self.window)] * 2, indexing="ij")).reshape(2, -1)
        apart = place[:, :, None] - place[:, None] + self.window - 1
        return self.relative_position_bias_table[...][:, apart[0] * (2 * self.window - 1) + apart[1]]


class FeedForward(nnx.Module):
    """Two linear layers with a GELU (the exact one) in between, four times as wide inside."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.fc1 = dense(channels, 4 * channels, rngs=rngs)
        self.fc2 = dense(4 * channels, channels, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The same shape as `x`."""
        return self.fc2(gelu(self.fc1(x)))


class SwinBlock(nnx.Module):
    """Attention in windows and a feed-forward layer, each added to what it reads after normalisation."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, compat: Compat, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = layer_norm(channels, rngs), layer_norm(channels, rngs)
        self.attn = WindowAttention(channels, heads, window, shift, compat, rngs=rngs)
        self.mlp = FeedForward(channels, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], share: Float[Array, "2 b"] | None = None
    ) -> Float[Array, "b h w c"]:
        """The same shape as `x`; `share` is what each image's two additions are multiplied by."""
        first, second = (1, 1) if share is None else share[:, :, None, None, None].astype(x.dtype)
        x = x + first * self.attn(self.norm1(x), mask)
        return x + second * self.mlp(self.norm2(x))


class Stage(nnx.Module):
    """Blocks at one resolution, every second one shifted; before them a merging of tokens, if any."""

    def __init__(self, blocks: Sequence[SwinBlock], downsample: PatchMerging | None):
        self.blocks, self.downsample = nnx.List(blocks), downsample


class SwinTrunk(nnx.Module):
    """Images to the normalised features of each stage.

    Args:
        in_channels: channels of the images.
        channels: of the first stage's tokens; doubled with each stage.
        depths, heads: blocks and attention heads of each stage.
        window: tokens a side of a window.
        compat: `correct` attends to an image's own tokens. `authors` also to the zeros that fill its map up to whole
            windows, which then take part by the projections' biases.
        drop_path: highest rate of stochastic depth (Huang et al., 2016, ECCV); 0 at the first block, linear to
            `drop_path` at the last.
        unread: blocks of a stage that the published network has after these, which count for that line.
        remat: whether each block is computed again for the gradient instead of being kept.

    Raises:
        ConfigError: the heads of a stage do not divide its channels.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        depths: Sequence[int],
        heads: Sequence[int],
        *,
        rngs: nnx.Rngs,
        window: int = 7,
        compat: Compat = "correct",
        drop_path: float = 0.0,
        unread: int = 0,
        remat: bool = False,
    ):
        self.widths = tuple(channels * 2**i for i in range(len(depths)))
        check_heads(self.widths, heads)
        self.remat = remat
        self.rates = tuple(float(r) for r in np.linspace(0, drop_path, sum(depths) + unread)[: sum(depths)])
        self.patch_embed = PatchEmbed(in_channels, channels, rngs=rngs)
        merging = [PatchMerging(a, rngs=rngs) for a, _ in pairwise(self.widths)]
        shifts = (0, window // 2)
        self.layers = nnx.List(
            Stage(
                [SwinBlock(c, k, window, shifts[i % 2], compat, rngs=rngs) for i in range(depth)],
                merging[stage] if stage < len(merging) else None,
            )
            for stage, (c, depth, k) in enumerate(zip(self.widths, depths, heads, strict=True))
        )
        self.norms = nnx.List([layer_norm(c, rngs) for c in self.widths])

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        mask: Bool[Array, "b h w"],
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> list[Features]:
        """Features of each stage, at 1/4, 1/8, 1/16 ... of the images' resolution, rounded up.

        Raises:
            ConfigError: not deterministic, with a `drop_path`, but no `rngs` to draw from.
        """
        shares = self._shares(len(x), rngs) if not deterministic and max(self.rates) > 0 else [None] * len(self.rates)
        x, mask = self.patch_embed(x, mask)
        run = nnx.remat(_run) if self.remat else _run
        found, left = [], iter(shares)
        for stage, norm in zip(self.layers, self.norms, strict=True):
            for block in stage.blocks:
                x = run(block, x, mask, next(left))
            found.append(Features(norm(x), mask))
            if stage.downsample is not None:
                x, mask = stage.downsample(x, mask)
        return found

    def _shares(self, b: int, rngs: nnx.Rngs | None) -> list[Float[Array, "2 b"] | None]:
        if rngs is None:
            raise ConfigError(
                "Stochastic depth with deterministic=False needs random numbers; pass rngs=nnx.Rngs(dropout=key) to "
                "the model, deterministic=True to predict, or build it with drop_path=0."
            )
        return [
            jax.random.bernoulli(rngs.dropout(), 1 - rate, (2, b)) / (1 - rate) if rate else None for rate in self.rates
        ]


def check_heads(widths: Sequence[int], heads: Sequence[int]) -> None:
    """Refuse heads that do not divide the channels of their stage.

    Raises:
        ConfigError: names the stage.
    """
    for stage, (c, k) in enumerate(zip(widths, heads, strict=True)):
        if c % k:
            raise ConfigError(f"Stage {stage} has {c} channels, which {k} heads do not divide; choose a divisor.")


def torch_name(path: Sequence[object], naming: Naming = "published") -> str:
    """The name of the parameter at `path` of a `SwinTrunk`'s state, as `layers.0.blocks.1.norm1.weight`."""
    words = [str(p) for p in path]
    words[-1] = {"kernel": "weight", "scale": "weight"}.get(words[-1], words[-1])
    if words[0] == "norms":
        words[:2] = [f"norm{words[1]}"]
    if words[0] == "patch_embed" and words[1] != "norm":
        words.insert(1, "proj")
    if naming == "timm" and words[0] == "layers" and words[2] == "downsample":
        words[1] = str(int(words[1]) + 1)
    return ".".join(_of_torchvision(words) if naming == "torchvision" else words)


def _of_torchvision(words: Sequence[str]) -> list[str]:
    """Published words in torchvision's: a list of patches, blocks, merging, blocks, merging and so on."""
    if words[0] == "patch_embed":
        return ["features", "0", {"proj": "0", "norm": "2"}[words[1]], *words[2:]]
    if words[0] != "layers":
        return list(words)
    stage, part, rest = int(words[1]), words[2], words[3:]
    if part == "downsample":
        return ["features", str(2 * stage + 2), *rest]
    return ["features", str(2 * stage + 1), *({"fc1": "0", "fc2": "3"}.get(word, word) for word in rest)]


def naming_of(arrays: Mapping[str, np.ndarray]) -> Naming:
    """Which naming a file of weights has; the published one where none is recognised."""
    if "features.0.0.weight" in arrays:
        return "torchvision"
    merges = [f"layers.{i}.downsample.norm.weight" in arrays for i in (0, 1)]
    return "timm" if merges == [False, True] else "published"


def load_trunk(trunk: SwinTrunk, arrays: Mapping[str, np.ndarray]) -> None:
    """Fill a trunk with arrays in one of three namings, in place; see above.

    A classifier's file has no normalisation of each stage's result (`norm0`, `norm1`, ...), which then stays as it is.
    Stages after the trunk's last are not read.

    Raises:
        DataError: they do not fit.
    """
    naming, last = naming_of(arrays), len(trunk.layers) - 1
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(trunk, nnx.Param))]
    paths = [path for path in paths if path[0] != "norms" or "norm0.weight" in arrays]
    names = [Layer("/".join(map(str, path)), torch_name(path, naming)) for path in paths]
    later = "|".join(str(i) for i in range(last + 1, 4))
    beyond = rf"layers\.({later})\.|norm\.|norm({later})\.|head\."
    if naming == "published":
        beyond += rf"|layers\.{last}\.downsample\."
    if naming == "torchvision":
        beyond += rf"|features\.({'|'.join(str(i) for i in range(2 * last + 2, 8))})\."
    idle = [n for n in arrays if re.match(beyond, n) or n.endswith((".relative_position_index", ".attn_mask"))]
    load(trunk, arrays, names, ignore=idle)


def _run(block: SwinBlock, x: Array, mask: Array, share: Array | None) -> Array:
    return block(x, mask, share)


def _filled_up(x: Float[Array, "b h w c"], n: int) -> Float[Array, "b i j c"]:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % n), (0, -x.shape[2] % n), (0, 0)))
