"""SETMIL: spatial encoding transformer (Zhao et al., MICCAI 2022, doi 10.1007/978-3-031-16434-7_7).

Tiles lie on a grid. Pyramid multi-scale fusion (PMF) reads around each tile windows of 3, 5 and 7 cells a side, each
size by a token transformer of its own (T2T, Yuan et al. 2021), whose tokens are the windows; what the three give lies
side by side. Then a transformer with a class token, to which places are told twice: sines and cosines of a tile's place
are added to it, and attention knows how far apart two tiles are (iRPE, Wu et al. 2021): distances are sorted into
buckets, exact up to 1 cell and coarser beyond, and

    euclidean   each head adds a number of its own for each bucket of the distance (the authors' configuration)
    product     the query is multiplied with a vector for each pair of buckets, of rows and of columns; heads share it

The class token's result goes through one linear layer. A place without a tile holds zeros in a window, and is no token.

Read in the authors' code: 64 features for each size of window, one head, its MLP not wider, the window's values take
the place of a residual path; 6 layers of 16 heads; dropout .2; queries, keys and values without biases; tables of
distances start at 0; maps of 48 x 48 cells, tiles beyond which are cropped.

Deviations:
    - Tokens are tiles, in the authors' code all cells of the map, those without a tile among them. So there is no map,
      and no largest one.
    - Places are two numbers, row and column, each told by half of the sines; the authors number a map's cells row by
      row, which says "the next row" only on maps of one width.
    - The authors first halve the map by another token transformer; here a linear layer brings features to `width`.
    - No table of distances in the last layer, of which only the class token's row is read: it is as far from all.
    - No dropout of attention weights. Weights start as PyTorch's layers do (theirs: normal, SD .02).

`compat="torchmil"` is torchmil 1.0.2 (`relative="product"`), which differs in substance: all cells of a map are tokens,
numbered row by row; windows have a residual path through a linear layer of their own, wider MLPs and a projection of
what lies side by side; attention has no output projection. Two of its reshapes mix what they should not: heads are cut
out of the sequence and not out of the features, and without PMF so are tokens. `branch` is then `width`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.nn import dropout_or_none, linear, masked_softmax
from milkit.nn.blockwise import attend
from milkit.nn.layer_norm import layer_norm
from milkit.nn.ppeg import cells_of
from milkit.nn.row_blocks import in_row_blocks
from milkit.nn.transformer import FeedForward
from milkit.types import Bags, Output

Compat = Literal["correct", "torchmil"]
_CLOSEST_UM = 1.0
"""Steps between tiles that are smaller are rounding."""


@dataclass(frozen=True)
class SETMIL:
    """Windows of several sizes around each tile, then a transformer that knows the distances between tiles."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True
    min_instances: ClassVar[int] = 1

    tile_um: float = 0.0
    """Distance between neighbouring tiles' corners, in micrometres; 0 measures it in each bag: the smallest step
    between two of its columns or rows."""
    width: int = 128  # the authors' configuration (TOKEN_DIM)
    """Of the projected tiles."""
    windows: tuple[int, ...] = (3, 5, 7)  # the paper's
    """Cells a side, each odd and at most 7; () leaves the fusion out."""
    branch: int = 64  # the authors' configuration (EMBED_DIM)
    """Features that each size of window gives; tokens are as wide as all together."""
    branch_heads: int = 1  # the authors' code
    """Of the token transformers; they share out `branch`."""
    layers: int = 6  # the authors' configuration
    """Of the transformer."""
    heads: int = 16  # the authors' configuration
    """Of the transformer; they share out the tokens' width."""
    relative: Literal["euclidean", "product"] = "euclidean"  # the authors' configuration
    """How attention is told the distance between two tiles."""
    dropout: float = 0.2  # the authors' configuration
    """Rate after each sublayer."""
    compat: Compat = "correct"
    """`torchmil`: as that library has it; see the module's docstring."""
    map_side: int = 48  # the authors' configuration
    """Cells a side that a map may have with `compat="torchmil"`, and in no other; tiles beyond are left out."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", tile_um="[0, inf)", width=some, windows="[3, 7]", branch=some, branch_heads=some,
            layers=some, heads=some, dropout="[0, 1)", map_side=some,
        )  # fmt: skip
        if any(k % 2 == 0 for k in self.windows):
            raise ConfigError(f"windows={self.windows}: a window with a tile in its middle has 3, 5 or 7 cells a side.")
        if self.tokens % self.heads or self.tokens % 4:
            raise ConfigError(
                f"Tokens are {self.tokens} wide (windows={self.windows}, branch={self.branch}, width={self.width}); "
                f"they need to be a multiple of 4 and of heads={self.heads}."
            )
        if self.windows and self.branch % self.branch_heads:
            raise ConfigError(f"branch={self.branch} cannot be shared by branch_heads={self.branch_heads}.")
        if self.compat == "torchmil" and self.windows and self.branch != self.width:
            raise ConfigError(f"torchmil's windows give width={self.width} features each; set branch to it.")

    @property
    def tokens(self) -> int:
        """Width of a token of the transformer."""
        return len(self.windows) * self.branch if self.windows and self.compat == "correct" else self.width

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "SETMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return SETMILModule(self, in_features, out_features, rngs=rngs)


class Tokens(NamedTuple):
    """Tokens of a batch, without the class token.

    Attributes:
        mask: which there are.
        place: row and column of each.
        number: of its cell, row by row, in rows of `width` cells.
        width: see `milkit.nn.ppeg.cells_of`; wide enough that windows do not reach over the edge of a row.
        sorted: numbers of the cells that hold tiles, in order.
        order: these tiles.
        of_tile: the token of each tile.
    """

    mask: Bool[Array, "b t"]
    place: Int[Array, "b t 2"]
    number: Int[Array, "b t"]
    width: Int[Array, "b"]
    sorted: Int[Array, "b n"]
    order: Int[Array, "b n"]
    of_tile: Int[Array, "b n"]


def tokens_of(bags: Bags, config: SETMIL) -> tuple[Tokens, Bool[Array, "b n"]]:
    """The tokens, and which tiles take part.

    Raises:
        DataError: the bags have no coordinates.
    """
    if bags.coords_um is None:
        raise DataError(
            "SETMIL reads where tiles lie, but the bags have no positions in micrometres (coords_um); open features "
            "that have coordinates with their mpp (docs/data.md), or choose a model without positions."
        )
    xy, mask = jax.lax.stop_gradient(bags.coords_um), bags.mask
    pitch = jnp.full((len(xy), 1, 1), config.tile_um) if config.tile_um else steps_of(xy, mask)[:, None, None]
    cells = cells_of((xy / pitch).astype(jnp.float32), mask, 1.0)
    number, width = jnp.where(mask, cells.number, 0), cells.width
    place = jnp.stack([number // width[:, None], number % width[:, None]], -1)
    if config.compat == "correct":
        rows = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
        ranked = jnp.take_along_axis(cells.number, cells.order, 1)
        return Tokens(mask, place, cells.number, width, ranked, cells.order, rows), mask
    most = config.map_side
    mask = mask & (place < most).all(-1)
    left = jnp.where(mask, cells.number, jnp.iinfo(jnp.int32).max)
    order = jnp.argsort(left, axis=1, stable=True)
    side = jnp.where(mask[..., None], place, -1).max((1, 2))[:, None] + 1
    token = jnp.arange(most**2)[None]
    each = jnp.maximum(side, 1)
    at = jnp.stack([token // each, token % each], -1)
    found = jnp.where(mask, place[..., 0] * side + place[..., 1], 0)
    numbers = at[..., 0] * width[:, None] + at[..., 1]
    there = token < side**2
    return Tokens(there, at, numbers, width, jnp.take_along_axis(left, order, 1), order, found), mask


def steps_of(xy: Float[Array, "b n 2"], mask: Bool[Array, "b n"]) -> Float[Array, "b"]:
    """The smallest step, in micrometres, between two columns or two rows of a bag's tiles; 1 where there is none."""
    ordered = jnp.sort(jnp.where(mask[..., None], xy, jnp.inf), 1)
    between = ordered[:, 1:] - ordered[:, :-1]  # not a number between two of padding
    least = jnp.where(between > _CLOSEST_UM, between, jnp.inf).min((1, 2), initial=jnp.inf)
    return jnp.where(jnp.isfinite(least), least, 1)


def window_of(
    x: Float[Array, "b n d"],
    tokens: Tokens,
    side: int,
    number: Int[Array, "b r"],
    there: Bool[Array, "b r"],
) -> Float[Array, "b r e"]:
    """What lies around some tokens, a feature's cells together; 0 where there is no tile."""
    at = jnp.arange(side**2)
    step = (at // side - side // 2)[None] * tokens.width[:, None] + at % side - side // 2
    wanted = jnp.where(there[..., None], number[..., None] + step[:, None], -1).reshape(len(x), -1)
    place = jnp.minimum(jax.vmap(jnp.searchsorted)(tokens.sorted, wanted), x.shape[1] - 1)
    found = (wanted >= 0) & (jnp.take_along_axis(tokens.sorted, place, 1) == wanted)
    rows = jnp.take_along_axis(tokens.order, place, 1)
    cells = jnp.where(found[..., None], jnp.take_along_axis(x, rows[..., None], 1), 0)
    return cells.reshape(*number.shape, side**2, -1).swapaxes(2, 3).reshape(*number.shape, -1)


class WindowTransformer(nnx.Module):
    """T2T: a token is a window; one layer of a transformer."""

    def __init__(self, config: SETMIL, side: int, *, rngs: nnx.Rngs):
        seen, width, theirs = side**2 * config.width, config.branch, config.compat == "torchmil"
        self.side, self.heads = side, config.branch_heads
        self.norm = layer_norm(seen, rngs)
        self.qkv = linear(seen, 3 * width, rngs=rngs, use_bias=False)
        self.skip = linear(seen, width, rngs=rngs) if theirs else None
        self.out = None if theirs else linear(width, width, rngs=rngs)
        self.dropout = dropout_or_none(config.dropout)
        self.mlp_norm = layer_norm(width, rngs)
        hidden = 4 * width if theirs else width
        self.mlp = FeedForward(width, hidden, rngs=rngs, activation="gelu", dropout=config.dropout)

    def __call__(
        self, x: Float[Array, "b n d"], tokens: Tokens, deterministic: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "b t w"]:
        """What each token's window gives."""

        def read(rows: Any) -> tuple[Array, Array]:
            window = window_of(x, tokens, self.side, *rows)
            qkv = self.qkv(self.norm(window))
            return qkv, jnp.split(qkv, 3, -1)[2] if self.skip is None else self.skip(window)

        qkv, kept = in_row_blocks(read, (tokens.number, tokens.mask), 3 * self.qkv.in_features)
        q, k, v = (a.reshape(*a.shape[:2], self.heads, -1) for a in jnp.split(qkv, 3, -1))
        found = attend(q, k, v, tokens.mask).value.reshape(kept.shape).astype(kept.dtype)
        found = found if self.out is None else self.out(found)
        if self.dropout is not None:
            found = self.dropout(found, deterministic=deterministic, rngs=rngs)
        y = kept + found
        return y + self.mlp(self.mlp_norm(y), deterministic=deterministic, rngs=rngs)


def bucket_of(cells: Int[Array, "..."]) -> Int[Array, "..."]:
    """The bucket of a distance >= 0 in cells: 0, 1, 2 (2 and 3 cells), 3 (4 and more).

    That is iRPE's piecewise index with its ratio of 1.9, rounded as there.
    """
    return (cells >= 1).astype(jnp.int32) + (cells >= 2) + (cells >= 4)


class PlacedAttention(nnx.Module):
    """Multi-head self-attention that knows how far apart tokens lie; the first token is the class."""

    def __init__(self, config: SETMIL, *, last: bool, rngs: nnx.Rngs):
        width, self.heads, self.relative = config.tokens, config.heads, config.relative
        self.last, self.mixed = last, config.compat == "torchmil"
        self.qkv = linear(width, 3 * width, rngs=rngs, use_bias=False)
        self.out = None if self.mixed else linear(width, width, rngs=rngs)
        shape = (config.heads, 4 + 1) if config.relative == "euclidean" else (width // config.heads, 7**2 + 1)
        self.table = None if last else nnx.Param(jnp.zeros(shape))

    def __call__(
        self, x: Float[Array, "b l d"], there: Bool[Array, "b l"], place: Int[Array, "b l 2"]
    ) -> tuple[Float[Array, "b r d"], Float[Array, "b l h"] | None]:
        """What tokens gather; of the last layer the class token alone, and its energies before the softmax."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        q, k, v = (self._heads(a, there) for a in jnp.split(self.qkv(x), 3, -1))
        q = q * q.shape[-1] ** -0.5

        def gather(rows: Any) -> tuple[Array, Array]:
            q, place_of, first = rows
            energy = jnp.einsum("brhe,blhe->bhrl", q, k, preferred_element_type=wide)
            if self.table is not None:
                energy = energy + self._apart(q, place_of, first, place).astype(wide)
            weight = jax.nn.softmax(energy, where=there[:, None, None])
            found = jnp.einsum("bhrl,blhe->brhe", weight.astype(v.dtype), v)
            return found.reshape(*found.shape[:2], -1), energy

        first = jnp.broadcast_to(jnp.arange(x.shape[1]) == 0, there.shape)
        if self.last:
            found, energy = gather((q[:, :1], place[:, :1], first[:, :1]))
            energies = energy[:, :, 0].swapaxes(1, 2)
        else:
            found = in_row_blocks(lambda rows: gather(rows)[0], (q, place, first), 3 * self.heads * x.shape[1])
            energies = None
        return found if self.out is None else self.out(found), energies

    def _heads(self, x: Float[Array, "b l d"], there: Bool[Array, "b l"]) -> Float[Array, "b l h e"]:
        if not self.mixed:
            return x.reshape(*x.shape[:2], self.heads, -1)
        # the library's: a head is a part of the sequence, of each bag by itself
        b, n, d = x.shape
        each = d // self.heads
        token, head, feature = (a[None] for a in jnp.indices((n, self.heads, each)))
        at = (head * there.sum(1)[:, None, None, None] + token) * each + feature
        at = jnp.where(there[:, :, None, None], at, 0)
        return jnp.take_along_axis(x.reshape(b, -1), at.reshape(b, -1), 1).reshape(b, n, self.heads, each)

    def _apart(
        self, q: Float[Array, "b r h e"], rows: Int[Array, "b r 2"], first: Bool[Array, "b r"], place: Array
    ) -> Float[Array, "b h r l"]:
        """What the distance between a query and each key adds to their energy; the class has a bucket of its own."""
        assert self.table is not None
        apart = rows[:, :, None] - place[:, None]
        table = self.table[...]
        if self.relative == "euclidean":
            bucket = bucket_of(jnp.round(jnp.sqrt(jnp.square(apart).sum(-1).astype(jnp.float32))).astype(jnp.int32))
        else:
            each = 3 + jnp.sign(apart) * bucket_of(jnp.abs(apart))
            bucket = each[..., 0] * 7 + each[..., 1]
        to_class = first[..., None] | (jnp.arange(place.shape[1]) == 0)
        bucket = jnp.where(to_class, table.shape[1] - 1, bucket)
        if self.relative == "euclidean":
            return table[:, bucket].swapaxes(0, 1)
        of_bucket = jnp.einsum("brhe,ek->bhrk", q, table)
        return jnp.take_along_axis(of_bucket, bucket[:, None], -1)


class SpatialLayer(nnx.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: SETMIL, *, last: bool, rngs: nnx.Rngs):
        width = config.tokens
        self.norm, self.mlp_norm = layer_norm(width, rngs), layer_norm(width, rngs)
        self.attention = PlacedAttention(config, last=last, rngs=rngs)
        self.dropout = dropout_or_none(config.dropout)
        self.mlp = FeedForward(width, 4 * width, rngs=rngs, activation="gelu", dropout=config.dropout)

    def __call__(
        self, x: Array, there: Array, place: Array, deterministic: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "b r d"], Float[Array, "b l h"] | None]:
        """Tokens; of the last layer the class token alone, and its energies."""
        y, energies = self.attention(self.norm(x), there, place)
        if self.dropout is not None:
            y = self.dropout(y, deterministic=deterministic, rngs=rngs)
        x = x[:, : y.shape[1]] + y
        return x + self.mlp(self.mlp_norm(x), deterministic=deterministic, rngs=rngs), energies


def frequencies(channels: int) -> Float[Array, "f"]:
    """Of the waves that tell a place: lengths from 2 pi to 20,000 pi (Vaswani et al. 2017)."""
    return 10_000.0 ** (-jnp.arange(0, channels, 2, dtype=jnp.float32) / channels)


def sinusoid(place: Int[Array, "*shape"], channels: int) -> Float[Array, "*shape c"]:
    """Sine and cosine of a place by turns."""
    angle = place[..., None].astype(jnp.float32) * frequencies(channels)
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1).reshape(*place.shape, channels)


class SETMILModule(nnx.Module):
    """See `SETMIL`."""

    def __init__(self, config: SETMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config, tokens = config, config.tokens
        self.projection = linear(in_features, config.width, rngs=rngs)
        self.windows = nnx.List([WindowTransformer(config, side, rngs=rngs) for side in config.windows])
        joined = len(config.windows) * config.branch
        self.joined = linear(joined, tokens, rngs=rngs) if config.windows and config.compat == "torchmil" else None
        self.class_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (tokens,)))
        last = config.layers - 1
        self.layers = nnx.List([SpatialLayer(config, last=i == last, rngs=rngs) for i in range(config.layers)])
        self.norm = layer_norm(tokens, rngs)
        self.classifier = linear(tokens, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the class token's attention in the last layer, a column a head, and what it became.

        The weights are those among the tiles; `extras["class_row"]` are the same with all tokens counted, the class
        among them.
        """
        tokens, tiles = tokens_of(bags, self.config)
        x = jnp.where(tiles[..., None], self.projection(bags.x), 0)
        x = self._fused(x, tokens, deterministic, rngs)
        real = tokens.mask.any(1, keepdims=True)  # a filler has no class token either: there is nothing to attend to
        there = jnp.concatenate([real, tokens.mask], 1)
        place = jnp.pad(tokens.place, ((0, 0), (1, 0), (0, 0)))
        token = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (len(x), 1, x.shape[2]))
        x = jnp.concatenate([token, x], 1) + self._places(place).astype(x.dtype)
        x, energies = jnp.where(there[..., None], x, 0), None
        for layer in self.layers:
            x, energies = layer(x, there, place, deterministic, rngs)
        assert energies is not None
        embedding = self.norm(x)[:, 0]
        row = jax.nn.softmax(energies, axis=1, where=there[..., None])
        at = tokens.of_tile[..., None] + 1
        attention = masked_softmax(jnp.take_along_axis(energies, at, 1), tiles)
        row = jnp.where(tiles[..., None], jnp.take_along_axis(row, at, 1), 0)
        return Output(self.classifier(embedding), attention, embedding=embedding, extras={"class_row": row})

    def _fused(
        self, x: Float[Array, "b n d"], tokens: Tokens, deterministic: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "b t w"]:
        """Tokens of windows; without windows the tiles themselves."""
        if len(self.windows):
            branches = [window(x, tokens, deterministic, rngs) for window in self.windows]
            joined = jnp.concatenate(branches, -1)
            return joined if self.joined is None else self.joined(joined)
        if self.config.compat == "correct":
            return x
        cells = window_of(x, tokens, 1, tokens.number, tokens.mask)
        # the library's: features of all cells in a row, cut into tokens
        b, t, d = cells.shape
        at, cells_there = jnp.arange(t * d)[None], jnp.maximum(tokens.mask.sum(1)[:, None], 1)
        at = jnp.where(at < cells_there * d, at % cells_there * d + at // cells_there, 0)
        return jnp.take_along_axis(cells.reshape(b, -1), at, 1).reshape(b, t, d)

    def _places(self, place: Int[Array, "b l 2"]) -> Float[Array, "b l d"]:
        """What is added to tokens, the class token being at 0."""
        width = self.config.tokens
        if self.config.compat == "torchmil":
            return jnp.broadcast_to(sinusoid(jnp.arange(place.shape[1]), width), (*place.shape[:2], width))
        apart = place + (jnp.arange(place.shape[1]) > 0)[:, None]
        return sinusoid(apart, width // 2).reshape(*place.shape[:2], width)
