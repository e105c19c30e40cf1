"""DTFD-MIL: double-tier feature distillation (Zhang et al., CVPR 2022, arXiv:2203.12081).

A slide's instances are split at random into pseudo-bags. Tier 1 is a gated-attention model (Ilse et al. 2018) that
reads each pseudo-bag with the slide's label. What it distils of each of them is the bag of tier 2, another such model,
whose logits are the slide's. Distilled is, of each pseudo-bag:

    AFS      its attention-pooled feature;
    MaxS     the instances most like the positive class, by the class activation W a_i h_i of tier 1;
    MaxMinS  these and those least like it;
    MAS      the instances of highest attention.

Read in the authors' code: an instance's class activation is that of its attention-weighted feature, without bias;
"positive" is the last class; a pseudo-bag smaller than what is to be selected gives all it has, and MaxMinS then has
instances twice; the two tiers have an optimiser each, and tier 2's gradient never reaches tier 1. Here both tiers train
on one sum of losses whose gradient is theirs: tier 2 trains on features that carry no gradient (`Output.logits` do, for
attribution).

At inference the authors split at random too. Here, so that a slide has one answer, which does not hang on the order in
which its patches are stored: instances are ordered by their projection onto one fixed direction, drawn from key 0, and
dealt out in turn (`fixed_value`). Neighbours on that line go to different pseudo-bags, so these resemble each other a
little more than in training.

Deviations:
    - A slide of fewer instances than pseudo-bags has fewer pseudo-bags; the authors train on the empty ones too.
    - Selection goes by the log-odds of the positive class, not by its softmax: the same order, but where activations
      are small (attention over 100,000 patches) the softmax rounds to ties.
    - With one logit the positive class is its sign. With more than two classes "the last class is the positive one" is
      the authors' choice and may not be yours; AFS and MAS do not ask for a class.
    - No gradient clipping here (the authors clip each network at norm 5): it is the optimiser's.
    - The authors can average the slide's probabilities over several splits (their default is one); not offered.

`compat="mil_lab"` is MIL-Lab's own version (commit dfc3c17), which differs in substance: neither attention has a
softmax (raw scores weigh the features), the projection has a bias, tier 2 trains tier 1 too, and the loss is .7 of the
slide's and .3 of the pseudo-bags'. Its `Output.attention` is None, as the weights are none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import AttentionPool, dropout_or_none, linear, masked_lse, masked_softmax
from milkit.nn.projection import Projection
from milkit.nn.running import weighted_sum
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class DTFD:
    """Two tiers of gated attention: over instances in pseudo-bags, then over what is distilled of these."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    distil: Literal["AFS", "MaxS", "MaxMinS", "MAS"] = "AFS"  # the authors' default
    """What tier 2 reads of each pseudo-bag."""
    pseudo_bags: int = 4  # the authors' code
    """Into how many a slide is split."""
    selected: int = 1  # the authors' code: total_instance / numGroup
    """Instances taken of each pseudo-bag by MaxS and MAS; MaxMinS takes so many of either end."""
    width: int = 512  # the authors' code
    """Of the projected instances."""
    residual_blocks: int = 0  # the authors' code
    """After the projection."""
    attention: int = 128  # the authors' code
    """Width of V and U in both attentions."""
    dropout: float = 0.0  # the authors' code
    """Rate on what each tier's classifier reads."""
    compat: Literal["correct", "mil_lab"] = "correct"
    """`mil_lab`: as that library has it; see the module's docstring."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self,
            "model",
            pseudo_bags=some,
            selected=some,
            width=some,
            attention=some,
            residual_blocks="[0, inf)",
            dropout="[0, 1)",
        )

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "DTFDModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return DTFDModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Tier 2's loss on the slide and the mean loss of its pseudo-bags, which bear the slide's label."""
        extras = output.extras
        tier2 = bag_loss(extras["tier2_logits"])
        each, there = jax.vmap(bag_loss, 1, 1)(extras["pseudo_bag_logits"]), extras["pseudo_bag_sizes"] > 0
        tier1 = jnp.where(there, each, 0).sum(1) / jnp.maximum(there.sum(1), 1).astype(each.dtype)
        a, b = (0.3, 0.7) if self.compat == "mil_lab" else (1.0, 1.0)
        return a * tier1 + b * tier2, {"tier1": tier1, "tier2": tier2}


def fixed_value(bags: Bags) -> Float[Array, "b n"]:
    """What instances are ordered by at inference: their projection onto a direction drawn from key 0.

    It moves smoothly with the features, so rounding can only swap instances that all but tie.
    """
    wide = jnp.promote_types(bags.x.dtype, jnp.float32)
    direction = jax.random.normal(jax.random.key(0), (bags.x.shape[-1],), jnp.float32)
    return (bags.x.astype(wide) * direction.astype(wide)).sum(-1)


def pseudo_bags_of(value: Float[Array, "b n"], mask: Bool[Array, "b n"], groups: int) -> Int[Array, "b n"]:
    """Pseudo-bag of each instance, dealt out in turn in the order of `value`; -1 on padding.

    Sizes differ by 1 at most, the first being the larger ones.
    """
    rank = jnp.argsort(jnp.argsort(jnp.where(mask, value, jnp.inf), axis=1), axis=1)
    return jnp.where(mask, rank % groups, -1)


class DTFDModule(nnx.Module):
    """See `DTFD`."""

    def __init__(self, config: DTFD, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config, width = config, config.width
        raw = config.compat == "mil_lab"
        self.projection = Projection(
            in_features, width, rngs=rngs, residual_blocks=config.residual_blocks, use_bias=raw
        )
        self.tier1 = AttentionPool(width, config.attention, rngs=rngs)
        self.classifier1 = linear(width, out_features, rngs=rngs)
        self.tier2 = AttentionPool(width, config.attention, rngs=rngs)
        self.classifier2 = linear(width, out_features, rngs=rngs)
        # without a softmax the bias of a score matters
        self.bias1 = nnx.Param(jnp.zeros(1)) if raw else None
        self.bias2 = nnx.Param(jnp.zeros(1)) if raw else None
        self.dropout = dropout_or_none(config.dropout)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits of tier 2; instance logits are tier 1's class activations; see `on_pseudo_bags` for the rest."""
        if not deterministic and rngs is None:
            raise ConfigError("DTFD splits bags at random in training; pass rngs=nnx.Rngs(key), or deterministic=True.")
        key = None if deterministic or rngs is None else rngs.dropout()
        value = fixed_value(bags) if key is None else jax.random.uniform(key, bags.mask.shape)
        group = pseudo_bags_of(value, bags.mask, self.config.pseudo_bags)
        return self.on_pseudo_bags(bags, group, None if key is None else jax.random.fold_in(key, 1))

    def on_pseudo_bags(self, bags: Bags, group: Int[Array, "b n"], key: Any = None) -> Output:
        """The model on a given split.

        Args:
            bags: a padded batch.
            group: pseudo-bag of each instance, from 0; -1 on padding.
            key: draws the dropout; None is deterministic.

        Returns:
            An output whose `attention` is the weight of each instance in the slide's embedding (one head), and in
            whose `extras` are `pseudo_bag` (`group` again), `pseudo_bag_sizes` [b, g], `pseudo_bag_logits` [b, g, c],
            `tier1_attention` [b, n] (within the pseudo-bag), `distilled` [b, m, e] and which of these there are,
            `distilled_mask`, `tier2_attention` [b, m], and `tier2_logits`, to train on.
        """
        groups = self.config.pseudo_bags
        member = group[..., None] == jnp.arange(groups)
        h = self.projection(bags.x)
        scores = self._scores(self.tier1, self.bias1, h)
        each = jnp.broadcast_to(scores, member.shape)
        raw = self.config.compat == "mil_lab"
        weight = jnp.where(member, each, 0) if raw else jax.nn.softmax(each, axis=1, where=member)
        pooled = weighted_sum(weight, h)
        sizes, own = member.sum(1), weight.sum(2)
        activation = jnp.einsum("bne,ec->bnc", h, self.classifier1.kernel[...]) * own[..., None]
        rows: Int[Array, "b m"] | None = None
        distilled, there = pooled, sizes > 0  # AFS
        if self.config.distil != "AFS":
            by = scores[..., 0] if self.config.distil == "MAS" else _log_odds(activation)
            rows, there = self._select(by, member)
            distilled = jnp.take_along_axis(h, rows[..., None], axis=1)
        keys = (None, None) if key is None else jax.random.split(key)
        slide, weight2, logits = self._tier2(distilled, there, keys[1])
        _, _, stopped = self._tier2(jax.lax.stop_gradient(distilled), there, keys[1])
        return Output(
            logits,
            attention=None if raw else _in_slide(rows, weight, weight2)[..., None],
            instance_logits=jnp.where(bags.mask[..., None], activation, 0),
            embedding=slide,
            extras={
                "pseudo_bag": group,
                "pseudo_bag_sizes": sizes,
                "pseudo_bag_logits": self.classifier1(self._dropped(pooled, keys[0])),
                "tier1_attention": own,
                "distilled": distilled,
                "distilled_mask": there,
                "tier2_attention": weight2,
                "tier2_logits": logits if raw else stopped,
            },
        )

    def _scores(self, pool: AttentionPool, bias: Any, h: Float[Array, "b m e"]) -> Float[Array, "b m 1"]:
        scores = pool.scores(h)
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        return scores if bias is None else scores + bias[...]

    def _dropped(self, z: Float[Array, "*shape e"], key: Any) -> Float[Array, "*shape e"]:
        if self.dropout is None or key is None:
            return z
        return self.dropout(z, deterministic=False, rngs=nnx.Rngs(key))

    def _select(
        self, by: Float[Array, "b n"], member: Bool[Array, "b n g"]
    ) -> tuple[Int[Array, "b m"], Bool[Array, "b m"]]:
        """Rows of the instances taken of each pseudo-bag, one pseudo-bag after the other, and which there are."""
        k, sizes = min(self.config.selected, by.shape[1]), member.sum(1)[..., None]
        # what follows from an order has no gradient
        value, of_group = jax.lax.stop_gradient(by)[:, None], member.swapaxes(1, 2)
        rows = jax.lax.top_k(jnp.where(of_group, value, -jnp.inf), k)[1]
        there = jnp.broadcast_to(jnp.arange(k) < sizes, rows.shape)
        if self.config.distil == "MaxMinS":
            low = jax.lax.top_k(jnp.where(of_group, -value, -jnp.inf), k)[1]
            # from high to low, as the authors list them
            rows, there = (jnp.concatenate([a, b[..., ::-1]], -1) for a, b in ((rows, low), (there, there)))
        return rows.reshape(len(by), -1), there.reshape(len(by), -1)

    def _tier2(
        self, distilled: Float[Array, "b m e"], there: Bool[Array, "b m"], key: Any
    ) -> tuple[Float[Array, "b e"], Float[Array, "b m"], Float[Array, "b c"]]:
        """The slide's embedding, the weights of what was distilled, and the logits."""
        scores = self._scores(self.tier2, self.bias2, distilled)
        raw = self.config.compat == "mil_lab"
        weight = jnp.where(there[..., None], scores, 0) if raw else masked_softmax(scores, there)
        slide = weighted_sum(weight, distilled)[:, 0]
        return slide, weight[..., 0], self.classifier2(self._dropped(slide, key))


def _log_odds(activation: Float[Array, "b n c"]) -> Float[Array, "b n"]:
    """Of the last class against the others, up to a constant; of one logit, itself."""
    last, others = activation[..., -1], activation[..., :-1]
    if not others.shape[-1]:
        return last
    flat = others.reshape(-1, others.shape[-1], 1)  # the mean, not the sum, of exponentials keeps digits near 0
    return last - masked_lse(flat, jnp.ones(flat.shape[:2], bool), 1.0).reshape(last.shape)


def _in_slide(
    rows: Int[Array, "b m"] | None, weight: Float[Array, "b n g"], weight2: Float[Array, "b m"]
) -> Float[Array, "b n"]:
    """Weight of each instance in the slide's embedding; an instance selected twice has both."""
    if rows is None:
        return (weight * weight2[:, None]).sum(2)
    bag = jnp.arange(len(rows))[:, None]
    return jnp.zeros(weight.shape[:2], weight2.dtype).at[bag, rows].add(weight2)
