"""DCGN (Nan et al., IEEE TMI 41:3799, 2022): a Gaussian mixture of an image's colours, fitted by a U-Net.

Unsupervised: no label is read. The softmax of a U-Net gives each pixel's responsibilities; from them follow, image by
image, the share, mean and covariance of each component's colours (one M-step); the network is trained to make the
image's pixels likely under that mixture. So it is what colour alone can say: a floor for weakly supervised models.

Of N real pixels x with responsibilities g_k, and N_k = sum g_k, for each channel d:

    mu_k     = sum g_k x / N_k + shift_k,   shift_kd = s lambda Sigma'_kdd / (std_d N_k)
    Sigma_k  = sum g_k (x - mu_k)(x - mu_k)^T / N_k
    alpha_k  = N_k / N
    loss     = -[mean log sum_k alpha_k N(x | mu_k, Sigma_k) - lambda sum |mu_kd - mean_d| / std_d]

with mean and std over the image, Sigma' (and mu') those of the step before, and s = -1 where mu'_kd is above mean_d,
else +1. Gradients flow through mu and Sigma, not through what is carried from the step before.

**Channels.** The paper models RGB; here channels are standardised. A change of scale and origin of each channel, by
factors a_d > 0, makes mu, the shift (Sigma' by a_d^2, std by a_d) and std scale as pixels do, leaves alpha, s and the
penalty as they are, and moves the log-likelihood by the constant sum log a_d. So the gradient, and all that is learned,
is the same whatever the channels' scale; `tests/pixel/test_dcgn.py` holds it to that.

**The penalty and one mixture for all.** Where all pixels share their responsibilities, every component has the
image's mean: all colours are one Gaussian. Of a small step away from there, to means apart by t, the likelihood gains
of the order of t^2, but the penalty costs of the order of lambda t: with lambda > 0 this is a minimum of its own, and
a network whose first maps are nearly flat falls into it and stays. With the paper's lambda small networks do so from
most seeds; a tenth of it leaves a trap so narrow that they start outside (`from_scratch`). Its mark is a loss that
stays at that of one Gaussian: d / 2 (1 + log 2 pi) + log det(covariance of the image) / 2.

Which component is foreground is not known to the model, and the paper chooses it with the mask, per image (see
`milkit.metrics.segmentation.oracle_dice`). Here "fused" is the component that `foreground` names, without a label.

Deviations:
    - Channels are standardised with ImageNet's numbers, so that the stain can be read from them (see above).
    - Of several images in a batch each has its own mixture; the loss is the mean over images, and what is carried is
      the mean of their statistics. The paper's batch is one image.
    - Before the first step there is no Sigma', and no shift.
    - The paper adds jitter to Sigma until its determinant is above 0. Here, in units of the image's own variances, as
      much is added to the diagonal as raises the lowest eigenvalue to 1e-5 (the rounding of 8-bit colours has about
      that variance), and nothing to a covariance that is wide enough.
    - In the shift N_k is at least one pixel: a component that nobody belongs to is not thrown out of the picture.
    - The image's logit is that of the generalised mean of "fused"; nothing is trained on it. Training keeps labels out
      only if epochs are not chosen by them either: `Train(select="last")`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn.images import masked
from milkit.nn.stains import haematoxylin, rgb_of
from milkit.pixel.maps import Map, output_of
from milkit.pixel.sides import check_head, exponent
from milkit.pixel.unet import UNet
from milkit.types import Batch, Images, Output

Foreground = Literal["haematoxylin", "darkest", "brightest"]
"""Which component is foreground, image by image. `haematoxylin`: whose pixels hold most of it: nuclei, and the
epithelium they stand densely in. `darkest`, `brightest`: of the lowest or highest mean of R, G and B; the brightest
are lumina and glass."""

SMALLEST_EIGENVALUE = 1e-5
"""Of a component's covariance, where the image's own variance is 1 in each channel."""
OUTSIDE = -1e30
"""Log-responsibility of padding."""


@dataclass(frozen=True)
class DCGN:
    """A U-Net that fits a mixture of colours to each image."""

    claims: ClassVar[frozenset[str]] = frozenset()
    """It learns no label, so no assumption on labels."""
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False
    normalisation: ClassVar[Literal["imagenet"]] = "imagenet"
    """Known numbers, from which RGB can be had back."""

    components: int = 3  # the paper's
    """Of the mixture."""
    penalty: float = 0.05  # the paper's lambda
    """Weight of the distance between the components' means and the image's; too large holds all pixels together."""
    foreground: Foreground = "haematoxylin"
    """Which component the map "fused" shows."""
    network: UNet = UNet()
    """Gives the responsibilities."""
    r: float | Literal["max"] = 4.0  # as the weakly supervised models beside which it stands
    """Exponent of the generalised mean that gives the image's logit; "max" is the maximum."""

    def __post_init__(self) -> None:
        check_fields(self, "model", components="[2, inf)", penalty="[0, inf)")
        check_head(self.r, (0.0, 0.0, 1.0))

    @classmethod
    def from_scratch(cls, **changes: Any) -> "DCGN":
        """A small U-Net that two cores can train, and a tenth of the paper's penalty; Adam at about 1e-2.

        The penalty, because the paper's holds small networks in one mixture for all pixels (see the module). The
        normalisation is over groups of channels: at one image a step, batch normalisation trains on each image's own
        statistics and predicts with running ones.
        """
        return replace(cls(network=UNet.gnni(width=(16, 32, 64)), penalty=0.005), **changes)

    @property
    def smallest_side(self) -> int:
        """Pixels of the smallest side of an image: the U-Net's."""
        return self.network.smallest_side

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """The share of the run's learning rate that the parameter at `path` of the module's state has: all of it."""
        return 1.0

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "DCGNModule":
        """Make the module.

        Raises:
            ConfigError: images that are not RGB, or several labels.
        """
        check_rgb("DCGN", in_channels, out_features)
        return DCGNModule(self, in_channels, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Minus the penalised log-likelihood of each image's pixels; labels are not read."""
        parts = {name: output.extras[name] for name in ("log_likelihood", "distance")}
        return self.penalty * parts["distance"] - parts["log_likelihood"], parts


def check_rgb(name: str, in_channels: int, out_features: int) -> None:
    """Refuse what a floor without labels cannot be asked.

    Raises:
        ConfigError: images that are not RGB, or several labels.
    """
    if in_channels != 3:
        raise ConfigError(f"{name} reads the stain from RGB, but images have {in_channels} channels; expected 3.")
    if out_features != 1:
        raise ConfigError(
            f"{name} learns no label, so it cannot tell {out_features} labels apart: its one map is of foreground. Run "
            "it with Binary(); its maps are measured against the same masks."
        )


class Mixture(NamedTuple):
    """A mixture of Gaussians for each image.

    Attributes:
        alpha: shares [b, k], which sum to 1.
        mu: means [b, k, d].
        sigma: covariances [b, k, d, d], before jitter.
    """

    alpha: Array
    mu: Array
    sigma: Array


class Fitted(NamedTuple):
    """What an M-step gives.

    Attributes:
        mixture: in the units of the pixels.
        log_likelihood: of a pixel, the mean over the image, [b].
        distance: sum over components and channels of |mu - mean| / std, [b].
        weight: share of a component's mass that each pixel holds, [b, n, k]; 0 on padding.
    """

    mixture: Mixture
    log_likelihood: Array
    distance: Array
    weight: Array


def m_step(
    logits: Float[Array, "b n k"],
    x: Float[Array, "b n d"],
    mask: Bool[Array, "b n"],
    mu_before: Float[Array, "k d"],
    sigma_before: Float[Array, "k d d"],
    penalty: float,
) -> Fitted:
    """The mixture of each image by its responsibilities, and how likely it makes the image's pixels; see above.

    Computed with each image's channels brought to mean 0 and variance 1, where float32 has digits to spare. An image
    without pixels (a filler) gives finite nonsense.

    Args:
        logits: of the responsibilities, a softmax over components.
        x: pixels.
        mask: True on real ones.
        mu_before, sigma_before: of the step before, in the units of `x`; no gradient flows through them.
        penalty: the paper's lambda.
    """
    mu_before, sigma_before = jax.lax.stop_gradient((mu_before, sigma_before))
    real = mask[..., None]
    count = jnp.maximum(mask.sum(1), 1).astype(x.dtype)
    mean = jnp.where(real, x, 0).sum(1) / count[:, None]
    variance = jnp.where(real, jnp.square(x - mean[:, None]), 0).sum(1) / count[:, None]
    std = jnp.sqrt(jnp.where(variance > 0, variance, 1))  # a flat channel stays 0
    z = jnp.where(real, (x - mean[:, None]) / std[:, None], 0)

    log_g = jnp.where(real, jax.nn.log_softmax(logits, -1), OUTSIDE)
    log_mass = jax.nn.logsumexp(log_g, 1)  # log N_k
    # g_k / N_k without the division, so that a component of no mass has a mean all the same
    weight = jnp.where(real, jnp.exp(log_g - log_mass[:, None]), 0)
    exact = jax.lax.Precision.HIGHEST
    side = jnp.where(mu_before > mean[:, None], -1.0, 1.0)
    spread = jnp.diagonal(sigma_before, axis1=-2, axis2=-1) / jnp.square(std)[:, None]
    shift = side * penalty * spread / jnp.maximum(jnp.exp(log_mass), 1.0)[..., None]
    mu = jnp.einsum("bnk,bnd->bkd", weight, z, precision=exact) + shift
    beside = z[:, :, None] - mu[:, None]
    sigma = jnp.einsum("bnkd,bnke->bkde", weight[..., None] * beside, beside, precision=exact)

    log_alpha = log_mass - jnp.log(count)[:, None]
    log_p = log_alpha[:, None] + log_normal(beside, with_jitter(sigma)) - jnp.log(std).sum(-1)[:, None, None]
    likelihood = jnp.where(mask, jax.nn.logsumexp(log_p, -1), 0).sum(1) / count
    scale = std[:, None, :, None] * std[:, None, None, :]
    mixture = Mixture(jnp.exp(log_alpha), mean[:, None] + mu * std[:, None], sigma * scale)
    return Fitted(mixture, likelihood, jnp.abs(mu).sum((1, 2)), weight)


def with_jitter(sigma: Float[Array, "b k d d"]) -> Float[Array, "b k d d"]:
    """Covariances with as much added to the diagonal as raises the lowest eigenvalue to `SMALLEST_EIGENVALUE`."""
    lowest = jnp.linalg.eigvalsh(jax.lax.stop_gradient(sigma))[..., 0]
    added = jnp.maximum(SMALLEST_EIGENVALUE - lowest, 0)
    return sigma + added[..., None, None] * jnp.eye(sigma.shape[-1], dtype=sigma.dtype)


def log_normal(beside: Float[Array, "b n k d"], sigma: Float[Array, "b k d d"]) -> Float[Array, "b n k"]:
    """The logarithm of a Gaussian's density at points given by their difference from its mean."""
    d = sigma.shape[-1]
    root = jnp.linalg.cholesky(sigma)
    eye = jnp.broadcast_to(jnp.eye(d, dtype=sigma.dtype), sigma.shape)
    inverse = jax.scipy.linalg.solve_triangular(root, eye, lower=True)
    white = jnp.einsum("bnkd,bked->bnke", beside, inverse, precision=jax.lax.Precision.HIGHEST)
    log_det = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
    return -0.5 * (jnp.square(white).sum(-1) + d * math.log(2 * math.pi)) - log_det[:, None]


class DCGNModule(nnx.Module):
    """See `DCGN`."""

    def __init__(self, config: DCGN, in_channels: int, out_features: int, *, rngs: nnx.Rngs):
        k, d = config.components, in_channels
        self.penalty, self.r, self.foreground = config.penalty, exponent(config.r), config.foreground
        self.network = config.network.build(in_channels, k, rngs=rngs)
        self.mu = nnx.BatchStat(jnp.zeros((k, d)))
        self.sigma = nnx.BatchStat(jnp.zeros((k, d, d)))
        self.alpha = nnx.BatchStat(jnp.full(k, 1 / k))

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """The map "fused" and the logit of its GM_r.

        `extras` also holds "components", all responsibilities [b, h, w, k], 0 on padding; "chosen", which of them is
        "fused", [b]; "log_likelihood" and "distance", what the objective is made of, [b].

        Raises:
            ConfigError: the canvas is smaller than the config's `smallest_side`.
        """
        mask = images.mask
        b, h, w = mask.shape
        wide = jnp.promote_types(images.x.dtype, jnp.float32)
        logits = self.network(images, deterministic=deterministic).extras["pixel_logits"].astype(wide)
        x = images.x.astype(wide)
        flat = logits.reshape(b, h * w, -1), x.reshape(b, h * w, -1), mask.reshape(b, -1)
        found = m_step(*flat, self.mu[...].astype(wide), self.sigma[...].astype(wide), self.penalty)
        if not deterministic:
            self._carry(found.mixture, mask.any((1, 2)))
        share = jax.nn.softmax(logits, -1)
        chosen = self._chosen(found.weight.reshape(b, h, w, -1), x)
        one = jnp.arange(share.shape[-1]) == chosen[:, None, None, None]
        p, q = (jnp.where(which, share, 0).sum(-1, keepdims=True) for which in (one, ~one))
        output = output_of({"fused": Map(masked(p, mask), masked(q, mask))}, mask, self.r)
        beside = {
            "components": masked(share, mask),
            "chosen": chosen,
            "log_likelihood": found.log_likelihood,
            "distance": found.distance,
        }
        return replace(output, extras=output.extras | beside)

    def _carry(self, mixture: Mixture, real: Bool[Array, "b"]) -> None:
        """Keep the mean of the images' statistics for the next step; a batch of fillers changes nothing."""
        share = real / jnp.maximum(real.sum(), 1)
        for kept, new in ((self.alpha, mixture.alpha), (self.mu, mixture.mu), (self.sigma, mixture.sigma)):
            mean = jnp.tensordot(share.astype(new.dtype), jax.lax.stop_gradient(new), 1)
            kept[...] = jnp.where(real.any(), mean, kept[...]).astype(kept[...].dtype)

    def _chosen(self, weight: Float[Array, "b h w k"], x: Float[Array, "b h w 3"]) -> Int[Array, "b"]:
        """The component that is foreground."""
        rgb = rgb_of(x)
        if self.foreground == "haematoxylin":
            score = haematoxylin(rgb)
        else:
            score = rgb.mean(-1) * (1 if self.foreground == "brightest" else -1)
        return jnp.argmax(jnp.einsum("bhwk,bhw->bk", weight, score), -1).astype(np.int32)
