"""SmoothABMIL and ProbSmoothABMIL against arrays of torchmil 1.0.2, all cases of a file in one padded batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from graphs_of_files import edges_of_matrix, padded_batch
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, load, partners

from milkit.errors import ConfigError
from milkit.models import ProbSmoothABMIL, SmoothABMIL
from milkit.models.castromacias2025 import STEEPEST, attention_of, divergence, in_draws
from milkit.nn.smooth import Edges
from milkit.nn.smooth_scores import roughness
from milkit.types import Bags, Batch

WEIGHTS = {
    "pool.in_mlp.0.module": "scorer/first",
    "pool.in_mlp.2": "scorer/second",
    "pool.mu_f_nn": "scorer/scores/0",
    "classifier.module": "classifier",
}
SMOOTH = Fixture("torchmil_smoothabmil", SmoothABMIL(attention=16), WEIGHTS)
DRAWN = Fixture(
    "torchmil_probsmoothabmil", ProbSmoothABMIL(attention=16), WEIGHTS | {"pool.log_diag_Sigma_nn": "scorer/scores/1"}
)


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def noise_of(reference, mask):
    """The saved noise, padded as the bags are."""
    parts = [reference.arrays[f"noise{case}"] for case in reference.cases]
    return jnp.concatenate([jnp.pad(a, ((0, 0), (0, mask.shape[1] - a.shape[1]), (0, 0))) for a in parts])


@pytest.mark.parametrize("fixture", [SMOOTH, DRAWN], ids=lambda f: f.file)
def test_outputs_and_gradients(shared, fixture):
    reference = Reference(shared, fixture.file)
    module = load(reference, fixture, 32, 1)
    x, mask, adjacency, cotangent, places = padded_batch(reference)
    edges, drawn = edges_of_matrix(adjacency), fixture is DRAWN
    noise = noise_of(reference, mask) if drawn else None
    # torchmil counts the padding of a case's own batch in
    counted = np.zeros_like(mask)
    for rows, n in places.values():
        counted[rows, :n] = True
    graph, params = nnx.split(module)

    @jax.jit
    def both(params, x):
        def value(params, x):
            module = nnx.merge(graph, params)
            if not drawn:
                output = module.over(x, jnp.asarray(mask), edges)
                energy = roughness(output.extras["scores"], jnp.asarray(counted), edges)
                said = {"attn_raw": output.extras["scores"][..., 0], "dir_energy": energy}
                return (output.logits[:, 0] * cotangent).sum(), said | {"logits": output.logits[:, 0]}
            mean, log_variance = module.scorer(x)
            weight = attention_of(mean, log_variance, jnp.asarray(mask), noise)
            samples = module.classifier(jnp.einsum("bns,bnd->bsd", weight, x))[..., 0]
            scores = jnp.clip(mean + jnp.exp(log_variance / 2) * noise, -STEEPEST, STEEPEST).mean(-1)
            kl = divergence(mean, log_variance, jnp.asarray(counted), edges)
            said = {"attn_raw": scores, "kl": kl, "logit_samples": samples, "logits": samples.mean(1)}
            return (samples.mean(1) * cotangent).sum(), said

        return jax.grad(value, (0, 1), has_aux=True)(params, x)

    with jax.default_matmul_precision("highest"):
        (grad_w, grad_x), said = both(params, jnp.asarray(x))
    for case, (rows, n) in places.items():
        assert reference.names("out", case) == set(said)
        for name, value in said.items():
            got, want = np.asarray(value)[rows], reference.get("out", case, name)
            got = got[:, :n] if name == "attn_raw" else got
            close(got.mean() if want.ndim == 0 else got, want)
        close(grad_x[rows, :n], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
    flat = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(grad_w)}
    checked = set()
    for theirs, (ours, rearrange) in partners(fixture, flat).items():
        each = [reference.get("grad", case, f"w/{theirs}") for case in places]
        if each[0] is not None:
            close(flat[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)  # of a batch the sum
            checked.add(f"w/{theirs}")
    assert checked == reference.names("grad", "") - {"x"}


def test_roughness_by_hand():
    # a chain of three tiles, degrees 1 2 1, and one beside it that has no neighbour; then padding
    r = 0.5**0.5
    ends = jnp.asarray([[[1, -1], [0, 2], [1, -1], [-1, -1], [-1, -1]]])
    weight = jnp.asarray([[[r, 0], [r, r], [r, 0], [0, 0], [0, 0]]])
    edges = Edges(ends, weight, jnp.asarray([[0.0, 0, 0, 1, 0]]))
    f, mask = jnp.asarray([[[1.0], [2], [5], [7], [100]]]), jnp.asarray([[True] * 4 + [False]])
    pairs = (1 - 2 * r) ** 2 + (5 - 2 * r) ** 2
    np.testing.assert_allclose(roughness(f, mask, edges), [pairs / 4], rtol=1e-5)
    steep = np.array([1 - 2 * r, 2 - 6 * r, 5 - 2 * r])
    np.testing.assert_allclose(roughness(f, mask, edges, 2), [(steep**2).sum() / 4], rtol=1e-5)
    alone = edges._replace(own=jnp.zeros((1, 5)))
    np.testing.assert_allclose(roughness(f, mask, alone), [(pairs + 49) / 4], rtol=1e-5)
    assert roughness(f, mask & False, edges) == 0


def test_losses_are_weighted_as_stated():
    bags = Bags.of(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), np.eye(6, 2) * 256)
    batch = Batch(bags, jnp.asarray([1]), jnp.ones(1), jnp.asarray([0]))

    def loss(logits):
        return jnp.square(logits[:, 0])

    config = SmoothABMIL(bag_weight=0.9, attention=2)
    output = jax.jit(lambda: config.build(3, 1, rngs=nnx.Rngs(0))(bags))()
    value, parts = config.objective(output, batch, loss)
    np.testing.assert_allclose(value, 0.9 * output.logits[0] ** 2 + 0.1 * output.extras["roughness"], rtol=1e-6)
    assert parts["roughness"] > 0

    config = ProbSmoothABMIL(draws=3, draws_at_inference=0, divergence_weight=0.25, attention=2)

    @jax.jit
    def outputs():
        module = config.build(3, 1, rngs=nnx.Rngs(0))
        with pytest.raises(ConfigError, match="draws scores in training"):
            module(bags, deterministic=False)
        return module(bags, deterministic=False, rngs=nnx.Rngs(1)), module(bags)

    trained, said = outputs()  # the latter by the mean scores
    drawn = trained.extras["drawn_logits"][0, :, 0]
    assert len(set(np.asarray(drawn))) == 3
    np.testing.assert_allclose(trained.logits[0, 0], drawn.mean(), rtol=1e-5)
    value, parts = config.objective(trained, batch, loss)
    np.testing.assert_allclose(parts["bag"], [np.square(drawn).mean()], rtol=1e-5)
    np.testing.assert_allclose(value, parts["bag"] + 0.25 * parts["divergence"], rtol=1e-6)
    np.testing.assert_allclose(
        config.objective(said, batch, loss)[0], loss(said.logits) + value - parts["bag"], rtol=1e-5
    )


def test_draws_do_not_depend_on_padding_nor_on_the_batch_and_have_the_stated_distribution():
    mean = jnp.asarray([[[0.5], [-1], [30], [0]]])
    log_variance = jnp.log(jnp.asarray([[[0.25], [4], [1], [1]]]))
    first, mask = jax.random.key(7), jnp.asarray([[True, True, False, False]])
    draws = 4020  # no multiple of what is drawn at once
    found, drawn = in_draws(mean, log_variance, mask, first[None], draws, jnp.asarray([[[1.0], [0], [9], [9]]]))
    short, _ = in_draws(mean[:, :2], log_variance[:, :2], mask[:, :2], first[None], draws, None)
    np.testing.assert_array_equal(found[:, :2], short)
    assert not found[:, 2:].any()
    # the first's weight is sigmoid(f0 - f1), f0 - f1 ~ N(1.5, 4.25): its mean by quadrature
    z, weight = np.polynomial.hermite_e.hermegauss(60)
    each = 1 / (1 + np.exp(-(1.5 + 4.25**0.5 * z)))
    expected = (weight * each).sum() / weight.sum()
    spread = ((weight * each**2).sum() / weight.sum() - expected**2) ** 0.5
    assert drawn.shape == (1, draws, 1)
    np.testing.assert_allclose(drawn.mean(), found[0, 0, 0], rtol=1e-5)
    assert abs(found[0, 0, 0] - expected) < 4 * spread / draws**0.5
    assert abs(float(drawn.std()) - spread) < 0.1 * spread
