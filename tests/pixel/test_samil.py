"""What SA-MIL and its family must do whatever the weights: padding, batches, options, finiteness, and learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import average_precision_score

from milkit.errors import ConfigError
from milkit.nn.criss_cross import CrissCross, criss_cross
from milkit.pixel import CDWSMIL, SAMIL, Baseline
from milkit.types import Batch, Images

WIDTH = (4, 8, 8)
CONFIGS = {
    "samil": SAMIL.from_scratch(WIDTH),
    "authors": SAMIL.from_scratch(WIDTH, compat="authors"),
    "full_learned_max": SAMIL.from_scratch(WIDTH, attention="full", fusion="learned", r="max"),
    "baseline": Baseline.from_scratch(WIDTH),
    "cdws_original": CDWSMIL.original(width=WIDTH),
}


def images_of(*sizes, height, width, fill=0.0, seed=0):
    """Random images of these sizes in a canvas, `fill` on its padding."""
    rng = np.random.default_rng(seed)
    x = np.full((len(sizes), height, width, 3), fill, np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, (h, w) in enumerate(sizes):
        x[i, :h, :w], mask[i, :h, :w] = rng.normal(size=(h, w, 3)), True
    return Images(jnp.asarray(x), jnp.asarray(mask))


def awake(module):
    """The module with attention that counts (it starts at 0) and statistics that are not trivial."""
    graph, state = nnx.split(module)
    rng = np.random.default_rng(3)
    for path, leaf in nnx.to_flat_state(state):
        if path[-1] in ("gamma", "mean", "var"):
            leaf.set_value(jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32))
    return nnx.merge(graph, state)


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_and_company_change_nothing(name):
    """An odd image alone, in a canvas of garbage, and beside a larger one: the same logits and maps."""
    module = awake(CONFIGS[name].build(3, 2, rngs=nnx.Rngs(0)))
    alone = images_of((11, 17), height=11, width=17)
    both = images_of((11, 17), (20, 24), height=20, width=24, fill=1e6)
    call = nnx.jit(lambda module, images: module(images))
    want, got = call(module, alone), call(module, both)
    np.testing.assert_allclose(got.logits[:1], want.logits, atol=2e-5)
    assert got.logits.shape == (2, 2)
    assert list(got.extras["maps"]) == list(want.extras["maps"])
    assert next(iter(want.extras["maps"])) == "fused"
    for key, p in want.extras["maps"].items():
        assert p.shape == (1, 11, 17, 2)
        np.testing.assert_allclose(got.extras["maps"][key][:1, :11, :17], p, atol=2e-5)
        assert (np.asarray(got.extras["maps"][key])[~np.asarray(both.mask)] == 0).all()


def test_fixed_fusion_and_its_image_probability():
    config = SAMIL.from_scratch(WIDTH)
    module = config.build(3, 1, rngs=nnx.Rngs(0))
    output = nnx.jit(lambda module, images: module(images))(module, images_of((16, 16), height=16, width=16))
    maps = {k: np.asarray(p, np.float64) for k, p in output.extras["maps"].items()}
    np.testing.assert_allclose(
        maps["fused"], 0.2 * maps["side1"] + 0.35 * maps["side2"] + 0.45 * maps["side3"], atol=1e-6
    )
    p = (maps["fused"] ** 4).mean() ** 0.25
    np.testing.assert_allclose(output.logits[0, 0], np.log(p / (1 - p)), atol=1e-5)


def step(config, graph, state, images, target, remat_dtype=jnp.float32):
    """Loss and gradient of a training pass on image labels."""
    params, buffers = nnx.split_state(state, nnx.Param, ...)

    def loss(params):
        module = nnx.merge(graph, jax.tree.map(lambda a: a.astype(remat_dtype), params), buffers, copy=True)
        seen = Images(images.x.astype(remat_dtype), images.mask)
        output = module(seen, deterministic=False)
        batch = Batch(images, target, jnp.ones(len(target)), jnp.arange(len(target)))
        bce = lambda z: jax.nn.softplus(jnp.where(target == 1, -z[:, 0], z[:, 0]))  # noqa: E731
        values, _ = config.objective(output, batch, bce)
        return values.mean(), nnx.state(module, nnx.Not(nnx.Param))

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_maps_that_are_sure_and_wrong_have_finite_gradients(dtype):
    """Heads with a bias of +-200 give maps of exact 0 and 1; the images' labels say the opposite."""
    config = SAMIL.from_scratch(WIDTH)
    graph, state = nnx.split(awake(config.build(3, 1, rngs=nnx.Rngs(0))))
    images = images_of((16, 16), (8, 16), height=16, width=16)
    learn = jax.jit(lambda state, target: step(config, graph, state, images, target, jnp.dtype(dtype)))
    for bias in (200.0, -200.0, 30.0):
        for path, leaf in nnx.to_flat_state(state):
            if path[0] == "heads" and path[-1] == "bias":
                leaf.set_value(jnp.full(leaf.shape, bias))
        (loss, after), gradient = learn(state, jnp.full(2, int(bias < 0)))
        leaves = jax.tree.leaves((loss, after, gradient))
        assert all(np.isfinite(np.asarray(a, np.float32)).all() for a in leaves)
        if bias == 30.0:  # within what float32 can tell from 1: still learning, 1 for each of four maps
            got = sum(leaf[...].sum() for p, leaf in nnx.to_flat_state(gradient) if p[0] == "heads" and p[-1] == "bias")
            np.testing.assert_allclose(got, 4, rtol=0.05)


@pytest.mark.slow
def test_computing_again_changes_nothing():
    images, target = images_of((16, 16), (9, 12), height=16, width=16), jnp.array([0, 1])
    found = []
    for remat in (False, True):
        config = SAMIL.from_scratch(WIDTH, remat=remat)
        graph, state = nnx.split(awake(config.build(3, 1, rngs=nnx.Rngs(0))))
        found.append(jax.jit(lambda state, c=config, g=graph: step(c, g, state, images, target))(state))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(a).max()))


def test_labels_of_an_image_and_area_given_with_them():
    """Two labels, each with a fraction of the image or without."""
    config = CDWSMIL.from_scratch(WIDTH, area=0.5)
    images = images_of((8, 8), height=8, width=8)
    module = config.build(3, 2, rngs=nnx.Rngs(0))
    output = nnx.jit(lambda module, images: module(images))(module, images)
    batch = Batch(images, jnp.array([[0.25, 0.0]]), jnp.ones(1), jnp.arange(1))
    loss, parts = config.objective(output, batch, lambda z: z[:, 0] * jnp.nan)
    want, weights = 0.0, {"fused": 10, "side1": 2.5, "side2": 5, "side3": 10}
    for name, p in output.extras["maps"].items():
        a, b = np.asarray(p, np.float64)[0].reshape(-1, 2).T
        pa, pb = (a**4).mean() ** 0.25, (b**4).mean() ** 0.25
        area = weights[name] * (a.mean() - 0.25) ** 2 / 2  # the second label is negative: no constraint
        np.testing.assert_allclose(parts[f"area_{name}"], area, rtol=1e-4, atol=1e-7)  # a small difference, squared
        want += -(np.log(pa) + np.log(1 - pb)) / 2 + area
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    whole = Batch(images, jnp.array([[1.0, 0.0]]), jnp.ones(1), jnp.arange(1))
    mean = np.asarray(output.extras["maps"]["side3"], np.float64)[..., 0].mean()
    _, parts = config.objective(output, whole, lambda z: z[:, 0])
    np.testing.assert_allclose(parts["area_side3"], 10 * (mean - 0.5) ** 2 / 2, rtol=1e-4, atol=1e-7)


def test_learning_rates_of_heads():
    assert SAMIL().learning_rate_scale(("heads", "0", "kernel")) == 0.01
    assert SAMIL().learning_rate_scale(("attention", "0", "gamma")) == 1
    assert SAMIL.from_scratch().learning_rate_scale(("heads", "0", "kernel")) == 1


@pytest.mark.parametrize("change", [{"r": 0.0}, {"r": -1.0}, {"fusion_weights": (0.5, 0.5, 0.5)}, {"side_rate": 0.0}])
def test_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        SAMIL(**change)


def test_an_image_too_small_is_refused():
    with pytest.raises(ConfigError, match="at least 8"):
        Baseline.from_scratch(WIDTH).build(3, 1, rngs=nnx.Rngs(0))(images_of((7, 9), height=7, width=9))


def test_criss_cross_tile_by_tile_is_the_plain_formulation():
    """Odd tiles, padding, one-pixel lines; values and gradients against the softmax over all H + W keys at once."""
    rng = np.random.default_rng(5)
    mask = np.zeros((2, 5, 6), bool)
    mask[0, :4, :6], mask[1, :5, :1] = True, True
    q, k, v = (jnp.asarray(rng.normal(size=(2, 5, 6, c)), jnp.float32) for c in (3, 3, 4))
    real = jnp.asarray(mask)

    def plain(q, k, v):
        column, row = jnp.einsum("bije,byje->bijy", q, k), jnp.einsum("bije,bixe->bijx", q, k)
        seen = real.swapaxes(1, 2)[:, None] & ~jnp.eye(5, dtype=bool)[:, None]
        energy = jnp.concatenate([jnp.where(seen, column, -1e30), jnp.where(real[:, :, None], row, -1e30)], -1)
        p = jax.nn.softmax(energy, -1)
        return jnp.einsum("bijy,byjc->bijc", p[..., :5], v) + jnp.einsum("bijx,bixc->bijc", p[..., 5:], v)

    def total(f):
        return jax.jit(jax.grad(lambda q, k, v: jnp.where(real[..., None], jnp.sin(f(q, k, v)), 0).sum(), (0, 1, 2)))

    want = total(plain)(q, k, v)
    for at_once in (1, 80, 1 << 20):
        got = total(lambda q, k, v, n=at_once: criss_cross(q, k, v, real, at_once=n))(q, k, v)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_criss_cross_begins_as_the_identity_and_hears_everything_after_two():
    module = CrissCross(8, rngs=nnx.Rngs(0))
    x, mask = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 5, 8)), jnp.float32), jnp.ones((1, 4, 5), bool)
    assert (module(x, mask) == x).all()
    module.gamma[...] = jnp.ones(1)
    for times, heard in ((1, 8), (2, 20)):  # row and column of 4 x 5 pixels: 8 of 20

        def corner(x, times=times):
            for _ in range(times):
                x = module(x, mask)
            return x[0, 0, 0].sum()

        assert (np.abs(jax.grad(corner)(x)).sum(-1) > 0).sum() == heard


@pytest.mark.slow
def test_learns_where_a_square_is_from_image_labels_alone():
    """Four images, two of which hold a bright square; the maps find its pixels."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.3, (4, 24, 24, 3)).astype(np.float32)
    truth = np.zeros((4, 24, 24), bool)
    truth[0, 3:11, 4:12], truth[1, 12:20, 10:18] = True, True
    x[truth] += (1.5, -1.0, 0.5)
    target = jnp.array([1, 1, 0, 0])
    config = SAMIL.from_scratch((8, 8, 16), recurrences=1)
    graph, state = nnx.split(config.build(3, 1, rngs=nnx.Rngs(0)))
    images = Images(jnp.asarray(x), jnp.ones((4, 24, 24), bool))

    def epoch(carry, _):
        (params, buffers), (m, v), t = carry
        (loss, buffers), g = step(config, graph, nnx.merge_state(params, buffers), images, target)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, v, g)
        scale = 3e-3 * jnp.sqrt(1 - 0.99 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        params = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) + 1e-8), params, m, v)
        return ((params, buffers), (m, v), t + 1), loss

    params, buffers = nnx.split_state(state, nnx.Param, ...)
    zero = jax.tree.map(jnp.zeros_like, params)
    carry = ((params, buffers), (zero, zero), 0.0)
    ((params, buffers), *_), losses = jax.jit(lambda c: jax.lax.scan(epoch, c, length=60))(carry)
    output = nnx.merge(graph, params, buffers)(images, deterministic=False)
    assert losses[-1] < 0.3 * losses[0]
    assert ((output.logits[:, 0] > 0) == (target == 1)).all()
    found = np.asarray(output.extras["maps"]["fused"])[..., 0]
    assert truth.mean() < 0.06
    assert average_precision_score(truth.ravel(), found.ravel()) > 0.5
