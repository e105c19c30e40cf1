"""SA-MIL's and DWS-MIL's heads on other trunks: padding, gradients, a trunk that stays as it is, trained weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError, DataError
from milkit.pixel import CDWSMIL, DWSMIL, SAMIL, Baseline, EfficientNetLite0, ResNet
from milkit.train.state import initial_arrays, rate_scales
from milkit.types import Batch, Images

LITE = EfficientNetLite0(width=0.125, stages=3)
NET = ResNet(18, width=4, stages=3)
WIDTH = (4, 4, 4)


def images_of(*sizes, height, width, fill=0.0):
    """Random images of these sizes in a canvas, `fill` on its padding."""
    rng = np.random.default_rng(0)
    x = np.full((len(sizes), height, width, 3), fill, np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, (h, w) in enumerate(sizes):
        x[i, :h, :w], mask[i, :h, :w] = rng.normal(size=(h, w, 3)), True
    return Images(jnp.asarray(x), jnp.asarray(mask))


def built(config):
    """Graph, parameters and the rest, with attention that counts: it starts at 0."""
    graph, params, rest = nnx.split(config.build(3, 1, rngs=nnx.Rngs(0)), nnx.Param, ...)
    for path, leaf in nnx.to_flat_state(params):
        if path[-1] == "gamma":
            leaf.set_value(jnp.full(leaf.shape, 0.7))
    return graph, params, rest


def step(config, images, dtype="float32", deterministic=False):
    """Output, loss, gradient and the running statistics after a training pass."""
    graph, params, rest = built(config)
    target = jnp.arange(len(images.mask)) % 2

    def loss(params, x):
        low = jax.tree.map(lambda a: a.astype(dtype), params)
        module = nnx.merge(graph, low, rest, copy=True)
        seen = Images(x.astype(dtype), images.mask)
        output = module(seen, deterministic=deterministic)
        batch = Batch(seen, target, jnp.ones(len(target)), jnp.arange(len(target)))
        bce = lambda z: jax.nn.softplus(jnp.where(target == 1, -z[:, 0], z[:, 0]))  # noqa: E731
        values, _ = config.objective(output, batch, bce)
        return values.mean(), (output, nnx.state(module, nnx.BatchStat))

    found = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, images.x)
    (value, (output, after)), gradient = found
    return output, value, gradient, rest, after


def flat(state):
    return {"/".join(map(str, path)): np.asarray(leaf[...], np.float32) for path, leaf in nnx.to_flat_state(state)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        SAMIL(backbone=LITE),
        SAMIL(backbone=NET, attention="full", fusion="learned"),
        CDWSMIL(backbone=LITE, trunk_rate=0.0),
        Baseline(backbone=NET),
    ],
)
def test_padding_and_company_change_nothing(config):
    """An odd image alone, and beside a larger one in a canvas of garbage: the same logits and maps."""
    graph, params, rest = built(config)
    call = jax.jit(lambda images: nnx.merge(graph, params, rest)(images))
    alone = images_of((11, 17), height=11, width=17)
    both = images_of((11, 17), (20, 24), height=20, width=24, fill=1e6)
    want, got = call(alone), call(both)
    np.testing.assert_allclose(got.logits[:1], want.logits, atol=2e-5)
    names = ["fused"] if isinstance(config, Baseline) else ["fused", "side1", "side2", "side3"]
    assert list(got.extras["maps"]) == names
    for name in names:
        p = np.asarray(got.extras["maps"][name])
        np.testing.assert_allclose(p[:1, :11, :17], want.extras["maps"][name], atol=2e-5)
        assert (p[~np.asarray(both.mask)] == 0).all()


@pytest.mark.slow
def test_every_part_learns_and_computing_again_changes_nothing():
    """With gradients to the trunk and to attention in its midst, kept or computed again."""
    images = images_of((16, 24), (13, 16), height=16, width=24)
    kept, again = (step(SAMIL(backbone=LITE, remat=remat), images) for remat in (False, True))
    gradients = flat(kept[2][0])
    for part in ("trunk/stem/conv/kernel", "trunk/stages/2/0/project/conv/kernel", "attention/0/gamma", "heads/2/bias"):
        assert np.abs(gradients[part]).max() > 0, part
    for a, b in zip(jax.tree.leaves(kept[1:]), jax.tree.leaves(again[1:]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(a).max()))


@pytest.mark.parametrize("backbone", [LITE, None])
def test_a_trunk_that_stays_as_it_is(backbone):
    """No gradient reaches it or the pixels, its statistics stay; heads and all attention learn."""
    images = images_of((16, 16), (9, 16), height=16, width=16)
    _, _, (of_weights, of_pixels), before, after = step(SAMIL(WIDTH, backbone, trunk_rate=0.0), images)
    assert (np.asarray(of_pixels) == 0).all()
    for path, g in flat(of_weights).items():
        if path.startswith("trunk"):
            assert (g == 0).all(), path
        elif "key" not in path:  # of a key's bias the gradient is 0: all energies move alike
            assert np.abs(g).max() > 0, path
    before, after = flat(before), flat(after)
    for path, kept in after.items():
        np.testing.assert_array_equal(kept, before[path])


def test_what_a_trunk_that_stays_reads_without_attention_is_what_the_trunk_gives():
    images = images_of((16, 16), height=16, width=16)
    stays, moves = (step(DWSMIL(backbone=LITE, trunk_rate=rate), images, deterministic=True)[0] for rate in (0.0, 1.0))
    for name, p in moves.extras["maps"].items():
        np.testing.assert_allclose(stays.extras["maps"][name], p, atol=1e-6)


@pytest.mark.slow
def test_running_statistics_in_training():
    """The same maps as in prediction, statistics that stay, and a trunk that learns all the same."""
    images = images_of((16, 16), (9, 16), height=16, width=16)
    config = DWSMIL(backbone=LITE, statistics="running")
    output, _, (gradient, _), before, after = step(config, images)
    want = step(DWSMIL(backbone=LITE), images, deterministic=True)[0]
    np.testing.assert_allclose(output.extras["maps"]["fused"], want.extras["maps"]["fused"], atol=1e-6)
    assert np.abs(flat(gradient)["trunk/stem/conv/kernel"]).max() > 0
    kept = flat(before)
    assert all((kept[path] == a).all() for path, a in flat(after).items())


@pytest.mark.slow
def test_half_precision_is_finite_and_near():
    images = images_of((16, 16), (16, 9), height=16, width=16)
    exact, half = (step(SAMIL(backbone=LITE, remat=True), images, dtype) for dtype in ("float32", "bfloat16"))
    assert all(np.isfinite(np.asarray(a, np.float32)).all() for a in jax.tree.leaves(half))
    np.testing.assert_allclose(half[0].extras["maps"]["fused"], exact[0].extras["maps"]["fused"], atol=0.1)


def test_learning_rates():
    config = SAMIL.pretrained("weights.npz")
    assert (config.trunk_rate, config.side_rate, config.normalisation) == (0.1, 1.0, "imagenet")
    assert config.learning_rate_scale(("trunk", "stem", "conv", "kernel")) == 0.1
    assert config.learning_rate_scale(("attention", "0", "gamma")) == 1
    assert config.learning_rate_scale(("heads", "0", "kernel")) == 1
    assert config.learning_rate_scale(("fusion",)) == 1
    scales = rate_scales(SAMIL(WIDTH, LITE, trunk_rate=0.25, side_rate=0.5), 3, 1)
    assert set(scales) == {0.25, 0.5, 1.0}  # all three are found in the module's state


def test_sizes_follow_the_trunk():
    assert SAMIL().smallest_side == 8
    assert SAMIL.pretrained("w.npz").smallest_side == 16
    assert Baseline(backbone=NET).smallest_side == 1
    module = SAMIL(backbone=EfficientNetLite0(0.125, stages=4))
    with pytest.raises(ConfigError, match="at least 16 pixels"):
        jax.eval_shape(
            lambda images: module.build(3, 1, rngs=nnx.Rngs(0))(images), images_of((15, 20), height=15, width=20)
        )


def test_refused():
    two = EfficientNetLite0(stages=2)
    with pytest.raises(ConfigError, match="2 stages; maps are made of the last 3"):
        SAMIL(backbone=two)
    Baseline(backbone=two)
    with pytest.raises(ConfigError, match="sides_at is 'unpooled' with a backbone"):
        DWSMIL.original(backbone=LITE)
    with pytest.raises(ConfigError, match="trunk_rate"):
        CDWSMIL(trunk_rate=-1.0)


def test_a_run_starts_from_the_file_of_weights_that_the_model_names(shared):
    file = shared / "data/weights/efficientnet_lite0_imagenet_f16.npz"
    config = SAMIL.pretrained(str(file), backbone=EfficientNetLite0(stages=3))
    params, buffers = initial_arrays(config, 3, 1, jax.random.key(0))
    with np.load(file) as arrays:
        kernel, mean = arrays["_conv_stem.weight"], arrays["_bn0.running_mean"]
    ours = np.asarray(params["trunk"]["stem"]["conv"]["kernel"][...])
    assert (ours.transpose(3, 2, 0, 1) == kernel).all()
    assert (np.asarray(buffers["trunk"]["stem"]["norm"]["mean"][...]) == mean).all()
    assert all((np.asarray(a["gamma"][...]) == 0).all() for a in params["attention"].values())
    with pytest.raises(DataError, match="do not fit ResNetTrunk"):
        initial_arrays(SAMIL(backbone=NET, weights=str(file)), 3, 1, jax.random.key(0))
