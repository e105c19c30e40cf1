"""Floors that learn nothing: where the haematoxylin is, by a threshold, and everything.

A weakly supervised model that does not beat these has learned nothing that its images did not show at a glance. Neither
has a parameter: an experiment trains it for an epoch in which nothing moves (`Train(epochs=1, select="last")`),
predicts, and puts it into the same table as the models.

References:
    Ruifrok & Johnston (2001), Analytical and Quantitative Cytology and Histology 23:291: colour deconvolution;
    Otsu (1979), IEEE Transactions on Systems, Man, and Cybernetics 9:62: the threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn.images import masked
from milkit.nn.stains import haematoxylin, rgb_of
from milkit.pixel.dcgn import check_rgb
from milkit.pixel.maps import Map, image_label_loss, output_of
from milkit.pixel.sides import check_head, exponent
from milkit.types import Batch, Images, Output

BINS = 256
"""Levels between the least and the greatest density of an image, among which Otsu's threshold is looked for."""


@dataclass(frozen=True)
class StainThreshold:
    """Foreground is where the haematoxylin, averaged over a neighbourhood, is dense.

    The map is sigmoid((density - threshold) / SD of the image's densities), 1/2 at the threshold: so pixels can be
    ranked, and thresholds other than 1/2 be tried.
    """

    claims: ClassVar[frozenset[str]] = frozenset()
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False
    smallest_side: ClassVar[int] = 1
    normalisation: ClassVar[Literal["imagenet"]] = "imagenet"
    """Known numbers, from which RGB can be had back."""

    sigma_px: float = 8.0  # at 0.5 um a pixel, the radius of a nucleus: neighbours of an epithelium run into each other
    """Standard deviation of the Gaussian average, in pixels of the images as they are read; 0 averages nothing."""
    threshold: float | Literal["otsu"] = "otsu"
    """Optical density (natural logarithm) of haematoxylin; `otsu` chooses it in each image by itself, which calls
    something foreground in every image."""
    r: float | Literal["max"] = 4.0  # as the weakly supervised models beside which it stands
    """Exponent of the generalised mean that gives the image's logit; "max" is the maximum."""

    def __post_init__(self) -> None:
        check_fields(self, "model", sigma_px="[0, inf)")
        check_head(self.r, (0.0, 0.0, 1.0))

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "StainThresholdModule":
        """Make the module.

        Raises:
            ConfigError: images that are not RGB, or several labels.
        """
        check_rgb("StainThreshold", in_channels, out_features)
        return StainThresholdModule(self)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The loss of the map's image probability, to be looked at; there is nothing that it could train."""
        return image_label_loss(output, batch, bag_loss)


class StainThresholdModule(nnx.Module):
    """See `StainThreshold`."""

    def __init__(self, config: StainThreshold):
        self.sigma_px, self.threshold, self.r = config.sigma_px, config.threshold, exponent(config.r)

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """The map "fused" and the logit of its GM_r; `extras["threshold"]` holds each image's threshold, [b]."""
        mask = images.mask
        density = averaged(haematoxylin(rgb_of(images.x)), mask, self.sigma_px)
        cut = otsu(density, mask) if self.threshold == "otsu" else jnp.full(len(density), self.threshold, density.dtype)
        count = jnp.maximum(mask.sum((1, 2)), 1).astype(density.dtype)
        mean = jnp.where(mask, density, 0).sum((1, 2)) / count
        variance = jnp.where(mask, jnp.square(density - mean[:, None, None]), 0).sum((1, 2)) / count
        scale = jnp.sqrt(jnp.where(variance > 0, variance, 1))
        z = ((density - cut[:, None, None]) / scale[:, None, None])[..., None]
        p, q = (masked(jax.nn.sigmoid(side), mask) for side in (z, -z))
        output = output_of({"fused": Map(p, q)}, mask, self.r)
        return Output(output.logits, extras=output.extras | {"threshold": cut})


def averaged(x: Float[Array, "b h w"], mask: Bool[Array, "b h w"], sigma_px: float) -> Float[Array, "b h w"]:
    """The Gaussian average over the real pixels around each pixel; beyond an image's edge there is nothing to average.

    Args:
        x: values; what stands on padding does not count.
        mask: True on real pixels.
        sigma_px: standard deviation in pixels; 0 gives `x`.
    """
    x = jnp.where(mask, x, 0)
    if sigma_px == 0:
        return x
    exact = jax.lax.Precision.HIGHEST
    rows, columns = (_gaussian(n, sigma_px, x.dtype) for n in x.shape[1:])

    def blurred(values: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
        tall = jnp.einsum("ih,bhw->biw", rows, values, precision=exact)
        return jnp.einsum("jw,biw->bij", columns, tall, precision=exact)

    seen = blurred(mask.astype(x.dtype))
    return jnp.where(mask, blurred(x) / jnp.where(mask, seen, 1), 0)


def _gaussian(n: int, sigma_px: float, dtype: Any) -> Float[Array, "n n"]:
    """Weight of each pixel of a line in the average at each pixel."""
    place = jnp.arange(n, dtype=dtype)
    return jnp.exp(-0.5 * jnp.square((place[:, None] - place) / sigma_px))


def otsu(x: Float[Array, "b h w"], mask: Bool[Array, "b h w"], bins: int = BINS) -> Float[Array, "b"]:
    """The threshold of each image that parts its pixels into two classes whose means lie furthest apart.

    Largest is n_low n_high (mean_low - mean_high)^2, over the edges between `bins` levels of equal width from the
    least to the greatest value; of equal ones the lowest. Values from the threshold on are the upper class. An image of
    one value has that as its threshold, and is all upper class.

    Args:
        x: values.
        mask: True on real pixels; an image without any gives 0.
        bins: levels.

    References:
        Otsu (1979), IEEE Transactions on Systems, Man, and Cybernetics 9:62, equation 18.
    """
    some = mask.any((1, 2))
    low = jnp.where(some, jnp.where(mask, x, jnp.inf).min((1, 2)), 0)
    high = jnp.where(some, jnp.where(mask, x, -jnp.inf).max((1, 2)), 0)
    width = (high - low) / bins
    fraction = (x - low[:, None, None]) / jnp.where(width > 0, width, 1)[:, None, None]
    level = jnp.clip(jnp.where(mask, fraction, 0).astype(jnp.int32), 0, bins - 1)

    def of_image(level: Array, real: Array) -> Float[Array, "bins"]:
        return jnp.zeros(bins, x.dtype).at[level.ravel()].add(real.ravel().astype(x.dtype))

    count = jax.vmap(of_image)(level, mask)
    share = count / jnp.maximum(count.sum(1, keepdims=True), 1)
    centre = (jnp.arange(bins) + 0.5) / bins  # of a level, where the range is 1; the scale moves no maximum
    below, moment = jnp.cumsum(share, 1)[:, :-1], jnp.cumsum(share * centre, 1)
    total, moment = moment[:, -1:], moment[:, :-1]
    above = 1 - below
    apart = jnp.square(total * below - moment) / jnp.where((below > 0) & (above > 0), below * above, 1)
    edge = jnp.argmax(jnp.where(above > 1e-7, apart, 0), 1) + 1
    return low + width * jnp.where(width > 0, edge, 0)


@dataclass(frozen=True)
class Everything:
    """Every pixel is foreground: what the prevalence of the foreground alone gives."""

    claims: ClassVar[frozenset[str]] = frozenset()
    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = False
    smallest_side: ClassVar[int] = 1

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "EverythingModule":
        """Make the module."""
        return EverythingModule(out_features)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The loss of an image's probability, 1, to be looked at; there is nothing that it could train."""
        return image_label_loss(output, batch, bag_loss)


class EverythingModule(nnx.Module):
    """See `Everything`."""

    def __init__(self, out_features: int):
        self.out_features = out_features

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """The map "fused", 1 on each real pixel, and the logit of its generalised mean, 87."""
        dtype = jnp.promote_types(images.x.dtype, jnp.float32)
        p = jnp.broadcast_to(images.mask[..., None], (*images.mask.shape, self.out_features)).astype(dtype)
        return output_of({"fused": Map(p, jnp.zeros_like(p))}, images.mask, 1.0)
