"""DCGN: its M-step and loss by hand and against scikit-learn, their invariances, the carried state, and a study."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from sklearn.mixture import GaussianMixture

from milkit import Adam, Binary, Experiment, GivenFolds, ImageCohort, Train, api
from milkit.errors import ConfigError
from milkit.keep.component_maps import component_maps
from milkit.metrics.segmentation import oracle_dice
from milkit.nn.stains import IMAGENET_MEAN, IMAGENET_SD
from milkit.pixel import DCGN, UNet
from milkit.pixel.dcgn import SMALLEST_EIGENVALUE, m_step, with_jitter
from milkit.types import Batch, Images

SMALL = DCGN(network=UNet(width=(4, 4), norm="group", groups=2))
one_step = jax.jit(m_step, static_argnums=5)
PURPLE, PINK = (90, 40, 140), (235, 170, 200)


@pytest.fixture(autouse=True)
def quick_compilation():
    """These networks take longer to compile than to run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def pixels_of(seed=0, b=2, n=40, k=3, d=3):
    """Logits, pixels in [0, 255], statistics of a step before."""
    rng = np.random.default_rng(seed)
    mu = rng.uniform(50, 200, (k, d))
    root = rng.normal(size=(k, d, d))
    sigma = 300 * (root @ root.swapaxes(1, 2) + np.eye(d))
    return rng.normal(size=(b, n, k)), rng.uniform(0, 255, (b, n, d)), mu, sigma


def by_the_paper(logits, x, mu_before, sigma_before, penalty):
    """One image's alpha, mu, Sigma and loss as the paper writes them, in NumPy."""
    n, d = x.shape
    g = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean, std = x.mean(0), x.std(0)
    alpha, mu, sigma, density = [], [], [], np.zeros((n, g.shape[1]))
    for k in range(g.shape[1]):
        mass = g[:, k].sum()
        sign = np.where(mu_before[k] > mean, -1, 1)
        shift = sign * penalty * np.diag(sigma_before[k]) / (std * mass)
        mu.append((g[:, k, None] * x).sum(0) / mass + shift)
        beside = x - mu[k]
        sigma.append((g[:, k, None, None] * beside[:, :, None] * beside[:, None]).sum(0) / mass)
        alpha.append(mass / n)
        power = np.einsum("nd,de,ne->n", beside, np.linalg.inv(sigma[k]), beside)
        density[:, k] = np.exp(-power / 2) / np.sqrt((2 * np.pi) ** d * np.linalg.det(sigma[k]))
    alpha, mu = np.array(alpha), np.array(mu)
    likelihood = np.log(density @ alpha).mean()
    distance = (np.abs(mu - mean) / std).sum()
    return alpha, mu, np.array(sigma), likelihood, distance


def test_m_step_and_loss_by_the_paper(x64):
    logits, x, mu, sigma = pixels_of()
    # an image in a canvas: 30 pixels of 40, garbage beyond
    mask = np.ones((2, 40), bool)
    mask[1, 30:], x[1, 30:], logits[1, 30:] = False, 1e9, 7.0
    found = one_step(logits, x, mask, mu, sigma, 0.05)
    for i in range(2):
        own = mask[i]
        alpha, means, covariances, likelihood, distance = by_the_paper(logits[i, own], x[i, own], mu, sigma, 0.05)
        np.testing.assert_allclose(found.mixture.alpha[i], alpha, rtol=1e-10)
        np.testing.assert_allclose(found.mixture.mu[i], means, rtol=1e-10)
        np.testing.assert_allclose(found.mixture.sigma[i], covariances, rtol=1e-9)
        np.testing.assert_allclose(found.log_likelihood[i], likelihood, rtol=1e-10)
        np.testing.assert_allclose(found.distance[i], distance, rtol=1e-10)
    assert (np.asarray(found.weight)[~mask] == 0).all()


def test_the_shift_goes_towards_the_mean():
    """Two pixels, 0 and 10, one component with half of each: mean 5, std 5, N_k = 1; by hand."""
    logits = jnp.zeros((1, 2, 2))
    x = jnp.asarray([[[0.0], [10.0]]])
    before = jnp.asarray([[9.0], [1.0]]), jnp.asarray([[[20.0]], [[20.0]]])
    found = one_step(logits, x, jnp.ones((1, 2), bool), *before, 0.5)
    # 0.5 * 20 / (5 * 1) = 2: down where it stood above, up where below
    np.testing.assert_allclose(found.mixture.mu[0, :, 0], [3.0, 7.0], rtol=1e-6)
    np.testing.assert_allclose(found.mixture.sigma[0, :, 0, 0], [29.0, 29.0], rtol=1e-6)
    np.testing.assert_allclose(found.distance, [0.8], rtol=1e-6)


def test_log_likelihood_is_that_of_scikit_learn(x64):
    logits, x, mu, sigma = pixels_of(1, b=1)
    found = one_step(logits, x, np.ones((1, 40), bool), mu, sigma, 0.05)
    oracle = GaussianMixture(3)
    oracle.weights_, oracle.means_, oracle.covariances_ = (np.asarray(a[0]) for a in found.mixture)
    oracle.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(oracle.covariances_)).swapaxes(1, 2)
    np.testing.assert_allclose(found.log_likelihood[0], oracle.score(x[0]), rtol=1e-9)


def test_gradient_is_that_of_finite_differences(x64):
    """Through mu and Sigma; none through what the step before left."""
    logits, x, mu, sigma = (jnp.asarray(a) for a in pixels_of(2, b=1, n=12))

    @jax.jit
    def loss(logits, mu, sigma):
        found = m_step(logits, x, jnp.ones((1, 12), bool), mu, sigma, 0.05)
        return (0.05 * found.distance - found.log_likelihood)[0]

    gradient, *before = jax.jit(jax.grad(loss, (0, 1, 2)))(logits, mu, sigma)
    steps = 1e-5 * np.eye(36).reshape(36, 1, 12, 3)
    by_hand = jax.vmap(lambda s: (loss(logits + s, mu, sigma) - loss(logits - s, mu, sigma)) / 2e-5)(steps)
    np.testing.assert_allclose(gradient.ravel(), by_hand, rtol=1e-5, atol=1e-9)
    assert np.abs(by_hand).max() > 1e-3
    assert all((np.asarray(g) == 0).all() for g in before)


def test_scale_and_origin_of_channels_change_a_constant_only(x64):
    """The paper's RGB and standardised channels give the same gradient; the loss moves by the sum of log a."""
    logits, x, mu, sigma = (jnp.asarray(a) for a in pixels_of(3))
    a, origin = np.array([0.02, 3.0, 0.5]), np.array([-4.0, 7.0, 1.0])
    mask = jnp.ones((2, 40), bool)

    def loss(logits, x, mu, sigma):
        found = m_step(logits, x, mask, mu, sigma, 0.05)
        return (0.05 * found.distance - found.log_likelihood).sum(), found

    learn = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, found), gradient = learn(logits, x, mu, sigma)
    (moved, of_moved), same = learn(logits, x * a + origin, mu * a + origin, sigma * a[:, None] * a)
    np.testing.assert_allclose(same, gradient, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(moved, value + 2 * np.log(a).sum(), rtol=1e-10)
    np.testing.assert_allclose(of_moved.mixture.mu, found.mixture.mu * a + origin, rtol=1e-10)
    np.testing.assert_allclose(of_moved.distance, found.distance, rtol=1e-10)


@pytest.mark.parametrize(("penalty", "held"), [(0.05, True), (0.005, False)])
def test_the_papers_penalty_holds_a_flat_start_together(x64, penalty, held):
    """Two colours, logits of +- e: at e = 0 all is one Gaussian, and the paper's penalty makes it dear to part."""
    rng = np.random.default_rng(0)
    purple = np.arange(64) < 16
    x = jnp.asarray(np.where(purple[:, None], PURPLE, PINK) + rng.normal(0, 8, (64, 3)))[None]

    @jax.jit
    @jax.vmap
    def loss(e):
        logits = jnp.where(purple, e, -e)[None, :, None] * jnp.asarray([1.0, -1.0])
        found = m_step(logits, x, jnp.ones((1, 64), bool), jnp.zeros((2, 3)), jnp.zeros((2, 3, 3)), penalty)
        return (penalty * found.distance - found.log_likelihood)[0]

    flat, away, apart = loss(jnp.asarray([0.0, 0.3, 6.0])).tolist()
    assert (away > flat) == held
    assert apart < flat - 1  # the minimum that is sought is far below either way
    covariance = np.cov(x[0].T, bias=True)
    np.testing.assert_allclose(flat, 1.5 * (1 + np.log(2 * np.pi)) + np.log(np.linalg.det(covariance)) / 2)


def test_jitter_raises_the_lowest_eigenvalue_and_no_more():
    flat = jnp.diag(jnp.asarray([1.0, 0.5, 0.0]))
    wide = jnp.diag(jnp.asarray([1.0, 0.5, 0.1]))
    got = jax.jit(with_jitter)(jnp.stack([flat, wide])[None])[0]
    np.testing.assert_allclose(jnp.diagonal(got[0]), np.array([1, 0.5, 0]) + SMALLEST_EIGENVALUE, rtol=1e-6)
    np.testing.assert_array_equal(got[1], wide)


@jax.jit
@jax.value_and_grad
def value_and_gradient(logits, x, mask, mu, sigma):
    found = m_step(logits, x, mask, mu, sigma, 0.05)
    return (0.05 * found.distance - found.log_likelihood).sum()


@pytest.mark.parametrize("what", ["one colour", "grey", "two colours", "nobody's component", "filler"])
def test_what_has_no_covariance_stays_finite(what):
    logits, x, mu, sigma = (jnp.asarray(a, jnp.float32) for a in pixels_of(4, b=1))
    mask = jnp.ones((1, 40), bool)
    if what == "one colour":
        x = jnp.full_like(x, 255.0)
    elif what == "grey":
        x = jnp.broadcast_to(x[..., :1], x.shape)
    elif what == "two colours":
        x = jnp.where(jnp.arange(40)[:, None] % 2 == 0, x[0, 0], x[0, 1])[None]
    elif what == "nobody's component":
        logits = logits.at[..., 0].set(-1e4)
    else:
        mask = jnp.zeros_like(mask)

    value, gradient = value_and_gradient(logits, x, mask, mu, sigma)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def canvas_of(*colours, height=10, width=9, fill=0.0):
    """Images of these sizes, random RGB as the engine standardises it, in a canvas with `fill` on its padding."""
    rng = np.random.default_rng(0)
    x = np.full((len(colours), height, width, 3), fill, np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, (h, w) in enumerate(colours):
        rgb = rng.integers(0, 256, (h, w, 3)) / 255
        x[i, :h, :w], mask[i, :h, :w] = (rgb - IMAGENET_MEAN) / IMAGENET_SD, True
    return Images(jnp.asarray(x), jnp.asarray(mask))


def built():
    """The small model's parts, made under jit."""
    graph = nnx.split(nnx.eval_shape(lambda: SMALL.build(3, 1, rngs=nnx.Rngs(0))))[0]
    state = jax.jit(lambda: nnx.state(SMALL.build(3, 1, rngs=nnx.Rngs(0))))()
    return graph, *nnx.split_state(state, nnx.Param, ...)


def expect_close(got, want, atol=1e-4):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=atol, atol=atol)


def test_padding_company_and_the_carried_state():
    """An image alone, and beside a filler and in a canvas of garbage; the step leaves the images' mean statistics."""
    graph, params, buffers = built()
    np.testing.assert_array_equal(buffers["sigma"][...], np.zeros((3, 3, 3)))

    @jax.jit
    def step(params, buffers, images):
        def loss(params):
            module = nnx.merge(graph, params, buffers, copy=True)
            output = module(images, deterministic=False, rngs=nnx.Rngs(0))
            batch = Batch(images, jnp.ones((len(images.x), 1)), jnp.ones(len(images.x)), jnp.arange(len(images.x)))
            values, _ = SMALL.objective(output, batch, lambda z: z[:, 0] * jnp.nan)  # labels are not read
            return values.sum(), (values, output, nnx.state(module, nnx.Not(nnx.Param)))

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (value, alone, after)), _ = step(params, buffers, canvas_of((7, 6), height=7, width=6))
    images = canvas_of((7, 6), (9, 8), fill=1e3)
    both = replace(images, mask=images.mask.at[1].set(False))
    (_, (values, output, same)), gradient_of_both = step(params, buffers, both)
    np.testing.assert_allclose(values[0], value[0], rtol=1e-4)
    np.testing.assert_allclose(output.logits[:1], alone.logits, atol=1e-4)
    for name in ("maps", "components"):
        got, want = (o.extras[name]["fused"] if name == "maps" else o.extras[name] for o in (output, alone))
        np.testing.assert_allclose(got[:1, :7, :6], want, atol=1e-4)
        assert (np.asarray(got)[~np.asarray(both.mask)] == 0).all()
    expect_close(same, after)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient_of_both))
    # two images: the mean of what each leaves alone; and then the next step is another one than the first was
    (_, (_, _, of_two)), _ = step(params, buffers, images)
    second = replace(images, mask=images.mask.at[0].set(False))
    (_, (_, _, of_second)), _ = step(params, buffers, second)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, after, of_second)
    expect_close(of_two, mean)
    (_, (later, _, _)), _ = step(params, of_two, second)
    (_, (first, _, _)), _ = step(params, buffers, second)
    assert abs(later[1] - first[1]) > 1e-6
    # a batch of fillers leaves it as it was
    (_, (nothing, _, kept)), _ = step(params, of_two, replace(images, mask=jnp.zeros_like(images.mask)))
    assert np.isfinite(nothing).all()
    expect_close(kept, of_two, 0)


@pytest.mark.parametrize(("foreground", "colour"), [("haematoxylin", 0), ("darkest", 2), ("brightest", 1)])
def test_foreground_is_what_was_named(foreground, colour):
    """Three flat colours, one a component: haematoxylin's own, white, and a brown that is darker."""
    rgb = np.array([[60, 50, 160], [250, 250, 250], [70, 30, 20]], np.float32)
    module = nnx.eval_shape(lambda: replace(SMALL, foreground=foreground).build(3, 1, rngs=nnx.Rngs(0)))
    x = jnp.asarray((rgb / 255 - IMAGENET_MEAN) / IMAGENET_SD)[None, None]
    weight = jnp.eye(3)[None, None]
    assert jax.jit(module._chosen)(weight, x).tolist() == [colour]


@pytest.mark.parametrize(
    ("config", "said"),
    [({"components": 1}, "components"), ({"penalty": -0.1}, "penalty"), ({"r": 0.0}, "above 0")],
)
def test_refused(config, said):
    with pytest.raises(ConfigError, match=said):
        DCGN(**config)


@pytest.mark.parametrize(("channels", "labels", "said"), [(4, 1, "4 channels"), (3, 2, "cannot tell 2 labels")])
def test_refused_when_built(channels, labels, said):
    with pytest.raises(ConfigError, match=said):
        DCGN().build(channels, labels, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def two_colours(tmp_path_factory):
    """12 images of pink with a purple square in each; labels are noise."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    (folder / "masks").mkdir()
    rows = ["image,patient_id,label,split"]
    for i in range(12):
        truth = np.zeros((16, 16), bool)
        row, column = rng.integers(0, 9, 2)
        truth[row : row + 8, column : column + 8] = True
        x = np.where(truth[..., None], PURPLE, PINK) + rng.normal(0, 8, (16, 16, 3))
        Image.fromarray(np.clip(x, 0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
        Image.fromarray(truth.astype(np.uint8) * 255).save(folder / "masks" / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,p{i},{i % 2},{'train' if i < 8 else 'test'}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_two_colours_are_told_apart_without_labels(two_colours, tmp_path):
    """In an ordinary study: the map, the components on disk's terms, and the oracle; state survives to prediction."""
    experiment = Experiment(
        data=ImageCohort(str(two_colours / "table.csv"), masks=str(two_colours / "masks")),
        task=Binary(),
        protocol=GivenFolds(validation=0.0, allow_single_class=True),
        model=DCGN.from_scratch(components=2, network=UNet(width=(8, 8), norm="group", groups=4)),
        train=Train(Adam(0.02), epochs=20, schedule="exponential", select="last"),
        unit="slide",
        name="two colours",
    )
    out = tmp_path / "run"
    api.run(experiment, out=out)
    found = json.loads((out / "results.json").read_text())["segmentation"]["metrics"]
    assert found["dice_per_image"]["value"] > 0.97
    seen = list(component_maps(experiment, out))
    assert [c.image for c in seen] == [f"{i:02d}.png" for i in range(8, 12)]
    truths = []
    for c in seen:
        with Image.open(two_colours / "masks" / c.image) as file:
            truths.append(np.asarray(file) > 0)
        np.testing.assert_allclose(c.maps.sum(-1), 1, atol=1e-5)
        assert c.maps.shape == (16, 16, 2)
    assert oracle_dice([c.maps for c in seen], truths) >= found["dice_per_image"]["value"] - 1e-9
    history = [json.loads(line)["train_loss"] for line in (out / "history.jsonl").read_text().splitlines()]
    assert history[-1] < history[0] - 0.5
