"""Deep Sets against the arrays of MCAT's survival baseline, and a padded batch against the formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import Fixture, Reference, check_case, close, load

from milkit.errors import ConfigError
from milkit.models.zaheer2017 import DeepSets
from milkit.types import Bags

MCAT = Fixture(
    "mcat_deepsets",
    DeepSets(encoder=(24,), head=(16,)),
    {"phi.0": "encoder/layers/0", "rho.0": "head/layers/0", "classifier": "classifier"},
)


def test_the_baseline_of_mcat(shared):
    reference = Reference(shared, MCAT.file)
    assert reference.cases == ["", "2"]
    with jax.default_matmul_precision("highest"):
        module = load(reference, MCAT, 32, 4)
        for case in reference.cases:
            check_case(reference, MCAT, module, case)
            close(module.encoder(jnp.asarray(reference.arrays[f"x{case}"])), reference.get("out", case, "phi"))


def test_two_bags_against_the_formulas():
    graph, state = nnx.split(DeepSets(encoder=(6, 5), head=(4,)).build(3, 2, rngs=nnx.Rngs(1)))
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 3)).astype(np.float32) for n in (9, 2)]
    with jax.default_matmul_precision("highest"):
        output = jax.jit(lambda state: nnx.merge(graph, state)(Bags.of(x)))(state)
    w = {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(state)}
    dense = lambda h, name: h @ w[f"{name}/kernel"] + w[f"{name}/bias"]  # noqa: E731
    layer = lambda h, name: np.maximum(dense(h, name), 0)  # noqa: E731
    for b, bag in enumerate(x):
        phi = layer(layer(bag.astype(np.float64), "encoder/layers/0"), "encoder/layers/1")
        z = layer(phi.sum(0), "head/layers/0")
        close(output.embedding[b], z)
        close(output.logits[b], dense(z, "classifier"))
        close(output.instance_logits[b, : len(bag)], dense(layer(phi, "head/layers/0"), "classifier"))


def test_dropout_without_layers_is_refused():
    with pytest.raises(ConfigError, match="have none"):
        DeepSets(encoder=(), head=())
