"""CAM and Grad-CAM: by hand, one against the other, padding, and finding a square from image labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError, DataError
from milkit.pixel import CAM, EfficientNetLite0, ResNet
from milkit.train.state import initial_arrays
from milkit.types import Batch, Images

SMALL = ResNet(18, width=4, stages=2)


def images_of(*sizes, height, width, fill=0.0):
    """Random images of these sizes in a canvas, `fill` on its padding."""
    rng = np.random.default_rng(0)
    x = np.full((len(sizes), height, width, 3), fill, np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, (h, w) in enumerate(sizes):
        x[i, :h, :w], mask[i, :h, :w] = rng.normal(size=(h, w, 3)), True
    return Images(jnp.asarray(x), jnp.asarray(mask))


def built(config, out=2):
    module = config.build(3, out, rngs=nnx.Rngs(0))
    module.head.bias[...] = jnp.linspace(-0.5, 0.5, out)
    return module


@pytest.mark.parametrize(
    "config",
    [
        CAM(SMALL),
        CAM.grad_cam(backbone=SMALL, stage=0),
    ],
)
def test_padding_and_company_change_nothing(config):
    module = built(config)
    call = jax.jit(lambda images: module(images))
    alone = images_of((11, 17), height=11, width=17)
    both = images_of((11, 17), (20, 24), height=20, width=24, fill=1e6)
    want, got = call(alone), call(both)
    np.testing.assert_allclose(got.logits[:1], want.logits, atol=2e-5)
    p = np.asarray(got.extras["maps"]["fused"])
    np.testing.assert_allclose(p[:1, :11, :17], want.extras["maps"]["fused"], atol=2e-5)
    assert p.shape == (2, 20, 24, 2)
    assert (p[~np.asarray(both.mask)] == 0).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert np.ptp(p[1]) > 0.01


def test_a_map_by_hand():
    """Pixels' logits are w . f + b, their mean is the image's; `max` is their share of the highest, times p."""
    images = images_of((16, 16), height=16, width=16)
    module, other = built(CAM(SMALL)), built(CAM(SMALL, squash="max"))

    def everything(images):
        return module.trunk(images.x, images.mask)[-1][0], module(images), other(images).extras["maps"]["fused"]

    features, output, shares = jax.jit(everything)(images)
    assert features.shape == (1, 2, 2, 8)
    kernel, bias = np.asarray(module.head.kernel[...], np.float64), np.asarray(module.head.bias[...], np.float64)
    activation = np.asarray(features, np.float64)[0] @ kernel
    np.testing.assert_allclose(output.logits[0], activation.mean((0, 1)) + bias, atol=1e-5)
    # with half-pixel centres the corners of the enlarged map are those of the small one
    p = np.asarray(output.extras["maps"]["fused"], np.float64)[0]
    np.testing.assert_allclose(np.log(p / (1 - p))[0, 0], activation[0, 0] + bias, atol=1e-4)
    p = np.asarray(shares, np.float64)[0]
    above, probability = np.maximum(activation, 0), 1 / (1 + np.exp(-np.asarray(output.logits[0], np.float64)))
    want = above[0, 0] / np.maximum(above.max((0, 1)), 1e-30) * probability
    np.testing.assert_allclose(p[0, 0], want, atol=1e-4)
    for label in range(2):
        reached = probability[label] if (above[..., label] > 0).any() else 0
        np.testing.assert_allclose(p[..., label].max(), reached, atol=1e-6)


def test_grad_cam_of_the_last_features_is_cam_above_zero():
    """The gradient of a mean times w is w / pixels everywhere (Selvaraju et al., 2017, section 3.1)."""
    images = images_of((16, 24), (9, 16), height=16, width=24)
    cam, grad = built(CAM(SMALL, squash="max")), built(CAM.grad_cam(backbone=SMALL))
    a, b = jax.jit(lambda images: [m(images).extras["maps"]["fused"] for m in (cam, grad)])(images)
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert a.max() > 0.1


@pytest.mark.parametrize("changes", [{"method": "grad_cam"}, {"stage": 2}, {"stage": -3}, {"trunk_rate": -1.0}])
def test_refused(changes):
    with pytest.raises(ConfigError, match=r"squash|stage|trunk_rate"):
        CAM(SMALL, **changes)


def test_an_image_too_small_is_refused():
    with pytest.raises(ConfigError, match="at least 32 pixels"):
        jax.eval_shape(
            lambda images: built(CAM(EfficientNetLite0(width=0.125)))(images),
            images_of((31, 40), height=31, width=40),
        )


def test_a_run_starts_from_the_file_of_weights_that_the_model_names(shared):
    file = shared / "data/weights/efficientnet_lite0_imagenet_f16.npz"
    config = CAM.pretrained(str(file), backbone=EfficientNetLite0(stages=1))
    params, buffers = jax.jit(jax.vmap(lambda key: initial_arrays(config, 3, 1, key)))(
        jax.random.split(jax.random.key(0))
    )
    with np.load(file) as arrays:
        kernel, mean = arrays["_conv_stem.weight"], arrays["_bn0.running_mean"]
    for run in range(2):
        ours = np.asarray(params["trunk"]["stem"]["conv"]["kernel"][...])[run]
        assert (ours.transpose(3, 2, 0, 1) == kernel).all()
        assert (np.asarray(buffers["trunk"]["stem"]["norm"]["mean"][...])[run] == mean).all()
    head = np.asarray(params["head"]["kernel"][...])
    assert (head[0] != head[1]).all()
    with pytest.raises(DataError, match="no file"):
        initial_arrays(CAM(SMALL, weights="gone.npz"), 3, 1, jax.random.key(0))


def test_learning_rates():
    config = CAM(SMALL, trunk_rate=0.1)
    assert config.learning_rate_scale(("trunk", "stem", "conv", "kernel")) == 0.1
    assert config.learning_rate_scale(("head", "kernel")) == 1


def test_a_trunk_at_rate_0_stays_as_it_is():
    images = images_of((16, 16), (16, 12), height=16, width=16)
    for rate, still in ((0.0, True), (0.1, False)):
        module = built(CAM(SMALL, trunk_rate=rate))
        before = jax.tree.map(jnp.copy, nnx.state(module.trunk))
        gradient = nnx.grad(lambda m: m(images, deterministic=False).logits.sum())(module)
        assert all(bool((g == 0).all()) == still for g in jax.tree.leaves(gradient["trunk"]))
        after = nnx.state(module.trunk)  # running statistics
        same = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))
        assert all(same) == still


def test_learns_where_a_square_is_from_image_labels_alone():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.3, (6, 24, 24, 3)).astype(np.float32)
    truth = np.zeros((6, 24, 24), bool)
    truth[0, 2:10, 2:10], truth[1, 12:20, 11:19], truth[2, 4:12, 14:22] = True, True, True
    x[truth] += (1.5, -1.0, 0.5)
    target = jnp.array([1, 1, 1, 0, 0, 0])
    config = CAM(ResNet(18, width=4, stages=1))
    graph, params, rest = nnx.split(config.build(3, 1, rngs=nnx.Rngs(0)), nnx.Param, ...)
    images = Images(jnp.asarray(x), jnp.ones((6, 24, 24), bool))

    def loss(params, rest):
        module = nnx.merge(graph, params, rest, copy=True)
        output = module(images, deterministic=False)
        batch = Batch(images, target, jnp.ones(6), jnp.arange(6))
        bce = lambda z: jax.nn.softplus(jnp.where(target == 1, -z[:, 0], z[:, 0]))  # noqa: E731
        return config.objective(output, batch, bce)[0].mean(), nnx.state(module, nnx.Not(nnx.Param))

    def step(carry, _):
        params, rest = carry
        (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(params, rest)
        return (jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), rest), value

    (params, rest), losses = jax.jit(lambda c: jax.lax.scan(step, c, length=100))((params, rest))
    assert losses[-1] < 0.2 * losses[0]
    found = np.asarray(nnx.merge(graph, params, rest)(images, deterministic=False).extras["maps"]["fused"])[:3, ..., 0]
    assert found[truth[:3]].mean() > found[~truth[:3]].mean() + 0.2
