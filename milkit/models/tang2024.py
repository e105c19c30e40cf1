"""RRT-MIL: the re-embedded regional transformer (Tang et al., CVPR 2024, arXiv:2402.17228).

Features of a frozen encoder are embedded anew before attention pools them. A bag is laid out as a square, in the order
of its instances, and cut into regions x regions squares. Regional attention (R-MSA) is self-attention within each of
them, with a convolution of the attention scores along the queries for positions (EPEG). Cross-region attention (CR-MSA)
sums each region up in a few representatives, lets those of all regions attend to each other, and hands back what they
found. A layer is x + attention(norm(x)), with `feed_forward` followed by x + MLP(norm(x)).

`compat` says what is done with the places of the square that hold no instance, which are at its end:

    correct   They take no part: not in attention, not in a representative, not in a minimum or maximum. Regions without
              an instance are not attended to.
    authors   As in the authors' code: they are zero vectors after the layer norm, which take part in all of that. With
              positions="ppeg" a bag of up to 36 instances is laid out anew in rows of 7.

Read in the authors' code, and kept in both: a representative's share of an instance is scaled to run from 0 to 1 within
a region, and is 0 where all of a region's shares are equal. So CR-MSA adds nothing at all to a region of one instance;
with the authors' 8 regions a side that is every bag of up to 64 instances, for which `cross_regions` should be smaller.
Of two instances in a region one gets all of the shares' range and the other nothing, so that in very small regions a
change of rounding can turn a result over (bfloat16); with a dozen in a region it does not.
CR-MSA has 8 regions a side in the authors' code whatever R-MSA has, and no EPEG.

Memory is linear in the instances but for the scores of the regions that are at hand: regions x regions of them hold
(n / regions^2)^2 scores a head, and as many regions are computed at once as fit into `AT_ONCE` numbers.

Deviations:
    - Keys have no bias, nor has EPEG: a softmax takes both away. EPEG convolves the queries, which is the same as
      convolving the scores along the queries.
    - Kernels start Glorot uniform and biases at 0, where the authors draw normals of the same variance.
    - Left out: fixed region sizes, the fallback to one region, convolutions in two dimensions or of the values, and
      drop path, all of which the authors have for ablations.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import dropout_or_none, linear, masked_softmax
from milkit.nn.bias_free_attention import Activation, BiasFreeAttention, activated
from milkit.nn.depthwise import depthwise
from milkit.nn.instance_ppeg import on_instances
from milkit.nn.layer_norm import layer_norm
from milkit.nn.ppeg import PPEG
from milkit.nn.query_attention import check_heads
from milkit.nn.regions import Regions, from_regions, regions_of, to_regions
from milkit.nn.running import weighted_sum
from milkit.types import Bags, Output

AT_ONCE = 1 << 24
"""Attention scores held at a time, 4 bytes each."""
_TINY = 1e-8
"""The authors', added to the range of a representative's shares."""


@dataclass(frozen=True)
class RRT:
    """Instances are embedded anew by attention within and across regions, then pooled by attention."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True  # regions and EPEG go by the order of instances
    min_instances: ClassVar[int] = 1

    width: int = 512  # the authors'
    """Of the embedded instances."""
    activation: Literal["relu", "gelu"] = "relu"  # the authors' default
    """After the first projection."""
    dropout: float = 0.25  # the authors'
    """Rate after the first projection."""
    regions: int = 8  # the authors'
    """Regions a side in R-MSA."""
    layers: int = 1  # the authors' `n_layers` counts CR-MSA, and is 2
    """Layers of R-MSA before the one of CR-MSA."""
    heads: int = 8  # the authors'
    """Of R-MSA; they share out `width`."""
    kernel: int = 15  # the authors' default; 9 to 21 in their runs
    """Scores that EPEG sees, odd; 0 leaves it out."""
    cross_regions: int = 8  # the authors', for bags of thousands
    """Regions a side in CR-MSA."""
    cross_heads: int = 8  # the authors' default; 1 in some of their runs
    """Of CR-MSA."""
    representatives: int = 3  # the authors' default; 1 to 5 in their runs
    """Vectors that sum up a region."""
    cross_mlp: bool = False  # the authors' default
    """Whether the shares of representatives come from two layers with tanh instead of one."""
    shortcut: bool = False  # the authors' default; on for some of their features
    """Whether the projected instances are added to what all layers give."""
    feed_forward: bool = False  # the authors' default
    """Whether an MLP of four times the width follows each attention."""
    attention_dropout: float = 0.1  # the authors'
    """Rate after each attention, and in the MLPs."""
    positions: Literal["none", "ppeg"] = "none"  # the authors'
    """ "ppeg": convolutions over the square of instances before the first layer."""
    attention: int = 128  # the authors'
    """Width of the pooling's attention."""
    pool_activation: Activation = "relu"  # the authors' default
    """In it."""
    gated: bool = False  # the authors' default
    """Whether it is gated."""
    compat: Literal["correct", "authors"] = "correct"
    """Whether the square's empty places take part."""

    def __post_init__(self) -> None:
        some, rate = "[1, inf)", "[0, 1)"
        check_fields(
            self, "model", width=some, dropout=rate, regions=some, layers="[0, inf)", heads=some, kernel="[0, inf)",
            cross_regions=some, cross_heads=some, representatives=some, attention_dropout=rate, attention=some,
        )  # fmt: skip
        check_heads(self.width, self.heads)
        check_heads(self.width, self.cross_heads)
        if self.kernel and self.kernel % 2 == 0:
            raise ConfigError(f"kernel={self.kernel} has no middle; choose an odd number, or 0 for none.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "RRTModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return RRTModule(self, in_features, out_features, rngs=rngs)


class SelfAttention(nnx.Module):
    """Multi-head self-attention, with EPEG where there is a kernel."""

    def __init__(self, width: int, heads: int, kernel: int, *, rngs: nnx.Rngs):
        self.heads, self.kernel = heads, kernel
        self.qkv = linear(width, 3 * width, rngs=rngs, init="glorot", use_bias=False)
        self.bias = nnx.Param(jnp.zeros((2, width)))  # of queries and values
        self.out = linear(width, width, rngs=rngs, init="glorot")
        if kernel:
            bound = math.sqrt(6 / (kernel * (1 + heads)))  # Glorot's, as torch counts a grouped convolution's fans
            self.taps = nnx.Param(jax.random.uniform(rngs.params(), (kernel, heads), jnp.float32, -bound, bound))

    def __call__(
        self, x: Float[Array, "g p d"], keys: Bool[Array, "g p"], queries: Bool[Array, "g p"]
    ) -> Float[Array, "g p d"]:
        """What each place gathers from those that are keys; EPEG sees those that are queries."""
        g, p, _ = x.shape
        at_once = max(1, AT_ONCE // (self.heads * p * p))
        if g <= at_once:
            return self._attend(x, keys, queries)

        def one(of: Any) -> Float[Array, "p d"]:
            return self._attend(*(a[None] for a in of))[0]

        # computed again for the gradient, so that neither direction holds all scores
        return jax.lax.map(jax.checkpoint(one), (x, keys, queries), batch_size=at_once)

    def _attend(
        self, x: Float[Array, "g p d"], keys: Bool[Array, "g p"], queries: Bool[Array, "g p"]
    ) -> Float[Array, "g p d"]:
        q, k, v = jnp.split(self.qkv(x), 3, -1)
        bias = self.bias[...].astype(x.dtype)
        scale = (x.shape[-1] // self.heads) ** -0.5
        q, v = jnp.where(queries[..., None], (q + bias[0]) * scale, 0), v + bias[1]
        if self.kernel:
            q = q + self._along(q)
        q, k, v = (a.reshape(*a.shape[:2], self.heads, -1) for a in (q, k, v))
        wide = jnp.promote_types(q.dtype, jnp.float32)
        energy = jnp.einsum("gqhe,gkhe->ghqk", q, k, preferred_element_type=wide)
        weight = jax.nn.softmax(energy, where=keys[:, None, None])
        found = jnp.einsum("ghqk,gkhe->gqhe", weight.astype(v.dtype), v)
        return self.out(found.reshape(x.shape))

    def _along(self, q: Float[Array, "g p d"]) -> Float[Array, "g p d"]:
        """Queries convolved along their sequence, a kernel a head."""
        half = self.kernel // 2
        taps = jnp.repeat(self.taps[...].astype(q.dtype), q.shape[-1] // self.heads, 1)
        wide = jnp.pad(q, ((0, 0), (half, half), (0, 0)))
        return depthwise(wide[:, None], taps[None, :, None], 1, (0, 0))[:, 0]


class Regional(nnx.Module):
    """R-MSA."""

    def __init__(self, config: RRT, *, rngs: nnx.Rngs):
        self.regions, self.authors = config.regions, config.compat == "authors"
        self.inner = SelfAttention(config.width, config.heads, config.kernel, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b n d"]:
        """What each instance gathers from its region; 0 on padding."""
        regions = regions_of(mask, self.regions)
        takes_part = _taking_part(regions, self.authors)
        cells = to_regions(x, regions)
        flat = cells.reshape(-1, *cells.shape[2:])
        takes_part = takes_part.reshape(flat.shape[:2])
        return from_regions(self.inner(flat, takes_part, takes_part).reshape(cells.shape), regions)


def _taking_part(regions: Regions, authors: bool) -> Bool[Array, "b w p"]:
    return regions.inside if authors else regions.real


class CrossRegional(nnx.Module):
    """CR-MSA."""

    def __init__(self, config: RRT, *, rngs: nnx.Rngs):
        width, k = config.width, config.representatives
        self.regions, self.authors = config.cross_regions, config.compat == "authors"
        self.inner = SelfAttention(width, config.cross_heads, 0, rngs=rngs)
        narrow = max(1, width // 4)
        self.first = linear(width, narrow, rngs=rngs, init="glorot", use_bias=False) if config.cross_mlp else None
        if config.cross_mlp:
            self.shares = linear(narrow, k, rngs=rngs, init="glorot", use_bias=False)
        else:  # the authors' start, which takes the representatives for the fan-in
            self.shares = linear(width, k, rngs=rngs, use_bias=False)
            self.shares.kernel[...] = jax.random.uniform(rngs.params(), (width, k), minval=-1, maxval=1) / math.sqrt(k)

    def __call__(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b n d"]:
        """What each instance is handed of what its region's representatives found; 0 on padding."""
        regions = regions_of(mask, self.regions)
        here = _taking_part(regions, self.authors)[..., None]
        cells = to_regions(x, regions)
        logits = self.shares(cells if self.first is None else jnp.tanh(self.first(cells)))
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        summed = jax.nn.softmax(logits, axis=2, where=here)
        found = jnp.einsum("bwpd,bwpk->bkwd", cells, summed.astype(cells.dtype))
        b, k, w, d = found.shape
        there = jnp.broadcast_to(here.any((2, 3))[:, None], (b, k, w)).reshape(b * k, w)
        found = self.inner(found.reshape(b * k, w, d), there, there).reshape(b, k, w, d)
        handed = jax.nn.softmax(logits, axis=3) * _from_0_to_1(logits, here)
        return from_regions(jnp.einsum("bkwd,bwpk->bwpd", found, handed.astype(found.dtype)), regions)


def _from_0_to_1(x: Float[Array, "b w p k"], here: Bool[Array, "b w p 1"]) -> Float[Array, "b w p k"]:
    """Each region's values scaled by their minimum and maximum; 0 where these are equal, and where nothing is."""
    some = here.any(2, keepdims=True)
    least = jnp.where(some, jnp.where(here, x, jnp.inf).min(2, keepdims=True), 0)
    most = jnp.where(some, jnp.where(here, x, -jnp.inf).max(2, keepdims=True), 0)
    span = most - least
    # a span of 0 would give the gradient 1 / _TINY wherever instances are alike
    return jnp.where(here & (span > 0), (x - least) / jnp.where(span > 0, span + _TINY, 1), 0)


class Layer(nnx.Module):
    """x + attention(norm(x)), then perhaps x + MLP(norm(x))."""

    def __init__(self, config: RRT, attention: Regional | CrossRegional, *, rngs: nnx.Rngs):
        width = config.width
        self.norm, self.attention = layer_norm(width, rngs), attention
        self.dropout = dropout_or_none(config.attention_dropout)
        self.norm2 = layer_norm(width, rngs) if config.feed_forward else None
        sizes = [(width, 4 * width), (4 * width, width)] if config.feed_forward else []
        self.mlp = nnx.List([linear(a, c, rngs=rngs, init="glorot") for a, c in sizes])

    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], *, deterministic: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
        """The instances, and what attention added to them."""

        def drop(h: Array) -> Array:
            return h if self.dropout is None else self.dropout(h, deterministic=deterministic, rngs=rngs)

        found = drop(self.attention(self.norm(x), mask).astype(x.dtype))
        x = x + found
        if self.norm2 is not None:
            x = x + drop(self.mlp[1](drop(activated(self.mlp[0](self.norm2(x)), "gelu"))))
        return x, found


class RRTModule(nnx.Module):
    """See `RRT`."""

    def __init__(self, config: RRT, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config, width = config, config.width
        self.encoder = linear(in_features, width, rngs=rngs, init="glorot")
        self.dropout = dropout_or_none(config.dropout)
        self.ppeg = PPEG(width, rngs=rngs) if config.positions == "ppeg" else None
        attentions: list[Any] = [Regional(config, rngs=rngs) for _ in range(config.layers)]
        attentions.append(CrossRegional(config, rngs=rngs))
        self.layers = nnx.List([Layer(config, attention, rngs=rngs) for attention in attentions])
        self.norm = layer_norm(width, rngs)
        self.pool = BiasFreeAttention(
            width, config.attention, rngs=rngs, activation=config.pool_activation, gated=config.gated, init="glorot"
        )
        self.classifier = linear(width, out_features, rngs=rngs, init="glorot")

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """All fields of `Output`; weighted by attention, the logits of re-embedded instances sum to the bag's."""
        return self.read(self.stages(bags, deterministic=deterministic, rngs=rngs), bags.mask)

    def read(self, stages: dict[str, Float[Array, "b n d"]], mask: Bool[Array, "b n"]) -> Output:
        """What `stages` say of the bags."""
        h = stages["encoded"]
        attention = masked_softmax(self.pool(h), mask)
        embedding = weighted_sum(attention, h)[:, 0]
        each = jnp.where(mask[..., None], self.classifier(h), 0)
        return Output(self.classifier(embedding), attention=attention, instance_logits=each, embedding=embedding)

    def stages(
        self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> dict[str, Float[Array, "b n d"]]:
        """What each part gives: "projected"; "attention0", "layer0" and so on, CR-MSA's the last; "encoded"."""
        x = activated(self.encoder(bags.x), self.config.activation)
        if self.dropout is not None:
            x = self.dropout(x, deterministic=deterministic, rngs=rngs)
        found = {"projected": x}
        start = x
        if self.ppeg is not None:
            x = on_instances(self.ppeg, x, bags.mask, 7 if self.config.compat == "authors" else 1)
        for i, layer in enumerate(self.layers):
            x, found[f"attention{i}"] = layer(x, bags.mask, deterministic=deterministic, rngs=rngs)
            found[f"layer{i}"] = x
        found["encoded"] = self.norm(x + start if self.config.shortcut else x)
        return found
