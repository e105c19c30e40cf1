"""Masked image blocks: worked values first, then that padding never counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.nn.images import (
    BatchNorm,
    Conv,
    image_sizes,
    interpolation,
    masked,
    max_pool,
    pooled_mask,
    resize,
    strided,
)


def canvas(x, height, width, fill=1e6):
    """An image [h, w, c] in the corner of a canvas of garbage, and its mask, with a batch axis."""
    h, w, c = x.shape
    full = np.full((1, height, width, c), fill, np.float32)
    mask = np.zeros((1, height, width), bool)
    full[0, :h, :w], mask[0, :h, :w] = x, True
    return jnp.asarray(full), jnp.asarray(mask)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)


def convolved(x, kernel, bias, stride, dilation):
    """A convolution with zero padding, tap by tap in NumPy."""
    k, p = len(kernel), dilation * (len(kernel) - 1) // 2
    padded = np.pad(x.astype(np.float64), ((p, p), (p, p), (0, 0)))
    h, w = x.shape[:2]
    total = sum(
        padded[i * dilation : i * dilation + h, j * dilation : j * dilation + w] @ kernel[i, j]
        for i in range(k)
        for j in range(k)
    )
    return (total + bias)[::stride, ::stride]


@pytest.mark.parametrize(("size", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (1, 1, 1), (1, 2, 1), (3, 1, 2)])
def test_convolution_sees_zeros_beyond_the_image(image, size, stride, dilation):
    conv = Conv(3, 4, size, stride=stride, dilation=dilation, rngs=nnx.Rngs(0))
    want = convolved(image, np.asarray(conv.kernel[...], np.float64), np.asarray(conv.bias[...]), stride, dilation)
    x, mask = canvas(image, 8, 9)
    got, left = np.asarray(conv(x, mask))[0], np.asarray(strided(mask, stride))[0]
    assert left.sum() == want.shape[0] * want.shape[1]
    np.testing.assert_allclose(got[: want.shape[0], : want.shape[1]], want, atol=2e-5)


def test_batch_statistics_are_those_of_real_pixels(image):
    x, mask = canvas(image, 8, 9)
    norm = BatchNorm(3)
    got = np.asarray(norm(x, mask, deterministic=False))[0, :5, :7]
    pixels = image.reshape(-1, 3).astype(np.float64)
    want = (image - pixels.mean(0)) / np.sqrt(pixels.var(0) + 1e-5)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * pixels.var(0, ddof=1), atol=1e-6)


def test_a_batch_of_padding_leaves_the_statistics(image):
    norm = BatchNorm(3)
    x, mask = canvas(image, 8, 9)

    def total(x):
        return jnp.square(masked(norm(x, mask & False, deterministic=False), mask)).sum()

    assert np.isfinite(total(x))
    assert np.isfinite(jax.grad(lambda v: jnp.sum(norm(v, mask)))(x)).all()
    assert (norm.mean[...] == 0).all()
    assert (norm.var[...] == 1).all()


def test_max_pool_by_hand():
    x = jnp.array([[1.0, 5, 2, 2, 9], [3, 4, 2, 2, 9], [0, 0, 1, 7, 9]])[None, :, :, None]
    value, gradient = jax.value_and_grad(lambda v: (max_pool(v)[0, 0, :, 0] * jnp.array([1.0, 10.0])).sum())(x)
    assert value == 5 + 20
    # of the four equal values the first has the gradient; the odd row and column have none
    assert gradient[0, :, :, 0].tolist() == [[0, 1, 10, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_pooled_mask_drops_an_odd_row_and_column():
    mask = jnp.zeros((2, 6, 7), bool).at[0, :5, :3].set(True).at[1, :4, :7].set(True)
    assert image_sizes(pooled_mask(mask)).tolist() == [[2, 1], [2, 3]]
    assert image_sizes(mask & False).tolist() == [[0, 0], [0, 0]]


def test_interpolation_by_hand():
    three, five = jnp.array([3]), jnp.array([5])
    corners = interpolation(three, five, 3, 5, "align_corners")[0]
    np.testing.assert_allclose(corners, [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]], atol=1e-7)
    half = interpolation(jnp.array([2]), jnp.array([4]), 2, 4, "half_pixel")[0]
    np.testing.assert_allclose(half, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]], atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["align_corners", "half_pixel"])
def test_resizing_goes_by_the_image_and_not_the_canvas(image, mode):
    alone, own = canvas(image, 5, 7)
    around, mask = canvas(image, 8, 9)
    want = resize(alone, own, jnp.ones((1, 11, 14), bool), mode)
    to = jnp.zeros((1, 13, 20), bool).at[:, :11, :14].set(True)
    got = resize(around, mask, to, mode)
    np.testing.assert_allclose(got[:, :11, :14], want, atol=1e-6)
    assert (np.asarray(got)[~np.asarray(to)] == 0).all()
