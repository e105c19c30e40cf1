"""Instances that are small images: a convolutional network encodes each, end to end with the model that pools them.

Ilse, Tomczak & Welling (ICML 2018, arXiv:1802.04712, section 4.2 and 4.3) put one before attention for bags of digits
and of nuclei; here it may stand before any model. Features are the flattened pixels of square images, channels last,
as `MnistBags` and `ColonNuclei` give them. A bag is encoded whole: `max_instances` bounds the memory of training.

Presets of the paper (appendix; layer sizes also in the authors' code, which has the digits' network only):
    `PatchCNN.digits(model)`: conv 5x5 to 20, pool, conv 5x5 to 50, pool, 500; no dropout.
    `PatchCNN.nuclei(model)`: conv 4x4 to 36, pool, conv 3x3 to 48, pool, 512, 512, dropout after each of the last two;
        turns, flips and a change of the stains in training.

Deviations:
    - the authors convert colours of nuclei beforehand ("colour normalisation"), and move patches at random; not here.
    - dropout's rate for nuclei is not stated in the paper; .5 is Sirinukunwattana et al.'s (2016), whose network it is.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.models.ilse2018 import ABMIL
from milkit.nn import MLP
from milkit.nn.convolution import small_convolution
from milkit.nn.images import max_pool
from milkit.nn.initialisers import torch_bias, torch_kernel
from milkit.nn.stains import HED, WHITE
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class PatchCNN:
    """A convolutional encoder of instances before a model of embeddings."""

    model: Any = ABMIL(encoder=(), attention=128, gated=False)  # the paper's "Attention"
    """What pools the embeddings: any model."""
    channels: int = 1
    """Of the instances' images; their side follows from the number of features."""
    filters: tuple[int, ...] = (20, 50)  # LeNet, as for digits
    """Filters of each convolution, each followed by ReLU and the maximum of 2 x 2 pixels."""
    kernels: tuple[int, ...] = (5, 5)
    """Side of each convolution's kernel in pixels; nothing is padded."""
    hidden: tuple[int, ...] = (500,)
    """Widths of the layers after them, each with ReLU."""
    dropout: float = 0.0
    """Rate after each of these layers."""
    turn: bool = False
    """Whether training turns each instance by a right angle and mirrors it, at random."""
    restain: float = 0.0
    """SD of the factors, round 1, by which training changes haematoxylin and eosin; needs RGB as pixels / 127.5 - 1."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", skip=("model",), channels=some, filters=some, kernels=some, hidden=some, dropout="[0, 1)",
            restain="[0, 1]",
        )  # fmt: skip
        if len(self.filters) != len(self.kernels):
            raise ConfigError(f"filters={self.filters} and kernels={self.kernels} differ in length; name one for each.")
        if self.dropout and not self.hidden:
            raise ConfigError(f"dropout={self.dropout} acts after the hidden layers, but hidden=() has none.")
        if self.restain and self.channels != 3:
            raise ConfigError(f"restain={self.restain} needs channels=3 (RGB), but channels={self.channels}.")

    @classmethod
    def digits(cls, model: Any = None, **changes: Any) -> "PatchCNN":
        """The network for 28 x 28 digits, before `model` (attention, if None)."""
        return replace(cls() if model is None else cls(model), **changes)

    @classmethod
    def nuclei(cls, model: Any = None, **changes: Any) -> "PatchCNN":
        """The network for 27 x 27 RGB patches, before `model` (attention, if None)."""
        base = cls.digits(
            model, channels=3, filters=(36, 48), kernels=(4, 3), hidden=(512, 512), dropout=0.5, turn=True, restain=0.1
        )
        return replace(base, **changes)

    @property
    def claims(self) -> frozenset[str]:
        """What the model after it claims."""
        return getattr(self.model, "claims", frozenset())

    @property
    def position_aware(self) -> bool:
        """Whether the model after it is."""
        return getattr(self.model, "position_aware", False)

    @property
    def min_instances(self) -> int:
        """The smallest bag that the model after it takes."""
        return getattr(self.model, "min_instances", 1)

    @property
    def no_gradient(self) -> frozenset[str]:
        """Parameters that cannot matter in the model after it."""
        return frozenset(f"model/{path}" for path in getattr(self.model, "no_gradient", ()))

    chunked: ClassVar[bool] = False

    def objective(self, output: Output, batch: Batch, bag_loss: Any) -> tuple[Any, dict[str, Any]]:
        """The loss of the model after it."""
        if hasattr(self.model, "objective"):
            return self.model.objective(output, batch, bag_loss)
        loss = bag_loss(output.logits)
        return loss, {"bag": loss}

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "PatchCNNModule":
        """Make the network for instances of `in_features` = side * side * channels pixels."""
        return PatchCNNModule(self, self.sides(in_features), out_features, rngs=rngs)

    def sides(self, in_features: int) -> tuple[int, ...]:
        """Side of an instance, and of what each convolution leaves of it, in pixels.

        Raises:
            ConfigError: the features are no square image, or it is too small for the convolutions.
        """
        side = math.isqrt(in_features // self.channels)
        if side * side * self.channels != in_features:
            raise ConfigError(
                f"Instances have {in_features} features, which are no square image of {self.channels} channels; "
                "PatchCNN reads flattened pixels, such as those of MnistBags (784, channels=1)."
            )
        sides = [side]
        for kernel in self.kernels:
            sides.append((sides[-1] - kernel + 1) // 2)
        if min(sides) < 1:
            raise ConfigError(
                f"An image of {side} x {side} pixels is too small for convolutions of {self.kernels}, each followed by "
                "pooling by 2; choose fewer or smaller kernels."
            )
        return tuple(sides)


class Filters(nnx.Module):
    """A convolution without padding, ReLU, the maximum of each 2 x 2 pixels (a last odd row or column is left out)."""

    def __init__(self, in_channels: int, out_channels: int, side: int, *, rngs: nnx.Rngs):
        shape = (side, side, in_channels, out_channels)
        self.kernel = nnx.Param(torch_kernel()(rngs.params(), shape, jnp.float32))
        bias = torch_bias(side * side * in_channels)
        self.bias = nnx.Param(bias(rngs.params(), (out_channels,), jnp.float32))

    def __call__(self, x: Float[Array, "m h w c"]) -> Float[Array, "m i j d"]:
        """Of images, channels last."""
        kernel = self.kernel[...]
        dtype = jnp.promote_types(x.dtype, kernel.dtype)
        y = small_convolution(x.astype(dtype), kernel.astype(dtype))
        y = jax.nn.relu(y + self.bias[...].astype(dtype))
        return max_pool(y)


class PatchCNNModule(nnx.Module):
    """See `PatchCNN`."""

    def __init__(self, config: PatchCNN, sides: tuple[int, ...], out_features: int, *, rngs: nnx.Rngs):
        self.side, self.channels, self.turn, self.restain = sides[0], config.channels, config.turn, config.restain
        channels = (config.channels, *config.filters)
        self.filters = nnx.List(
            [Filters(a, b, k, rngs=rngs) for a, b, k in zip(channels, channels[1:], config.kernels, strict=False)]
        )
        self.hidden = MLP(sides[-1] ** 2 * channels[-1], config.hidden, rngs=rngs, dropout=config.dropout)
        self.model = config.model.build(self.hidden.out_features, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """What the model says of the embeddings."""
        bags = self.embedded(bags, deterministic=deterministic, rngs=rngs)
        return self.model(bags, deterministic=deterministic, rngs=rngs)

    def embedded(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Bags:
        """The bags that the model after the convolutions is given: [b, n, e] for pixels, all else as it was."""
        b, n = bags.mask.shape
        x = jnp.where(bags.mask[..., None], bags.x, 0).reshape(b * n, self.side, self.side, self.channels)
        if not deterministic and (self.turn or self.restain):
            assert rngs is not None
            key = rngs.dropout()
            x = turned(x, jax.random.fold_in(key, 0)) if self.turn else x
            x = restained(x, jax.random.fold_in(key, 1), self.restain) if self.restain else x
        for layer in self.filters:
            x = layer(x)
        h = self.hidden(x.reshape(b, n, -1), deterministic=deterministic, rngs=rngs)
        return replace(bags, x=jnp.where(bags.mask[..., None], h, 0))


def turned(x: Float[Array, "m h h c"], key: Array) -> Float[Array, "m h h c"]:
    """Each image in one of its eight positions, by chance."""
    swap, up, left = jax.random.bernoulli(key, 0.5, (3, len(x), 1, 1, 1))
    x = jnp.where(swap, x.swapaxes(1, 2), x)
    x = jnp.where(up, x[:, ::-1], x)
    return jnp.where(left, x[:, :, ::-1], x)


def restained(x: Float[Array, "m h w 3"], key: Array, sd: float) -> Float[Array, "m h w 3"]:
    """Haematoxylin and eosin of each image times factors drawn from N(1, sd^2), not below 0.

    Args:
        x: RGB as pixels / 127.5 - 1.
        key: of the draw.
        sd: of the factors.
    """
    stains = HED / np.linalg.norm(HED, axis=1, keepdims=True)
    back = np.linalg.inv(stains)
    factor = jnp.maximum(1 + sd * jax.random.normal(key, (len(x), 1, 1, 2), x.dtype), 0)
    density = -jnp.log((jnp.clip((x + 1) * (WHITE / 2), 0, WHITE) + 1) / (WHITE + 1))
    amount = jnp.einsum("mhwc,cs->mhws", density, jnp.asarray(back, x.dtype))
    change = (factor - 1) * amount[..., :2]
    density = density + jnp.einsum("mhws,sc->mhwc", change, jnp.asarray(stains[:2], x.dtype))
    return jnp.clip((WHITE + 1) * jnp.exp(-density) - 1, 0, WHITE) * (2 / WHITE) - 1
