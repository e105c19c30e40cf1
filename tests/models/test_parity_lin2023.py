"""IBMIL against arrays of the copy in Zhang et al. (2024), whose attention is gated; and its first stage by hand."""

import jax
import numpy as np
import pytest
from flax import nnx
from parity import Fixture, Reference, check_case, close, load

from milkit.errors import DataError
from milkit.models.lin2023 import IBMIL, confounders_of, with_confounders
from milkit.types import Bags

pytestmark = pytest.mark.usefixtures("quick_and_exact")


WEIGHTS = {
    "dimreduction.fc1": "projection/first",
    "attention.attention_V.0": "pool/tanh",
    "attention.attention_U.0": "pool/gate",
    "attention.attention_weights": "pool/score",
    "W_q": "query",
    "W_k": "key",
    "classifier": "classifier",
}


@pytest.mark.parametrize(("merge", "learned"), [("cat", False), ("cat", True), ("add", False), ("sub", False)])
def test_outputs_and_gradients(shared, merge, learned):
    config = IBMIL(5, learned, merge, joint=16, width=24, attention=128, gated=True)
    arrays = {"confounder_feat": ("confounders", np.asarray)}
    unused = ("attention.attention_weights.bias", "W_k.bias")
    fixture = Fixture(f"ibmil_{merge}", config, WEIGHTS, arrays=arrays, unused=unused)
    reference = Reference(shared, fixture.file)
    module = load(reference, fixture, 32, 2)
    assert isinstance(module.confounders, nnx.Param) is learned
    for case in reference.cases:
        assert reference.names("out", case) == {"logits", "bag_embedding", "confounder_attn"}
        output = check_case(reference, fixture, module, case)
        close(output.extras["confounder_attention"], reference.get("out", case, "confounder_attn").T)


def test_the_authors_own_version_in_numpy():
    """Features are pooled as they are, by attention that is not gated; two bags, one of them shorter."""
    rng = np.random.default_rng(0)
    module = IBMIL(3, False, "sub", joint=4, attention=6).build(5, 2, rngs=nnx.Rngs(0))
    centres = rng.normal(size=(3, 5)).astype(np.float32)
    given = with_confounders(module, centres)
    assert not np.array_equal(module.confounders[...], centres)  # the one that was given stays as it was
    bags = [rng.normal(size=(n, 5)).astype(np.float32) for n in (4, 2)]
    output = given(Bags.of(bags))

    def layer(linear, x):
        return x @ np.asarray(linear.kernel[...], np.float64) + (0 if linear.bias is None else linear.bias[...])

    for i, x in enumerate(bags):
        a = np.exp(layer(given.pool.score, np.tanh(layer(given.pool.tanh, x))))
        z = (a / a.sum() * x).sum(0)
        w = np.exp(layer(given.key, centres) @ layer(given.query, z) / 2)
        w = w / w.sum()
        close(output.extras["confounder_attention"][i], w)
        close(output.logits[i], layer(given.classifier, z - w @ centres))


def test_confounders_by_hand():
    """Four bags on one ray and two on another: clusters go by direction, means are of the bags as they were."""
    found = confounders_of(np.array([[1, 0], [2, 0], [3, 0], [10, 0], [0, 1], [0.0, 3]]), 2)
    assert found.tolist() == [[4, 0], [0, 2]]
    assert found.dtype == np.float32


def test_a_study_reads_them_from_a_file(tmp_path):
    from milkit.train.state import initial_arrays

    np.savez(tmp_path / "centres.npz", confounders=np.arange(6.0).reshape(2, 3))
    config = IBMIL(2, learned=False, attention=4, weights=str(tmp_path / "centres.npz"))
    _, buffers = initial_arrays(config, 3, 1, jax.random.key(0))
    assert buffers["confounders"][...].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: confounders_of(np.ones((3, 2)), 2), "3 bags with 1 different directions"),
        (lambda: confounders_of(np.eye(3), 4), "expected 2 to 3"),
        (lambda: confounders_of(np.full((3, 2), np.nan), 2), "not all finite"),
        (lambda: with_confounders(IBMIL(2).build(3, 1, rngs=nnx.Rngs(0)), np.ones((3, 3))), r"needs .* shape \(2, 3\)"),
        (lambda: IBMIL(2).load(IBMIL(2).build(3, 1, rngs=nnx.Rngs(0)), {"other": np.ones(1)}), "holds other; expected"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()
