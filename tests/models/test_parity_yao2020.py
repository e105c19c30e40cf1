"""DeepAttnMISL against MCAT's arrays (given clusters), against the authors' formulas in numpy; clusters of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import Fixture, Reference, bags_of, check_gradients, close, load, softmax_of

from milkit.errors import ConfigError
from milkit.models.yao2020 import DeepAttnMISL
from milkit.types import Bags


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


MCAT = Fixture(
    "mcat_deepattnmisl",
    DeepAttnMISL(3, False, (24, 24), (24,), 16, True, (16,), 0.25, "all"),
    {
        **{f"phis.{k}.{at}": f"encoders/{k}/layers/{i}" for k in range(3) for i, at in enumerate((0, 3))},
        "attention_net.0": "between/layers/0",
        "attention_net.3.attention_a.0": "pool/tanh",
        "attention_net.3.attention_b.0": "pool/gate",
        "attention_net.3.attention_c": "pool/score",
        "rho.0": "head/layers/0",
        "classifier": "classifier",
    },
    unused=("attention_net.3.attention_c.bias",),
)


def test_the_baseline_of_mcat(shared):
    reference = Reference(shared, MCAT.file)
    assert reference.cases == ["", "2"]
    module = load(reference, MCAT, 32, 4)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    for case in reference.cases:
        bags, cotangent = bags_of(reference, MCAT, case), jnp.asarray(reference.arrays[f"cotangent{case}"])
        cluster = jnp.asarray(reference.arrays[f"cluster_id{case}"])[None]

        @jax.jit
        def gradients(params, x, bags=bags, cluster=cluster, cotangent=cotangent):
            def value(params, x):
                output = nnx.merge(graph, params, rest).of_clusters(x, bags.mask, cluster)
                return (output.logits[0] * cotangent).sum(), output

            return jax.grad(value, (0, 1), has_aux=True)(params, x)

        with jax.default_matmul_precision("highest"):
            (grad_w, grad_x), output = gradients(params, bags.x)
        close(output.logits, reference.get("out", case, "logits"))
        weight = softmax_of(reference.get("out", case, "attn_raw")[:, 0])
        close(output.extras["clusters"][0], weight)
        of = np.asarray(cluster[0])
        close(output.attention[0, :, 0], weight[of] / np.bincount(of)[of])
        by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
        check_gradients(reference, MCAT, case, by_path, grad_x)


def test_the_authors_network_with_an_empty_cluster():
    """Two bags of 7 and 2 instances, the second without clusters 0 and 3: worked in numpy, float64."""
    config = DeepAttnMISL(clusters=4, encoder=(6,), attention=5, head=(3,))
    module = config.build(4, 2, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    x = [rng.normal(size=(n, 4)).astype(np.float32) for n in (7, 2)]
    cluster = np.array([[0, 1, 2, 3, 3, 1, 1], [2, 1, 0, 0, 0, 0, 0]])
    bags = Bags.of(x)
    with jax.default_matmul_precision("highest"):
        output = module.of_clusters(bags.x, bags.mask, jnp.asarray(cluster))
    w = {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(nnx.state(module))}
    dense = lambda h, name: h @ w[f"{name}/kernel"] + w[f"{name}/bias"]  # noqa: E731
    for b, bag in enumerate(x):
        h, of = np.maximum(dense(bag.astype(np.float64), "encoders/0/layers/0"), 0), cluster[b, : len(bag)]
        there = np.unique(of)
        means = np.stack([h[of == k].mean(0) for k in there])
        weight = softmax_of((np.tanh(dense(means, "pool/tanh")) @ w["pool/score/kernel"])[:, 0])
        z = np.maximum(dense(weight @ means, "head/layers/0"), 0)
        close(output.logits[b], dense(z, "classifier"))
        close(output.extras["clusters"][b], [weight[list(there).index(k)] if k in there else 0 for k in range(4)])


def test_clusters_are_those_of_training_bags():
    """Three groups of instances far apart: after some bags each has a centre, and evaluation moves none."""
    rng = np.random.default_rng(0)
    middle = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    module = DeepAttnMISL(clusters=3, encoder=(4,), dropout=0.0).build(2, 1, rngs=nnx.Rngs(0))
    kind = rng.integers(0, 3, (6, 12))
    x = (middle[kind] + rng.normal(size=(6, 12, 2))).astype(np.float32)
    graph, state = nnx.split(module)

    @jax.jit
    def train(state, bags, key):
        module = nnx.merge(graph, state, copy=True)
        module(bags, deterministic=False, rngs=nnx.Rngs(key))
        return nnx.state(module)

    for step, bag in enumerate(x):
        state = train(state, Bags.of(bag), jax.random.key(step))
    kmeans = nnx.merge(graph, state).kmeans
    assert kmeans.count[...].sum() == 72
    found = nnx.merge(graph, state, copy=True)
    cluster = np.asarray(found.kmeans(jnp.asarray(x), jnp.ones((6, 12), bool)))
    assert all(len(np.unique(cluster[kind == k])) == 1 for k in range(3))
    order = [int(cluster[kind == k][0]) for k in range(3)]
    assert sorted(order) == [0, 1, 2]
    means = np.stack([x[kind == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(kmeans.centres[...][jnp.asarray(order)], means, atol=1e-4)
    np.testing.assert_array_equal(found.kmeans.centres[...], kmeans.centres[...])


def test_dropout_without_a_head_is_refused():
    with pytest.raises(ConfigError, match="has none"):
        DeepAttnMISL(head=())
