"""PS-DeVCEM: attention over the frames of a video that a residual LSTM has read, with self-supervision inside the video
(Mohammed, Farup, Pedersen, Yildirim & Hovde, CVIU 201:103062, 2020, arXiv:2011.12957).

Frames come in order as feature vectors (the paper's are a ResNet-50's). They are projected, h = ReLU(linear(x)); blocks
h + LSTM(h), bidirectional; temporal attention a = softmax(w' tanh(V h)); the weighted mean of the frames goes through
two layers to the logits, one a disease (the task's `MultiLabel`; one logit or classes will do as well).

Self-supervision: a frame whose attention is above 1 / (frames of its video) is taken for one that shows something, all
others for ones that do not, and the two groups are pushed apart. No label is used, and no gradient flows through the
grouping. `objective` adds `weight` times that loss to the video's:
    - "network": a two-layer network says of each frame which group it is in; binary cross-entropy, mean over frames.
    - "cosine": max(0, s - margin), with s the mean cosine similarity of all pairs of a frame of one group and a frame
      of the other. It costs frames times width, as the mean over pairs is the product of two mean unit vectors.

Deviations: what was at hand of the paper does not give its sizes, nor where what is added in a block, so that
    - widths, two blocks, the sum around each LSTM, the projection, the weight and the margin are our choices;
    - the margin acts on the mean over pairs, not on each pair;
    - "above 1 / frames" means by more than rounding; a video of which no frame is, has no second group, and adds 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import AttentionPool, dropout_or_none, linear, masked_mean
from milkit.nn.lstm import BidirectionalLSTM
from milkit.nn.order import as_given
from milkit.types import Bags, Batch, Output

ROUNDING = 1e-5
"""How far above 1 / frames, relative to it, an attention counts as above."""


@dataclass(frozen=True)
class PSDeVCEM:
    """Residual bidirectional LSTM blocks over frames in order, attention pooling, self-supervision of the frames."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True  # frames are read in their order
    min_instances: ClassVar[int] = 1

    width: int = 256  # ours
    """Of a projected frame, an even number: each direction of an LSTM has half of it."""
    blocks: int = 2  # ours
    """Residual LSTM blocks."""
    attention: int = 128  # as the attention of Ilse et al. on images
    """Width of V."""
    head: int = 128  # ours
    """Width of the hidden layer between the weighted mean and the logits, and of that of the self-supervision."""
    supervision: Literal["network", "cosine", "none"] = "network"
    """How frames of high and of low attention are told apart in training."""
    weight: float = 0.1  # ours
    """Of the self-supervision beside the video's loss."""
    margin: float = 0.0  # ours: from a right angle on, groups are far enough apart
    """Cosine similarity that costs nothing, with supervision="cosine"; in [-1, 1)."""
    dropout: float = 0.0
    """Rate after the projection."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", width="[2, inf)", blocks=some, attention=some, head=some, weight="[0, inf)",
            margin="[-1, 1)", dropout="[0, 1)",
        )  # fmt: skip
        if self.width % 2:
            raise ConfigError(f"width={self.width} cannot be shared by two directions; choose an even number.")

    @property
    def no_gradient(self) -> frozenset[str]:
        """Without a weight the self-supervision's network learns nothing."""
        if self.supervision != "network" or self.weight:
            return frozenset()
        return frozenset(f"frames/{layer}/{leaf}" for layer in ("hidden", "out") for leaf in ("kernel", "bias"))

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "PSDeVCEMModule":
        """Make the module for frames of `in_features` and `out_features` logits."""
        return PSDeVCEMModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The video's loss and the weighted self-supervision."""
        video = bag_loss(output.logits)
        if self.supervision == "none":
            return video, {"video": video}
        assert output.attention is not None
        assert isinstance(batch.bags, Bags)
        mask = batch.bags.mask
        high = above_average(jax.lax.stop_gradient(output.attention[..., 0]), mask)
        if self.supervision == "network":
            apart = told_apart(output.extras["frame_logits"], high, mask)
        else:
            apart = jax.nn.relu(similarity_of_groups(output.extras["frames"], high, mask) - self.margin)
            apart = jnp.where(high.any(1), apart, 0)
        return video + self.weight * apart, {"video": video, "self_supervision": apart}


def above_average(attention: Float[Array, "b n"], mask: Bool[Array, "b n"]) -> Bool[Array, "b n"]:
    """Which frames have more than 1 / (frames of the video) of its attention; never all of them."""
    return mask & (attention * mask.sum(1, keepdims=True) > 1 + ROUNDING)


def told_apart(logits: Float[Array, "b n"], high: Bool[Array, "b n"], mask: Bool[Array, "b n"]) -> Float[Array, "b"]:
    """Mean binary cross-entropy over a video's frames; 0 where all are in one group."""
    each = jax.nn.softplus(jnp.where(high, -logits, logits))
    return jnp.where(high.any(1), masked_mean(each[..., None], mask)[:, 0], 0)


def similarity_of_groups(
    h: Float[Array, "b n e"], high: Bool[Array, "b n"], mask: Bool[Array, "b n"]
) -> Float[Array, "b"]:
    """Mean cosine similarity of all pairs of a frame of high and a frame of low attention; 0 if there is no pair."""
    square = jnp.square(h.astype(jnp.promote_types(h.dtype, jnp.float32))).sum(-1, keepdims=True)
    seen = square > 0  # a frame without length has no direction
    unit = jnp.where(seen, h * jax.lax.rsqrt(jnp.where(seen, square, 1)), 0)
    return (masked_mean(unit, high) * masked_mean(unit, mask & ~high)).sum(-1)


class TwoLayers(nnx.Module):
    """Linear, ReLU, linear."""

    def __init__(self, in_features: int, width: int, out_features: int, *, rngs: nnx.Rngs):
        self.hidden = linear(in_features, width, rngs=rngs)
        self.out = linear(width, out_features, rngs=rngs)

    def __call__(self, h: Float[Array, "*shape d"]) -> Float[Array, "*shape c"]:
        """Map the last axis."""
        return self.out(jax.nn.relu(self.hidden(h)))


class PSDeVCEMModule(nnx.Module):
    """See `PSDeVCEM`."""

    def __init__(self, config: PSDeVCEM, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        width = config.width
        self.encoder = linear(in_features, width, rngs=rngs)
        self.dropout = dropout_or_none(config.dropout)
        self.blocks = nnx.List([BidirectionalLSTM(width, width // 2, rngs=rngs) for _ in range(config.blocks)])
        self.pool = AttentionPool(width, config.attention, gated=False, rngs=rngs)
        self.classifier = TwoLayers(width, config.head, out_features, rngs=rngs)
        self.frames = TwoLayers(width, config.head, 1, rngs=rngs) if config.supervision == "network" else None

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """All fields of `Output`; a frame's logits are what the classifier says of that frame as the LSTM read it.

        For the objective, extras hold "frames" [b, n, e] and, with supervision="network", "frame_logits" [b, n].
        """
        h = jax.nn.relu(self.encoder(bags.x))
        if self.dropout is not None:
            h = self.dropout(h, deterministic=deterministic, rngs=rngs)
        order, count = as_given(bags.mask), bags.mask.sum(1)
        h = order.read(h)
        for block in self.blocks:
            h = h + block(h, count)
        h = order.undo(h)
        pooled, attention = self.pool(h, bags.mask)
        embedding = pooled[:, 0]
        extras = {"frames": h}
        if self.frames is not None:
            extras["frame_logits"] = self.frames(h)[..., 0]
        return Output(
            self.classifier(embedding),
            attention=attention,
            instance_logits=jnp.where(bags.mask[..., None], self.classifier(h), 0),
            embedding=embedding,
            extras=extras,
        )
