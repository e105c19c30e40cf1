"""DSMIL against the authors' arrays, outputs, losses and gradients, and against three other libraries'."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from parity import Fixture, Reference, bags_of, check_case, check_gradients, close, fill, load, run, softmax_of

from milkit.foreign_weights import li2021
from milkit.foreign_weights.li2021 import end_to_end
from milkit.models import DSMIL
from milkit.types import Bags, Batch


def authors(file, layers=2, **options):
    return Fixture(file, DSMIL(query_layers=layers, compat="authors", **options), read=li2021.authors)


FIXTURES = [
    (authors("dsmil"), 2),
    (authors("dsmil_linearq", layers=1), 2),
    (authors("dsmil_passingv_1class", values=32), 1),
]


@pytest.mark.parametrize(("fixture", "classes"), FIXTURES, ids=lambda f: getattr(f, "file", ""))
def test_the_authors_arrays(shared, fixture, classes):
    reference = Reference(shared, fixture.file)
    assert len(reference.cases) == 2
    with jax.default_matmul_precision("highest"):
        module = load(reference, fixture, 32, classes)
        for case in reference.cases:
            bags = bags_of(reference, fixture, case)
            cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"])
            output, grad_w, grad_x = run(module, bags, lambda o, c=cotangent: (o.logits * c).sum())
            for name, got in {
                "logits": output.logits,
                "inst_logits": output.instance_logits,
                "attn": output.attention,
                "bag_embedding": output.embedding,
                "max_logits": output.extras["critical_logits"],
            }.items():
                close(got, reference.get("out", case, name))
            check_gradients(reference, fixture, case, grad_w, grad_x)
            for label in (0, 1):
                close(loss(fixture.config, output, bags, label), reference.get("out", case, f"loss_label{label}"))


def loss(config, output, bags, label):
    """The authors': binary cross-entropy of each class, the label being 1 for the bag's class and 0 for others."""
    classes = output.logits.shape[1]
    target = jnp.full((1, 1), label) if classes == 1 else jax.nn.one_hot(jnp.asarray([label]), classes)
    batch = Batch(bags, jnp.asarray([label]), jnp.ones(1), jnp.zeros(1, int))
    return config.objective(output, batch, lambda z: optax.sigmoid_binary_cross_entropy(z, target).mean(-1))[0]


def test_torchmil(shared):
    reference = Reference(shared, "torchmil_dsmil")
    config = DSMIL(query=16, values=32, compat="authors")
    fixture = Fixture("torchmil_dsmil", config, mask="mask", read=li2021.torchmil)
    with jax.default_matmul_precision("highest"):
        module = load(reference, fixture, 32, 1)
        for case in reference.cases:
            check_case(reference, fixture, module, case)


def test_mil_lab_up_to_its_head(shared):
    """Its values are linear, so they come out of the pooled features; LayerNorm and classifier are redone in numpy."""
    reference = Reference(shared, "millab_dsmil")
    weights = {
        "patch_embed.0": "encoder/layers/0",
        "i_classifier.inst_classifier": "scorer",
        "b_classifier.q": "queries/0",
    }
    arrays = {
        "classifier.weight": ("classifier/kernel", end_to_end),
        "classifier.bias": ("classifier/bias", np.asarray),
    }
    others = tuple(
        k for k in reference.weights if k.startswith(("b_classifier.v", "b_classifier.norm", "b_classifier.fcc"))
    )
    config = DSMIL(encoder=(24,), query=16, query_layers=1)
    fixture = Fixture("millab_dsmil", config, weights, arrays=arrays, unused=others)
    w = {k: v.astype(np.float64) for k, v in reference.weights.items()}
    with jax.default_matmul_precision("highest"):
        module = load(reference, fixture, 32, 2)
        for case in reference.cases:
            output = module(bags_of(reference, fixture, case))
            close(output.attention, reference.get("out", case, "attn"))
            close(output.instance_logits, reference.get("out", case, "inst_logits"))
            z = np.asarray(output.embedding, np.float64).reshape(-1, 2, 24)
            z = z @ w["b_classifier.v.1.weight"].T + w["b_classifier.v.1.bias"]
            z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
            z = z * w["b_classifier.norm.weight"] + w["b_classifier.norm.bias"]
            close(z, reference.get("out", case, "bag_embedding"))
            logits = z.reshape(len(z), -1) @ end_to_end(w["classifier.weight"]) + w["classifier.bias"]
            close((logits + output.extras["critical_logits"]) / 2, reference.get("out", case, "logits"))


def test_owkin_up_to_its_head_and_scale(shared):
    """It does not divide by sqrt(width), which larger queries make up for; its one layer for all classes is redone."""
    reference = Reference(shared, "owkin_dsmil")
    names = {"tiles_scores": "scorer", "tiles_queries": "queries/0"}
    weights = {f"{theirs}.hidden_layers.0": ours for theirs, ours in names.items()}
    others = tuple(k for k in reference.weights if k.startswith(("mlp", "tiles_values")))
    config = DSMIL(query=12, query_layers=1)
    fixture = Fixture("owkin_dsmil", config, weights, mask="!mask", skip_columns=3, unused=others)
    w = {k: v.astype(np.float64) for k, v in reference.weights.items()}
    for case in reference.cases:
        with jax.default_matmul_precision("highest"):
            module = config.build(32, 2, rngs=nnx.Rngs(0))
            pooled = nnx.state(module.classifier, nnx.Param)
            scaled = dict(reference.weights)
            for name in ("weight", "bias"):
                scaled[f"tiles_queries.hidden_layers.0.{name}"] = w[f"tiles_queries.hidden_layers.0.{name}"] * 12**0.25
            scaled["kernel"], scaled["bias"] = np.asarray(pooled["kernel"][...]), np.asarray(pooled["bias"][...])
            own = {"kernel": ("classifier/kernel", np.asarray), "bias": ("classifier/bias", np.asarray)}
            fill(module, scaled, replace(fixture, arrays=own))
            output = module(bags_of(reference, fixture, case))
        z = np.asarray(output.embedding, np.float64).reshape(-1, 2, 32)
        v = z @ w["tiles_values.hidden_layers.0.weight"].T + w["tiles_values.hidden_layers.0.bias"]
        logits = (v @ w["mlp.0.weight"].T + w["mlp.0.bias"])[..., 0]
        close((logits + output.extras["critical_logits"]) / 2, reference.get("out", case, "logits"))


def test_two_bags_of_three_classes_against_the_formulas():
    """An encoder, values and both streams: every value again in numpy, bag by bag, in float64."""
    config = DSMIL(encoder=(6,), query=4, values=3)
    graph, state = nnx.split(config.build(5, 3, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(5)
    x = [rng.normal(size=(n, 5)).astype(np.float32) for n in (7, 2)]
    with jax.default_matmul_precision("highest"):
        output = jax.jit(lambda state: nnx.merge(graph, state)(Bags.of(x)))(state)
    w = {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(state)}
    dense = lambda h, name: h @ w[f"{name}/kernel"] + w[f"{name}/bias"]  # noqa: E731
    for b, bag in enumerate(x):
        h = np.maximum(dense(bag.astype(np.float64), "encoder/layers/0"), 0)
        scores = dense(h, "scorer")
        q = np.tanh(dense(np.maximum(dense(h, "queries/0"), 0), "queries/1"))
        attention = softmax_of((q @ q[scores.argmax(0)].T / 2).T).T
        z = (attention.T @ np.maximum(dense(h, "values"), 0)).reshape(-1)
        close(output.attention[b, : len(h)], attention)
        close(output.embedding[b], z)
        close(output.instance_logits[b, : len(h)], scores)
        close(output.logits[b], (dense(z, "classifier") + scores.max(0)) / 2)
