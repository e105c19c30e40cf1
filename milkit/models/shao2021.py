"""TransMIL: correlated multiple-instance learning by a transformer (Shao et al., NeurIPS 2021, arXiv:2106.00908).

Instances are projected, repeated up to the next square number, and a class token is put in front; a layer of Nystrom
self-attention, positions by convolutions over the square (PPEG), further layers; the class token is classified. A layer
is x + attention(norm(x)), without an MLP.

`compat="authors"` is their code to rounding, which relies on a library's Nystrom attention (`milkit.nn.nystrom` says
what that does: zeros in front of the sequence take part, and a bag's result depends on what it is batched with). The
default follows the paper. Padding never takes part in either.

Options of ours:
    - `positions="grid"`: convolutions over the tiles' real places, from their coordinates, with zeros where there is no
      tile. There is then nothing to repeat, and the sequence is the bag.
    - `encoder=False, projection=False, residual=0, heads=4` is TransMIL as torchmil has it.

Deviations:
    - `attention` is what the class token takes from each instance in the last layer, as far as it is positive, scaled
      to sum to 1 (what it takes from itself is left out; tokens of one instance are added). Nystrom weights are an
      approximation's, and can be negative; `extras["class_attention"]` has them as they are. The authors give none.
    - The authors' optimiser (RAdam in Lookahead) is not the model's matter.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.nn import linear
from milkit.nn.layer_norm import layer_norm
from milkit.nn.nystrom import AT_ONCE, NystromAttention
from milkit.nn.ppeg import PPEG, cells_of
from milkit.nn.squares import as_instances, as_tokens, squares_of
from milkit.types import Bags, Output


@dataclass(frozen=True)
class TransMIL:
    """A transformer over all instances of a bag, linear in their number."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True  # landmarks, convolutions and the square go by the order of instances

    width: int = 512
    """Width of a token."""
    heads: int = 8
    """Attention heads, of width / heads each."""
    layers: int = 2
    """Layers of attention, at least two; positions come after the first."""
    landmarks: int = 0  # width / 2 in the authors' code, 256 at their width
    """Landmarks of the Nystrom approximation; 0 is half the width."""
    iterations: int = 6  # the library's default
    """Iterations of the pseudo-inverse."""
    residual: int = 33  # the library's default; Xiong et al. (2021) use it too
    """Tokens that the convolution of the values sees, odd; 0 leaves it out."""
    encoder: bool = True
    """Whether a linear layer with ReLU projects instances; without it their width must be `width`."""
    projection: bool = True
    """Whether each attention ends in a linear layer."""
    dropout: float = 0.1  # the authors'
    """Rate after each attention."""
    positions: Literal["square", "grid"] = "square"
    """Whether positions are those in the square of instances, or the tiles' own, which needs coordinates."""
    tile_um: float = 0.0  # a fact about the tiles: never guessed
    """With positions="grid": the distance between neighbouring tiles' corners, in micrometres."""
    compat: Literal["correct", "authors"] = "correct"
    """Whether Nystrom attention is as in the paper, or as in the authors' code."""
    at_once: int = AT_ONCE
    """Tokens that attention takes at a time: bounds its memory, changes no result."""

    def __post_init__(self) -> None:
        some, any_size = "[1, inf)", "[0, inf)"
        check_fields(
            self, "model", width=some, heads=some, layers="[2, inf)", landmarks=any_size, iterations=some,
            residual=any_size, dropout="[0, 1)", tile_um=any_size, at_once=some,
        )  # fmt: skip
        if self.width % self.heads:
            raise ConfigError(f"width={self.width} cannot be shared by heads={self.heads}; choose a divisor of it.")
        if self.residual and self.residual % 2 == 0:
            raise ConfigError(f"residual={self.residual} has no middle; choose an odd number, or 0 for none.")
        if (self.positions == "grid") != (self.tile_um > 0):
            raise ConfigError(
                f"positions={self.positions!r} with tile_um={self.tile_um}: tile_um is the distance between tiles in "
                "micrometres (such as 112 for 224 pixels at 0.5 micrometres a pixel), given with positions='grid' only."
            )

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "TransMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        if not self.encoder and in_features != self.width:
            raise ConfigError(
                f"TransMIL(encoder=False, width={self.width}) takes instances as they are, but they have "
                f"{in_features} features; set width={in_features}, or encoder=True."
            )
        return TransMILModule(self, in_features, out_features, rngs=rngs)


class Layer(nnx.Module):
    """x + attention(norm(x)), and what the first token takes from each."""

    def __init__(self, config: TransMIL, *, rngs: nnx.Rngs):
        self.norm = layer_norm(config.width, rngs)
        self.attention = NystromAttention(
            config.width,
            rngs=rngs,
            heads=config.heads,
            head_width=config.width // config.heads,
            landmarks=config.landmarks or max(config.width // 2, 1),
            iterations=config.iterations,
            kernel=config.residual,
            project=config.projection,
            dropout=config.dropout,
            compat=config.compat,
            at_once=config.at_once,
        )

    def __call__(
        self, x: Float[Array, "b l d"], mask: Bool[Array, "b l"], *, deterministic: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b l k"]]:
        """Tokens, and weights of the first one."""
        y, first = self.attention(x, mask, norm=self.norm, deterministic=deterministic, rngs=rngs)
        return jnp.where(mask[..., None], x + y, 0), first


class TransMILModule(nnx.Module):
    """See `TransMIL`."""

    def __init__(self, config: TransMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.tile_um = config.tile_um if config.positions == "grid" else None
        self.encoder = linear(in_features, config.width, rngs=rngs) if config.encoder else None
        self.class_token = nnx.Param(jax.random.normal(rngs.params(), (config.width,)))
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.layers)])
        self.ppeg = PPEG(config.width, rngs=rngs)
        self.norm = layer_norm(config.width, rngs)
        self.classifier = linear(config.width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention (see the module's docstring) and the class token as embedding."""
        return self.read(self.stages(bags, deterministic=deterministic, rngs=rngs), bags.mask)

    def read(self, stages: dict[str, Float[Array, "b _ _"]], mask: Bool[Array, "b n"]) -> Output:
        """What `stages` say of the bags."""
        embedding, weights = stages["normed"][:, 0], stages["weights"]
        positive = jnp.maximum(weights, 0)
        total = positive.sum(1, keepdims=True)
        count = jnp.maximum(mask.sum(1), 1)[:, None, None].astype(weights.dtype)
        attention = jnp.where(total > 0, positive / jnp.where(total > 0, total, 1), 1 / count)
        attention = jnp.where(mask[..., None], attention, 0)
        return Output(self.classifier(embedding), attention, embedding=embedding, extras={"class_attention": weights})

    def stages(
        self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> dict[str, Float[Array, "b _ _"]]:
        """What each part gives.

        Returns:
            "encoded": instances; "layer1", "ppeg", "layer2" and so on, "normed": tokens, the class token first;
            "weights": what the class token takes from each instance in the last layer, [b, n, heads].
        """
        x = bags.x if self.encoder is None else jax.nn.relu(self.encoder(bags.x))
        found = {"encoded": x}
        square = squares_of(bags.mask) if self.tile_um is None else None
        mask = bags.mask if square is None else square.mask
        x = jnp.where(mask[..., None], x, 0) if square is None else as_tokens(x, square)
        token = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        # a filler has no class token either: nothing is there to attend to
        there = jnp.concatenate([mask.any(1, keepdims=True), mask], 1)
        x = jnp.concatenate([token, x], 1)
        for i, layer in enumerate(self.layers, 1):
            x, first = layer(x, there, deterministic=deterministic, rngs=rngs)
            found[f"layer{i}"] = x
            if i == 1:
                if square is not None:
                    placed = self.ppeg.on_squares(x[:, 1:], square.side)
                else:
                    placed = self.ppeg.on_cells(x[:, 1:], mask, cells_of(_coords(bags), mask, self.tile_um or 1.0))
                x = jnp.where(there[..., None], jnp.concatenate([x[:, :1], placed], 1), 0)
                found["ppeg"] = x
        weights = first[:, 1:]
        found["normed"] = self.norm(x)
        return {**found, "weights": weights if square is None else as_instances(weights, square)}


def _coords(bags: Bags) -> Float[Array, "b n 2"]:
    if bags.coords_um is None:
        raise DataError(
            "TransMIL(positions='grid') needs where each tile lies, but these bags have no coordinates (coords_um); "
            "give a store with coordinates in micrometres, or positions='square'."
        )
    return bags.coords_um
