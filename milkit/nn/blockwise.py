"""Exact multi-head attention in bounded memory: every query attends to every key, and the matrix is never held.

Queries are taken a block at a time and for each of them the keys, a block at a time, by a softmax with a running
maximum; what is kept is the result and one number a query, the logarithm of its softmax's denominator. The gradient
works each block's weights out once more from these. Nothing is approximated and nothing is left out: sums are only
taken in another order. Few weights (`AT_ONCE`) are worked at once, in one block, as they are written in a paper.

Padding gets no weight, and a query that has no key at all gets zeros. Products of half-precision numbers are summed in
float32, and softmaxes are taken in it.

References:
    Rabe & Staats (2021, arXiv:2112.05682); Dao et al. (2022, arXiv:2205.14135), algorithms 1 and 4; Milakov &
    Gimelshein (2018, arXiv:1805.02867) on the softmax with a running maximum; Press et al. (2022, ICLR,
    arXiv:2108.12409) on biases linear in distance.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

AT_ONCE = {"cpu": 1 << 21}
AT_ONCE_ELSEWHERE = 1 << 26
"""Weights worked at a time, over all heads and bags, 4 bytes each: on a CPU what its caches nearly hold."""
_NONE = -1e30
"""The peak of a softmax that has seen nothing: finite, so that differences of two such are numbers."""

Of = Callable[[Any, Any, Any], Array]


class Bias(NamedTuple):
    """What is added to the scores of queries and keys, worked out block by block.

    Attributes:
        of: (rows [m, ...], columns [n, ...], head [...]) -> [m, n], of one bag and one head.
        rows: what it reads of queries: arrays [b, m, ...].
        columns: of keys: arrays [b, n, ...].
        heads: of heads: arrays [h, ...]. Only these have a gradient.
    """

    of: Of
    rows: Any
    columns: Any
    heads: Any


class Attended(NamedTuple):
    """What queries gathered.

    Attributes:
        value: sums of values, weighted by a softmax over the keys, in float32 at least.
        log_total: logarithm of the softmax's denominator, of `weights_of`.
    """

    value: Float[Array, "b m h c"]
    log_total: Float[Array, "b m h"]


def alibi_slopes(heads: int) -> Float[Array, "h"]:
    """2^(-8/heads), 2^(-16/heads) ... 2^-8: how steeply each head's scores fall with distance (Press et al., 2022)."""
    return 2.0 ** (-8.0 * jnp.arange(1, heads + 1) / heads)


def alibi(
    coords_um: Float[Array, "b n 2"], placed: Bool[Array, "b n"], slopes: Float[Array, "h"], unit_um: float
) -> Bias:
    """Scores of self-attention fall by slope * distance / unit_um, distance being Euclidean and in micrometres.

    Args:
        coords_um: corners of the tiles (or centres: only differences matter).
        placed: True for tokens that have a place; scores to and from others (a class token) are left as they are.
        slopes: of each head, without a unit.
        unit_um: the distance over which a head of slope 1 loses a factor e.
    """
    places = jnp.where(placed[..., None], coords_um / unit_um, 0)
    tokens = (places, placed.astype(places.dtype))
    return Bias(_by_distance, tokens, tokens, slopes)


def _by_distance(rows: Any, columns: Any, slope: Float[Array, ""]) -> Float[Array, "m n"]:
    (of_rows, here), (of_columns, there) = rows, columns
    square = jnp.square(of_rows[:, None, 0] - of_columns[None, :, 0])
    square = square + jnp.square(of_rows[:, None, 1] - of_columns[None, :, 1])
    return -slope * jnp.sqrt(square) * here[:, None] * there


def attend(
    query: Float[Array, "b m h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h c"],
    mask: Bool[Array, "b n"],
    bias: Bias | None = None,
    at_once: int | None = None,
) -> Attended:
    """Attention of m queries to n keys in each of h heads, in memory linear in both; its gradient likewise.

    Args:
        query, key: scores are their products over the square root of e.
        value: what is summed.
        mask: True on real keys.
        bias: what is added to the scores.
        at_once: weights worked at a time; None is `AT_ONCE`. It bounds memory and changes nothing but rounding.
    """
    b, m, h, e = query.shape
    n = key.shape[1]
    at_once = at_once or AT_ONCE.get(jax.default_backend(), AT_ONCE_ELSEWHERE)
    query = query * e**-0.5
    if b * h * m * n <= at_once:
        weight, total, log_total = _weights(_scores(query, key, bias), mask)
        found = jnp.einsum("bhmn,bnhc->bhmc", weight.astype(value.dtype), value, preferred_element_type=_wide(query))
        return Attended((found / total[..., None]).swapaxes(1, 2), log_total.swapaxes(1, 2))
    of, tokens = _by_head(bias, b, h)
    seen = jnp.repeat(mask, h, 0)
    queries, keys, values = (_heads_first(a) for a in (query, key, value))
    found, log_total = _attend(of, _sizes(b * h, m, n, at_once), queries, keys, values, seen, tokens)
    return Attended(found.reshape(b, h, m, -1).swapaxes(1, 2), log_total.reshape(b, h, m).swapaxes(1, 2))


def weights_of(
    query: Float[Array, "b m h e"],
    key: Float[Array, "b n h e"],
    log_total: Float[Array, "b m h"],
    mask: Bool[Array, "b n"],
    bias: Bias | None = None,
    at_once: int | None = None,
) -> Float[Array, "b n h"]:
    """The weight that each key gets in `attend`, in the mean over the queries; of one query its row of the matrix.

    Each head's sum to 1 over real keys and are 0 on padding; a bag that is all padding gives zeros.
    """
    b, m, h, e = query.shape
    n = key.shape[1]
    at_once = at_once or AT_ONCE.get(jax.default_backend(), AT_ONCE_ELSEWHERE)
    query = query * e**-0.5
    size = min(n, max(1, at_once // (b * m * h)))
    log_total = log_total.swapaxes(1, 2)[..., None]

    def mean(_: None, chunk: Any) -> tuple[None, Array]:
        key, mask, columns = chunk
        own = None if bias is None else Bias(bias.of, bias.rows, columns, bias.heads)
        # the mask stands inside the exponential: an overflow on padding would give 0 * inf in the gradient
        scores = jnp.where(mask[:, None, None], _scores(query, key, own) - log_total, -jnp.inf)
        return None, jnp.exp(scores).mean(2).swapaxes(1, 2)

    columns = None if bias is None else bias.columns
    if size == n:
        return mean(None, (key, mask, columns))[1]
    chunks = -(-n // size)
    split = jax.tree.map(lambda a: _split(a, chunks, axis=1).swapaxes(0, 1), (key, mask, columns))
    # inside a scan nothing can be merged with the forward pass, so the barriers against that are not needed
    found = jax.lax.scan(jax.checkpoint(mean, prevent_cse=False), None, split)[1]
    return found.swapaxes(0, 1).reshape(b, -1, h)[:, :n]


def _scores(query: Float[Array, "b m h e"], key: Float[Array, "b n h e"], bias: Bias | None) -> Float[Array, "b h m n"]:
    """All at once."""
    scores = jnp.einsum("bmhe,bnhe->bhmn", query, key, preferred_element_type=_wide(query))
    if bias is None:
        return scores
    of_heads = jax.vmap(bias.of, (None, None, 0))
    return scores + jax.vmap(of_heads, (0, 0, None))(bias.rows, bias.columns, bias.heads)


def _weights(
    scores: Float[Array, "b h m n"], mask: Bool[Array, "b n"]
) -> tuple[Float[Array, "b h m n"], Float[Array, "b h m"], Float[Array, "b h m"]]:
    """Weights before they are divided by their total, the total (1 of none), and the denominator's logarithm."""
    seen = mask[:, None, None]
    # any top gives the same quotient, so that it needs no gradient
    top = jax.lax.stop_gradient(jnp.where(seen, scores, _NONE).max(-1))
    weight = jnp.exp(jnp.where(seen, scores - top[..., None], -jnp.inf))
    total = _or_one(weight.sum(-1))
    return weight, total, top + jnp.log(total)


def _or_one(total: Array) -> Array:
    return jnp.where(total > 0, total, 1)


class _Sizes(NamedTuple):
    """Pairs of bag and head, queries and keys that are worked together."""

    pairs: int
    queries: int
    keys: int


def _sizes(pairs: int, m: int, n: int, at_once: int) -> _Sizes:
    queries = min(m, max(1, math.isqrt(at_once)))
    keys = min(n, max(1, at_once // queries))
    queries = min(m, max(1, at_once // keys))
    # blocks of one length, so that the last one is not mostly padding
    queries, keys = -(-m // -(-m // queries)), -(-n // -(-n // keys))
    together = max(1, at_once // (queries * keys))
    return _Sizes(max(d for d in range(1, min(together, pairs) + 1) if pairs % d == 0), queries, keys)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    of: Of | None, sizes: _Sizes, query: Array, key: Array, value: Array, mask: Array, tokens: Any
) -> tuple[Array, Array]:
    """Of g pairs of bag and head, each array with a leading axis g: the sums, and `Attended.log_total`."""

    def pair(given: Any) -> tuple[Array, Array]:
        query, key, value, mask, (rows, columns, head) = given
        columns = jax.tree.map(lambda a: _blocks(a, sizes.keys), (key, value, mask, columns))

        def take(row: Any) -> tuple[Array, Array]:
            start = _start(row[0], value)
            (peak, total, found), _ = jax.lax.scan(lambda c, k: (_add(of, c, row, k, head), None), start, columns)
            total = _or_one(total)
            return found / total[:, None], peak + jnp.log(total)

        found = jax.lax.map(take, jax.tree.map(lambda a: _blocks(a, sizes.queries), (query, rows)))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(query)], found)

    return _over_pairs(pair, sizes.pairs, (query, key, value, mask, tokens))


def _start(query: Float[Array, "q e"], value: Float[Array, "n c"]) -> tuple[Array, Array, Array]:
    wide = _wide(query)
    zeros = jnp.zeros(len(query), wide)
    return jnp.full(len(query), _NONE, wide), zeros, jnp.zeros((len(query), value.shape[1]), wide)


def _block_scores(of: Of | None, row: Any, column: Any, head: Any) -> Float[Array, "q k"]:
    (query, rows), (key, _, mask, columns) = row, column
    scores = jnp.matmul(query, key.T, preferred_element_type=_wide(query))
    scores = scores if of is None else scores + of(rows, columns, head)
    return jnp.where(mask, scores, -jnp.inf)


def _add(of: Of | None, carry: Any, row: Any, column: Any, head: Any) -> tuple[Array, Array, Array]:
    """Take a block of keys in; what was summed before shrinks when the highest score rises."""
    peak, total, found = carry
    scores, value = _block_scores(of, row, column, head), column[1]
    higher = jnp.maximum(peak, scores.max(1))
    weight, shrink = jnp.exp(scores - higher[:, None]), jnp.exp(peak - higher)
    taken = jnp.matmul(weight.astype(value.dtype), value, preferred_element_type=found.dtype)
    return higher, total * shrink + weight.sum(1), found * shrink[:, None] + taken


def _forward(of: Of | None, sizes: _Sizes, *given: Any) -> tuple[Any, Any]:
    found, log_total = _attend(of, sizes, *given)
    return (found, log_total), (given, found, log_total)


def _backward(of: Of | None, sizes: _Sizes, kept: Any, cotangent: Any) -> Any:
    (query, key, value, mask, tokens), found, log_total = kept
    of_found, of_total = cotangent
    # how a query's weights shift together: they sum to 1
    shift = (of_found * found).sum(-1) - of_total

    def pair(given: Any) -> Any:
        query, key, value, mask, (rows, columns, head), *known = given
        columns = jax.tree.map(lambda a: _blocks(a, sizes.keys), (key, value, mask, columns))
        # a query that only fills a block has weights of 0
        fills = (0.0, 0.0, -_NONE, 0.0)
        queries, up, total, shift = (
            _blocks(a, sizes.queries, fill) for a, fill in zip((query, *known), fills, strict=True)
        )
        of_rows = jax.tree.map(lambda a: _blocks(a, sizes.queries), rows)

        def take(carry: Any, row: Any) -> tuple[Any, Array]:
            def block(of_query: Array, column: Any) -> tuple[Array, Any]:
                to_query, *others = _pull(of, row, column, head)
                return of_query + to_query, others

            start = jnp.zeros(row[0].shape, _wide(query))
            of_query, (of_key, of_value, of_head) = jax.lax.scan(block, start, columns)
            of_head = jax.tree.map(lambda a: a.sum(0), of_head)
            return jax.tree.map(jnp.add, carry, (of_key, of_value, of_head)), of_query

        wide = _wide(query)
        start = (
            *(jnp.zeros(a.swapaxes(1, 2).shape, wide) for a in columns[:2]),
            jax.tree.map(lambda a: jnp.zeros(a.shape, wide), head),
        )
        (of_key, of_value, of_head), of_query = jax.lax.scan(take, start, (queries, of_rows, up, total, shift))
        of_key, of_value = of_key.swapaxes(1, 2), of_value.swapaxes(1, 2)
        flat = [a.reshape(-1, a.shape[-1])[: len(b)] for a, b in ((of_query, query), (of_key, key), (of_value, value))]
        return (*(a.astype(query.dtype) for a in flat), jax.tree.map(lambda a, b: a.astype(b.dtype), of_head, head))

    given = (query, key, value, mask, tokens, of_found, log_total, shift)
    *of_tokens, of_head = _over_pairs(pair, sizes.pairs, given)
    nothing = jax.tree.map(jnp.zeros_like, tokens[:2])  # places have no gradient
    return (*of_tokens, None, (*nothing, of_head))


def _pull(of: Of | None, row: Any, column: Any, head: Any) -> tuple[Array, Array, Array, Any]:
    """A block's gradients: of its queries, keys and values, and of what `of` reads of the head."""
    query, rows, up, total, shift = row
    key, value, _, columns = column
    weight = jnp.exp(_block_scores(of, (query, rows), column, head) - total[:, None])
    up_narrow, wide = up.astype(value.dtype), total.dtype
    # keys and values last: a CPU is slow at products whose large operand is transposed
    of_value = jnp.matmul(up_narrow.T, weight.astype(value.dtype), preferred_element_type=wide)
    of_weight = jnp.matmul(up_narrow, value.T, preferred_element_type=wide)
    of_scores = weight * (of_weight - shift[:, None])
    narrow = of_scores.astype(query.dtype)
    of_query = jnp.matmul(narrow, key, preferred_element_type=wide)
    of_key = jnp.matmul(query.T, narrow, preferred_element_type=wide)
    if of is None:
        return of_query, of_key, of_value, None
    bias, pull = jax.vjp(lambda head: of(rows, columns, head), head)
    of_head = pull(of_scores.astype(bias.dtype))[0]
    return of_query, of_key, of_value, jax.tree.map(lambda a: a.astype(wide), of_head)


_attend.defvjp(_forward, _backward)


def _over_pairs(work: Callable[[Any], Any], together: int, given: Any) -> Any:
    """`work` on each pair of bag and head, `together` of them side by side."""
    split = jax.tree.map(lambda a: a.reshape(-1, together, *a.shape[1:]), given)
    if len(jax.tree.leaves(split)[0]) == 1:
        return jax.vmap(work)(given)
    found = jax.lax.map(jax.vmap(work), split)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)


def _by_head(bias: Bias | None, bags: int, heads: int) -> tuple[Of | None, Any]:
    """What the bias reads, one row for each pair of bag and head."""
    if bias is None:
        return None, (None, None, None)
    rows, columns = jax.tree.map(lambda a: jnp.repeat(a, heads, 0), (bias.rows, bias.columns))
    of_heads = jax.tree.map(lambda a: jnp.tile(a, (bags, *[1] * (a.ndim - 1))), bias.heads)
    return bias.of, (rows, columns, of_heads)


def _heads_first(a: Float[Array, "b n h e"]) -> Float[Array, "g n e"]:
    return a.swapaxes(1, 2).reshape(-1, a.shape[1], a.shape[3])


def _blocks(a: Array, size: int, fill: float = 0.0) -> Array:
    """[n, ...] to [blocks, size, ...], filled up."""
    return _split(a, -(-a.shape[0] // size), 0, fill)


def _split(a: Array, blocks: int, axis: int, fill: float = 0.0) -> Array:
    size = -(-a.shape[axis] // blocks)
    pad = [(0, 0)] * a.ndim
    pad[axis] = (0, blocks * size - a.shape[axis])
    padded = jnp.pad(a, pad, constant_values=fill) if pad[axis][1] else a
    return padded.reshape(*a.shape[:axis], blocks, size, *a.shape[axis + 1 :])


def _wide(x: Array) -> Any:
    """At least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)
