"""CAMEL's classifiers of cells: both criteria and the lattice by hand, padding, and finding a square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.pixel import CAMEL, ResNet
from milkit.pixel.camel import cells_of, extreme, paint
from milkit.types import Batch, Images, Output

SMALL = ResNet(18, width=4, stages=1)


def images_of(*sizes, height, width, fill=0.0):
    """Random images of these sizes in a canvas, `fill` on its padding."""
    rng = np.random.default_rng(0)
    x = np.full((len(sizes), height, width, 3), fill, np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, (h, w) in enumerate(sizes):
        x[i, :h, :w], mask[i, :h, :w] = rng.normal(size=(h, w, 3)), True
    return Images(jnp.asarray(x), jnp.asarray(mask))


def batch_of(images, target):
    n = len(images.x)
    return Batch(images, jnp.asarray(target), jnp.ones(n), jnp.arange(n))


def test_the_lattice_by_hand():
    """5 x 7 pixels in 2 x 2 cells: rows 0-1 and 2-4, columns 0-2 and 3-6; a second image of 4 x 4 beside it."""
    images = images_of((5, 7), (4, 4), (0, 0), height=5, width=8, fill=1e6)
    cells = jax.jit(lambda images: cells_of(images, 2))(images)
    assert cells.x.shape == (12, 3, 4, 3)
    x, got, mask = (np.asarray(a) for a in (images.x, cells.x, cells.mask))
    parts = [(0, 0, 2, 0, 3), (0, 0, 2, 3, 7), (0, 2, 5, 0, 3), (0, 2, 5, 3, 7)]
    parts += [(1, 0, 2, 0, 2), (1, 0, 2, 2, 4), (1, 2, 4, 0, 2), (1, 2, 4, 2, 4)]
    for k, (i, top, bottom, left, right) in enumerate(parts):
        h, w = bottom - top, right - left
        np.testing.assert_array_equal(got[k, :h, :w], x[i, top:bottom, left:right])
        assert mask[k, :h, :w].all()
        assert mask[k].sum() == h * w
    assert not mask[8:].any()
    assert (got[~mask] == 0).all()


def test_painting_by_hand():
    mask = images_of((5, 7), (4, 4), height=5, width=8).mask
    cells = jnp.arange(1.0, 9.0).reshape(2, 2, 2, 1)
    painted = np.asarray(paint(cells, mask))[..., 0]
    one = np.array([[1, 1, 1, 2, 2, 2, 2, 0]] * 2 + [[3, 3, 3, 4, 4, 4, 4, 0]] * 3)
    two = np.array([[5, 5, 6, 6, 0, 0, 0, 0]] * 2 + [[7, 7, 8, 8, 0, 0, 0, 0]] * 2 + [[0] * 8])
    np.testing.assert_array_equal(painted, [one, two])


def softplus(z):
    return np.log1p(np.exp(z))


@pytest.mark.parametrize("criterion", ["max_max", "max_min"])
def test_a_criterion_by_hand(criterion):
    """The loss is that of one instance, and it alone has a gradient: -(Y - sigmoid(z))."""
    logits = np.array([[0.5, -1.0, 2.0, 0.0], [0.5, -1.0, 2.0, 0.0], [9.0, 1.0, -3.0, 1.0]], np.float32)
    real = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1]], bool).reshape(3, 2, 2)
    target = np.array([1, 0, 0])
    named = {"max_max": [2, 2, 1], "max_min": [2, 1, 1]}[criterion]  # of equal cells, the first

    def loss(cells):
        output = Output(jnp.zeros((3, 1)), extras={"instance_logits": cells, "instances": jnp.asarray(real)})
        of_label = lambda z: jax.nn.softplus(z[:, 0]) - target * z[:, 0]  # noqa: E731
        return CAMEL(criterion).objective(
            output, batch_of(images_of(*[(2, 2)] * 3, height=2, width=2), target), of_label
        )[0]

    cells = jnp.asarray(logits.reshape(3, 2, 2, 1))
    z = logits[np.arange(3), named]
    np.testing.assert_allclose(loss(cells), softplus(z) - target * z, rtol=0, atol=1e-6)
    gradient = np.asarray(jax.grad(lambda cells: loss(cells).sum())(cells)).reshape(3, 4)
    want = np.zeros((3, 4))
    want[np.arange(3), named] = 1 / (1 + np.exp(-z)) - target
    np.testing.assert_allclose(gradient, want, atol=1e-6)


def test_a_label_has_its_own_instance():
    cells = jnp.asarray([[1.0, -1.0], [0.0, 3.0], [-2.0, 0.0], [5.0, 1.0]]).reshape(1, 2, 2, 2)
    output = Output(jnp.zeros((1, 2)), extras={"instance_logits": cells, "instances": jnp.ones((1, 2, 2), bool)})
    batch = batch_of(images_of((2, 2), height=2, width=2), np.array([[0.0, 1.0]], np.float32))
    found, _ = CAMEL("max_min").objective(output, batch, lambda z: z.sum(-1))
    np.testing.assert_allclose(found, [-2.0 + 3.0])
    with pytest.raises(ConfigError, match="2 logits"):
        CAMEL("max_min").objective(output, batch_of(batch.bags, np.array([1])), lambda z: z.sum(-1))


def test_a_filler_is_finite():
    logits = jnp.full((1, 2, 2, 1), 3.0)
    for highest in (True, False):
        assert extreme(logits, jnp.zeros((1, 2, 2), bool), highest=highest) == 0


def test_padding_and_company_change_nothing():
    module = CAMEL(lattice=3, backbone=SMALL).build(3, 2, rngs=nnx.Rngs(0))
    module.head.bias[...] = jnp.linspace(-0.5, 0.5, 2)
    call = jax.jit(lambda images: module(images))
    alone = images_of((11, 16), height=11, width=16)
    both = images_of((11, 16), (20, 24), height=20, width=24, fill=1e6)
    want, got = call(alone), call(both)
    np.testing.assert_allclose(got.logits[:1], want.logits, atol=1e-5)
    np.testing.assert_allclose(got.extras["instance_logits"][:1], want.extras["instance_logits"], atol=1e-5)
    p = np.asarray(got.extras["maps"]["fused"])
    np.testing.assert_allclose(p[:1, :11, :16], want.extras["maps"]["fused"], atol=1e-5)
    assert (p[~np.asarray(both.mask)] == 0).all()
    # an image's logit is its highest cell's, and a cell is the same alone as in its image
    cells = np.asarray(want.extras["instance_logits"])
    np.testing.assert_array_equal(want.logits[0], cells.reshape(9, 2).max(0))
    cell = images_of((11, 16), height=11, width=16).x[:, 3:7, 10:16]  # the middle row's last: 11/3, 22/3; 32/3
    single = CAMEL(lattice=1, backbone=SMALL).build(3, 2, rngs=nnx.Rngs(1))
    nnx.update(single, nnx.state(module))
    np.testing.assert_allclose(
        single(Images(cell, jnp.ones(cell.shape[:3], bool))).logits[0], cells[0, 1, 2], atol=1e-5
    )


def test_refused():
    with pytest.raises(ConfigError, match="lattice"):
        CAMEL(lattice=0)
    module = CAMEL(lattice=6, backbone=SMALL).build(3, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="at least 6 pixels"):
        module(images_of((5, 9), height=5, width=9))
