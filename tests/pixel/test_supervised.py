"""The supervised networks: padding, pooling undone by hand, the loss on masks, and that they learn from masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.nn.group_norm import GroupNorm
from milkit.pixel import FCN8s, SegNet, UNet
from milkit.pixel.segnet import place_of_maximum, unpool
from milkit.pixel.supervised import output_of_pixels, pixel_loss
from milkit.pixel.unet import Up
from milkit.types import Batch, Images

NARROW = (2, 2, 4, 4, 4)
CONFIGS = {
    "unet": UNet(width=(4, 8, 8)),
    "gnni": UNet.gnni(width=(4, 8), groups=2),
    "plain": UNet(width=(4, 8), norm="none", r="max"),
    "fcn": FCN8s(width=NARROW, hidden=4),
    "segnet": SegNet(width=NARROW),
}


def images_of(*sizes, height, width, fill=0.0):
    """Random images of these sizes in a canvas, `fill` on its padding."""
    rng = np.random.default_rng(0)
    x = np.full((len(sizes), height, width, 3), fill, np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, (h, w) in enumerate(sizes):
        x[i, :h, :w], mask[i, :h, :w] = rng.normal(size=(h, w, 3)), True
    return Images(jnp.asarray(x), jnp.asarray(mask))


def awake(module):
    """The module with statistics that are not trivial."""
    graph, state = nnx.split(module)
    rng = np.random.default_rng(3)
    for path, leaf in nnx.to_flat_state(state):
        if path[-1] in ("scale", "mean", "var"):
            leaf.set_value(jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32))
    return graph, state


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_and_company_change_nothing(name):
    """An odd image alone, and in a canvas of garbage beside a larger one: the same map, and finite gradients."""
    config = CONFIGS[name]
    graph, state = awake(config.build(3, 2, rngs=nnx.Rngs(0)))
    alone = images_of((37, 35), height=37, width=35)
    both = images_of((37, 35), (40, 44), height=40, width=44, fill=1e6)

    def learn(params, buffers, images):
        output = nnx.merge(graph, params, buffers, copy=True)(images)
        batch = Batch(images, jnp.ones((len(images.x), 2)), jnp.ones(len(images.x)), jnp.arange(len(images.x)))
        values, _ = config.objective(output, batch, lambda z: jax.nn.softplus(-z).mean(-1))
        return values.sum(), output

    params, buffers = nnx.split_state(state, nnx.Param, ...)
    _, want = jax.jit(learn)(params, buffers, alone)
    (_, got), gradient = jax.jit(jax.value_and_grad(learn, has_aux=True))(params, buffers, both)
    assert want.logits.shape == (1, 2)
    np.testing.assert_allclose(got.logits[:1], want.logits, atol=2e-5)
    p = want.extras["maps"]["fused"]
    assert p.shape == (1, 37, 35, 2)
    assert np.ptp(p) > 1e-3
    np.testing.assert_allclose(got.extras["maps"]["fused"][:1, :37, :35], p, atol=2e-5)
    assert (np.asarray(got.extras["maps"]["fused"])[~np.asarray(both.mask)] == 0).all()
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


def test_unpooling_by_hand():
    x = jnp.asarray([[1, 5, 2, 2, 9], [3, 4, 2, 2, 9], [9, 9, 9, 9, 9]], jnp.float32)[None, ..., None]
    place = place_of_maximum(x)
    np.testing.assert_array_equal(place[0, :, :, 0], [[1, 0]])
    back = unpool(jnp.asarray([[7.0, 8.0]])[None, ..., None], place, jnp.ones((1, 3, 5), bool))
    np.testing.assert_array_equal(back[0, :, :, 0], [[0, 7, 8, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])


def test_transposed_convolution_by_hand():
    """Each pixel becomes its value times the 2x2 kernel, plus the bias; the odd last column gets nothing."""
    up = Up(1, 1, "transposed", "torch", rngs=nnx.Rngs(0))
    up.kernel[...] = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])[..., None, None]
    up.bias[...] = jnp.asarray([0.5])
    x, mask = jnp.asarray([[[[1.0], [10.0]]]]), jnp.ones((1, 1, 2), bool)
    got = up(x, mask, jnp.ones((1, 2, 5), bool))[0, :, :, 0]
    np.testing.assert_allclose(got, [[1.5, 2.5, 10.5, 20.5, 0], [3.5, 4.5, 30.5, 40.5, 0]])


def test_group_normalisation_by_hand():
    """Two groups of two channels, over the two real pixels of an image."""
    x = jnp.asarray([[[[1.0, 3.0, 0.0, 0.0], [1.0, 3.0, 10.0, 10.0], [99.0] * 4]]])
    got = GroupNorm(4, 2, epsilon=0.0)(x, jnp.asarray([[[True, True, False]]]))
    np.testing.assert_allclose(got[0, 0, :2], [[-1, 1, -1, -1], [-1, 1, 1, 1]], rtol=1e-6)


def test_pixel_loss_by_hand():
    """Two labelled pixels of three: -log sigmoid(z) where 1, -log(1 - sigmoid(z)) where 0; none at all gives 0."""
    z = jnp.asarray([[[[np.log(3.0)], [np.log(3.0)], [50.0]]]] * 2, jnp.float32)
    output = output_of_pixels(z, jnp.ones((2, 1, 3), bool), 4.0)
    truth = jnp.asarray([[[[1.0], [0.0], [jnp.nan]]]] * 2)
    known = jnp.asarray([[[True, True, False]], [[False] * 3]])
    np.testing.assert_allclose(pixel_loss(output, truth, known), [(np.log(4 / 3) + np.log(4)) / 2, 0], rtol=1e-6)
    gradient = jax.grad(lambda z: pixel_loss(output_of_pixels(z, known, 4.0), truth, known).sum())(z)
    np.testing.assert_allclose(gradient[..., 0], [[[-1 / 8, 3 / 8, 0]], [[0, 0, 0]]], atol=1e-6)


def test_learns_a_mask():
    """A U-Net with group normalisation fits the masks of two images: where one channel is above its neighbour."""
    config = UNet.gnni(width=(8, 8), groups=2)
    images = images_of((16, 16), (12, 16), height=16, width=16)
    truth = (images.x[..., :1] > images.x[..., 1:2]).astype(jnp.float32)
    graph, state = nnx.split(config.build(3, 1, rngs=nnx.Rngs(0)))
    adam = optax.adam(0.02)

    def loss(state):
        return pixel_loss(nnx.merge(graph, state)(images), truth, images.mask).mean()

    @jax.jit
    def fit(state):
        def step(carry, _):
            state, kept = carry
            value, gradient = jax.value_and_grad(loss)(state)
            change, kept = adam.update(gradient, kept, state)
            return (optax.apply_updates(state, change), kept), value

        return jax.lax.scan(step, (state, adam.init(state)), length=60)

    _, values = fit(state)
    assert values[0] > 0.5
    assert values[-1] < 0.2


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        (UNet, {"width": ()}, "at least one level"),
        (UNet, {"norm": "group", "width": (4, 9), "groups": 2}, "9 channels"),
        (UNet, {"r": 0.0}, "above 0"),
        (FCN8s, {"hidden": 0}, "hidden"),
        (SegNet, {"width": (4, 4, 4, 4, 0)}, "width"),
    ],
)
def test_refused(config, change, said):
    with pytest.raises(ConfigError, match=said):
        config(**change)


@pytest.mark.parametrize("name", ["unet", "fcn", "segnet"])
def test_an_image_too_small_is_refused(name):
    config = CONFIGS[name]
    small = config.smallest_side
    with pytest.raises(ConfigError, match=f"at least {small}"):
        config.build(3, 1, rngs=nnx.Rngs(0))(images_of((small, small - 1), height=small, width=small - 1))
