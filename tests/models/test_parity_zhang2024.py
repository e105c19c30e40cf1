"""ACMIL, its baselines and loss attention against arrays of the ACMIL authors' code, and against the text in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, bags_of, check_case, check_gradients, close, fill

from milkit.foreign_weights import zhang2024
from milkit.foreign_weights.names import norm
from milkit.foreign_weights.zhang2022 import GATES
from milkit.foreign_weights.zhang2024 import PROJECTION, value_layers
from milkit.models import ABMIL
from milkit.models.shi2020 import LossAttention
from milkit.models.zhang2024 import ACMIL, QueryPooling, masked_top, mean_similarity
from milkit.types import Bags, Batch, Output


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def gated(branches):
    config = ACMIL(branches=branches, masked=0, width=24, attention=16)
    return Fixture(f"acmil_ga_{branches}token", config, read=zhang2024.gated)


def multihead(branches):
    config = ACMIL("multihead", branches, 0, width=24, heads=8)
    return Fixture(f"acmil_mha_{branches}token", config, read=zhang2024.multihead)


def batch_of(bags, label):
    ones = jnp.ones(len(bags.x))
    return Batch(bags, jnp.full(len(bags.x), label), ones, ones.astype(int))


def cross_entropy(label):
    return lambda logits: optax.softmax_cross_entropy_with_integer_labels(logits, jnp.full(len(logits), label))


def both_gradients(module, fixture, bags, cotangent):
    """Output; gradients of the logits by cotangent, to weights and x; gradient of the whole loss of label 1, to x."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def two(params, x) -> tuple[tuple[jax.Array, jax.Array], Output]:
        output = nnx.merge(graph, params, rest)(Bags(x, bags.mask))
        whole = fixture.config.objective(output, batch_of(bags, 1), cross_entropy(1))[0]
        return ((output.logits * cotangent).sum(), whole.sum()), output

    def everything(params, x):
        _, pull, output = jax.vjp(two, params, x, has_aux=True)
        one, none = jnp.ones(()), jnp.zeros(())
        return output, pull((one, none)), pull((none, one))[1]

    output, (grad_w, grad_x), total_x = jax.jit(everything)(params, bags.x)
    by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
    return output, by_path, grad_x, total_x


@pytest.mark.parametrize("fixture", [gated(1), gated(5), multihead(1), multihead(3)], ids=lambda f: f.file)
def test_acmil(shared, fixture):
    reference, branches = Reference(shared, fixture.file), fixture.config.branches
    module = fixture.config.build(32, 2, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    for case in reference.cases:

        def want(name, case=case):
            return reference.get("out", case, name)

        bags, cotangent = bags_of(reference, fixture, case), jnp.asarray(reference.arrays[f"cotangent{case}"])
        with jax.default_matmul_precision("highest"):
            output, grad_w, grad_x, total_x = both_gradients(module, fixture, bags, cotangent)
        close(output.logits, want("logits"))
        close(output.extras["branch_logits"][0], want("sub_logits"))
        theirs = want("attn")  # [1, k, n], or [heads, k, n]
        close(output.attention[0], theirs.transpose(2, 1, 0).reshape(bags.x.shape[1], -1))
        if want("bag_embedding") is not None:
            close(output.embedding, want("bag_embedding"))
        check_gradients(reference, fixture, case, grad_w, grad_x)
        close(total_x, want("dtotal_label1_dx"), GRADIENT_TOLERANCE)
        for label in (0, 1):
            _, parts = fixture.config.objective(output, batch_of(bags, label), cross_entropy(label))
            close(parts["slide"], want(f"loss_slide_label{label}"))
            if branches > 1:
                close(parts["branches"], want(f"loss_sub_label{label}"))
                close(parts["similarity"], want("loss_diff"))
            else:
                assert set(parts) == {"slide"}
                assert want("loss_diff") == want(f"loss_sub_label{label}") == 0


@pytest.mark.parametrize(("name", "k", "share"), [("stkim_k3_drop0.6", 3, 0.6), ("stkim_kall_drop0.5", 100, 0.5)])
@pytest.mark.parametrize("branches", [1, 5])
def test_masking_of_the_authors(shared, branches, name, k, share):
    """Their random numbers in place of ours, their scores; then logits of what is left."""
    fixture = gated(branches)
    reference = Reference(shared, fixture.file)
    module = ACMIL(branches=branches, masked=k, mask_share=share, width=24, attention=16).build(32, 2, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    bags = bags_of(reference, fixture, "")
    n = bags.x.shape[1]
    draws = jnp.asarray(reference.arrays["rand"])[None, :, : min(k, n)]
    raw = reference.get("out", "", f"{name}_attn_raw")[0].T
    with jax.default_matmul_precision("highest"):
        h = module.projection(bags.x)
        scores = module.branches.scores(h)
        dropped = np.asarray(masked_top(scores, bags.mask, draws, share)[0])
        np.testing.assert_array_equal(dropped, raw == -1e9)
        assert dropped.sum(0).tolist() == [int(min(k, n) * share)] * branches
        attention = module.attention_of(scores, bags.mask, draws)
        z = jnp.einsum("bnk,bne->bke", attention, h)
        close(module.classifier(z.mean(1)), reference.get("out", "", f"{name}_logits"))
        each = jnp.stack([head(z[0, i]) for i, head in enumerate(module.branch_classifiers)])
        close(each, reference.get("out", "", f"{name}_sub_logits"))


def test_masking_in_a_padded_batch():
    """Bags of 4, 1 and 2 instances, 3 candidates, share .6: int(1.8), int(.6) and int(1.2) are masked."""
    scores = jnp.asarray([[5.0, 1.0, 4.0, 3.0], [2.0, 9.0, 9.0, 9.0], [1.0, 2.0, 9.0, 9.0]])[..., None]
    mask = jnp.asarray([[True] * 4, [True, False, False, False], [True, True, False, False]])
    draws = jnp.asarray([[[0.9, 0.2, 0.5]], [[0.5, 0.1, 0.1]], [[0.4, 0.8, 0.1]]])
    want = [[False, False, True, False], [False] * 4, [False, True, False, False]]
    np.testing.assert_array_equal(masked_top(scores, mask, draws, 0.6)[..., 0], want)
    none = masked_top(scores, mask, draws, 0.0)
    assert not none.any()


def test_masked_instances_are_left_out_in_training_only():
    """The heads' attention in training is 0 on 6 of the 10 best of 12; the logits are of the other six."""
    module = ACMIL(branches=2, width=8, attention=4).build(5, 3, rngs=nnx.Rngs(0))
    bags = Bags.of(np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32))
    both = nnx.jit(lambda module, bags: (module(bags), module(bags, deterministic=False, rngs=nnx.Rngs(1))))
    plain, trained = both(module, bags)
    assert (np.asarray(plain.attention) > 0).all()
    gone = np.asarray(trained.attention[0]) == 0
    assert gone.sum(0).tolist() == [6, 6]
    for k in (0, 1):
        low = np.argsort(np.asarray(plain.attention[0, :, k]))[:2]
        assert not gone[low, k].any()
        left = np.where(gone[:, k], 0, np.asarray(plain.attention[0, :, k]))
        close(trained.attention[0, :, k], left / left.sum())


def test_similarity_by_hand():
    """Branches (1, 0), (0, 1), (.5, .5): cosines 0, 1/sqrt 2, 1/sqrt 2; a filler has none."""
    attention = jnp.asarray([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]], [[0.0] * 3] * 2])
    np.testing.assert_allclose(mean_similarity(attention, 3), [2**0.5 / 3, 0], rtol=1e-6)
    # two heads: branch 0 (1, 0) and (0, 1), branch 1 (1, 0) and (1, 0)
    heads = jnp.asarray([[[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]]])
    np.testing.assert_allclose(mean_similarity(heads, 2), [0.5], rtol=1e-6)


def test_query_pooling(shared):
    weights = {**PROJECTION, **value_layers("attention", "values"), "classifier.fc": "classifier"}
    weights |= {"attention.q_proj": "scores/query", "attention.k_proj": "scores/key"}
    arrays = {"q": ("query", lambda q: q[0]), **norm("attention.layer_norm", "values/norm")}
    config = QueryPooling(width=24, heads=8)
    fixture = Fixture("acmil_mha_baseline", config, weights, arrays=arrays, unused=("attention.k_proj.bias",))
    check_file(shared, fixture)


def test_loss_attention(shared):
    weights = {**PROJECTION, "classifier": "classifier"}
    check_file(shared, Fixture("acmil_lbmil", LossAttention(width=24), weights))


def test_gated_attention_of_the_same_authors(shared):
    """Their ABMIL is milkit's with an encoder whose bias is 0."""
    pool = {f"attention.{theirs}": f"pool/{ours}" for theirs, ours in GATES.items()}
    weights = {"dimreduction.fc1": "encoder/layers/0", **pool, "classifier.fc": "classifier"}
    fixture = Fixture(
        "acmil_abmil",
        ABMIL(encoder=(24,), attention=16),
        weights,
        unused=("attention.attention_weights.bias",),
    )
    check_file(shared, fixture, {"dimreduction.fc1.bias": np.zeros(24, np.float32)})


def check_file(shared, fixture, more=None):
    reference = Reference(shared, fixture.file)
    module = fixture.config.build(32, 2, rngs=nnx.Rngs(0))
    fill(module, {**reference.weights, **(more or {})}, fixture)
    with jax.default_matmul_precision("highest"):
        for case in reference.cases:
            check_case(reference, fixture, module, case)


@pytest.mark.parametrize("compat", ["correct", "authors"])
def test_loss_attention_objective(compat):
    """The sum of a_i CE_i with a_i = sum_c exp(logit_ic), normalised; the authors divide by n once more. In numpy."""
    config = LossAttention(width=6, compat=compat)
    module = config.build(4, 3, rngs=nnx.Rngs(2))
    bags = Bags.of([np.random.default_rng(i).normal(size=(n, 4)).astype(np.float32) for i, n in enumerate((7, 2))])
    with jax.default_matmul_precision("highest"):
        output = nnx.jit(lambda module, bags: module(bags))(module, bags)
        parts = jax.jit(lambda output: config.objective(output, batch_of(bags, 2), cross_entropy(2))[1])(output)
    for i, n in enumerate((7, 2)):
        e = np.exp(np.asarray(output.instance_logits[i, :n], np.float64))
        a = e.sum(1) / e.sum()
        close(output.attention[i, :n, 0], a)
        want = -(a * np.log(e[:, 2] / e.sum(1))).sum() / (n if compat == "authors" else 1)
        close(parts["instances"][i], want)


def numpy_multihead(module, x, heads):
    """The block as the authors have it: keys and values of every instance, then heads. Float64."""
    w = {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(nnx.state(module))}

    def apply(name, h):
        return h @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0)

    def after(name, z):
        z = apply(f"{name}/out", z)
        z = (z - z.mean()) / np.sqrt(z.var() + 1e-6)
        return z * w[f"{name}/norm/scale"] + w[f"{name}/norm/bias"]

    def split(h):
        return h.reshape(len(h), heads, -1)

    h, attentions, branches = np.maximum(x.astype(np.float64) @ w["projection/first/kernel"], 0), [], []
    for k, query in enumerate(w["branches/queries"]):
        q = split(apply(f"branches/asked/{k}/query", query[None]))[0]
        raw = (split(apply(f"branches/asked/{k}/key", h)) * q).sum(-1) / np.sqrt(q.shape[1])
        attentions.append(np.exp(raw) / np.exp(raw).sum(0))
        pooled = (attentions[-1][..., None] * split(apply(f"branches/values/{k}/value", h))).sum(0).reshape(-1)
        branches.append(apply(f"branch_classifiers/{k}", after(f"branches/values/{k}", pooled)))
    mean = np.mean(attentions, 0)
    slide = (mean[..., None] * split(apply("branches/slide/value", h))).sum(0).reshape(-1)
    return apply("classifier", after("branches/slide", slide)), branches


def test_multihead_against_numpy():
    """Other sizes than the file's, bags of odd lengths in one batch, one logit."""
    module = ACMIL("multihead", 2, width=15, heads=3).build(7, 1, rngs=nnx.Rngs(4))
    rng = np.random.default_rng(0)
    module.branches.queries[...] = jnp.asarray(rng.normal(size=(2, 15)), jnp.float32)
    x = [3 * rng.normal(size=(n, 7)).astype(np.float32) for n in (11, 1, 6)]
    with jax.default_matmul_precision("highest"):
        output = nnx.jit(lambda module, bags: module(bags))(module, Bags.of(x))
    for i, bag in enumerate(x):
        logits, branches = numpy_multihead(module, bag, 3)
        close(output.logits[i], logits)
        close(output.extras["branch_logits"][i], branches)
