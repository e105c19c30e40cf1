"""Nystrom self-attention: every token attends to every other through a few landmarks, in memory linear in tokens.

With queries Q, keys K and values V of a head, landmarks P of the queries and L of the keys (means over m segments of
the sequence), and s a softmax over the last axis, the attention s(Q K') V is approximated by s(Q L') A+ s(P K') V,
where A+ is the pseudo-inverse of A = s(P L'). s(Q L') and s(P K') are taken a chunk of tokens at a time (the latter's
softmax runs over chunks, as in Dao et al. 2022), so that neither is ever held; a chunk is computed anew in the backward
pass.

`compat` says what is done where the number of tokens is not that of the landmarks times a whole number, and where
bags lie side by side:

    correct         Each bag by itself: its own tokens are cut into m segments whose sizes differ by at most one (with
                    fewer tokens than landmarks each token is a landmark), and the iteration starts from each matrix's
                    own norms, as in the paper. Padding takes no part.
    authors         As in lucidrains' nystrom-attention 0.0.14 without a mask: zero tokens are put in front up to a
                    multiple of m; they count in the means of landmarks and in all softmaxes. The iteration starts
                    from the largest norms of all heads *and of all bags* of the batch, so that a bag's result depends
                    on its companions. Each bag has the zeros that it would have alone.
    authors_masked  As there with a mask: segments lie over the whole padded sequence, padding takes no part in
                    landmarks, rows without anything to attend to are uniform (over landmarks, or over all tokens, the
                    zeros in front among them), and the start is again the batch's.

References:
    Xiong et al. (2021, AAAI, arXiv:2102.03902), section 3; Razavi et al. (2014) on the iteration; Dao et al. (2022,
    arXiv:2205.14135) on softmaxes in chunks.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.nn.depthwise import depthwise
from milkit.nn.dropout import dropout_or_none
from milkit.nn.initialisers import Init, linear
from milkit.nn.layer_norm import LayerNorm
from milkit.nn.products import tall_dot

Compat = Literal["correct", "authors", "authors_masked"]
AT_ONCE = 16_384
"""Tokens of a chunk, over all bags: with 8 heads and 256 landmarks 128 MiB a softmax in float32."""
_NONE = -1e30
"""The peak of a softmax that has seen nothing: finite, so that differences of two such are numbers."""

Tokens = Array | tuple[Array, Array, Array]
"""Tokens [b, c, d], or their queries, keys and values [b, c, f], heads side by side."""


class Segments(NamedTuple):
    """Which tokens make which landmark.

    Attributes:
        of: each token's segment.
        divisor: what a segment's sum is divided by.
        used: landmarks that take part in softmaxes.
        zeros: zero tokens that stand before the sequence.
        length: tokens that a uniform row is spread over.
    """

    of: Int[Array, "b n"]
    divisor: Float[Array, "b m"]
    used: Bool[Array, "b m"]
    zeros: Float[Array, "b"]
    length: int


def segments_of(mask: Bool[Array, "b n"], landmarks: int, compat: Compat) -> Segments:
    """Cut each bag's tokens into segments, by the rule of `compat`."""
    n = mask.shape[1]
    count = mask.sum(1)
    zeros, rank = jnp.zeros_like(count), jnp.cumsum(mask, 1) - 1
    if compat == "correct":
        of = rank * landmarks // jnp.maximum(count, 1)[:, None]
    else:  # segments of equal length, of a sequence that zeros in front bring to a multiple of the landmarks
        whole, rank = (count, rank) if compat == "authors" else (jnp.full_like(count, n), jnp.arange(n)[None])
        long = jnp.maximum(-(-whole // landmarks), 1)
        zeros = long * landmarks - whole
        of = (rank + zeros[:, None]) // long[:, None]
    of = jnp.broadcast_to(jnp.clip(of, 0, landmarks - 1), mask.shape)
    held = _sums(mask.astype(jnp.float32)[..., None], of, landmarks)[..., 0]
    used = held > 0
    if compat == "authors":
        divisor, used = jnp.broadcast_to(long[:, None], held.shape).astype(jnp.float32), jnp.ones_like(used)
    else:
        divisor = held + 1e-8 if compat == "authors_masked" else jnp.maximum(held, 1)
    counted = zeros if compat == "authors" else jnp.zeros_like(zeros)  # elsewhere they are masked
    return Segments(of, divisor, used, counted.astype(jnp.float32), -(-n // landmarks) * landmarks)


def _sums(x: Float[Array, "b n d"], of: Int[Array, "b n"], landmarks: int) -> Float[Array, "b m d"]:
    """The sum of each segment."""
    add = jax.vmap(lambda a, s: jax.ops.segment_sum(a, s, landmarks, indices_are_sorted=True))
    total: Array = add(x, of)
    return total


def _means(x: Float[Array, "b n d"], cut: Segments) -> Float[Array, "b m d"]:
    total = _sums(x.astype(_wide(x)), cut.of, cut.used.shape[1])
    return (total / cut.divisor[..., None]).astype(x.dtype)


def pseudo_inverse(a: Float[Array, "b h m m"], iterations: int, *, of_batch: bool = False) -> Float[Array, "b h m m"]:
    """The iteration z <- z (13 - az (15 - az (7 - az))) / 4 from a' / (|a|_1 |a|_inf); zero rows and columns stay so.

    Args:
        a: matrices, none negative.
        iterations: how many.
        of_batch: start from the largest norms of all matrices, not from each one's own.

    References:
        Xiong et al. (2021), equation 11.
    """
    over = (0, 1, 2) if of_batch else (2,)
    norms = [abs(a).sum(axis).max(over, keepdims=True)[..., None] for axis in (-1, -2)]
    scale = norms[0] * norms[1]
    z = a.swapaxes(-1, -2) / jnp.where(scale > 0, scale, 1)
    one = jnp.eye(a.shape[-1], dtype=a.dtype)

    def times(x: Array, y: Array) -> Array:
        # errors grow over the iterations: not in tensor-float32
        return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)

    for _ in range(iterations):  # not a scan, which copies what the gradient needs into arrays of all iterations
        az = times(a, z)
        z = 0.25 * times(z, 13 * one - times(az, 15 * one - times(az, 7 * one - az)))
    return z


class NystromAttention(nnx.Module):
    """Multi-head Nystrom self-attention with a depthwise convolution of the values along the sequence.

    Args:
        features: width of a token, in and out.
        heads: attention heads.
        head_width: width of a head's queries, keys and values.
        landmarks: landmarks, m.
        iterations: of the pseudo-inverse.
        kernel: tokens that the convolution of the values sees, odd; 0 leaves it out.
        project: whether a linear layer follows; without it heads * head_width must be `features`.
        dropout: rate after that layer.
        compat: see the module's docstring.
        at_once: tokens of a chunk, over all bags.
    """

    def __init__(
        self,
        features: int,
        *,
        rngs: nnx.Rngs,
        heads: int = 8,
        head_width: int = 64,
        landmarks: int = 256,
        iterations: int = 6,
        kernel: int = 33,
        project: bool = True,
        dropout: float = 0.0,
        compat: Compat = "correct",
        init: Init = "torch",
        at_once: int = AT_ONCE,
    ):
        self.heads, self.landmarks, self.iterations, self.compat = heads, landmarks, iterations, compat
        self.kernel, self.at_once, self.scale = kernel, at_once, head_width**-0.5
        inner = heads * head_width
        self.qkv = linear(features, 3 * inner, rngs=rngs, init=init, use_bias=False)
        self.out = linear(inner, features, rngs=rngs, init=init) if project else None
        self.dropout = dropout_or_none(dropout)
        if kernel:
            bound = kernel**-0.5  # PyTorch's convolution of one channel
            start = jax.random.uniform(rngs.params(), (kernel, heads), jnp.float32, -bound, bound)
            self.residual = nnx.Param(start)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        *,
        norm: LayerNorm | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n k"]]:
        """What each token gathers, and how much of each token the first one does, head by head.

        With `norm` tokens are normalised first.

        These weights are an approximation's: they sum to 1 only nearly, and some may be below 0. Padding gives
        finite values that mean nothing, and weights of 0.
        """
        # of more landmarks than tokens the others would stand for none
        landmarks = min(self.landmarks, mask.shape[1]) if self.compat == "correct" else self.landmarks
        cut = segments_of(mask, landmarks, self.compat)
        if self._chunks(mask) == 1:
            tokens: Tokens = self._projected(x, norm)
        elif norm is None:
            tokens = x
        else:
            tokens = norm(x)
        tokens = jax.tree.map(lambda a: jnp.where(mask[..., None], a, 0), tokens)
        # the projection is linear, so that the landmarks of queries and keys are those of the tokens, projected
        means = jax.tree.map(lambda a: _means(a, cut), tokens)
        queries, keys = self._queries(means), self._part(means, 1)
        inverse = pseudo_inverse(
            self._softmax(queries, keys, cut.used), self.iterations, of_batch=self.compat != "correct"
        )
        gathered, log_total = self._gather(tokens, mask, queries, cut)
        y = self._spread(tokens, mask, keys, inverse @ gathered, cut.used)
        if self.out is not None:
            y = self.out(y.astype(x.dtype))
        if self.dropout is not None:
            y = self.dropout(y, deterministic=deterministic, rngs=rngs)
        first = self._softmax(self._queries(jax.tree.map(lambda a: a[:, :1], tokens)), keys, cut.used, mask[:, :1])
        return y.astype(x.dtype), self._weights(tokens, mask, queries, first @ inverse, log_total, cut)

    def values(self, x: Float[Array, "b n d"]) -> Float[Array, "b n f"]:
        """The values of each token, heads side by side, before anything is gathered."""
        return _joined(self._part(x, 2))

    def _projected(self, x: Float[Array, "b n d"], norm: LayerNorm | None) -> tuple[Array, Array, Array]:
        """Queries, keys and values of all tokens, heads side by side: where one chunk holds them, this is done once.

        By three products: gradients of a single one are put together from thirds that are filled up with zeros.
        """
        if norm is None:
            q, k, v = (tall_dot(x, kernel) for kernel in jnp.split(self.qkv.kernel[...], 3, 1))
            return q, k, v
        kernels, shifts = norm.into(self.qkv)
        plain = norm.plain(x).astype(x.dtype)
        each = zip(jnp.split(kernels, 3, 1), jnp.split(shifts, 3), strict=True)
        q, k, v = (tall_dot(plain, kernel) + shift for kernel, shift in each)
        return q, k, v

    def _part(self, x: Tokens, i: int) -> Float[Array, "b h c e"]:
        """Queries (0), keys (1) or values (2) of each head, in float32 at least."""
        part = x[i] if isinstance(x, tuple) else tall_dot(x, jnp.split(self.qkv.kernel[...], 3, 1)[i])
        return part.astype(_wide(part)).reshape(*part.shape[:2], self.heads, -1).swapaxes(1, 2)

    def _queries(self, x: Tokens) -> Float[Array, "b h c e"]:
        return self._part(x, 0) * self.scale

    def _softmax(
        self,
        queries: Float[Array, "b h c e"],
        keys: Float[Array, "b h m e"],
        used: Bool[Array, "b m"],
        rows: Bool[Array, "b c"] | None = None,
    ) -> Float[Array, "b h c m"]:
        """Attention of queries to the landmarks in use. A query that is none (`rows`) has zeros, or is uniform."""
        rows = used if rows is None else rows
        scores = queries @ keys.swapaxes(-1, -2)
        # of a matrix: of [b, h, c, m] XLA on a CPU takes eight times as long for the sums of the gradient
        each = jnp.broadcast_to(used[:, None, None], scores.shape).reshape(-1, scores.shape[-1])
        weights = jax.nn.softmax(scores.reshape(each.shape), -1, where=each).reshape(scores.shape)
        return jnp.where(rows[:, None, :, None], weights, self._of_nothing / scores.shape[-1])

    @property
    def _of_nothing(self) -> float:
        """What the weights of a row sum to that has nothing to attend to."""
        return 1.0 if self.compat == "authors_masked" else 0.0

    def _gather(
        self, x: Tokens, mask: Bool[Array, "b n"], queries: Float[Array, "b h m e"], cut: Segments
    ) -> tuple[Float[Array, "b h m e"], Float[Array, "b h m"]]:
        """What each landmark gathers from all tokens, and the logarithm of its softmax's denominator."""

        def add(carry: Any, chunk: Any) -> tuple[Any, None]:
            peak, total, values = carry
            k, v = self._part(chunk[0], 1), self._part(chunk[0], 2)
            scores = jnp.where(chunk[1][:, None, None], queries @ k.swapaxes(-1, -2), -jnp.inf)
            # any peak gives the same quotient, so that it needs no gradient
            higher = jax.lax.stop_gradient(jnp.maximum(peak, scores.max(-1)))
            shrink, e = jnp.exp(peak - higher), jnp.exp(scores - higher[..., None])
            return (higher, total * shrink + e.sum(-1), values * shrink[..., None] + e @ v), None

        zeros = jnp.broadcast_to(cut.zeros.astype(queries.dtype)[:, None, None], queries.shape[:3])
        start = (jnp.where(zeros > 0, 0.0, _NONE).astype(queries.dtype), zeros, jnp.zeros_like(queries))
        (peak, total, values), _ = self._scan(add, start, (x, mask))
        total = jnp.where(total > 0, total, 1)
        values = values / total[..., None]
        if self.compat == "authors_masked":
            everywhere = self._part(jax.tree.map(lambda a: a.sum(1, keepdims=True), x), 2) / cut.length
            values = jnp.where(cut.used[:, None, :, None], values, everywhere)
        return values, peak + jnp.log(total)

    def _spread(
        self,
        x: Tokens,
        mask: Bool[Array, "b n"],
        keys: Float[Array, "b h m e"],
        held: Float[Array, "b h m e"],
        used: Bool[Array, "b m"],
    ) -> Float[Array, "b n f"]:
        """What each token takes from the landmarks, and the convolution of the values around it."""
        half = self.kernel // 2

        def take(_: Any, chunk: Any) -> tuple[None, Array]:
            around, mask = chunk
            q = self._queries(jax.tree.map(lambda a: a[:, half : half + mask.shape[1]], around))
            y = _joined(self._softmax(q, keys, used, mask) @ held)
            if self.kernel:
                v = self._part(around, 2)
                taps = jnp.repeat(self.residual[...].astype(v.dtype), v.shape[-1], 1)
                y = y + depthwise(_joined(v)[:, None], taps[None, :, None], 1, (0, 0))[:, 0]
            return None, y.astype(jax.tree.leaves(x)[0].dtype)

        return self._scan(take, None, (x, mask), half)[1]

    def _weights(
        self,
        x: Tokens,
        mask: Bool[Array, "b n"],
        queries: Float[Array, "b h m e"],
        first: Float[Array, "b h 1 m"],
        log_total: Float[Array, "b h m"],
        cut: Segments,
    ) -> Float[Array, "b n h"]:
        """The first token's weights: its weights of landmarks, times each landmark's of tokens."""

        def weigh(_: Any, chunk: Any) -> tuple[None, Array]:
            scores = queries @ self._part(chunk[0], 1).swapaxes(-1, -2) - log_total[..., None]
            # before the exponential: beyond the bag it might overflow, and 0 times infinity be a gradient
            each = jnp.exp(jnp.where(chunk[1][:, None, None], scores, -jnp.inf))
            each = jnp.where(cut.used[:, None, :, None], each, self._of_nothing / cut.length)
            weights = (first @ each)[:, :, 0].swapaxes(1, 2)
            return None, jnp.where(chunk[1][..., None], weights, 0)

        return self._scan(weigh, None, (x, mask))[1]

    def _chunks(self, mask: Bool[Array, "b n"]) -> int:
        """How many chunks of tokens are gone through."""
        b, n = mask.shape
        return -(-n // max(-(-self.at_once // b), 2 * (self.kernel // 2), 1))

    def _scan(self, step: Callable[[Any, Any], tuple[Any, Any]], start: Any, of: Any, halo: int = 0) -> tuple[Any, Any]:
        """`step` over chunks of tokens (x with `halo` more on either side, mask); what it gives, joined."""
        x, mask = of
        b, n = mask.shape
        chunks = self._chunks(mask)
        if chunks == 1:
            return step(start, (jax.tree.map(lambda a: jnp.pad(a, ((0, 0), (halo, halo), (0, 0))), x), mask))
        size = max(-(-n // chunks), 2 * halo)
        more = chunks * size - n
        mask = jnp.pad(mask, ((0, 0), (0, more))).reshape(b, chunks, size).swapaxes(0, 1)
        wide = jnp.pad(x, ((0, 0), (halo, more + halo), (0, 0)))
        x = wide[:, : chunks * size].reshape(b, chunks, size, -1).swapaxes(0, 1)
        if halo:  # each chunk's last tokens lie at the start of the next one
            last = wide[:, None, chunks * size :].swapaxes(0, 1)
            x = jnp.concatenate([x, jnp.concatenate([x[1:, :, : 2 * halo], last])], 2)
        # inside a scan nothing can be merged with the forward pass, so the barriers against that are not needed
        carry, found = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), start, (x, mask))
        if found is not None:
            found = found.swapaxes(0, 1).reshape(b, chunks * size, -1)[:, :n]
        return carry, found


def _joined(x: Float[Array, "b h c e"]) -> Float[Array, "b c f"]:
    """Heads side by side."""
    b, h, c, e = x.shape
    return x.swapaxes(1, 2).reshape(b, c, h * e)


def _wide(x: Array) -> Any:
    """At least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)
