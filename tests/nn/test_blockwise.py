"""Attention in blocks against the formulas in numpy, float64: value, gradient, weights, masks, precision, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.nn.blockwise import alibi, alibi_slopes, attend, weights_of

HEADS, WIDTH, VALUES = 2, 3, 4
LENGTHS = (11, 4, 0)  # one bag is all padding
BLOCKS = (1, 7, 12, 40, 10_000)  # weights at a time: one, odd blocks, several pairs together, all


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes, at full precision."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.default_matmul_precision("highest"):
        yield
    jax.config.update("jax_disable_most_optimizations", before)


def example(queries=9):
    """Query, key, value, mask, places, what has a place; padding holds what must not matter."""
    rng = np.random.default_rng(0)
    b, n = len(LENGTHS), max(LENGTHS)
    mask = np.arange(n) < np.array(LENGTHS)[:, None]
    q = 2 * rng.normal(size=(b, queries, HEADS, WIDTH))
    k, v = (rng.normal(size=(b, n, HEADS, size)) for size in (WIDTH, VALUES))
    xy = 256.0 * rng.integers(0, 5, size=(b, n, 2))
    return (
        q,
        np.where(mask[..., None, None], k, 50),
        np.where(mask[..., None, None], v, 50),
        mask,
        xy,
        mask & (xy[..., 0] > 0),
    )


def by_hand(q, k, v, mask, distance=None, slopes=None, up=None):
    """Sums, weights [b, h, m, n], and the gradient of sum(up * sums) to q, k, v and slopes, head by head."""
    value, weights = np.zeros((*q.shape[:3], v.shape[3])), np.zeros((len(q), q.shape[2], q.shape[1], k.shape[1]))
    dq, dk, dv, dslopes = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), np.zeros(q.shape[2])
    for i, rows in enumerate(mask):
        real = np.flatnonzero(rows)
        for h in range(q.shape[2]):
            if not len(real):
                continue
            a, b, c = q[i, :, h], k[i, real, h], v[i, real, h]
            scores = a @ b.T / np.sqrt(a.shape[1])
            d = 0 if distance is None else distance[i][:, real]
            scores = scores - (0 if distance is None else slopes[h]) * d
            e = np.exp(scores - scores.max(1, keepdims=True))
            p = e / e.sum(1, keepdims=True)
            value[i, :, h], weights[i, h][:, real] = p @ c, p
            if up is not None:
                g = up[i, :, h]
                dp = g @ c.T
                ds = p * (dp - (p * dp).sum(1, keepdims=True))
                dq[i, :, h], dk[i, real, h] = ds @ b / np.sqrt(a.shape[1]), ds.T @ a / np.sqrt(a.shape[1])
                dv[i, real, h] = p.T @ g
                dslopes[h] -= (ds * d).sum()
    return value, weights, (dq, dk, dv, dslopes)


def distances(xy, placed, unit):
    d = np.sqrt(((xy[:, :, None] - xy[:, None]) ** 2).sum(-1)) / unit
    return d * (placed[:, :, None] & placed[:, None])


@pytest.mark.parametrize("at_once", BLOCKS)
def test_value_weights_and_gradient(at_once):
    q, k, v, mask, *_ = example()
    up = np.random.default_rng(1).normal(size=(*q.shape[:3], VALUES))
    want, weights, gradient = by_hand(q, k, v, mask, up=up)

    def both(q, k, v):
        found = attend(q, k, v, jnp.asarray(mask), at_once=at_once)
        return (found.value * up).sum(), (found, weights_of(q, k, found.log_total, jnp.asarray(mask), at_once=at_once))

    with jax.enable_x64(True):
        given = tuple(jnp.asarray(a) for a in (q, k, v))
        got, (found, received) = jax.jit(jax.grad(both, (0, 1, 2), has_aux=True))(*given)
        np.testing.assert_allclose(found.value, want, atol=1e-13)
        np.testing.assert_allclose(received, weights.mean(2).swapaxes(1, 2), atol=1e-14)
        for mine, theirs in zip(got, gradient, strict=False):
            np.testing.assert_allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("at_once", [12, 10_000])
def test_scores_fall_with_the_distance_and_slopes_have_a_gradient(at_once):
    _, k, v, mask, xy, placed = example()
    q = np.random.default_rng(2).normal(size=k.shape)
    up = np.random.default_rng(1).normal(size=v.shape)
    slopes = np.array([0.7, 0.2])
    want, weights, (*_, of_slopes) = by_hand(q, k, v, mask, distances(xy, placed, 256.0), slopes, up)

    def both(slopes):
        bias = alibi(jnp.asarray(xy), jnp.asarray(placed), slopes, 256.0)
        given = (jnp.asarray(a) for a in (q, k, v, mask))
        q_, k_, v_, mask_ = given
        found = attend(q_, k_, v_, mask_, bias, at_once)
        return (found.value * up).sum(), (found.value, weights_of(q_, k_, found.log_total, mask_, bias, at_once))

    with jax.enable_x64(True):
        got, (value, received) = jax.jit(jax.grad(both, has_aux=True))(jnp.asarray(slopes))
        np.testing.assert_allclose(value, want, atol=1e-13)
        np.testing.assert_allclose(received, weights.mean(2).swapaxes(1, 2), atol=1e-14)
        np.testing.assert_allclose(got, of_slopes, atol=1e-12)


def test_slopes_by_hand():
    np.testing.assert_allclose(alibi_slopes(8), [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256])
    np.testing.assert_allclose(alibi_slopes(2), [1 / 16, 1 / 256])


def test_the_gradient_of_the_weights_in_blocks_is_that_of_all_at_once():
    """The one of the denominator, which the sums' gradient does not reach."""
    q, k, v, mask, *_ = example(queries=2)
    up = np.random.default_rng(3).normal(size=(*mask.shape, HEADS))

    def received(q, k, at_once):
        total = attend(q, k, jnp.asarray(v), jnp.asarray(mask), at_once=at_once).log_total
        return (weights_of(q, k, total, jnp.asarray(mask), at_once=at_once) * up).sum()

    with jax.enable_x64(True):
        given = jnp.asarray(q), jnp.asarray(k)
        blocks, whole = (jax.jit(jax.grad(received, (0, 1)), static_argnums=2)(*given, size) for size in (7, 10_000))
        assert all(np.abs(a).max() > 0.01 for a in whole)
        for a, b in zip(blocks, whole, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-13)


def test_runs_side_by_side_and_half_precision():
    q, k, v, mask, *_ = example()
    runs = [np.stack([a, a[:, ::-1] * 0.5]).astype(np.float32) for a in (q, k, v)]
    masks = np.stack([mask, mask[:, ::-1]])
    together = jax.jit(jax.vmap(lambda *a: attend(*a, at_once=12).value))(*runs, masks)
    for r in range(2):
        want, *_ = by_hand(*(a[r].astype(np.float64) for a in runs), masks[r])
        np.testing.assert_allclose(together[r], want, atol=2e-6)
        halves = [jnp.asarray(a[r], jnp.bfloat16) for a in runs]
        half = attend(*halves, jnp.asarray(masks[r]), at_once=12).value
        assert half.dtype == jnp.float32
        exact, *_ = by_hand(*(np.asarray(a, np.float64) for a in halves), masks[r])
        # inputs are the same to the bit; what differs is that weights are rounded to 8 bits before they are multiplied
        np.testing.assert_allclose(half, exact, atol=0.01 * np.abs(exact).max())


def test_memory_is_linear_in_the_number_of_tokens():
    """Beside arguments and result, by XLA's own account: of value and gradient."""

    def temporary(n, at_once, gradient):
        def total(x):
            found = attend(x, x, x, jnp.ones((1, n), bool), at_once=at_once)
            return found.value.sum()

        of = jax.grad(total) if gradient else total
        spec = jax.ShapeDtypeStruct((1, n, 1, 4), jnp.float32)
        return jax.jit(of).lower(spec).compile().memory_analysis().temp_size_in_bytes

    for gradient in (False, True):
        one, two = (temporary(n, 1 << 14, gradient) for n in (4096, 8192))
        assert two < 2.1 * one
        assert two < 0.05 * 4 * 8192**2
